package vhostuser

import (
	"errors"
	"io"
	"os"
	"testing"
	"time"
)

// statePipe returns the two ends of a pipe; the test closes them.
func statePipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(); _ = w.Close() })
	return r, w
}

// transfer starts a transfer and closes our copy of the back-end's end.
func (fe *frontEnd) transfer(direction uint32, end *os.File) uint64 {
	fe.t.Helper()
	v := fe.number(ReqSetDeviceStateFD, reply(TransferState{Direction: direction}), int(end.Fd()))
	_ = end.Close()
	return v
}

func TestSaveState(t *testing.T) {
	d := newFullDevice()
	state := make([]byte, 1<<20) // more than a pipe holds
	state[12345] = 1
	d.save = func(f io.Writer) error { _, err := f.Write(state); return err }
	fe := serve(t, d)
	fe.negotiate()
	for range 2 {
		r, w := statePipe(t)
		if v := fe.transfer(TransferSave, w); v != TransferNoFD {
			t.Fatalf("SET_DEVICE_STATE_FD: %#x", v)
		}
		fe.number(ReqGetFeatures, nil) // the control socket is served meanwhile
		got, err := io.ReadAll(r)
		if err != nil || string(got) != string(state) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		if v := fe.number(ReqCheckDeviceState, nil); v != 0 {
			t.Errorf("CHECK_DEVICE_STATE: %d", v)
		}
	}
	if v := fe.number(ReqCheckDeviceState, nil); v == 0 {
		t.Error("CHECK_DEVICE_STATE without a transfer succeeds")
	}
}

func TestLoadState(t *testing.T) {
	d := newFullDevice()
	loaded := make(chan string, 1)
	fail := errors.New("of another version")
	d.load = func(f io.Reader) error {
		got, err := io.ReadAll(f)
		loaded <- string(got)
		if err == nil && len(got) == 0 {
			err = fail
		}
		return err
	}
	fe := serve(t, d)
	fe.negotiate()
	for _, data := range []string{"state", ""} {
		r, w := statePipe(t)
		if v := fe.transfer(TransferLoad, r); v != TransferNoFD {
			t.Fatalf("SET_DEVICE_STATE_FD: %#x", v)
		}
		_, _ = w.WriteString(data)
		_ = w.Close()
		if v := fe.number(ReqCheckDeviceState, nil); (v == 0) != (data != "") {
			t.Errorf("CHECK_DEVICE_STATE: %d after %q", v, data)
		}
		if got := <-loaded; got != data {
			t.Errorf("loaded %q, want %q", got, data)
		}
	}
}

func TestTransferRefused(t *testing.T) {
	d := newFullDevice()
	fe := serve(t, d)
	fe.negotiate()
	for _, bad := range []TransferState{{Direction: 2}, {Phase: 1}} {
		if v := fe.number(ReqSetDeviceStateFD, reply(bad), eventFD(t)); v&0xff == 0 || v&TransferNoFD == 0 {
			t.Errorf("%+v: %#x", bad, v)
		}
	}
	fe.ram()
	fe.startRing(0)
	if v := fe.number(ReqSetDeviceStateFD, reply(TransferState{}), eventFD(t)); v&0xff == 0 {
		t.Error("a transfer started while a ring runs")
	}
}

// TestTransferGivenUp leaves transfers half done, and goes on in different ways.
func TestTransferGivenUp(t *testing.T) {
	d := newFullDevice()
	failed := make(chan error, 1)
	d.load = func(f io.Reader) error { _, err := io.ReadAll(f); failed <- err; return err }
	fe := serve(t, d)
	fe.negotiate()
	fe.ram()
	fe.setUpRing(0)
	for name, next := range map[string]func(){
		"start a ring": func() { fe.must(ReqSetVringEnable, state(0, 1)); fe.must(ReqSetVringEnable, state(0, 0)) },
		"reset":        func() { fe.must(ReqResetDevice, nil); fe.setUpRing(0) },
		"disconnect":   nil,
	} {
		if next == nil {
			continue // last
		}
		r, _ := statePipe(t)
		fe.transfer(TransferLoad, r)
		next()
		if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the transfer ended with %v", name, err)
		}
	}
	// A second transfer takes the place of the first.
	r1, _ := statePipe(t)
	r2, w2 := statePipe(t)
	fe.transfer(TransferLoad, r1)
	fe.transfer(TransferLoad, r2)
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the first transfer ended with %v", err)
	}
	_ = w2.Close()
	if v := fe.number(ReqCheckDeviceState, nil); v != 0 {
		t.Errorf("CHECK_DEVICE_STATE: %d", v)
	}
	<-failed
	// The front-end goes away; a pipe that it forgot keeps nobody.
	r3, _ := statePipe(t)
	fe.transfer(TransferLoad, r3)
	_ = fe.sock.Close()
	if err := fe.wait(); err != nil {
		t.Error(err)
	}
}

