//go:build race

package e2e

// raceEnabled says that the race detector is on. It allocates memory.
const raceEnabled = true
