package tasks

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// own is this process's directory.
func own(t *testing.T) Dir {
	t.Helper()
	fd, err := unix.Open("/proc/self/task", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return Dir(fd)
}

// TestText: a thread that waits in a system call is found by its number, and the text names the
// call.
func TestText(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer r.Close()
	fd := int(r.Fd()) // which makes reading block
	tid := make(chan int)
	ended := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		_, err := unix.Read(fd, make([]byte, 1))
		ended <- err
	}()
	id, d := <-tid, own(t)
	var text string
	for end := time.Now().Add(60 * time.Second); !strings.Contains(text, "in read, in state S"); text = d.Text(id) {
		if time.Now().After(end) {
			t.Fatal(text)
		}
		time.Sleep(time.Millisecond)
	}
	if _, err := w.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestUnknown: for an unknown thread the text is empty.
func TestUnknown(t *testing.T) {
	if s := own(t).Text(1 << 30); s != "" {
		t.Error(s)
	}
	if s := Dir(-1).Text(unix.Gettid()); s != "" {
		t.Error(s)
	}
}

func TestInnermost(t *testing.T) {
	for status, want := range map[string]int{
		"Name:\ta\nNSpid:\t4711\t12\nNSpgid:\t1\n": 12, "Name:\ta\nNSpid:\t5\n": 5, "Name:\ta\n": 0, "": 0, "\nNSpid:\n": 0, "\nNSpid:\tx\n": 0,
	} {
		if got := innermost([]byte(status)); got != want {
			t.Errorf("%q: %d, want %d", status, got, want)
		}
	}
}

func TestCallNames(t *testing.T) {
	if s := CallName(unix.SYS_MKDIRAT); s != "mkdirat" {
		t.Error(s)
	}
	if s := CallName(99999); s != "system call 99999" {
		t.Error(s)
	}
}
