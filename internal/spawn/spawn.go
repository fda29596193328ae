// Package spawn starts processes that must not outlive this one.
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
// signal when the thread that has started the child ends (prctl(2)). Threads of a Go
// program can end at any time: a thread ends with a goroutine that is locked to it. A
// child that is started here gets the signal when this process ends.
func Start(cmd *exec.Cmd) error {
	done := make(chan error)
	spawner() <- func() { done <- cmd.Start() }
	return <-done
}
