package guest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// archive writes a cpio archive in the format of an initramfs ("newc"). Directories
// are added before what is in them. After an error it does nothing; close returns it.
type archive struct {
	w     *bufio.Writer
	names map[string]bool
	inode int
	err   error
}

func newArchive(w io.Writer) *archive {
	return &archive{w: bufio.NewWriterSize(w, 1<<20), names: map[string]bool{"/": true, ".": true}}
}

// file adds the host file from, with its own permissions.
func (a *archive) file(name, from string) {
	f, err := os.Open(from)
	if err != nil {
		a.fail(err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		a.fail(err)
		return
	}
	a.entry(name, unix.S_IFREG|uint32(info.Mode().Perm()), info.Size(), f)
}

// data adds a file with these contents.
func (a *archive) data(name string, mode uint32, contents []byte) {
	a.entry(name, unix.S_IFREG|mode, int64(len(contents)), strings.NewReader(string(contents)))
}

// directory adds a directory, and those above it, unless they are there.
func (a *archive) directory(name string) {
	if a.names[name] {
		return
	}
	a.entry(name, unix.S_IFDIR|0o755, 0, strings.NewReader(""))
}

// entry adds a name with its contents, which are exactly size bytes.
func (a *archive) entry(name string, mode uint32, size int64, contents io.Reader) {
	a.directory(path.Dir(name))
	if a.names[name] {
		a.fail(fmt.Errorf("guest: two files at %s", name))
		return
	}
	a.names[name] = true
	a.header(strings.TrimPrefix(name, "/"), mode, size)
	if a.err != nil {
		return
	}
	if _, err := io.CopyN(a.w, contents, size); err != nil {
		a.fail(fmt.Errorf("guest: %s: %w", name, err))
		return
	}
	a.pad(size)
}

// header writes a header and the name, padded.
func (a *archive) header(name string, mode uint32, size int64) {
	if a.err != nil {
		return
	}
	a.inode++
	const headerSize = 6 + 13*8
	_, err := fmt.Fprintf(a.w, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name)+1, 0, name)
	a.fail(err)
	a.pad(int64(headerSize + len(name) + 1))
}

// pad completes n bytes to a multiple of four.
func (a *archive) pad(n int64) {
	_, err := a.w.WriteString("\x00\x00\x00"[:-n&3])
	a.fail(err)
}

// fail keeps the first error.
func (a *archive) fail(err error) {
	if a.err == nil {
		a.err = err
	}
}

// close ends the archive and returns the first error.
func (a *archive) close() error {
	a.header("TRAILER!!!", 0, 0)
	a.fail(a.w.Flush())
	return a.err
}
