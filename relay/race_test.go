//go:build race

package relay

// raceEnabled says that the race detector is there, which allocates.
const raceEnabled = true
