//go:build !race

package virtiofs

const raceEnabled = false
