package main

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
)

// idRange is a range of ids that a user may map.
type idRange struct{ first, count uint64 }

// subordinateIDs reads what subuid(5) or subgid(5) gives to a user, by name or number.
func subordinateIDs(text, name, uid string) (ranges []idRange) {
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != name && f[0] != uid {
			continue
		}
		first, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 {
			ranges = append(ranges, idRange{first, count})
		}
	}
	return ranges
}

// idMapHints says which ids the user of the daemon may give to --uid-map and --gid-map.
func idMapHints() []string {
	uid, gid := strconv.Itoa(os.Geteuid()), strconv.Itoa(os.Getegid())
	name := uid
	if u, err := user.LookupId(uid); err == nil {
		name = u.Username
	}
	var out []string
	for _, m := range []struct{ option, file, add, own string }{
		{"--uid-map", "/etc/subuid", "--add-subuids", uid}, {"--gid-map", "/etc/subgid", "--add-subgids", gid},
	} {
		b, _ := os.ReadFile(m.file)
		out = append(out, idMapHint(m.option, m.file, m.add, m.own, name, subordinateIDs(string(b), name, uid)))
	}
	return out
}

func idMapHint(option, file, add, own, name string, ranges []idRange) string {
	if len(ranges) == 0 {
		return fmt.Sprintf("%s: %s has no ids for user %s: only :INSIDE:%s:1: is allowed. Root adds some: usermod %s 100000-165535 %s",
			option, file, name, own, add, name)
	}
	words := fmt.Sprintf("%s=:0:%s:1:", option, own)
	inside := uint64(1)
	for _, r := range ranges {
		words += fmt.Sprintf(" %s=:%d:%d:%d:", option, inside, r.first, r.count)
		inside += r.count
	}
	return fmt.Sprintf("%s: user %s has, by %s: %s", option, name, file, words)
}
