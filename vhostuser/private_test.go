package vhostuser

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

// TestPrivateMemory: what to do about guest memory that is not shared is said once, however
// the front-end shows that and however often.
func TestPrivateMemory(t *testing.T) {
	region := MemoryRegion{GuestAddr: guestBase, Size: ramSize, UserAddr: userBase}
	for name, refuse := range map[string]func(fe *frontEnd){
		"table without descriptors":   func(fe *frontEnd) { fe.mustNot(ReqSetMemTable, table(region)) },
		"region without a descriptor": func(fe *frontEnd) { fe.mustNot(ReqAddMemReg, slot(region)) },
		// QEMU sends nothing about memory.
		"rings without memory": func(fe *frontEnd) { fe.mustNot(ReqSetVringEnable, reply(VringState{Index: 1, Num: 1})) },
	} {
		t.Run(name, func(t *testing.T) {
			var said bytes.Buffer
			fe := serveWith(t, newFakeDevice(), func(c *Conn) {
				c.log = slog.New(slog.NewTextHandler(&said, nil))
			})
			fe.negotiate()
			fe.must(ReqSetVringNum, reply(VringState{Index: 1, Num: 16}))
			fe.must(ReqSetVringAddr, reply(VringAddr{Index: 1, Desc: userBase, Used: userBase + 4096, Avail: userBase + 8192}))
			fe.must(ReqSetVringKick, replyU64(1), eventFD(t))
			refuse(fe)
			refuse(fe)
			_ = fe.sock.Close()
			if err := fe.wait(); err != nil {
				t.Error(err)
			}
			if n := strings.Count(said.String(), "share=on"); n != 1 || strings.Count(said.String(), "\n") != 1 {
				t.Errorf("said %d times:\n%s", n, said.String())
			}
		})
	}
}
