package procs

import (
	"runtime"
	"testing"
)

func TestProcs(t *testing.T) {
	start := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(start)
	for _, step := range []struct {
		name string
		do   func()
		want int
	}{
		{"a worker", func() { AddWorkers(1) }, 5},
		{"lean", func() { Lean(4) }, 2},
		{"two more workers", func() { AddWorkers(2) }, 4},
		{"want one", func() { Want(1) }, 4},
		{"want three", func() { Want(3) }, 6},
		{"want two again", func() { Want(2) }, 6},
		{"want more than there are", func() { Want(1000) }, 7},
		{"no workers", func() { AddWorkers(-3) }, 4},
	} {
		if step.do(); runtime.GOMAXPROCS(0) != step.want {
			t.Errorf("%s: %d processors, want %d", step.name, runtime.GOMAXPROCS(0), step.want)
		}
	}
}
