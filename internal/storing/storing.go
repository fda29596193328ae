// Package storing lets a test examine memory that outlives the process, before and after each
// important store to it. This is the memory that a process leaves when it dies at that moment.
package storing

import "unsafe"

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

// A function with several such stores has a type parameter K, and calls At[K] in place of Note. Its caller
// asks Watched once. Both kinds of the function are made from the same lines. It stores no word twice: the
// compiler would leave the first of two stores out.
type (
	// Kind is one of the two kinds.
	Kind interface{ Quiet | Noted }
	// Quiet has At do nothing; it costs nothing.
	Quiet struct{}
	// Noted has At call Note.
	Noted struct{ _ byte }
)

// At is Note if K is Noted.
func At[K Kind]() {
	if unsafe.Sizeof(*new(K)) != 0 {
		Note()
	}
}

// SetHook sets the function that each Note calls, on the thread that has stored; nil removes
// it. It is for tests with only one such thread.
func SetHook(f func()) { hook = f }
