package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
)

// TestIntegrationShares: one daemon has several shares behind one port. Each is what it says, in every
// sandbox; a name that there is not is an error that says which there are; and all sessions go on when
// the daemon is restarted.
func TestIntegrationShares(t *testing.T) {
	for _, sandbox := range []string{"namespace", "none"} {
		t.Run(sandbox, func(t *testing.T) { testShares(t, sandbox) })
	}
}

func testShares(t *testing.T, sandbox string) {
	h := newHost(t)
	h.stop()
	file := filepath.Join(h.dir, "file")
	for _, name := range []string{"src", "other"} {
		if err := os.Mkdir(filepath.Join(h.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{file, filepath.Join(h.dir, "src", "read-only")} {
		if err := os.WriteFile(path, []byte("text\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h.shares = []string{"data=" + h.share, "src:ro=" + filepath.Join(h.dir, "src"), "file=" + file}
	args := []string{"--sandbox=" + sandbox, "--vsock-state", filepath.Join(h.dir, "state"), "--recovery=never"}
	h.start(args...)
	for share, says := range map[string]string{"share=other": "no share", "rw": "which share"} {
		said := shell(t, fmt.Sprintf(`cd %s; $GUEST mount -o token=%s,%s unix:v_1024 mnt && echo mounted || echo status $?`, h.dir, h.token, share))
		if !strings.Contains(said, says) || !strings.Contains(said, "status 1") || !strings.Contains(said, "data") {
			t.Errorf("%s: %s", share, said)
		}
	}
	p := startInner(t, "shell", fmt.Sprintf(`cd %s; GUEST=%s
for s in data src; do mkdir mnt-$s; $GUEST mount -o token=%s,share=$s unix:v_1024 mnt-$s; done
echo hello >mnt-data/made
cat mnt-src/read-only
echo x >mnt-src/new || echo refused
ls mnt-data mnt-src
exec 5>>mnt-data/made
echo ready
read x || true
echo more >&5
cat mnt-data/made mnt-src/read-only
exec 5>&-
umount mnt-data mnt-src
`, h.dir, guestProgram, h.token))
	for p.line() != "ready" {
	}
	h.stop()
	h.start(args...)
	said := p.end()
	for _, want := range []string{"refused", "mnt-data:\nmade\n\nmnt-src:\nread-only\n", "hello\nmore\ntext"} {
		if !strings.Contains(said, want) {
			t.Errorf("want %q in:\n%s\n%s", want, said, h.log)
		}
	}
	if b, err := os.ReadFile(filepath.Join(h.share, "made")); err != nil || string(b) != "hello\nmore\n" {
		t.Errorf("on the host: %q, %v", b, err)
	}
	h.stop()
}

// TestIntegrationSharesDeath: the serving process of a daemon with three shares is killed 20 times, and the whole daemon,
// started by a service manager that keeps descriptors, is restarted 3 times, while the guest changes two of the shares
// and has a file of the third open. Each goes on exactly.
func TestIntegrationSharesDeath(t *testing.T) {
	h := newHost(t)
	h.stop()
	first := h.share
	h.shares = []string{"data=" + first}
	for _, name := range []string{"src", "idle"} {
		dir := filepath.Join(h.dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		h.shares = append(h.shares, name+"="+dir)
	}
	h.manager = daemontest.NewServiceManager(t, filepath.Join(h.dir, "notify"))
	h.start()
	one, result1 := startModelOf(t, h, "data")
	two, result2 := startModelOf(t, h, "src")
	idle := startInner(t, "shell", fmt.Sprintf(`cd %s; mkdir mnt-idle
%s mount -o token=%s,share=idle unix:v_1024 mnt-idle
exec 5>>mnt-idle/file; rm mnt-idle/file; echo one >&5; cd mnt-idle
echo ready
read x || true
echo two >&5; cat /proc/self/fd/5 | tr '\n' ' '; echo more >new; exec 5>&-
cd ..; umount mnt-idle
`, h.dir, guestProgram, h.token))
	for idle.line() != "ready" {
	}
	const stored = "ledger shareledger-0-0-1 shareledger-0-0-2 stream-0-0 stream-0-0-1 stream-0-0-2"
	for i := range 23 {
		one.progress(20)
		two.progress(20)
		if i%8 != 7 {
			serves := h.log.Count("serves after")
			if err := unix.Kill(worker(t, h), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the next worker", func() bool { return h.log.Count("serves after") > serves })
			continue
		}
		h.manager.Until("everything is stored", func() bool { return strings.Contains(withoutPins(h.manager.Names()), stored) })
		h.stop()
		h.start()
	}
	one.progress(100)
	two.progress(100)
	one.end()
	two.end()
	if said := idle.end(); !strings.Contains(said, "one two") {
		t.Errorf("an open file without a name: %s\n%s", said, h.log)
	}
	checkModels(t, h, result1)
	h.share = filepath.Join(h.dir, "src")
	checkModels(t, h, result2)
	if _, err := os.Stat(filepath.Join(h.dir, "idle", "new")); err != nil {
		t.Error(err)
	}
	h.share = first
	h.stop()
}

// withoutPins leaves out what is stored only at the end.
func withoutPins(names string) string {
	var left []string
	for n := range strings.FieldsSeq(names) {
		if !strings.HasPrefix(n, "node-") && !strings.HasPrefix(n, "open-") && !strings.HasPrefix(n, "lock-") {
			left = append(left, n)
		}
	}
	return strings.Join(left, " ")
}
