package passthrough

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/server"
)

// TestRenameUndecided: a RENAME that is served again and whose names can't be looked at gets the error of that, and is
// neither taken for done nor for one of a file that was not there.
func TestRenameUndecided(t *testing.T) {
	s := newShare(t, nil, 0)
	s.write("new", "of somebody else")
	fs := s.guest().fs
	const broken = -1 // a directory that can't be searched
	again := func(step int) *server.Request {
		return &server.Request{Again: &server.Again{Intended: true, Step: step,
			Evidence: fuse.Evidence{renameOldIno: 1, renameKnown: renameOld}}}
	}
	for _, dirs := range [][2]int{{broken, fs.cfg.RootFD}, {fs.cfg.RootFD, broken}, {broken, broken}} {
		_, done, errno := fs.again.renamedBefore(again(0), dirs[0], name("old"), dirs[1], name("new"))
		if done || errno != unix.EBADF {
			t.Errorf("in %d and %d: done %t, %v", dirs[0], dirs[1], done, errno)
		}
		if _, done, errno := fs.again.renamedBefore(again(1), dirs[0], name("old"), dirs[1], name("new")); !done || errno != 0 {
			t.Errorf("in %d and %d, certainly made: done %t, %v", dirs[0], dirs[1], done, errno)
		}
	}
}
