package passthrough

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// BenchmarkResume takes over 100,000 nodes.
func BenchmarkResume(b *testing.B) {
	dir := b.TempDir()
	l, err := ledger.Create()
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for i := range 100_000 {
		if err := unix.Mknod(fmt.Sprintf("%s/f%06d", dir, i), unix.S_IFREG|0o644, 0); err != nil {
			b.Fatal(err)
		}
	}
	c := &deathCase{}
	p, err := startProcess(c, l, dir, nil)
	if err != nil {
		b.Fatal(err)
	}
	bd := newBoard(b)
	defer bd.close()
	c.target = initStep
	p.serve(c, bd, func(int) {})
	st := &threadState{}
	for i := range 100_000 {
		name := fp.Name(fmt.Sprintf("f%06d\x00", i))
		if errno := sysStatx(p.fs.cfg.RootFD, name.CString(), 0, &st.st); errno != 0 {
			b.Fatal(errno)
		}
		if _, errno := p.fs.nodes.intern(nil, &st.st, -1, p.fs.nodes.root, name); errno != 0 {
			b.Fatal(errno)
		}
	}
	b.ResetTimer()
	for b.Loop() {
		if _, err := startProcess(c, l, dir, nil); err != nil {
			b.Fatal(err)
		}
	}
}
