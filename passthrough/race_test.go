//go:build race

package passthrough

// raceEnabled says that the race detector is there, which allocates.
const raceEnabled = true
