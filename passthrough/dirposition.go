package passthrough

import "golang.org/x/sys/unix"

// dirPositions is how an open directory's positions are shown to the client. The host's are 64-bit
// hashes on ext4 with dir_index: 31 bits of a hash, and 32 bits that tell names with the same hash
// apart (fs/ext4/dir.c: hash2pos). A 32-bit program without large file support gets EOVERFLOW for
// them. For such a program the kernel leaves the lower half out on a local disk; FUSE does not say
// who has made the request. With Config.ShortPositions all programs get the upper half.
//
// A listing that continues where it was loses nothing. One that goes back to a position between
// two names of the same hash gets the first of them a second time, as a 32-bit program on the host does.
type dirPositions struct {
	short  bool // it may have to be done here
	known  bool // hashed is known
	hashed bool // positions are hashes
}

// hashShift is where the hash is in a position of ext4.
const hashShift = 32

// shown is the position that the client gets for one of the host's.
func (p *dirPositions) shown(off uint64) uint64 {
	if !p.short || off < 1<<hashShift {
		return off
	}
	p.known, p.hashed = true, true
	return off >> hashShift
}

// hostPosition is the host's position for one that the client has. d.mu is held.
func (s *ioState) hostPosition(d *dirStream, fd int, off uint64) (uint64, unix.Errno) {
	p := &d.positions
	switch {
	case !p.short || off == 0:
		return off, 0
	case off == p.shown(d.next):
		return d.next, 0
	}
	if !p.known { // the client has it from a process before this one
		if errno := s.findHashes(d, fd); errno != 0 {
			return 0, errno
		}
	}
	if p.hashed && off < 1<<hashShift {
		off <<= hashShift
	}
	return off, 0
}

// findHashes finds out whether the directory's positions are hashes, by its first names. The
// stream has no position afterwards.
func (s *ioState) findHashes(d *dirStream, fd int) unix.Errno {
	d.pos, d.end, d.lost = 0, 0, true
	if _, errno := sysLseek(fd, 0, unix.SEEK_SET); errno != 0 {
		return errno
	}
	if errno := s.fill(d, fd); errno != 0 {
		return errno
	}
	for d.pos < d.end {
		e, size := parseDirent(d.buf[d.pos:d.end])
		d.positions.shown(e.off)
		d.pos += size
	}
	d.positions.known = true
	return 0
}
