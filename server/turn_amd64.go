//go:build !race

package server

// setTurn stores a thread's turn. The processor makes stores visible in their order, and the
// compiler keeps the order of stores, calls and atomic loads. An atomic store would wait
// for all stores before it.
func setTurn(p *uint64, v uint64) { *p = v }
