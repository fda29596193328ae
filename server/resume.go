package server

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/ledger"
)

// The session is stored in ledger.AreaSession before the client is told of it, and removed after
// the file system has ended it. A successor that finds it continues it, or ends it once more.

// sessionVersion is that of the record.
const sessionVersion = 1

// maxSessionRecord is more than a record has.
const maxSessionRecord = 4096

// note writes the session current, or that there is none. initMu is held.
func (s *Server) note(current *session) error {
	if s.opts.Ledger == nil {
		return nil
	}
	area, err := s.opts.Ledger.Area(ledger.AreaSession)
	if err != nil {
		return err
	}
	if current == nil {
		return area.Store(nil)
	}
	var b bytes.Buffer
	w := record.NewWriter(&b)
	w.Uint(sessionVersion, uint64(current.minor), uint64(current.flags), uint64(current.maxWrite), uint64(current.maxRead),
		bit(s.restarted.Load()), bit(s.left))
	early := s.waiting.earlyNumbers()
	w.Uint(early[:]...)
	if err := w.Flush(); err != nil {
		return err
	}
	return area.Store(b.Bytes())
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// noteAgain is note for a change without a reply that could report an error. If the record can't
// be written, a successor uses the record before.
func (s *Server) noteAgain() {
	if current := s.session.Load(); current != nil {
		if err := s.note(current); err != nil {
			s.log.Error("the session can't be noted for a successor of this process", "error", err)
		}
	}
}

// noted is what note has written; nil means no session. The record comes from another process,
// and may be forged.
func (s *Server) noted() (*session, error) {
	area, err := s.opts.Ledger.Area(ledger.AreaSession)
	if err != nil {
		return nil, err
	}
	b := area.Load()
	if b == nil {
		return nil, nil
	}
	if len(b) > maxSessionRecord {
		return nil, errors.New("the record of the session is too long")
	}
	r := record.NewReader(bytes.NewReader(b), maxSessionRecord)
	if v := r.Uint(); r.Err() == nil && v != sessionVersion {
		return nil, fmt.Errorf("a record of version %d, where %d is known", v, sessionVersion)
	}
	saved := &session{minor: uint32(r.Max(fp.KernelMinorVersion)), flags: fp.InitFlags(r.Uint()),
		maxWrite: uint32(r.Max(maxMaxWrite)), maxRead: uint32(r.Max(math.MaxInt32))}
	s.restarted.Store(r.Max(1) == 1)
	s.left = r.Max(1) == 1
	for i := range s.waiting.early {
		s.waiting.early[i] = r.Uint()
	}
	r.End()
	if err := r.Err(); err != nil {
		return nil, err
	}
	if saved.minor < fp.MinMinorVersion {
		return nil, fmt.Errorf("a session of minor version %d, which INIT refuses", saved.minor)
	}
	return saved, nil
}

// Resume continues what a process that died has left in the ledger. It is called once, on a
// server that has not served a request yet. Requests that were under way are served again after
// it. The file system must have been made with the same ledger. After an error there is no
// session, and the ledger is unchanged, so the caller may try again.
func (s *Server) Resume() error {
	if s.opts.Ledger == nil {
		return nil
	}
	s.initMu.Lock()
	defer s.initMu.Unlock()
	saved, err := s.noted()
	if err != nil {
		return fmt.Errorf("server: session in the ledger: %w", err)
	}
	if saved != nil {
		if err := s.resume(saved); err != nil {
			return err
		}
	}
	var warning string
	err = s.onThread(func(t *Thread) (err error) {
		warning, err = s.fs.Resume(t, saved != nil)
		return err
	})
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	if warning != "" {
		s.log.Warn(warning)
	}
	if saved != nil {
		s.session.Store(saved)
	}
	return nil
}

// earlyNumbers are the numbers of requests that were interrupted before they waited.
func (w *waitingTable) earlyNumbers() [16]uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.early
}

var _ fuse.Handler = (*Server)(nil)
