package integration

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// TestIntegrationDoctor examines a share that works, from the host and in the guest.
// The guest waits until the host has finished.
func TestIntegrationDoctor(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	tool := build(t, "build", "./cmd/govirtiofs")
	d := start(t, "")
	d.Queues = 2 // and queues of 128, which the doctor must also find too short
	vm, err := guest.Start(context.Background(), guest.QEMU11, guest.Options{
		Shares: []guest.Share{d.Share}, CPUs: 2, Timeout: 4 * time.Minute, Files: map[string]string{tool: "/bin/govirtiofs"},
		Script: `/bin/govirtiofs doctor --guest --tag fs --json >/mnt/fs/guest.json 2>/mnt/fs/guest.err; echo $? >/mnt/fs/status
			for i in $(seq 300); do [ -e /mnt/fs/go ] && exit 0; sleep 0.2; done; exit 1`})
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	waitFor(t, filepath.Join(d.dir, "status"))
	host, err := exec.Command(tool, "doctor", "--socket-path", d.Socket, "--shared-dir", d.dir, "--json").Output()
	if werr := os.WriteFile(filepath.Join(d.dir, "go"), nil, 0o666); werr != nil {
		t.Fatal(werr)
	}
	if err != nil {
		t.Errorf("on the host: %v\n%s", err, host)
	}
	expectChecks(t, host, "vmm.memory ok is shared", "socket.daemon ok serve", "vmm.queue-size warn 496 KiB", "vmm.queues ok 2 request queues")
	if r, err := vm.Wait(); err != nil || r.Status != 0 {
		t.Fatalf("guest: status %d, %v\n%s", r.Status, err, tail(r.Output))
	}
	inside, err := os.ReadFile(filepath.Join(d.dir, "guest.json"))
	if err != nil {
		t.Fatal(err)
	}
	expectChecks(t, inside, "guest.driver ok mounted", "guest.tag ok fs", "guest.queues ok 2 request queues", "guest.mount ok /mnt/fs")
	if b, err := os.ReadFile(filepath.Join(d.dir, "status")); err != nil || string(b) != "0\n" {
		t.Errorf("exit status in the guest: %q, %v", b, err)
	}
}

// TestIntegrationDoctorOldGuest has a device with four queues, in a guest whose
// driver sets up all of them and uses one.
func TestIntegrationDoctorOldGuest(t *testing.T) {
	guest.Need(t, guest.QEMU72)
	tool := build(t, "build", "./cmd/govirtiofs")
	d := start(t, "")
	d.Queues = 4
	r, err := guest.Run(context.Background(), guest.QEMU72, guest.Options{
		Shares: []guest.Share{d.Share}, CPUs: 2, Timeout: 4 * time.Minute, Files: map[string]string{tool: "/bin/govirtiofs"},
		Script: `/bin/govirtiofs doctor --guest --json >/mnt/fs/guest.json`})
	if err != nil || r.Status != 0 {
		t.Fatalf("guest: status %d, %v\n%s", r.Status, err, tail(r.Output))
	}
	inside, err := os.ReadFile(filepath.Join(d.dir, "guest.json"))
	if err != nil {
		t.Fatal(err)
	}
	expectChecks(t, inside, "guest.kernel ok Linux 6.1", "guest.queues warn uses one request queue of 4")
}

func waitFor(t *testing.T, path string) {
	t.Helper()
	for range 1200 {
		if _, err := os.Stat(path); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("the guest has not written %s", path)
}

// expectChecks checks the findings. Each is given as its check, its status and a
// part of its text.
func expectChecks(t *testing.T, report []byte, want ...string) {
	t.Helper()
	var r struct {
		Checks []struct{ Check, Status, Text string }
	}
	if err := json.Unmarshal(report, &r); err != nil {
		t.Errorf("%v\n%s", err, report)
		return
	}
	for _, w := range want {
		f := strings.SplitN(w, " ", 3)
		found := false
		for _, c := range r.Checks {
			found = found || c.Check == f[0] && c.Status == f[1] && strings.Contains(c.Text, f[2])
		}
		if !found {
			t.Errorf("no finding %q in\n%s", w, report)
		}
	}
}
