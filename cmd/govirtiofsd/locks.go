package main

// hostLocks says which locks are taken on the host. virtiofsd in C had a word for each kind
// (-o posix_lock,flock); nil is as --locks has it.
type hostLocks struct{ posix, flock *bool }

// settle gives the kinds that no word of -o has named the value of --locks.
func (l *hostLocks) settle(host bool) {
	for _, kind := range []**bool{&l.posix, &l.flock} {
		if *kind == nil {
			*kind = &host
		}
	}
}
