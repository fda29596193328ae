package keeper

import "time"

const (
	// freeDeaths is how many deaths in a row cost no delay.
	freeDeaths = 3
	firstDelay = 100 * time.Millisecond
	maxDelay   = 5 * time.Second
	// calm is how long a worker has to serve until deaths before it do not count any more.
	calm = time.Minute
	// maxTakeOver is how many workers may die while they take over until the next one is told to answer
	// all requests under way with EIO, and how many more until the keeper gives up.
	maxTakeOver = 3
	// maxKilledOver is the same of those that were killed from outside.
	maxKilledOver = 10
	// takeOverTime is how long taking over may take. A worker that takes longer hangs, and is killed.
	takeOverTime = time.Minute
)

// delay is how long to wait before the next worker is started after that many deaths in a row: 0, 0, 0,
// 0.1 s, 0.2 s and so on up to 5 s. A program that dies at once must not take all of the processor.
func delay(deaths int) time.Duration {
	if deaths <= freeDeaths {
		return 0
	}
	d := firstDelay
	for range deaths - freeDeaths - 1 {
		d = min(2*d, maxDelay)
	}
	return d
}
