package server

// Thread is what one goroutine needs to serve requests: request, scratch memory
// and the file system's state of this thread. It is not shared, and its
// goroutine is locked to its operating system thread.
type Thread struct {
	// Local belongs to the file system; see ThreadStarter.
	Local any

	request Request
	broken  bool
}

// Break marks the thread as not fit for another request, because its
// credentials could not be put back. Its owner ends the goroutine, and with it
// the operating system thread, and goes on with a new Thread.
func (t *Thread) Break() { t.broken = true }

// Broken reports whether Break was called.
func (t *Thread) Broken() bool { return t.broken }
