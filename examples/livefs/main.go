// Livefs shows values of a running program as files, as sysctlfs of puffs did for the kernel: those of
// runtime/metrics, here of livefs itself. Files in "set" can be written. What is in a file is made when it
// is opened, so that its size is not known before.
//
//	livefs --mount=/mnt
//	cat /mnt/metrics/sched/goroutines
//	echo 50 > /mnt/set/gc-percent
package main

import (
	"fmt"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"

	"github.com/govirtiofs/govirtiofs/examples/internal/cli"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vfs"
)

// values are the files by path.
func values() map[string]Value {
	all := map[string]Value{
		"set/gc-percent": {Get: getPercent, Set: setNumber(func(n int64) error {
			if n < -1 || n > math.MaxInt32 {
				return strconv.ErrRange
			}
			debug.SetGCPercent(int(n))
			return nil
		})},
		"set/memory-limit": {Get: func() (string, error) { return fmt.Sprintln(debug.SetMemoryLimit(-1)), nil },
			Set: setNumber(func(n int64) error {
				if n < 0 {
					return strconv.ErrRange
				}
				debug.SetMemoryLimit(n)
				return nil
			})},
	}
	for _, d := range metrics.All() {
		name, unit, _ := strings.Cut(d.Name, ":") // such as /gc/heap/live:bytes
		if unit != "" && d.Kind != metrics.KindBad {
			all["metrics"+name+"-"+strings.ReplaceAll(unit, "/", "-per-")] = Value{Get: func() (string, error) { return metric(d.Name) }}
		}
	}
	return all
}

// metric is one value now.
func metric(name string) (string, error) {
	sample := []metrics.Sample{{Name: name}}
	metrics.Read(sample)
	switch v := sample[0].Value; v.Kind() {
	case metrics.KindUint64:
		return fmt.Sprintln(v.Uint64()), nil
	case metrics.KindFloat64:
		return fmt.Sprintln(v.Float64()), nil
	case metrics.KindFloat64Histogram:
		var b strings.Builder
		h := v.Float64Histogram()
		for i, n := range h.Counts {
			if n > 0 {
				fmt.Fprintf(&b, "%g %g %d\n", h.Buckets[i], h.Buckets[i+1], n)
			}
		}
		return b.String(), nil
	}
	return "", fmt.Errorf("%s is not known to this Go", name)
}

// getPercent is the current value: SetGCPercent is the only function that knows it.
func getPercent() (string, error) {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return fmt.Sprintln(int64(sample[0].Value.Uint64())), nil
}

// setNumber is a Set for a number.
func setNumber(set func(int64) error) func(string) error {
	return func(text string) error {
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil {
			return err
		}
		return set(n)
	}
}

func newFS() (server.FileSystem, error) {
	root, err := newTree(values())
	if err != nil {
		return nil, err
	}
	return vfs.New(root, vfs.Options{}), nil
}

func main() {
	p := cli.Program{New: func([]string) (server.FileSystem, error) { return newFS() }}
	p.Main()
}
