package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/stream"
)

// board is a file system with one file, of which a client may keep everything for an hour.
type board struct {
	server.NotImplemented
	mu   sync.Mutex
	name string
	text string
}

func (*board) Init(*server.InitParams) unix.Errno { return 0 }

func (b *board) attr(id uint64, a *fp.Attr) unix.Errno {
	*a = fp.Attr{Ino: id, Mode: unix.S_IFDIR | 0o755, Nlink: 2}
	if id == 2 {
		*a = fp.Attr{Ino: 2, Mode: unix.S_IFREG | 0o644, Nlink: 1, Size: uint64(len(b.text))}
	}
	return 0
}

func (b *board) Getattr(r *server.Request, _ *fp.GetattrIn, out *fp.AttrOut) unix.Errno {
	b.mu.Lock()
	defer b.mu.Unlock()
	out.AttrValid = 3600
	return b.attr(r.Header.NodeID, &out.Attr)
}

func (b *board) Lookup(_ *server.Request, name fp.Name, out *fp.EntryOut) unix.Errno {
	b.mu.Lock()
	defer b.mu.Unlock()
	out.EntryValid, out.AttrValid = 3600, 3600
	if name.String() != b.name {
		return 0 // node 0: that there is none may be kept as well
	}
	out.NodeID = 2
	return b.attr(2, &out.Attr)
}

func (*board) Open(_ *server.Request, _ *fp.OpenIn, out *fp.OpenOut) unix.Errno {
	out.OpenFlags = fp.FopenKeepCache
	return 0
}

func (b *board) Read(_ *server.Request, in *fp.ReadIn, dst fuse.Buffers) (int, unix.Errno) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return dst.CopyFrom([]byte(b.text[min(in.Offset, uint64(len(b.text))):]), 0), 0
}

// TestIntegrationNotify: the kernel of the guest keeps what it may, until the host says that it
// has changed.
func TestIntegrationNotify(t *testing.T) {
	guest.NeedRoot(t)
	guest.NeedFUSE(t)
	dir := t.TempDir()
	b := &board{name: "old", text: "one\n"}
	s, err := stream.New(server.New(b, server.Options{MaxWrite: stream.DefaultMaxWrite}), stream.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { _ = s.Serve(ctx, l); close(ended) }()
	defer func() { cancel(); <-ended }()
	if err := os.Mkdir(filepath.Join(dir, "mnt"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := startInner(t, "shell", fmt.Sprintf(`cd %s; %s mount unix:s mnt
while read x; do echo "$(cat mnt/$x 2>/dev/null || echo none)"; done
umount mnt`, dir, guestProgram))
	ask := func(name, want string) {
		t.Helper()
		if _, err := io.WriteString(p.stdin, name+"\n"); err != nil {
			t.Fatal(err)
		}
		if got := p.line(); got != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
	change := func(name, text string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.name, b.text = name, text
	}
	ask("old", "one")
	ask("new", "none")
	change("new", "two\n")
	ask("old", "one") // as it was kept
	ask("new", "none")
	for _, step := range []func() error{
		func() error { return s.Notify(fp.NotifyInvalInode, fp.Bytes(&fp.NotifyInvalInodeOut{Ino: 2})) },
		func() error {
			return s.Notify(fp.NotifyInvalEntry, fp.Bytes(&fp.NotifyInvalEntryOut{Parent: 1, NameLen: 3}), []byte("new\x00"))
		},
		func() error {
			return s.Notify(fp.NotifyInvalEntry, fp.Bytes(&fp.NotifyInvalEntryOut{Parent: 1, NameLen: 3}), []byte("old\x00"))
		},
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	// They are under way: what is asked until the last one has arrived may still be old.
	eventually(t, "the notifications", func() bool {
		if _, err := io.WriteString(p.stdin, "old\n"); err != nil {
			t.Fatal(err)
		}
		return p.line() == "none"
	})
	ask("new", "two")
	p.end()
}

// TestIntegrationHostChanges: with --events=auto the kernel of the guest, which may keep everything for a day,
// drops what somebody changes on the host: also what was changed while the daemon was away.
func TestIntegrationHostChanges(t *testing.T) {
	options := []string{"--cache=always", "--negative-timeout=24h", "--events=auto",
		"--migration-on-error=guest-error", "--vsock-state", filepath.Join(t.TempDir(), "state")}
	h := newHost(t, options...)
	onHost := func(format string, args ...any) {
		t.Helper()
		cmd := exec.Command("sh", "-e", "-c", fmt.Sprintf(format, args...))
		cmd.Dir = h.share
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	onHost("echo one >file; mkdir dir; echo deep >dir/deep; echo old >other; echo x >gone")
	p := startInner(t, "shell", fmt.Sprintf(`cd %s; %s mount -o token=%s unix:v_1024 mnt; cd mnt
while read x; do echo "$(eval "$x" 2>&1 | tr '\n' ' ')"; done
cd ..; umount mnt`, h.dir, guestProgram, h.token))
	ask := func(command string) string {
		t.Helper()
		if _, err := io.WriteString(p.stdin, command+"\n"); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(p.line())
	}
	wants := func(command, want string) {
		t.Helper()
		var got string
		for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if got = ask(command); got == want || time.Now().After(deadline) {
				break
			}
		}
		if got != want {
			t.Errorf("%s says %q, want %q", command, got, want)
		}
	}
	read := `cat file dir/deep other; cat new 2>/dev/null || echo none; stat -c %a file; ls dir`
	wants(read, "one deep old none 644 deep")
	for _, step := range []struct{ change, command, want string }{
		{"echo two >file", "cat file", "two"},
		{"echo three >>file", "cat file; stat -c %s file", "two three 10"},
		{"echo new >new", "cat new", "new"},
		{"chmod 600 file", "stat -c %a file", "600"},
		{"mv other moved", "cat moved; ls other >/dev/null 2>&1 || echo none", "old none"},
		{"echo saved >tmp; mv tmp file", "cat file", "saved"},
		{"rm gone", "ls gone >/dev/null 2>&1 || echo none", "none"},
		{"echo a >dir/a; mkdir dir/sub", "ls dir", "a deep sub"},
		{"mv dir dir2; echo b >dir2/sub/b", "cat dir2/sub/b; ls dir >/dev/null 2>&1 || echo none", "b none"},
		{"rm new; mkdir new; echo in >new/in", "cat new/in", "in"},
	} {
		ask(step.command) // the guest knows how it was
		onHost("%s", step.change)
		wants(step.command, step.want)
	}
	wants("cat file dir2/deep; ls nothing >/dev/null 2>&1 || echo none", "saved deep none")
	h.stop()
	onHost("echo while it was away >file; rm dir2/deep")
	h.start(options...)
	wants("cat file; ls dir2/deep 2>/dev/null || echo none", "while it was away none")
	onHost("echo again >file")
	wants("cat file", "again")
	p.end()
	h.stop()
}
