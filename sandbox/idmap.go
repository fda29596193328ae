package sandbox

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"
)

// IDMap maps a range of user or group ids of a user namespace to ids outside.
type IDMap struct {
	Inside, Outside, Count uint32
}

// ParseIDMap reads ":inside:outside:count:". The first character can be any character. It
// separates the fields.
func ParseIDMap(s string) (IDMap, error) {
	sep, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return IDMap{}, fmt.Errorf("empty id map: want :INSIDE:OUTSIDE:COUNT: with numbers")
	}
	fields := strings.Split(strings.TrimSuffix(s[n:], string(sep)), string(sep))
	if len(fields) != 3 {
		return IDMap{}, fmt.Errorf("id map %q: want :INSIDE:OUTSIDE:COUNT: with numbers", s)
	}
	var v [3]uint32
	for i, f := range fields {
		id, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return IDMap{}, fmt.Errorf("id map %q: %q is not a number", s, f)
		}
		v[i] = uint32(id)
	}
	if v[2] == 0 {
		return IDMap{}, fmt.Errorf("id map %q maps nothing: its count is 0", s)
	}
	return IDMap{Inside: v[0], Outside: v[1], Count: v[2]}, nil
}

// own is the map that every user may set: the own id to itself.
func own(id int) []IDMap { return []IDMap{{uint32(id), uint32(id), 1}} }

// isOwn reports whether the caller may set the maps itself, without the set-user-ID programs
// newuidmap and newgidmap.
func isOwn(maps []IDMap, id int) bool {
	return len(maps) == 1 && maps[0].Count == 1 && maps[0].Outside == uint32(id)
}

// sysMaps converts maps for syscall.SysProcAttr.
func sysMaps(maps []IDMap) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(maps))
	for i, m := range maps {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m.Inside), HostID: int(m.Outside), Size: int(m.Count)}
	}
	return out
}

// ErrIDMap is returned by Namespace.Start for maps that the system does not allow.
var ErrIDMap = errors.New("map ids")

// runIDMap runs newuidmap or newgidmap to set the maps of a process.
func runIDMap(program string, pid int, maps []IDMap) error {
	args := []string{strconv.Itoa(pid)}
	for _, m := range maps {
		for _, v := range [...]uint32{m.Inside, m.Outside, m.Count} {
			args = append(args, strconv.FormatUint(uint64(v), 10))
		}
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s %s: %w: %s", ErrIDMap, program, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// has reports whether an id is mapped inside.
func has(maps []IDMap, id uint32) bool {
	for _, m := range maps {
		if id >= m.Inside && id-m.Inside < m.Count {
			return true
		}
	}
	return false
}
