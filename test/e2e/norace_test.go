//go:build !race

package e2e

// raceEnabled says that the race detector is there, which allocates.
const raceEnabled = false
