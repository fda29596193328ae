package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// signalled is the error of a command that a signal has ended. Its exit status is what a
// shell has for the signal, so that scripts can tell it from a failure.
type signalled struct{ sig syscall.Signal }

func (s signalled) Error() string { return "ended by a signal: " + s.sig.String() }

// ending are the signals that end a command. One that was ignored when the program was
// started stays so: nohup(1) and shells ask for that.
func ending() (list []os.Signal) {
	for _, sig := range []os.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		if !signal.Ignored(sig) {
			list = append(list, sig)
		}
	}
	return list
}

// sameRequest is how long after a signal another one means the same: timeout(1) sends two,
// to the process and to its group, and so does a terminal that is closed.
const sameRequest = 200 * time.Millisecond

// untilSignal returns a context that ends with the first signal, with a signalled as its
// cause. A second one ends the process by force. SIGPIPE does nothing meanwhile: writing
// fails instead, and what was made is removed. stop has signals do what they did before.
func untilSignal() (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals, pipe, over := make(chan os.Signal, 4), make(chan os.Signal, 1), make(chan struct{})
	if list := ending(); len(list) > 0 {
		signal.Notify(signals, list...)
	}
	signal.Notify(pipe, unix.SIGPIPE)
	go func() {
		var first time.Time
		for {
			select {
			case <-over:
				return
			case sig := <-signals:
				switch {
				case first.IsZero():
					first = time.Now()
					cancel(signalled{sig.(syscall.Signal)})
				case sig != unix.SIGHUP && time.Since(first) > sameRequest:
					signal.Reset(sig)
					_ = unix.Kill(os.Getpid(), sig.(syscall.Signal))
				}
			}
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		signal.Stop(pipe)
		close(over)
		cancel(nil)
	}
}
