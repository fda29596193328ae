package frontend

import (
	"errors"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	vu "github.com/govirtiofs/govirtiofs/vhostuser"
)

// backendChannel serves the requests of the back-end (vhost-user, "Back-end
// communication"). Like QEMU's main loop it does one thing at a time: while a request
// of ours waits for its answer on the control socket, none of the back-end's is served.
type backendChannel struct {
	w    *Window
	sock *net.UnixConn
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
	file := os.NewFile(uintptr(fds[0]), "back-end channel")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	ch := &backendChannel{w: w, sock: conn.(*net.UnixConn), done: make(chan struct{})}
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
		h, m, fd, err := ch.receive()
		if err != nil {
			ch.w.note(err)
			return
		}
		err = ch.handle(h, m, fd)
		if fd >= 0 {
			_ = unix.Close(fd)
		}
		if errors.Is(err, ErrHangUp) {
			return
		}
	}
}

// receive reads one request. fd is -1 when there is none; more than one is an error, as
// is a body that is not a SharedMemoryMap.
func (ch *backendChannel) receive() (h vu.Header, m vu.SharedMemoryMap, fd int, err error) {
	fd = -1
	oob := make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := ch.sock.ReadMsgUnix(vu.Bytes(&h), oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return h, m, fd, err
	}
	var fds []int
	msgs, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for _, msg := range msgs {
		got, _ := unix.ParseUnixRights(&msg)
		fds = append(fds, got...)
	}
	if len(fds) > 0 {
		fd = fds[0]
	}
	if _, err = io.ReadFull(ch.sock, vu.Bytes(&h)[n:]); err == nil {
		switch {
		case len(fds) > 1 || int(h.Size) != len(vu.Bytes(&m)) || h.Flags&vu.FlagVersionMask != vu.FlagVersion:
			err = errors.New("malformed request of the back-end")
		default:
			_, err = io.ReadFull(ch.sock, vu.Bytes(&m))
		}
	}
	if err != nil {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return h, m, -1, err
	}
	return h, m, fd, nil
}

// handle carries out one request and answers it.
func (ch *backendChannel) handle(h vu.Header, m vu.SharedMemoryMap, fd int) error {
	w, r := ch.w, vu.BackendRequest(h.Request)
	if w.opts.Before != nil {
		if err := w.opts.Before(r, m); err != nil {
			w.Refused.Add(1)
			return ch.answer(h, err)
		}
	}
	w.f.control.Lock()
	defer w.f.control.Unlock()
	var err error
	switch r {
	case vu.BackendShmemMap:
		return ch.shmemMap(h, m, fd)
	case vu.BackendShmemUnmap:
		if err = w.check(r, m); err == nil && !w.opts.MemReg {
			w.remove(m)
		}
	default:
		err = unix.EOPNOTSUPP
	}
	if err != nil {
		w.Refused.Add(1)
		return ch.answer(h, err)
	}
	if err := ch.after(h, m); err != nil {
		return err
	}
	if r == vu.BackendShmemUnmap && w.opts.MemReg {
		w.remove(m)
	}
	return nil
}

// shmemMap carries out SHMEM_MAP. With MemReg it answers when it knows that it can, and
// then does.
func (ch *backendChannel) shmemMap(h vu.Header, m vu.SharedMemoryMap, fd int) error {
	w := ch.w
	err := w.check(vu.BackendShmemMap, m)
	switch {
	case err != nil:
	case fd < 0:
		err = unix.EBADF
	default:
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
		w.Refused.Add(1)
		return ch.answer(h, err)
	}
	if err := ch.after(h, m); err != nil || !w.opts.MemReg {
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
func (ch *backendChannel) after(h vu.Header, m vu.SharedMemoryMap) error {
	var err error
	if hook := ch.w.opts.After; hook != nil {
		ch.w.f.control.Unlock()
		err = hook(vu.BackendRequest(h.Request), m)
		ch.w.f.control.Lock()
	}
	return ch.answer(h, err)
}

// answer acknowledges a request; QEMU's failures are all 1. ErrHangUp is not answered
// but returned.
func (ch *backendChannel) answer(h vu.Header, err error) error {
	if errors.Is(err, ErrHangUp) {
		return ErrHangUp
	}
	if h.Flags&vu.FlagNeedReply == 0 {
		return nil
	}
	var u vu.U64
	if err != nil {
		u.Value = 1
	}
	reply := vu.Header{Request: h.Request, Flags: vu.FlagVersion | vu.FlagReply, Size: uint32(len(vu.Bytes(&u)))}
	if _, err := ch.sock.Write(append(append([]byte(nil), vu.Bytes(&reply)...), vu.Bytes(&u)...)); err != nil {
		return ErrHangUp
	}
	return nil
}
