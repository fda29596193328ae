// Command sleeper sleeps until a signal comes or its parent is gone, and says what it does.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/dormant"
)

func main() {
	runtime.LockOSThread()
	all := []os.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, all...)
	if state, signalled, ok := dormant.Awake(); ok {
		fmt.Println("awake", state)
		if signalled {
			fmt.Println("a signal")
			return
		}
	} else {
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
		err := dormant.Sleep("state", os.Getppid(), nil, signals, all)
		fmt.Println(err)
	}
	select {
	case s := <-signals:
		fmt.Println(s)
	case <-time.After(20 * time.Second):
		fmt.Println("nothing has come")
		os.Exit(4)
	}
}
