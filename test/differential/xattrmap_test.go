package differential

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// rules are maps of attribute names: each type, each scope, and edge cases.
var rules = []string{
	":map:trusted.:user.virtiofs.:",
	":map:user.::",
	"/bad/all/user.x/user.x/ /ok/all///",
	":unsupported:all:::",
	":bad:all:::",
	":prefix:client:user.:user.q.:\n\t:prefix:server::user.q.user.: :ok:client:security.:: |unsupported|client||| \n :bad:server:::",
}

// TestIntegrationXattrmap compares how both programs map names, and the names on
// the host afterwards.
func TestIntegrationXattrmap(t *testing.T) {
	both := peers(t)
	seen := seenDifferences{}
	ran := 0
	for _, r := range rules {
		t.Run(r, func(t *testing.T) {
			ran++
			dirs := makeTrees(t)
			var answers [2][]line
			for i, p := range both {
				file := dirs[i] + "/file"
				for _, n := range []string{"user.host", "user.virtiofs.host", "user.virtiofs.", "user.q.user.host", "trusted.host"} {
					if err := unix.Setxattr(file, n, []byte("host"), 0); err != nil {
						t.Fatal(err)
					}
				}
				answers[i] = runCases(t, p, dirs[i], []string{"--xattrmap", r}, []testCase{{"map", mapped}})
				buf := make([]byte, 65536)
				n, err := unix.Listxattr(file, buf)
				if err != nil {
					t.Fatal(err)
				}
				host := strings.Split(string(buf[:n]), "\x00")
				slices.Sort(host)
				answers[i] = append(answers[i], line{"map/on the host", answer{"value": fmt.Sprint(host)}})
			}
			seen.compare(t, "xattrmap", r, answers[0], answers[1])
		})
	}
	if ran == len(rules) {
		seen.checkUnused(t, "xattrmap")
	}
}

// mapped sets, gets, lists and removes names of all kinds.
func mapped(p *probe) {
	for _, path := range []string{"file", "link"} {
		node := p.find(path)
		for _, n := range []string{"user.a", "user.x1", "trusted.b", "security.one", "user.virtiofs.user.c", "system.posix_acl_access",
			"odd", "user." + strings.Repeat("n", 245), "user." + strings.Repeat("n", 250)} {
			p.errno(path+": set "+short(n), p.setxattr(node, n, "value", 0))
			for _, size := range []int{100, 2} {
				v, err := p.Getxattr(node, n, size)
				p.value(fmt.Sprintf("%s: get %s, %d", path, short(n), size), string(v), err)
			}
			v, err := p.raw(fp.OpGetxattr, node, 8, bytesOf(fp.GetxattrIn{}), n)
			p.value(fmt.Sprintf("%s: length of %s", path, short(n)), decode[fp.GetxattrOut](v).Size, err)
		}
		for _, size := range []int{4000, 600, 5} {
			names, err := p.Listxattr(node, size)
			slices.Sort(names)
			p.value(fmt.Sprintf("%s: list, %d", path, size), names, err)
		}
		for _, n := range []string{"user.a", "user.x1", "trusted.b", "user.virtiofs.user.c", "system.posix_acl_access", "odd", "user.nosuch"} {
			p.errno(path+": remove "+n, p.Removexattr(node, n))
		}
	}
}
