package server

import (
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/govirtiofs/govirtiofs/fuse"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/internal/record"
)

// maxStateBytes is how much a state may have. With 16 million nodes one has about 1 GiB.
const maxStateBytes = 4 << 30

// stateMagic begins a saved state; its last byte is the version of what follows.
const stateMagic = "govirtiofs-state\x01"

// Save implements fuse.State: the session, its nodes and open files. As soon as the client goes
// on the state is out of date, and Save fails. doc/migration.md describes the format.
//
// w may be slow. Only the caller waits for it: what w has not taken stays in memory.
// That is less than the memory of the nodes that it describes.
func (s *Server) Save(w io.Writer) error {
	out := newSpool(w)
	saved, err := s.save(out)
	if ending := out.end(); err == nil {
		err = ending
	}
	if err != nil || !saved {
		return err
	}
	return s.leave()
}

// save writes the state; saved is false if there is no session.
func (s *Server) save(w io.Writer) (saved bool, err error) {
	s.initMu.Lock()
	defer s.initMu.Unlock()
	out := record.NewWriter(w)
	out.Bytes([]byte(stateMagic))
	current := s.session.Load()
	if current == nil { // the guest has not mounted the share
		out.Uint(0)
		return false, out.Flush()
	}
	out.Uint(1, uint64(current.minor), uint64(current.flags), uint64(current.maxWrite), uint64(current.maxRead))
	err = s.onThread(func(t *Thread) error {
		if err := s.fs.SaveState(t, out); err != nil {
			return fmt.Errorf("server: state: %w", err)
		}
		return out.Flush()
	})
	s.leaving = err == nil
	return s.leaving, err
}

// leave gives up what only one process can have (locks), when w has taken the whole
// state. The other side takes these when it has seen the end of w, which comes after
// Save.
func (s *Server) leave() error {
	s.initMu.Lock()
	defer s.initMu.Unlock()
	if !s.leaving {
		return errors.New("server: the client went on here while its state was written")
	}
	s.leaving = false
	err := s.onThread(func(t *Thread) error {
		s.fs.Leave(t)
		return nil
	})
	if err == nil {
		s.left = true
		s.noteAgain()
	}
	return err
}

// Started implements fuse.Session. If the client's state was saved, the client continues
// here: the migration has failed, or there was none.
func (s *Server) Started() {
	s.initMu.Lock()
	defer s.initMu.Unlock()
	left := s.left
	s.left, s.leaving = false, false
	if !left {
		return
	}
	s.noteAgain()
	err := s.onThread(func(t *Thread) error {
		if warning := s.fs.Return(t); warning != "" {
			s.log.Error(warning)
		}
		return nil
	})
	if err != nil {
		s.log.Error("locks that the guest holds are lost", "error", err)
	}
}

// Disconnected implements fuse.Session. Nothing proves that the next client is the same one,
// so it gets no node, open file or lock of this one.
func (s *Server) Disconnected() { s.Reset() }

// Load implements fuse.State, on a server that has no session or whose client is gone.
func (s *Server) Load(r io.Reader) error {
	s.initMu.Lock()
	defer s.initMu.Unlock()
	if s.session.Load() != nil {
		if !s.restarted.Load() {
			return errors.New("server: a state was sent to a share that is in use")
		}
		s.end() // an earlier attempt's, or one that was here before it left
	}
	in := record.NewReader(r, maxStateBytes)
	if magic := in.Bytes(len(stateMagic)); in.Err() != nil || string(magic) != stateMagic {
		return fmt.Errorf("server: this is not a state of govirtiofsd, or it is one of another version (%q)", magic)
	}
	if in.Max(1) == 0 {
		in.End()
		return in.Err()
	}
	saved := &session{minor: uint32(in.Max(fp.KernelMinorVersion)), flags: fp.InitFlags(in.Uint()),
		maxWrite: uint32(in.Max(maxMaxWrite)), maxRead: uint32(in.Max(math.MaxInt32))}
	switch err := in.Err(); {
	case err != nil:
		return fmt.Errorf("server: state: %w", err)
	case saved.minor < fp.MinMinorVersion:
		return fmt.Errorf("server: state: a session of minor version %d, which INIT refuses", saved.minor)
	}
	if err := s.resume(saved); err != nil {
		return err
	}
	var warning string
	err := s.onThread(func(t *Thread) (err error) {
		warning, err = s.fs.LoadState(t, in)
		return err
	})
	if err == nil {
		in.End()
		err = in.Err()
	}
	if err != nil {
		s.fs.Destroy()
		return fmt.Errorf("server: state: %w", err)
	}
	if err = s.note(saved); err != nil {
		s.fs.Destroy()
		return fmt.Errorf("server: state: %w", err)
	}
	if warning != "" {
		s.log.Warn(warning)
	}
	s.session.Store(saved)
	return nil
}

// resume settles with the file system what the client has settled elsewhere: it knows
// those features and no others, and can't be told that one is gone.
func (s *Server) resume(saved *session) error {
	p := s.propose(&fp.InitIn{Minor: saved.minor})
	p.Offered, p.Resumed = saved.flags, true
	p.Flags |= saved.flags & fp.InitRequestTimeout // the client keeps its time, and asks nothing of us
	if errno := s.fs.Init(p); errno != 0 {
		return fmt.Errorf("server: the guest's session does not fit this daemon's options: %w", errno)
	}
	if missing := saved.flags &^ p.Flags; missing != 0 {
		return fmt.Errorf("server: the guest uses features that this daemon was not started with: %v; "+
			"start it with the same options as the other one", missing)
	}
	return nil
}

// onThread runs f on a thread of its own, as requests have.
func (s *Server) onThread(f func(*Thread) error) error {
	result := make(chan error)
	go func() {
		t, err := s.startThread(fuse.Hooks{})
		if err != nil {
			result <- err
			return
		}
		defer t.Stop()
		defer func() {
			if r := recover(); r != nil {
				result <- fmt.Errorf("server: state: panic: %v", r)
			}
		}()
		result <- f(&t.Thread)
	}()
	return <-result
}
