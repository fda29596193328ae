package server

import (
	"math"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// baseFlags need nothing from a file system.
const baseFlags = fp.InitAsyncRead | fp.InitAtomicOTrunc | fp.InitBigWrites |
	fp.InitHasIoctlDir | fp.InitAutoInvalData | fp.InitAsyncDIO |
	fp.InitParallelDirops | fp.InitMaxPages | fp.InitExt

const (
	maxBackground = 65535
	pageSize      = 4096
	// largestPage is the largest page of any client. What it may READ at once is
	// limited in its pages, not in bytes: MaxWrite says nothing of it.
	largestPage = 64 << 10
	// oldMaxPages is what one request may carry without MAX_PAGES
	// (FUSE_DEFAULT_MAX_PAGES_PER_REQ).
	oldMaxPages = 32
	// maxMaxWrite is what the 16 bits of max_pages are enough for.
	maxMaxWrite = math.MaxUint16 * pageSize
)

// initSession serves INIT (fs/fuse/inode.c: fuse_send_init, process_init_reply).
func initSession(t *thread) (int, unix.Errno) {
	s := t.server
	var req fp.InitIn
	copy(fp.Bytes(&req), t.args) // older minors send less; the rest is zero
	reply := out[fp.InitOut](t)
	clear(fp.Bytes(reply))
	reply.Major, reply.Minor = fp.KernelVersion, fp.KernelMinorVersion
	if req.Major > fp.KernelVersion {
		return fp.CompatInitOutSize, 0 // the client tries again with our major
	}
	if req.Major < fp.KernelVersion || req.Minor < fp.MinMinorVersion {
		return 0, unix.EPROTO
	}
	if t.room < uint64(outHeaderSize+fp.Size[fp.InitOut]()) {
		return 0, unix.EINVAL
	}
	s.initMu.Lock()
	defer s.initMu.Unlock()
	if s.session.Load() != nil {
		// A predecessor of this process may have begun the session for this very request.
		if !s.restarted.Load() && t.request.Again == nil {
			return 0, unix.EINVAL // a second INIT in one session
		}
		s.end()
	}
	p := s.propose(&req)
	if t.hooks.Backing == nil {
		p.Offered &^= fp.InitPassthrough
	}
	if errno := s.fs.Init(p); errno != 0 {
		return 0, errno
	}
	if err := s.begin(p, reply); err != nil {
		s.log.Error("a session can't be noted for a successor of this process", "error", err)
		s.fs.Destroy()
		return 0, unix.ENOMEM
	}
	if s.session.Load().flags&fp.InitPassthrough != 0 {
		s.backing.start(t.hooks.Backing)
	}
	return fp.Size[fp.InitOut](), 0
}

// propose is what we would like, before the file system has its say.
func (s *Server) propose(req *fp.InitIn) *InitParams {
	flags := baseFlags
	if s.opts.RequestTimeout != 0 {
		flags |= fp.InitRequestTimeout
	}
	return &InitParams{
		Minor:               min(req.Minor, fp.KernelMinorVersion),
		Offered:             req.InitFlags(),
		Flags:               flags,
		RequestTimeout:      s.opts.RequestTimeout,
		MaxReadahead:        req.MaxReadahead,
		MaxWrite:            s.opts.MaxWrite,
		MaxBackground:       maxBackground,
		CongestionThreshold: maxBackground / 4 * 3,
		TimeGran:            1,
	}
}

// begin starts the session and fills in the reply. On error there is none.
func (s *Server) begin(p *InitParams, reply *fp.InitOut) error {
	flags := p.Flags & p.Offered
	if flags&fp.InitExt == 0 {
		flags &= 1<<32 - 1
	}
	maxPages := uint32(oldMaxPages)
	if flags&fp.InitMaxPages != 0 {
		maxPages = min((p.MaxWrite+pageSize-1)/pageSize, math.MaxUint16)
	}
	maxPages = max(maxPages, 1)
	p.MaxWrite = max(min(p.MaxWrite, maxPages*pageSize), pageSize)
	reply.Minor = p.Minor
	reply.MaxReadahead = p.MaxReadahead
	reply.Flags, reply.Flags2 = uint32(flags), uint32(flags>>32)
	reply.MaxBackground = p.MaxBackground
	reply.CongestionThreshold = p.CongestionThreshold
	reply.MaxWrite = p.MaxWrite
	reply.TimeGran = p.TimeGran
	reply.MaxPages = uint16(maxPages)
	if flags&fp.InitMapAlignment != 0 {
		reply.MapAlignment = p.MapAlignment
	}
	if flags&fp.InitRequestTimeout != 0 {
		reply.RequestTimeout = p.RequestTimeout
	}
	if flags&fp.InitPassthrough != 0 {
		reply.MaxStackDepth = maxStackDepth
	}
	s.restarted.Store(false)
	begun := &session{
		minor:    p.Minor,
		flags:    flags,
		maxWrite: p.MaxWrite,
		maxRead:  uint32(min(uint64(maxPages)*largestPage, math.MaxInt32)),
	}
	if err := s.note(begun); err != nil {
		return err
	}
	s.session.Store(begun)
	return nil
}

// end ends the session, if there is one. initMu is held.
func (s *Server) end() {
	s.left, s.leaving = false, false
	if s.session.Swap(nil) == nil {
		return
	}
	s.waiting.cancelAll()
	s.fs.Destroy()
	s.backing.end()
	if err := s.note(nil); err != nil {
		s.log.Error("the end of a session can't be noted for a successor of this process", "error", err)
	}
}

func destroy(t *thread) (int, unix.Errno) {
	if t.session != nil {
		if errno := t.server.fs.Unmount(&t.request); errno != 0 {
			return 0, errno
		}
	}
	t.server.Reset()
	return 0, 0
}

// Restarted implements fuse.Session.
func (s *Server) Restarted() {
	s.restarted.Store(true)
	s.initMu.Lock()
	defer s.initMu.Unlock()
	s.noteAgain()
}

// Reset implements fuse.Session.
func (s *Server) Reset() {
	s.initMu.Lock()
	defer s.initMu.Unlock()
	s.end()
}
