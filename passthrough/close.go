package passthrough

// Close implements server.FileSystem: it closes all descriptors, those of Config included, and
// gives its part of the host's budget back.
func (fs *FS) Close() {
	fs.sweeper.close()
	fs.Destroy()
	fs.locks.probe.close()
	fs.nodes.dropFD(fs.nodes.root)
	_ = sysClose(fs.cfg.ProcFD)
	if fs.cfg.LinksFD != 0 {
		_ = sysClose(fs.cfg.LinksFD)
	}
	fs.letMountsGo()
}

// letMountsGo closes the descriptors of mounts, and gives the part back with all that it counts.
func (fs *FS) letMountsGo() {
	if known := fs.mounts.known.Load(); known != nil {
		for _, m := range *known {
			if fd := m.fd.Swap(-1); fd >= 0 {
				_ = sysClose(int(fd))
			}
		}
	}
	fs.fds.part.Close()
}

// close waits for a sweep that runs. There is none after it.
func (s *sweeper) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
}

// close stops the timer. No request waits for a lock any more; if the timer has just fired, it
// finds that.
func (p *lockProbe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.timer != nil {
		p.timer.Stop()
	}
}
