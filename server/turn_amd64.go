//go:build !race

package server

// setTurn stores a thread's turn. The processor makes stores visible in their order, and the
// compiler does not move others across a call that it can't see into; an atomic store would wait
// for all of them.
//
//go:noinline
func setTurn(p *uint64, v uint64) { *p = v }
