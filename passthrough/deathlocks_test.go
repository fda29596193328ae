package passthrough

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// Cases of TestDeaths about fcntl locks. Owners are numbers of the client's; 5 has the lock that the
// case is about, and others look at it.

func setlkStep(fh func(*board) uint64, owner uint64, typ uint32, start, end uint64) step {
	return lockStep(fp.OpSetlk, fh, owner, typ, 0, start, end)
}
func getlkStep(fh func(*board) uint64, start, end uint64) step {
	return lockStep(fp.OpGetlk, fh, 99, unix.F_WRLCK, 0, start, end)
}
func flushStep(fh func(*board) uint64, owner uint64) step {
	return fhStep(fp.OpFlush, of(1), func(b *board) fp.FlushIn { return fp.FlushIn{Fh: fh(b), LockOwner: owner} })
}

// twoOpen opens a file twice, as 2 and 3.
func twoOpen(more ...step) []step {
	return append([]step{lookupStep(root, "f"), openStep(of(1), unix.O_RDWR), openStep(of(1), unix.O_RDWR)}, more...)
}

const end = 1<<63 - 1

var deathCasesOfLocks = []deathCase{
	{name: "setlk", setup: files("f"), before: twoOpen(), target: setlkStep(openedBy(2), 5, unix.F_WRLCK, 10, 19),
		after: []step{getlkStep(openedBy(3), 0, end), setlkStep(openedBy(3), 6, unix.F_RDLCK, 19, 30), setlkStep(openedBy(3), 6, unix.F_RDLCK, 20, 30),
			setlkStep(openedBy(2), 5, unix.F_UNLCK, 0, end), setlkStep(openedBy(3), 6, unix.F_WRLCK, 0, 30)}},
	{name: "setlk by another open file", setup: files("f"), before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 9)), locked: true,
		target: setlkStep(openedBy(3), 5, unix.F_RDLCK, 20, 29),
		after:  []step{releaseStep(fp.OpRelease, of(1), openedBy(2)), getlkStep(openedBy(3), 0, end), setlkStep(openedBy(3), 6, unix.F_WRLCK, 0, 0)}},
	{name: "setlk that joins two ranges", setup: files("f"), locked: true,
		before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 9), setlkStep(openedBy(2), 5, unix.F_WRLCK, 20, 29)),
		target: setlkStep(openedBy(2), 5, unix.F_WRLCK, 10, 19), after: []step{getlkStep(openedBy(3), 5, 5), setlkStep(openedBy(3), 6, unix.F_WRLCK, 30, 30)}},
	{name: "setlk that shares the middle", setup: files("f"), before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 99)), locked: true,
		target: setlkStep(openedBy(2), 5, unix.F_RDLCK, 10, 19),
		after: []step{setlkStep(openedBy(3), 6, unix.F_RDLCK, 10, 19), setlkStep(openedBy(3), 6, unix.F_RDLCK, 9, 9), setlkStep(openedBy(3), 6, unix.F_RDLCK, 20, 20),
			getlkStep(openedBy(3), 20, 20)}},
	{name: "setlk of what another owner has", setup: files("f"), before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 9)), locked: true,
		target: setlkStep(openedBy(3), 6, unix.F_WRLCK, 5, 15), after: []step{getlkStep(openedBy(3), 0, end)}},
	{name: "setlk of what the host has", setup: files("f"), before: twoOpen(), hostLocks: true,
		target: setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 15), after: []step{getlkStep(openedBy(3), 0, end)}},
	{name: "setlk of a removed file", setup: files("f"), before: twoOpen(unlinkStep("f")), target: setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 0),
		after: []step{setlkStep(openedBy(3), 6, unix.F_WRLCK, 0, 0)}},
	{name: "setlk that may wait", setup: files("f"), before: twoOpen(), target: lockStep(fp.OpSetlkw, openedBy(2), 5, unix.F_WRLCK, 0, 0, end),
		after: []step{setlkStep(openedBy(3), 6, unix.F_RDLCK, 7, 7)}},
	{name: "unlock of a part", setup: files("f"), before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 99)), locked: true,
		target: setlkStep(openedBy(2), 5, unix.F_UNLCK, 10, 19),
		after:  []step{setlkStep(openedBy(3), 6, unix.F_WRLCK, 10, 19), setlkStep(openedBy(3), 6, unix.F_WRLCK, 9, 9), setlkStep(openedBy(3), 6, unix.F_WRLCK, 20, 20)}},
	{name: "unlock", setup: files("f"), before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 99)),
		target: setlkStep(openedBy(2), 5, unix.F_UNLCK, 0, end), after: []step{getlkStep(openedBy(3), 0, end)}},
	{name: "unlock of nothing", setup: files("f"), before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 9)), locked: true,
		target: setlkStep(openedBy(2), 5, unix.F_UNLCK, 50, 59)},
	{name: "flush of an owner", setup: files("f"), before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 9), setlkStep(openedBy(3), 6, unix.F_WRLCK, 20, 29)),
		target: flushStep(openedBy(2), 5), after: []step{getlkStep(openedBy(3), 0, end)}},
	{name: "flush of another owner", setup: files("f"), before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 9)), locked: true,
		target: flushStep(openedBy(2), 6), after: []step{getlkStep(openedBy(3), 0, end)}},
	{name: "release of the file by which locks came", setup: files("f"), before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 9)),
		target: releaseStep(fp.OpRelease, of(1), openedBy(2)), after: []step{getlkStep(openedBy(3), 0, end)}},
	{name: "release of one of the files by which locks came", setup: files("f"), locked: true,
		before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 9), setlkStep(openedBy(3), 5, unix.F_WRLCK, 20, 29)),
		target: releaseStep(fp.OpRelease, of(1), openedBy(2)), after: []step{getlkStep(openedBy(3), 0, end), flushStep(openedBy(3), 5), getlkStep(openedBy(3), 0, end)}},
	{name: "release of the last open file", setup: files("f"), before: append(twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 9), setlkStep(openedBy(3), 5, unix.F_WRLCK, 20, 29)),
		releaseStep(fp.OpRelease, of(1), openedBy(3))), target: releaseStep(fp.OpRelease, of(1), openedBy(2)),
		after: []step{openStep(of(1), unix.O_RDWR), getlkStep(openedBy(8), 0, end)}},
	{name: "flock that is made shared", setup: files("f"), before: twoOpen(lockStep(fp.OpSetlk, openedBy(2), 5, unix.F_WRLCK, fp.LkFlock, 0, 0)),
		target: lockStep(fp.OpSetlk, openedBy(2), 5, unix.F_RDLCK, fp.LkFlock, 0, 0), after: []step{lockStep(fp.OpSetlk, openedBy(3), 6, unix.F_RDLCK, fp.LkFlock, 0, 0)}},
	{name: "rename beside a lock", setup: files("f"), before: twoOpen(setlkStep(openedBy(2), 5, unix.F_WRLCK, 0, 9)), target: renameStep("f", "g"),
		after: []step{getlkStep(openedBy(3), 0, end)}},
}

func init() { deathCases = append(deathCases, deathCasesOfLocks...) }

// looksLocked checks that the host sees the lock of byte 0 that a case keeps all the time, while no process serves.
func (l *life) looksLocked() {
	l.t.Helper()
	if !l.c.locked {
		return
	}
	f, err := os.OpenFile(filepath.Join(l.dir, "f"), os.O_RDWR, 0)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	lk := unix.Flock_t{Type: unix.F_WRLCK, Len: 1}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk); err != nil || lk.Type != unix.F_WRLCK {
		l.t.Errorf("between two processes the host can lock what the guest has locked: %+v, %v", lk, err)
	}
}

// lockFromHost has this process hold a lock on what the case is about.
func lockFromHost(t *testing.T, dir string) (unlock func()) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "f"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	lk := unix.Flock_t{Type: unix.F_WRLCK, Start: 12, Len: 2}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk); err != nil {
		t.Fatal(err)
	}
	return func() { _ = f.Close() }
}
