// Package spawn starts processes that are not to outlive this one.
package spawn

import (
	"os/exec"
	"runtime"
	"sync"
)

// spawner is a goroutine on a thread that never ends before the process does.
var spawner = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// Start is cmd.Start for a command with SysProcAttr.Pdeathsig. The kernel sends that
// signal when the thread ends that has started the child (prctl(2)), and threads of a Go
// program end at any time: whenever a goroutine ends that is locked to one. Started here,
// a child gets the signal when this process ends.
func Start(cmd *exec.Cmd) error {
	done := make(chan error)
	spawner() <- func() { done <- cmd.Start() }
	return <-done
}
