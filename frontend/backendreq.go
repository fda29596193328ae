package frontend

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// backendChannel serves the requests of the back-end (vhost-user, "Back-end
// communication"). Like QEMU's main loop it does one thing at a time: while a request
// of ours waits for its answer on the control socket, none of the back-end's is served.
type backendChannel struct {
	w    *Window
	sock *vu.Socket
	done chan struct{}
}

// openBackendChannel makes a socket pair, gives the back-end one end and serves the
// other.
func openBackendChannel(f *Frontend, w *Window) (*backendChannel, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fds[1])
	sock, err := vu.OpenSocket(fds[0], vu.ToFrontend)
	if err != nil {
		return nil, err
	}
	ch := &backendChannel{w: w, sock: sock, done: make(chan struct{})}
	go ch.serve()
	if err := f.Acked(vu.ReqSetBackendReqFD, nil, fds[1]); err != nil {
		ch.close()
		return nil, err
	}
	return ch, nil
}

// Reconnect drops all mappings and gives the back-end a new channel in place of the old
// one.
func (w *Window) Reconnect() error {
	w.channel.close()
	w.Reset()
	ch, err := openBackendChannel(w.f, w)
	if err == nil {
		w.channel = ch
	}
	return err
}

func (ch *backendChannel) close() {
	if ch == nil {
		return
	}
	_ = ch.sock.Close()
	<-ch.done
}

// serve answers requests until the channel ends.
func (ch *backendChannel) serve() {
	defer close(ch.done)
	defer ch.sock.Close()
	for {
		m, err := ch.sock.Receive()
		if err != nil {
			ch.w.note(err)
			return
		}
		err = ch.handle(m)
		m.Close()
		if errors.Is(err, ErrHangUp) {
			return
		}
	}
}

// handle carries out one request and answers it. One that has not the format of the message
// table is a fault of the back-end's.
func (ch *backendChannel) handle(r *vu.Message) error {
	w := ch.w
	request, m, err := w.decode(r)
	if err != nil {
		if !errors.Is(err, vu.ErrUnknownRequest) {
			w.note(fmt.Errorf("%s: %w", r, err))
		}
		return ch.refuse(r, err)
	}
	if w.opts.Before != nil {
		if err := w.opts.Before(request, m); err != nil {
			return ch.refuse(r, err)
		}
	}
	w.f.control.Lock()
	defer w.f.control.Unlock()
	switch request {
	case vu.BackendShmemMap:
		return ch.shmemMap(r, m)
	case vu.BackendShmemUnmap:
		return ch.shmemUnmap(r, m)
	}
	return ch.refuse(r, unix.EOPNOTSUPP)
}

// decode reads a request. FS_MAP and FS_UNMAP become what stands for them in the specification.
func (w *Window) decode(r *vu.Message) (vu.BackendRequest, vu.SharedMemoryMap, error) {
	request, old := vu.BackendRequest(r.Number), w.opts.FSMap
	if old == (vu.FSMap{}) || request != old.Map && request != old.Unmap {
		m, _ := vu.Decode[vu.SharedMemoryMap](r.Body)
		return request, m, r.Check(w.f.Protocol)
	}
	// Eight ranges: all offsets in the file, in the window, lengths, flags. The back-end uses one.
	b, ok := vu.Decode[[4][8]uint64](r.Body)
	m := vu.SharedMemoryMap{ID: w.opts.ID, FileOffset: b[0][0], Offset: b[1][0], Length: b[2][0]}
	for _, field := range b {
		ok = ok && [7]uint64(field[1:]) == [7]uint64{}
	}
	want := 0
	if request == old.Map {
		request, want, ok = vu.BackendShmemMap, 1, ok && b[3][0]&1 != 0
		m.Flags = b[3][0] >> 1 & vu.SharedMemoryWritable
	} else {
		request = vu.BackendShmemUnmap
	}
	if !ok || len(r.FDs) != want {
		return 0, m, fmt.Errorf("FS_MAP or FS_UNMAP with %d descriptors and the body %x", len(r.FDs), r.Body)
	}
	return request, m, nil
}

// refuse answers a request that is not carried out.
func (ch *backendChannel) refuse(r *vu.Message, err error) error {
	ch.w.Refused.Add(1)
	return ch.answer(r, err)
}

// shmemUnmap carries out SHMEM_UNMAP, with MemReg after the answer.
func (ch *backendChannel) shmemUnmap(r *vu.Message, m vu.SharedMemoryMap) error {
	w := ch.w
	if err := w.check(vu.BackendShmemUnmap, m); err != nil {
		return ch.refuse(r, err)
	}
	if !w.opts.MemReg {
		w.remove(m)
	}
	if err := ch.after(r, vu.BackendShmemUnmap, m); err != nil {
		return err
	}
	if w.opts.MemReg {
		w.remove(m)
	}
	return nil
}

// shmemMap carries out SHMEM_MAP. With MemReg it answers when it knows that it can, and
// then does.
func (ch *backendChannel) shmemMap(r *vu.Message, m vu.SharedMemoryMap) error {
	w, fd := ch.w, r.FDs[0]
	err := w.check(vu.BackendShmemMap, m)
	if err == nil {
		err = w.checkFile(fd, m)
	}
	switch {
	case err != nil:
	case w.opts.MemReg:
		err = w.try(fd, m)
	default:
		err = w.place(fd, m)
	}
	if err != nil {
		return ch.refuse(r, err)
	}
	if err := ch.after(r, vu.BackendShmemMap, m); err != nil || !w.opts.MemReg {
		return err
	}
	if w.opts.Pending != nil {
		w.opts.Pending()
	}
	if err := w.place(fd, m); err != nil {
		w.note(err)
		return nil
	}
	s := vu.SingleRegion{Region: windowRegion(m)}
	w.note(w.f.acked(vu.ReqAddMemReg, vu.Bytes(&s), fd))
	return nil
}

// after calls the hook without the control lock and answers.
func (ch *backendChannel) after(r *vu.Message, request vu.BackendRequest, m vu.SharedMemoryMap) error {
	var err error
	if hook := ch.w.opts.After; hook != nil {
		ch.w.f.control.Unlock()
		err = hook(request, m)
		ch.w.f.control.Lock()
	}
	return ch.answer(r, err)
}

// answer acknowledges a request; QEMU's failures are all 1. ErrHangUp is not answered
// but returned.
func (ch *backendChannel) answer(r *vu.Message, err error) error {
	if errors.Is(err, ErrHangUp) {
		return ErrHangUp
	}
	if r.Flags&vu.FlagNeedReply == 0 {
		return nil
	}
	var u vu.U64
	if err != nil {
		u.Value = 1
	}
	if ch.sock.Send(&vu.Message{Number: r.Number, Flags: vu.FlagVersion | vu.FlagReply, Body: vu.Bytes(&u)}) != nil {
		return ErrHangUp
	}
	return nil
}
