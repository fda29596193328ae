// Package storing lets a test see memory that outlives the process before and after each store
// to it that matters, which is how a process that dies leaves it.
package storing

// hook is called before and after each store.
var hook func()

// Note is called before and after a store to memory that a successor reads.
func Note() {
	if hook != nil {
		hook()
	}
}

// SetHook has f called by each Note, on the thread that has stored; nil is nothing. It is for
// tests that have one such thread.
func SetHook(f func()) { hook = f }
