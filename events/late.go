package events

import "time"

// How far the helper is behind, and what the guest may keep meanwhile.

// oldest is when the first of the changes was noticed that are not performed; false if there is none.
func (s *session) oldest() (time.Time, bool) {
	switch {
	case len(s.batch) > 0:
		return s.batch[min(s.next, len(s.batch)-1)].at, true
	case len(s.queue) > 0:
		return s.queue[0].at, true
	}
	return s.pendingAt, s.pending > 0
}

// progress is called when the helper has reported what it has performed. fs.mu is held.
func (fs *FS) progress(s *session) {
	if fs.state.Load() == stateLost {
		return
	}
	now := time.Now()
	at, waits := s.oldest()
	if !waits {
		at = now
	}
	s.current = at
	// Less than what makes it late, so that the state does not change all the time.
	if now.Sub(at) <= fs.opts.Patience/8 && fs.state.CompareAndSwap(stateAlone, stateCoherent) && s.wasLate {
		s.wasLate = false
		fs.log.Info("The guest's helper has caught up")
	}
	fs.arm(s)
}

// arm has late called when the oldest change has waited for too long. fs.mu is held.
func (fs *FS) arm(s *session) {
	at, waits := s.oldest()
	if !waits || s.armed || fs.session != s || fs.state.Load() != stateCoherent {
		return
	}
	s.armed = true
	s.watchdog.Reset(fs.opts.Patience - time.Since(at))
}

// late has the guest keep things for a short time if the helper does not do what it was told, or not
// fast enough: it was stopped, or there is too much to do.
func (fs *FS) late(s *session) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	s.armed = false
	at, waits := s.oldest()
	if !waits || fs.session != s {
		return
	}
	if time.Since(at) < fs.opts.Patience {
		fs.arm(s)
		return
	}
	if fs.state.CompareAndSwap(stateCoherent, stateAlone) {
		s.wasLate = true
		fs.log.Warn("The guest's helper is behind: the guest caches names and attributes for a second only", "by", time.Since(at).Round(time.Second))
	}
}
