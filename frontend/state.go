package frontend

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// SaveState gets the back-end's state, as a VMM does on the host that a guest leaves. The
// queues are stopped.
func (f *Frontend) SaveState() ([]byte, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	err = f.transfer(vu.TransferSave, w)
	_ = w.Close()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		return nil, err
	}
	return b.Bytes(), f.transferred()
}

// LoadState gives the back-end a state, as on the host that a guest comes to. The queues
// are started afterwards.
func (f *Frontend) LoadState(state []byte) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	err = f.transfer(vu.TransferLoad, r)
	_ = r.Close()
	if err != nil {
		_ = w.Close()
		return err
	}
	// A back-end that refuses the state stops reading.
	_, _ = io.Copy(w, bytes.NewReader(state))
	_ = w.Close()
	return f.transferred()
}

func (f *Frontend) transfer(direction uint32, end *os.File) error {
	if f.Protocol&vu.ProtocolDeviceState == 0 {
		return errors.New("the back-end can't move its state")
	}
	t := vu.TransferState{Direction: direction, Phase: vu.TransferPhaseStopped}
	answer, err := f.Call(vu.ReqSetDeviceStateFD, vu.Bytes(&t), int(end.Fd()))
	if err != nil {
		return err
	}
	return number(answer, vu.TransferNoFD, "SET_DEVICE_STATE_FD")
}

func (f *Frontend) transferred() error {
	answer, err := f.Call(vu.ReqCheckDeviceState, nil)
	if err != nil {
		return err
	}
	return number(answer, 0, "CHECK_DEVICE_STATE")
}

// number checks the number that the back-end answers.
func number(answer []byte, want uint64, what string) error {
	v, ok := vu.Decode[vu.U64](answer)
	if !ok || v.Value != want {
		return fmt.Errorf("%s answers %x", what, answer)
	}
	return nil
}
