package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
