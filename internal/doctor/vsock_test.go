package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/share"
)

// TestVsock: each thing that keeps a guest over vsock from mounting is named.
func TestVsock(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "token")
	if err := os.WriteFile(secret, []byte("a secret of some length"), 0o644); err != nil {
		t.Fatal(err)
	}
	uds := func(token string, shares ...share.Shared) *share.Config {
		c := &share.Config{}
		c.VsockUDS, c.VsockToken, c.VsockShares = filepath.Join(dir, "vm_77"), token, shares
		return c
	}
	look := func(c *share.Config) string {
		v, r := host{root: "/"}.vsock(c), &Report{}
		r.vsock(c, &v)
		var b strings.Builder
		if err := r.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	said := look(uds(secret, share.Shared{Name: "gone", Dir: filepath.Join(dir, "gone")}, share.Shared{Name: "data", Dir: dir}, share.Shared{Name: "src", Dir: dir, ReadOnly: true}))
	for _, want := range []string{"will make " + dir + "/vm_77", "socket " + dir + "/vm\n", "FAIL  vsock.token", "chmod 600", "FAIL  vsock.share", "share gone",
		"data is " + dir + "\n", "mount vsock:2:77/data /mnt/data (", "src is " + dir + ", read-only\n", "mount vsock:2:77/src /mnt/src ("} {
		if !strings.Contains(said, want) {
			t.Errorf("want %q in:\n%s", want, said)
		}
	}
	if said := look(uds(secret, share.Shared{Name: "data", Dir: dir})); !strings.Contains(said, "mount vsock:2:77/data /mnt (") {
		t.Error(said)
	}
	if said := look(uds(secret)); !strings.Contains(said, "mount vsock:2:77/ /mnt (") {
		t.Error(said)
	}
	if said := look(uds(share.NoToken)); !strings.Contains(said, "warn  vsock.token") || strings.Contains(said, "FAIL") {
		t.Error(said)
	}
	for _, c := range []struct {
		v    Vsock
		want string
	}{
		{Vsock{Family: unix.EAFNOSUPPORT}, "FAIL  vsock.device"},
		{Vsock{Device: os.ErrNotExist}, "FAIL  vsock.device"},
		{Vsock{}, "ok    vsock.device"},
		{Vsock{Socket: &Socket{Err: os.ErrNotExist, DirErr: unix.EACCES}}, "FAIL  vsock.socket"},
		{Vsock{Socket: &Socket{Listening: true}}, "ok    vsock.socket"},
		{Vsock{Socket: &Socket{}}, "warn  vsock.socket"},
	} {
		p, r := &share.Config{}, &Report{}
		p.VsockPort, p.VsockUDS = 1024, "/run/vm_1024"
		r.vsock(p, &c.v)
		var b strings.Builder
		if err := r.WriteText(&b); err != nil || !strings.Contains(b.String(), c.want) {
			t.Errorf("want %q in:\n%s%v", c.want, &b, err)
		}
	}
}
