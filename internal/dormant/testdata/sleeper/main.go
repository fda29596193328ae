// Command sleeper has a child, sleeps until that has ended, and says what it does. The child
// ends by SIGTERM, but not before its standard input does.
package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/dormant"
)

func main() {
	if len(os.Args) > 1 {
		child()
		return
	}
	runtime.LockOSThread()
	all := []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, all...)
	if state, signalled, ok := dormant.Awake(); ok {
		fmt.Println("awake", state)
		if signalled {
			fmt.Println("a signal")
		}
		return
	} else {
		cmd := exec.Command("/proc/self/exe", "child")
		cmd.Stdin = os.Stdin
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(5)
		}
		defer cmd.Process.Kill()
		_, _ = out.Read(make([]byte, 1)) // it catches SIGTERM
		// Threads that the runtime has by now, and keeps.
		for range 4 {
			go func() {
				runtime.LockOSThread()
				for {
					time.Sleep(time.Millisecond)
				}
			}()
		}
		fmt.Println("ready")
		err = dormant.Sleep("state", cmd.Process.Pid, nil, signals, all)
		fmt.Println(err)
	}
	select {
	case s := <-signals:
		fmt.Println(s)
	case <-time.After(20 * time.Second):
		fmt.Println("nothing has come")
	}
}

func child() {
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, unix.SIGTERM)
	_, _ = os.Stdout.WriteString(".")
	<-terminated
	_, _ = io.Copy(io.Discard, os.Stdin)
}
