package notify

import (
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/hostwatch"
	"github.com/govirtiofs/govirtiofs/server"
)

// forgetful is a share with one directory, whose client has forgotten all numbers that it had for it.
type forgetful struct {
	server.NotImplemented
	dir    int
	meet   *sync.WaitGroup // of all that forget
	forget chan struct{}   // closed when they are to go on
}

func (f *forgetful) Init(*server.InitParams) unix.Errno                           { return 0 }
func (f *forgetful) StartThread(*server.Thread) error                             { return nil }
func (f *forgetful) StopThread(*server.Thread)                                    {}
func (f *forgetful) Close()                                                       {}
func (f *forgetful) Destroy()                                                     {}
func (f *forgetful) Forget(*fuse.Cell, uint64, uint64)                            {}
func (f *forgetful) Nodes(func(uint64, bool) bool)                                {}
func (f *forgetful) Place(uint64) (uint64, fp.Name, bool)                         { return 0, nil, false }
func (f *forgetful) UseFD(_ *server.Request, _ uint64, use func(int) error) error { return use(f.dir) }

func (f *forgetful) Known(uint64) bool {
	f.meet.Done()
	<-f.forget
	return false
}

type silent struct{}

func (silent) Notify(fp.NotifyCode, ...[]byte) error { return nil }

// groups is how many fanotify groups this process has.
func groups(t *testing.T) (n int) {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); to == "anon_inode:[fanotify]" {
			n++
		}
	}
	return n
}

// TestRenewTogether: a client that forgets many directories at once, when it is time for another watcher, gets one
// watcher, and none is left at the end.
func TestRenewTogether(t *testing.T) {
	dir, err := unix.Open(t.TempDir(), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	w, err := hostwatch.New(hostwatch.Options{})
	if err != nil {
		t.Skip(err)
	}
	_ = w.Close()
	had := groups(t)
	share := &forgetful{dir: dir}
	fs := New(share, slog.New(slog.NewTextHandler(io.Discard, nil)))
	fs.max = 2
	fs.Connect(silent{})
	if errno := fs.Init(&server.InitParams{}); errno != 0 {
		t.Fatal(errno)
	}
	const together = 32
	id := uint64(2)
	for range 100 {
		s := fs.current()
		if s == nil {
			t.Skip("there are too many fanotify groups")
		}
		w := s.watcher
		fs.mu.Lock()
		for ; !w.Stale(); id++ {
			if err := w.Add(dir, id); err != nil {
				t.Fatal(err)
			}
			w.Remove(-1, id)
		}
		for i := range uint64(together) {
			fs.dirs[id+i] = true
		}
		fs.mu.Unlock()
		share.meet = new(sync.WaitGroup)
		share.meet.Add(together)
		share.forget = make(chan struct{})
		var all sync.WaitGroup
		for range together {
			id++
			mine := id - 1
			all.Go(func() { fs.Forget(nil, mine, 1) })
		}
		share.meet.Wait()
		fs.mu.Lock() // so that all of them wait in a queue
		close(share.forget)
		runtime.Gosched()
		fs.mu.Unlock()
		all.Wait()
	}
	fs.Close()
	for range 3000 {
		if groups(t) == had {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d fanotify groups are left", groups(t)-had)
}
