package relay_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/relay"
	"github.com/govirtiofs/govirtiofs/relay/program"
)

// rates are requests in a second, by kind.
type rates map[string]float64

// load has relaywork use a directory.
func (b *bench) load(dir string) rates {
	b.t.Helper()
	r := rates{}
	s := bufio.NewScanner(strings.NewReader(b.run("", relaywork, dir, "load")))
	for s.Scan() {
		name, n, _ := strings.Cut(s.Text(), " ")
		v, err := strconv.ParseFloat(n, 64)
		if err != nil {
			b.t.Fatal(err)
		}
		r[name] = v
	}
	return r
}

// TestMeasureRelay compares a program's own mount with that of a relay, and with what is possible: a pump, which does nothing
// but carry each message from /dev/fuse to the program's socket and back. It prints, and asserts nothing.
func TestMeasureRelay(t *testing.T) {
	if os.Getenv("GOVIRTIOFS_LONG") != "1" {
		t.Skip("measures for a minute: GOVIRTIOFS_LONG=1")
	}
	guest.NeedFUSE(t)
	guest.NeedRoot(t)
	needPrograms(t, "bindfs")
	b := newBench(t, users[0])
	src := b.sample("src")
	own := b.mkdir("own")
	b.run("", "bindfs", src, own)
	defer func() { b.run("", "umount", own) }()
	relayed, r := b.mounted(nil, "bindfs", src, "{mount}")
	defer r.stop()
	pumped := b.mkdir("pumped")
	defer pump(t, pumped, "bindfs", src, "{mount}")()

	ratios := map[string][2][]float64{}
	for range 7 {
		base := b.load(own)
		for i, got := range []rates{b.load(pumped), b.load(relayed)} {
			for kind, v := range got {
				pair := ratios[kind]
				pair[i] = append(pair[i], v/base[kind])
				ratios[kind] = pair
			}
		}
		t.Logf("own mount: %v", base)
	}
	for _, kind := range []string{"GETATTR", "READ-4KiB", "READ-128KiB"} {
		for i, name := range []string{"pump", "relay"} {
			v := ratios[kind][i]
			slices.Sort(v)
			t.Logf("%-11s %-5s %.2f (%.2f to %.2f) of the program's own mount", kind, name, v[len(v)/2], v[0], v[len(v)-1])
		}
	}
}

// pump mounts a program on dir without a relay.
func pump(t *testing.T, dir string, args ...string) (stop func()) {
	t.Helper()
	p, err := program.New(program.Options{Args: args, Capabilities: []uintptr{unix.CAP_DAC_OVERRIDE}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := p.Mount(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mount, err := fusedev.New(dir, fusedev.Options{AllowOther: true, Permissions: true, MaxRead: relay.MaxData})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := m.Socket.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var socket int
	if err := raw.Control(func(fd uintptr) { socket, err = unix.Dup(int(fd)) }); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(socket, false); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		go func() {
			b := make([]byte, fusedev.BufferSize)
			for {
				n, err := mount.Read(b)
				if err != nil {
					return
				}
				_, _ = unix.Write(socket, b[:n])
			}
		}()
		go func() {
			b := make([]byte, fusedev.BufferSize)
			for {
				n, err := unix.Read(socket, b)
				if err == unix.EINTR {
					continue
				}
				if err != nil || n <= 0 || mount.Answer(b[:n]) != nil {
					return
				}
			}
		}()
	}
	return func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%s\n", out)
		}
		_ = unix.Shutdown(socket, unix.SHUT_RDWR)
		_ = m.Socket.Close()
		_ = p.Close()
		_ = mount.Close()
		_ = unix.Close(socket)
	}
}
