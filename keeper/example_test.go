package keeper_test

import (
	"log"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/keeper"
)

// The keeper's side: it holds a socket, and starts this program again as a worker until one ends in order. It starts
// processes, so it is not run.
func ExampleKeeper() {
	k := keeper.New(keeper.Options{
		Start: func(l keeper.Launch) (*os.Process, error) {
			cmd := exec.Command("/proc/self/exe", "worker")
			cmd.ExtraFiles = []*os.File{l.Channel} // descriptor 3
			err := cmd.Start()
			return cmd.Process, err
		},
		Recover: true, Limit: 1000, EndGrace: 10 * time.Second,
	})
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		log.Fatal(err)
	}
	if err := k.Hold(keeper.Listener(), listener); err != nil {
		log.Fatal(err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM)
	log.Printf("%+v", k.Run(signals))
}

// The worker's side: it takes what the keeper holds, and leaves what its successor will need.
func ExampleClient() {
	c := keeper.NewClient(3)
	if _, err := c.Receive(10 * time.Second); err != nil {
		log.Fatal(err)
	}
	listener, ok := c.Take(keeper.Listener())
	if !ok {
		log.Fatal("the keeper has no socket")
	}
	connection, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		log.Fatal(err)
	}
	if err := c.Keep(keeper.Connection(), connection); err != nil { // from now on a successor gets it
		log.Fatal(err)
	}
	if err := c.Serving(); err != nil {
		log.Fatal(err)
	}
}
