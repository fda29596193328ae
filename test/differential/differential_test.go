package differential

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/frontend"
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// variants are the options under which all cases are run.
var variants = []string{
	"",
	"--xattr",
	"--readonly",
	"--cache=never --allow-mmap",
	"--cache=metadata",
	"--cache=always --xattr",
	"--posix-acl",
	"--posix-acl=auto --security-label=auto",
	"--no-readdirplus --no-announce-submounts",
	"--writeback --killpriv-v2",
	"--allow-direct-io --preserve-noatime",
	"--sandbox=chroot --modcaps=-mknod",
	"--sandbox=none --seccomp=none --inode-file-handles=never",
	"--inode-file-handles=mandatory",
	"--xattrmap=:map::user.virtiofs.:",
	"--xattrmap=:prefix:client:trusted.:user.t.::prefix:server::user.t.::unsupported:all:security.:security.::bad:client:user.two:::ok:all:::",
	"--translate-uid=map:1000:51000:10 --translate-gid=map:1000:51000:10 --translate-uid=squash-host:0:4000:1000",
	"--thread-pool-size=4 --tag=tag -o xattr,cache=none",
}

// TestIntegrationReplies compares the replies to all cases under all variants.
func TestIntegrationReplies(t *testing.T) {
	both := peers(t)
	seen := seenDifferences{}
	ran := 0
	for _, v := range variants {
		t.Run(v, func(t *testing.T) {
			ran++
			dirs := makeTrees(t)
			var answers [2][]line
			for i, p := range both {
				answers[i] = runCases(t, p, dirs[i], strings.Fields(v), cases)
			}
			seen.compare(t, "replies", v, answers[0], answers[1])
		})
	}
	if ran == len(variants) {
		seen.checkUnused(t, "replies")
	}
}

// TestIntegrationMalformed compares what one malformed request costs.
func TestIntegrationMalformed(t *testing.T) {
	both := peers(t)
	seen := seenDifferences{}
	dirs := makeTrees(t)
	var answers [2][]line
	for i, p := range both {
		answers[i] = runCases(t, p, dirs[i], []string{"--xattr"}, malformed)
	}
	seen.compare(t, "malformed", "", answers[0], answers[1])
	seen.checkUnused(t, "malformed")
}

// runCases runs all cases in one session. After a case that ends the daemon, it
// begins a new session.
func runCases(t *testing.T, p peer, dir string, options []string, cases []testCase) (all []line) {
	t.Helper()
	d := session(t, p, dir, options)
	for _, c := range cases {
		lines, end := runCase(d, c)
		all = append(all, lines...)
		if end != "" {
			all = append(all, line{c.name + "/daemon", answer{"state": end}})
			d.kill()
			d.Close()
			d = session(t, p, dir, options)
		}
	}
	d.stop()
	return all
}

// caseTime is enough for a case on a busy machine; they take milliseconds.
const caseTime = 60 * time.Second

// runCase runs one case. If the daemon has ended meanwhile, end says how.
func runCase(d *daemon, c testCase) (lines []line, end string) {
	p := &probe{Client: d.Client, prefix: c.name + "/"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.run(p)
	}()
	select {
	case <-done:
	case <-d.ended:
	case <-d.log.panic:
		end = "panicked"
	case <-time.After(caseTime):
		end = "hangs"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	select {
	case <-d.ended:
		end = "ended"
	default:
	}
	return p.lines, end
}

// TestIntegrationInit compares the replies to INIT of old and new guests.
func TestIntegrationInit(t *testing.T) {
	both := peers(t)
	seen := seenDifferences{}
	ran := 0
	for _, v := range variants {
		t.Run(v, func(t *testing.T) {
			ran++
			dirs := makeTrees(t)
			var answers [2][]line
			for i, p := range both {
				answers[i] = runInits(t, p, dirs[i], strings.Fields(v))
			}
			seen.compare(t, "init", v, answers[0], answers[1])
		})
	}
	if ran == len(variants) {
		seen.checkUnused(t, "init")
	}
}

// runInits sends INIT in several forms, each in a session of its own.
func runInits(t *testing.T, p peer, dir string, options []string) (lines []line) {
	t.Helper()
	for _, in := range []struct {
		name         string
		major, minor uint32
		flags        fp.InitFlags
	}{
		{"linux 7.2", 7, 45, frontend.AllFlags | fp.InitExt},
		{"linux 5.10", 7, 32, frontend.AllFlags & (1<<29 - 1)},
		{"linux 4.20", 7, 27, frontend.AllFlags & (1<<22 - 1)},
		{"no flags", 7, 31, 0},
		{"all bits", 7, 45, ^fp.InitFlags(0) &^ fp.InitReserved},
		{"newer major", 8, 0, frontend.AllFlags | fp.InitExt},
		{"newer minor", 7, 99, frontend.AllFlags | fp.InitExt},
		{"old minor", 7, 26, frontend.AllFlags},
		{"old major", 6, 45, frontend.AllFlags},
	} {
		d := serve(t, p, dir, options)
		q := &probe{Client: d.Client, prefix: "init/"}
		req := fp.InitIn{Major: in.major, Minor: in.minor, MaxReadahead: 128 << 10, Flags: uint32(in.flags), Flags2: uint32(in.flags >> 32)}
		b, err := q.raw(fp.OpInit, 0, fp.Size[fp.InitOut](), bytesOf(req))
		a, bad := failed(err)
		if !bad {
			a.init(b)
		}
		q.note(in.name, a)
		lines = append(lines, q.lines...)
		d.stop()
	}
	return lines
}

// init adds a reply to INIT, flag by flag.
func (a answer) init(b []byte) {
	out := decode[fp.InitOut](b)
	a["length"] = fmt.Sprint(len(b))
	a["version"] = fmt.Sprintf("%d.%d", out.Major, out.Minor)
	a["readahead"], a["write"] = fmt.Sprint(out.MaxReadahead), fmt.Sprint(out.MaxWrite)
	a["background"] = fmt.Sprint(out.MaxBackground, out.CongestionThreshold)
	a["pages"], a["timegran"] = fmt.Sprint(out.MaxPages), fmt.Sprint(out.TimeGran)
	a["timeout"], a["alignment"] = fmt.Sprint(out.RequestTimeout), fmt.Sprint(out.MapAlignment)
	flags := uint64(out.Flags) | uint64(out.Flags2)<<32
	for bit := range 64 {
		if flags>>bit&1 != 0 {
			a[fmt.Sprintf("flag%d", bit)] = "set"
		}
	}
}
