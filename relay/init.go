package relay

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// passed are the features that client and program may agree on through the relay. All others are not offered: they
// need a device (PASSTHROUGH, MAP_ALIGNMENT, OVER_IO_URING), request extensions that libfuse does not know
// (SECURITY_CTX, CREATE_SUPP_GROUP), or promises that a relay can't keep.
const passed = fp.InitAsyncRead | fp.InitPosixLocks | fp.InitFileOps | fp.InitAtomicOTrunc | fp.InitExportSupport |
	fp.InitBigWrites | fp.InitDontMask | fp.InitFlockLocks | fp.InitHasIoctlDir | fp.InitAutoInvalData |
	fp.InitDoReaddirplus | fp.InitReaddirplusAuto | fp.InitAsyncDIO | fp.InitWritebackCache | fp.InitNoOpenSupport |
	fp.InitParallelDirops | fp.InitHandleKillpriv | fp.InitPosixACL | fp.InitCacheSymlinks | fp.InitNoOpendirSupport |
	fp.InitDirectIOAllowMmap | fp.InitHasExpireOnly | fp.InitNoExportSupport

// offered are what the program is told of: all that is passed, and what is between the program and the relay.
const offered = passed | fp.InitMaxPages | fp.InitExt

const (
	pageSize = 4096
	// minBuffer is what every program has room for (FUSE_MIN_READ_BUFFER).
	minBuffer = 8192
)

// maxReadOption is what the program has asked for at mount(2); without that it can have MaxData.
func maxReadOption(options string) uint32 {
	most := uint32(MaxData)
	for _, o := range strings.Split(options, ",") {
		if v, ok := strings.CutPrefix(o, "max_read="); ok {
			if n, err := strconv.ParseUint(v, 10, 32); err == nil && n > 0 {
				most = min(most, uint32(max(n, pageSize)))
			}
		}
	}
	return most
}

// errEnded is the end of a program instead of an answer to INIT.
var errEnded = fmt.Errorf("relay: the program has ended before it answered INIT: %w", ErrProtocol)

// init speaks INIT, before anything else is received.
func (l *link) init(ctx context.Context, limit time.Duration) error {
	in := fp.InitIn{Major: fp.KernelVersion, Minor: fp.KernelMinorVersion, MaxReadahead: MaxData,
		Flags: uint32(offered & (1<<32 - 1)), Flags2: uint32(offered >> 32)}
	unique := l.next
	l.next += 2
	if errno := l.sendBytes(packet(fp.OpInit, unique, 0, fp.Bytes(&in))); errno != 0 {
		return fmt.Errorf("relay: INIT can't be sent: %w", errno)
	}
	if err := l.file.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return fmt.Errorf("relay: socket of the program: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var b [256]byte
	for {
		n, err := l.file.Read(b[:])
		switch {
		case n == 0 && (err == nil || err == io.EOF):
			return errEnded
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("relay: no answer to INIT: %w", err)
		case n < outHeaderSize:
			return fmt.Errorf("relay: the answer to INIT has %d bytes: %w", n, ErrProtocol)
		}
		var h fp.OutHeader
		copy(fp.Bytes(&h), b[:])
		if h.Unique != unique {
			continue // a notification
		}
		if h.Error != 0 || int(h.Len) != n {
			return fmt.Errorf("relay: the program has refused INIT with error %d: %w", h.Error, ErrProtocol)
		}
		if err := l.agree(b[outHeaderSize:n]); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return l.unpoll()
	}
}

// agree takes the program's part of INIT, which is 8, 24 or 64 bytes long, by its minor.
func (l *link) agree(body []byte) error {
	var out fp.InitOut
	n := copy(unsafe.Slice((*byte)(unsafe.Pointer(&out)), unsafe.Sizeof(out)), body)
	switch {
	case n < fp.CompatInitOutSize || out.Major != fp.KernelVersion:
		return fmt.Errorf("relay: the program speaks version %d of the protocol, not 7: use another version of the program: %w", out.Major, ErrProtocol)
	case out.Minor < minMinor || out.Minor > fp.KernelMinorVersion:
		return fmt.Errorf("relay: the program speaks version 7.%d of the protocol, which is not between 7.%d and 7.%d: use another version of the program: %w",
			out.Minor, minMinor, fp.KernelMinorVersion, ErrProtocol)
	case n < fp.Compat22InitOutSize || out.Minor >= 23 && n < fp.Size[fp.InitOut]():
		return fmt.Errorf("relay: the program's answer to INIT has %d bytes, too few for version 7.%d: %w", n, out.Minor, ErrProtocol)
	}
	l.minor = out.Minor
	l.flags = fp.InitFlags(out.Flags)
	if l.flags&fp.InitExt != 0 {
		l.flags |= fp.InitFlags(out.Flags2) << 32
	}
	l.flags &= offered // what it was not offered it does not get
	if l.minor < 6 {
		l.flags = 0
	}
	l.maxWrite = min(max(out.MaxWrite, pageSize), MaxData)
	if l.maxWrite >= pageSize {
		l.maxWrite &^= pageSize - 1
	}
	l.maxTotal = max(minBuffer, int(l.maxWrite)+inHeaderSize+fp.Size[fp.WriteIn]())
	if room := l.longest(); room < l.maxTotal {
		return fmt.Errorf("relay: the socket takes messages of %d bytes, which are too short (SO_SNDBUF): %w", room, unix.EMSGSIZE)
	}
	return nil
}
