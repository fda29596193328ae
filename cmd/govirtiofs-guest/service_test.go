package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
)

// TestIntegrationService: the whole daemon, started by a service manager that keeps descriptors, is restarted and
// killed while four threads create, append, rename and remove. Each operation has the result that it must have.
func TestIntegrationService(t *testing.T) {
	h := newHost(t)
	h.stop()
	h.manager = daemontest.NewServiceManager(t, filepath.Join(h.dir, "notify"))
	h.start()
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(h.log)
		}
	})
	p, result := startModel(t, h)
	for i := range 20 {
		p.progress(50)
		h.manager.Until("everything is stored", func() bool { return withoutPins(h.manager.Names()) == "ledger stream-0-0" })
		if i%4 == 3 { // also the keeper
			_ = h.cmd.Process.Signal(unix.SIGKILL)
			_ = h.cmd.Wait()
		} else {
			h.stop()
		}
		h.start()
		if !strings.Contains(h.log.String(), "Continuing the session") {
			t.Errorf("restart %d: another session:\n%s", i, h.log)
		}
	}
	p.progress(100)
	p.end()
	checkModels(t, h, result)
	h.stop()
}

// startModel mounts the share of h and starts to change what is in it. result is the file of what must be there in the end.
func startModel(t *testing.T, h *host) (p *process, result string) {
	t.Helper()
	return startModelOf(t, h, "")
}

// startModelOf is startModel for one of several shares, which is in a directory of that name, or of the only one.
func startModelOf(t *testing.T, h *host, share string) (p *process, result string) {
	t.Helper()
	mnt, option := h.mnt(), ""
	if share != "" {
		mnt, option = h.mnt()+"-"+share, ",share="+share
		if err := os.Mkdir(mnt, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	result = filepath.Join(h.dir, "result"+share)
	command, err := json.Marshal(map[string]string{"Dir": mnt, "Result": result,
		"Mount": fmt.Sprintf("%s mount -o channels=3,token=%s%s unix:%s %s", guestProgram, h.token, option, h.socket, mnt)})
	if err != nil {
		t.Fatal(err)
	}
	return startInner(t, "model", string(command)), result
}

// progress waits until so many operations more were done.
func (p *process) progress(more int) {
	p.t.Helper()
	read := func() (n int) {
		if _, err := fmt.Sscan(p.line(), &n); err != nil {
			p.t.Fatal(err)
		}
		return n
	}
	for before := read(); read() < before+more; {
	}
}
