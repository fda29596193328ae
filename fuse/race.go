//go:build race

package fuse

// raceEnabled has stores that other threads may look at (Cell.UnderWay) be atomic for the race detector, too.
const raceEnabled = true