// TestCancelDuringCheck ends the context while the front-end waits for a transfer
// that never ends.
func TestCancelDuringCheck(t *testing.T) {
	d := newFullDevice()
	d.load = func(f io.Reader) error { _, err := io.ReadAll(f); return err }
	fe := serve(t, d)
	fe.negotiate()
	r, _ := statePipe(t)
	fe.transfer(TransferLoad, r)
	fe.send(ReqCheckDeviceState, nil)
	time.Sleep(20 * time.Millisecond)
	fe.cancel()
	_ = fe.wait()
}

// TestCheckNeverEnds asks for the result of transfers whose other end does nothing: it is an
// error, and the front-end is served on.
func TestCheckNeverEnds(t *testing.T) {
	d := newFullDevice()
	d.load = func(r io.Reader) error { _, err := io.ReadAll(r); return err }
	d.save = func(w io.Writer) error { _, err := w.Write(make([]byte, 1<<20)); return err }
	fe := serveWith(t, d, func(c *Conn) { c.transfer.idle = 20 * time.Millisecond })
	fe.negotiate()
	for _, direction := range []uint32{TransferLoad, TransferSave} {
		r, w := statePipe(t)
		end := r
		if direction == TransferSave {
			end = w
		}
		fe.transfer(direction, end)
		if v := fe.number(ReqCheckDeviceState, nil); v&0xff == 0 {
			t.Errorf("direction %d: CHECK_DEVICE_STATE: %#x", direction, v)
		}
		fe.number(ReqGetFeatures, nil)
	}
}

// TestCheckHangUp: a front-end that goes away while it waits for the result of a transfer is
// noticed, however long the transfer may take.
func TestCheckHangUp(t *testing.T) {
	d := newFullDevice()
	failed := make(chan error, 1)
	d.load = func(r io.Reader) error { _, err := io.ReadAll(r); failed <- err; return err }
	fe := serveWith(t, d, func(c *Conn) { c.transfer.idle = time.Hour })
	fe.negotiate()
	r, _ := statePipe(t)
	fe.transfer(TransferLoad, r)
	fe.send(ReqCheckDeviceState, nil)
	_ = fe.sock.Close()
	if err := fe.wait(); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil {
		t.Error("the transfer ended well")
	}
}

// TestTransferSlow: a transfer goes on after the time limit of a wait, as long as the other
// end does something.
func TestTransferSlow(t *testing.T) {
	d := newFullDevice()
	const idle = 2 * time.Second
	started, proceed := make(chan struct{}), make(chan struct{})
	got := make(chan string, 1)
	d.load = func(r io.Reader) error {
		close(started)
		<-proceed // it is busy with something else
		b, err := io.ReadAll(r)
		got <- string(b)
		return err
	}
	fe := serveWith(t, d, func(c *Conn) { c.transfer.idle = idle })
	fe.negotiate()
	r, w := statePipe(t)
	fe.transfer(TransferLoad, r)
	<-started
	fe.send(ReqCheckDeviceState, nil)
	if _, err := w.WriteString("state"); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	time.Sleep(idle + idle/2) // past the limit
	close(proceed)
	if v, _ := Decode[U64](fe.reply(ReqCheckDeviceState)); v.Value != 0 {
		t.Errorf("CHECK_DEVICE_STATE: %#x", v.Value)
	}
	if b := <-got; b != "state" {
		t.Errorf("loaded %q", b)
	}
}
