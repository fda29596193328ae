package server_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync/atomic"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/tree"
)

// memory is a file in memory. Package tree has the directories, names and attributes.
type memory struct {
	data []byte
	left *atomic.Int64 // bytes that all files may still take: the guest must not get all memory
}

// newMemory is a file system of at most so many bytes.
func newMemory(limit int64) *tree.FS {
	left := new(atomic.Int64)
	left.Store(limit)
	return tree.New(tree.Config{NewFile: func() tree.Writable { return &memory{left: left} }})
}

func (m *memory) Size() int64 { return int64(len(m.data)) }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(p, off)
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > m.Size() {
		if err := m.Truncate(end); err != nil {
			return 0, err
		}
	}
	return copy(m.data[off:], p), nil
}

func (m *memory) Truncate(size int64) error {
	more := size - m.Size()
	for {
		left := m.left.Load()
		if more > left {
			return unix.ENOSPC
		}
		if m.left.CompareAndSwap(left, left-more) {
			break
		}
	}
	if more > 0 {
		m.data = append(m.data, make([]byte, more)...)
	} else {
		m.data = bytes.Clone(m.data[:size])
	}
	return nil
}

// Close is called when the file was removed and the guest has forgotten it.
func (m *memory) Close() error { return m.Truncate(0) }

// A file system in memory, and a guest that works in it.
func Example_memory() {
	guest, end := serve(newMemory(1 << 20))
	defer end()

	dir, err := guest.Mkdir(fp.RootID, "dir", 0o755)
	must(err)
	file, err := guest.Create(dir.NodeID, "draft", unix.O_RDWR, 0o644)
	must(err)
	_, err = guest.Write(file.Entry.NodeID, file.Open.Fh, 6, []byte("world"))
	must(err)
	_, err = guest.Write(file.Entry.NodeID, file.Open.Fh, 0, []byte("hello "))
	must(err)
	must(guest.Rename(dir.NodeID, "draft", fp.RootID, "letter", 0))
	must(guest.Rmdir(fp.RootID, "dir"))
	list, err := guest.ReadAll(fp.RootID, false)
	must(err)
	for _, entry := range list {
		fmt.Println(entry.Name)
	}
	text, err := guest.Read(file.Entry.NodeID, file.Open.Fh, 0, 100)
	fmt.Printf("%s %v\n", text, err)

	_, err = guest.Setattr(file.Entry.NodeID, fp.SetattrIn{Valid: fp.FattrSize, Size: 1 << 50})
	fmt.Println("too large:", errors.Is(err, unix.ENOSPC))
	must(guest.Unlink(fp.RootID, "letter"))
	text, err = guest.Read(file.Entry.NodeID, file.Open.Fh, 0, 5)
	fmt.Printf("removed and open: %s %v\n", text, err)
	// Output:
	// letter
	// hello world <nil>
	// too large: true
	// removed and open: hello <nil>
}
