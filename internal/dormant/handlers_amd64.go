package dormant

// handlers are the addresses of the handler in entry_amd64.s and of what it returns to.
func handlers() (catch, restorer uintptr)
