// Package storing lets a test examine memory that outlives the process, before and after each
// important store to it. This is the memory that a process leaves when it dies at that moment.
package storing

// hook is called before and after each store.
var hook func()

// Note is called before and after a store to memory that a successor reads.
func Note() {
	if hook != nil {
		hook()
	}
}

// Watched reports whether Note would call something: for a store that each request makes, whose function is
// to be inlined.
func Watched() bool { return hook != nil }

// SetHook sets the function that each Note calls, on the thread that has stored; nil removes
// it. It is for tests with only one such thread.
func SetHook(f func()) { hook = f }
