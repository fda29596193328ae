package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"structs"
	"unsafe"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// The first messages of a connection. Numbers are little-endian, as FUSE's are on all
// machines that can be guest and host of each other.
const (
	magic   = "FUSEstream\r\n"
	version = 2

	maxShare = 255
	maxToken = 1024
	maxText  = 1024

	// maxChannels is how many channels a session can have, channel 0 included.
	maxChannels = 5
	minChannels = 2
)

// mode is what a hello asks for.
type mode uint32

const (
	modeNew    mode = iota // a session that begins
	modeResume             // the same process continues with a channel
	modeRenew              // a session that begins for a mount whose session is gone
)

// id is a random number that can't be guessed.
type id [16]byte

// position is how far one side of a channel has come, in messages since the beginning.
type position struct {
	First uint64 // the first one that it still has, of those it has sent
	// Sent is how many it has sent, those included that may be lost. Messages that no connection was given do not
	// count: a guest that was restored from a snapshot has others under the same numbers.
	Sent     uint64
	Received uint64 // how many it has from the other side
}

// hello is what the guest says first. The share's name and the token follow.
type hello struct {
	Len      uint32
	Magic    [12]byte
	Version  uint32
	Mode     mode
	Session  id
	Ticket   id
	Channel  uint32
	Channels uint32
	At       position
	ShareLen uint32
	TokenLen uint32
}

// welcome is the answer. A text for people follows, which says why if Status is not 0.
type welcome struct {
	Len        uint32
	Magic      [12]byte
	Version    uint32
	Status     status
	Ticket     id // for the next hello of this channel
	At         position
	MaxMessage uint32 // bytes of a message, header included
	MaxWrite   uint32 // bytes of data in a WRITE or READ
	Window     uint32 // what all requests of a channel that are under way may cost
	TextLen    uint32
}

// status says what happened to a hello.
type status uint32

const (
	statusOK      status = iota
	statusRefused        // it may not connect, or asks for what there is not
	statusBusy           // another guest has the share
	statusLater          // the same hello can succeed in a moment
	statusStale          // there is no such session, or it has continued without this guest
)

// Errors that a hello is answered with. Text of the server's follows them.
var (
	ErrRefused = errors.New("refused")
	ErrBusy    = errors.New("the share is in use by another mount; unmount that one")
	ErrStale   = errors.New("the session is gone")
	errLater   = errors.New("not yet")
)

// busyText is the server's text about a share that has a mount. It says no more than ErrBusy.
const busyText = "a guest has mounted the share; each share has one mount"

var statusErrors = map[status]error{
	statusRefused: ErrRefused, statusBusy: ErrBusy, statusLater: errLater, statusStale: ErrStale,
}

// ack says how many messages its sender has from the other side. It is not numbered, and
// not sent again. Error or opcode, and unique, are 0, which no request, reply or
// notification has.
type ack struct {
	_        structs.HostLayout
	Len      uint32
	_        uint32
	_        uint64
	Received uint64
}

// envelope begins a notification on channel 0. A count for each channel follows, then
// the notification as /dev/fuse takes it.
type envelope struct {
	_        structs.HostLayout
	Len      uint32
	Channels uint32
}

const (
	inHeaderSize  = int(unsafe.Sizeof(fp.InHeader{}))
	outHeaderSize = int(unsafe.Sizeof(fp.OutHeader{}))
	ackSize       = int(unsafe.Sizeof(ack{}))
	envelopeSize  = int(unsafe.Sizeof(envelope{}))
)

// isAck tells an ack from the other messages with a plausible length. From a guest no other message
// is that short; from a server a reply of that length has a unique number.
func isAck(b []byte) (received uint64, ok bool) {
	if len(b) != ackSize || binary.LittleEndian.Uint32(b[4:]) != 0 || binary.LittleEndian.Uint64(b[8:]) != 0 {
		return 0, false
	}
	return binary.LittleEndian.Uint64(b[16:]), true
}

// writeHello sends h with what follows it.
func writeHello(w io.Writer, h hello, share string, token []byte) error {
	h.Version, h.ShareLen, h.TokenLen = version, uint32(len(share)), uint32(len(token))
	h.Len = uint32(binary.Size(h) + len(share) + len(token))
	copy(h.Magic[:], magic)
	return writeAll(w, h, []byte(share), token)
}

// readHello reads a hello; nothing of it was decided on but its form.
func readHello(r io.Reader) (h hello, share string, token []byte, err error) {
	var rest []byte
	if rest, err = readFirst(r, &h, maxShare+maxToken); err != nil {
		return h, "", nil, err
	}
	if h.Version != version {
		return h, "", nil, fmt.Errorf("version %d of the protocol: this program speaks %d", h.Version, version)
	}
	if h.ShareLen > maxShare || h.TokenLen > maxToken || uint64(h.ShareLen)+uint64(h.TokenLen) != uint64(len(rest)) {
		return h, "", nil, errors.New("malformed hello")
	}
	return h, string(rest[:h.ShareLen]), rest[h.ShareLen:], nil
}

// writeWelcome answers a hello.
func writeWelcome(w io.Writer, m welcome, text string) error {
	text = text[:min(len(text), maxText)]
	m.Version, m.TextLen = version, uint32(len(text))
	m.Len = uint32(binary.Size(m) + len(text))
	copy(m.Magic[:], magic)
	return writeAll(w, m, []byte(text))
}

// readWelcome reads the answer to a hello. The error is one of statusErrors if the
// server has refused it.
func readWelcome(r io.Reader) (m welcome, err error) {
	text, err := readFirst(r, &m, maxText)
	if err != nil {
		return m, err
	}
	if m.Version != version {
		return m, fmt.Errorf("%w: the host speaks version %d of the protocol, this program %d", ErrRefused, m.Version, version)
	}
	if m.Status != statusOK {
		reason, ok := statusErrors[m.Status]
		if !ok {
			reason = ErrRefused
		}
		if m.Status == statusBusy && string(text) == busyText {
			return m, reason
		}
		return m, fmt.Errorf("%w: %q", reason, text)
	}
	if m.MaxMessage < minMessage || m.MaxMessage > maxMessage || uint64(m.Window) < 3*uint64(m.MaxMessage) ||
		m.MaxWrite == 0 || m.MaxWrite > m.MaxMessage {
		return m, fmt.Errorf("%w: the host's limits make no sense", ErrRefused)
	}
	return m, nil
}

func writeAll(w io.Writer, first any, rest ...[]byte) error {
	var b bytes.Buffer
	if err := binary.Write(&b, binary.LittleEndian, first); err != nil {
		return err
	}
	for _, r := range rest {
		b.Write(r)
	}
	_, err := w.Write(b.Bytes())
	return err
}

// readFirst reads a message that begins with length and magic into first, and returns
// what follows: at most so many bytes.
func readFirst(r io.Reader, first any, most int) (rest []byte, err error) {
	b := make([]byte, binary.Size(first))
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint32(b)
	if string(b[4:4+len(magic)]) != magic {
		return nil, errors.New("the other side does not speak this protocol")
	}
	if length < uint32(len(b)) || length > uint32(len(b)+most) {
		return nil, errors.New("malformed first message")
	}
	if _, err := binary.Decode(b, binary.LittleEndian, first); err != nil {
		return nil, err
	}
	rest = make([]byte, length-uint32(len(b)))
	_, err = io.ReadFull(r, rest)
	return rest, err
}
