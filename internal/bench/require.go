package bench

import "fmt"

// Require has the limits of a comparison. 0 is no limit.
type Require struct {
	Ratio    float64 // the least ratio of speeds
	CPURatio float64 // the largest ratio of processor times
}

// Judge returns the comparisons in which the first target is worse than required. A comparison
// has failed if the whole range of its ratio is beyond the limit. If only the median is beyond
// it, the result is unclear, and more rounds are needed. Targets that show noise or the floor
// are not compared.
func (r *Report) Judge(want Require) (failed, unclear []string) {
	note := func(row *Row, target, what string, x Ratio, limit float64, certain bool) {
		line := fmt.Sprintf("%s, depth %d, against %s: %.2f of the %s (%s), required %.2f", row.Workload, row.Depth, target, x.Value, what, x.span(), limit)
		if certain {
			failed = append(failed, line)
		} else {
			unclear = append(unclear, line)
		}
	}
	for i := range r.Rows {
		row := &r.Rows[i]
		for k, f := range row.Targets {
			if k == 0 || f.Self || f.Target == floorName {
				continue
			}
			if x := f.Ratio; want.Ratio > 0 && x.Value > 0 && x.Value < want.Ratio {
				note(row, f.Target, "operations", x, want.Ratio, x.High < want.Ratio && !x.Noise)
			}
			if x := f.CPURatio; want.CPURatio > 0 && x.Value > want.CPURatio {
				note(row, f.Target, "processor time", x, want.CPURatio, x.Low > want.CPURatio && !x.Noise)
			}
		}
	}
	return failed, unclear
}
