package main

import (
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// The Go runtime keeps for good what it takes at its start: tables and threads for as many
// processors as the host has (1.5 MiB for 64, 8 MiB for 256), and a heap of 4 MiB where the
// kernel always uses huge pages. A host has hundreds of daemons. So each process of the program
// is started with one processor and without huge pages. The first process, which another program
// starts, replaces itself.

// leanEnv says that this process was started so. Its value is the process's name in ps, which is
// "exe" after a start through /proc, and leanProcessors if GOMAXPROCS is not the user's.
const (
	leanEnv        = "GOVIRTIOFSD_LEAN"
	leanProcessors = ":1"
)

// lean replaces the process by a lean one, or is in that. It returns also if that fails: then the
// process takes more memory.
func lean() {
	if value, ok := os.LookupEnv(leanEnv); ok {
		name, ours := strings.CutSuffix(value, leanProcessors)
		_ = os.Unsetenv(leanEnv)
		if ours {
			_ = os.Unsetenv("GOMAXPROCS")
		}
		_ = os.WriteFile("/proc/self/comm", []byte(name), 0)
		return
	}
	smallPages()
	if name, err := os.ReadFile("/proc/self/comm"); err == nil {
		_ = unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), leanEnviron(strings.TrimSpace(string(name)))...))
	}
	runtime.GOMAXPROCS(1)
}

// leanEnviron is what a lean process has in addition to the other variables of its
// environment.
func leanEnviron(name string) []string {
	if os.Getenv("GOMAXPROCS") != "" {
		return []string{leanEnv + "=" + name}
	}
	return []string{leanEnv + "=" + name + leanProcessors, "GOMAXPROCS=1"}
}
