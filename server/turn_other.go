//go:build race || !amd64

package server

import "sync/atomic"

// setTurn stores a thread's turn, after all that was stored before it.
func setTurn(p *uint64, v uint64) { atomic.StoreUint64(p, v) }
