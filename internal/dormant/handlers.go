//go:build amd64 || arm64

package dormant

// handlers are the addresses of the handler in entry_*.s and of what it returns to.
func handlers() (catch, restorer uintptr)
