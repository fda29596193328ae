package vfs

import (
	"context"
	"errors"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// Locks are the locks of one file. It is a Locker: a node that embeds it has locks, for all the
// clients that use the node. Its zero value is ready. How many locks a client can have is
// Options.MaxLocks. Two owners that wait for each other do so until one is interrupted.
type Locks struct {
	mu    sync.Mutex
	held  []Lock        // those of one owner do not overlap
	freed chan struct{} // closed when somebody who waits may try again; nil if nobody does
}

// GetLock implements Locker.
func (s *Locks) GetLock(_ context.Context, l Lock) (Lock, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.held, l.Excludes); i >= 0 {
		return s.held[i], nil
	}
	return Lock{}, nil
}

// SetLock implements Locker. It is ENOLCK if the client has too many locks.
func (s *Locks) SetLock(ctx context.Context, l Lock, wait bool) error {
	for {
		freed, err := s.try(l)
		if !errors.Is(err, unix.EAGAIN) || !wait {
			return err
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return unix.EINTR
		}
	}
}

// try is SetLock that does not wait. freed is closed when it can be tried again after EAGAIN.
func (s *Locks) try(l Lock) (freed <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.ContainsFunc(s.held, l.Excludes) {
		if s.freed == nil {
			s.freed = make(chan struct{})
		}
		return s.freed, unix.EAGAIN
	}
	held := without(s.held, &l)
	if l.Kind != Unlock {
		held = append(held, l)
	}
	if !l.Owner.client.chargeLocks(int64(len(held) - len(s.held))) {
		return nil, unix.ENOLCK
	}
	s.held = held
	if s.freed != nil && l.Kind != WriteLock { // there may be less, or weaker ones
		close(s.freed)
		s.freed = nil
	}
	return nil, nil
}

// without is what is held when the owner of l has nothing in its range. A lock of l's kind next to it
// becomes part of l.
func without(held []Lock, l *Lock) (rest []Lock) {
	for _, h := range held {
		overlaps := h.Start <= l.End && l.Start <= h.End
		adjoins := h.Start-1 == l.End || l.Start-1 == h.End
		switch {
		case h.Owner != l.Owner || !overlaps && !adjoins:
			rest = append(rest, h)
		case h.Kind == l.Kind:
			l.Start, l.End = min(l.Start, h.Start), max(l.End, h.End)
		case adjoins:
			rest = append(rest, h)
		default:
			if h.Start < l.Start {
				left := h
				left.End = l.Start - 1
				rest = append(rest, left)
			}
			if h.End > l.End {
				right := h
				right.Start = l.End + 1
				rest = append(rest, right)
			}
		}
	}
	return rest
}
