//go:build race

package virtiofs

// raceEnabled says that the race detector is there, which allocates.
const raceEnabled = true
