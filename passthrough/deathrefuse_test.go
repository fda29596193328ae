package passthrough

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestRefusedAfterDeath kills a process at each point of a request that gives the client something, and
// has the successor answer EIO. The client then has what it had before.
func TestRefusedAfterDeath(t *testing.T) {
	has := func(list []string) []string {
		return slices.DeleteFunc(list, func(s string) bool {
			return strings.HasPrefix(s, "reply") || strings.HasPrefix(s, "file ")
		})
	}
	for _, name := range []string{"lookup of a directory", "lookup of a known file", "readdirplus", "create", "create of what is there",
		"create of a mode that denies", "tmpfile", "open", "opendir", "mkdir"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := *findCase(name)
			c.after = nil
			nothing := c
			nothing.target = raw(fp.OpStatfs, root)
			l := newLife(t, &nothing)
			want := has(l.finish())
			l.close()
			l = newLife(t, findCase(name))
			_, points := l.run(0, "target")
			l.close()
			c.refused = true
			for point := 1; point <= len(points); point++ {
				l := newLife(t, &c)
				l.run(point, "target")
				if *l.board.next() == uint32(c.targetStep()) {
					got := l.finish()
					if !slices.Contains(got, fmt.Sprintf("reply %d: EIO", c.targetStep())) && !answered(got, &c) {
						t.Errorf("killed at point %d, %s: not refused", point, points[point-1])
					} else if !answered(got, &c) {
						compareLife(t, fmt.Sprintf("killed at point %d, %s", point, points[point-1]), has(got), want)
					}
				}
				l.close()
			}
		})
	}
}

// answered reports whether the request was answered before the death.
func answered(list []string, c *deathCase) bool {
	return slices.ContainsFunc(list, func(s string) bool {
		return strings.HasPrefix(s, fmt.Sprintf("reply %d: ", c.targetStep())) && !strings.HasSuffix(s, "EIO")
	})
}
