package relay_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/test/relay/sample"
)

// served is a program that serves a guest.
type served struct {
	recipe
	*bench
	tag  string
	args []string
	*relayed
}

// serve starts a relay for a guest.
func (r *recipe) serve(t *testing.T, u user, tag string) *served {
	t.Helper()
	s := &served{recipe: *r, bench: newBench(t, u), tag: tag}
	s.args = r.prepare(s.bench)
	s.relayed = s.bench.relay(append([]string{"--socket-path", s.bench.path("sock"), "--tag", tag}, r.relayOptions(u)...), s.args...)
	s.until("socket", func() bool { return unix.Access(s.bench.path("sock"), unix.F_OK) == nil })
	return s
}

// script is what the guest does with the share.
func (s *served) script() string {
	dir := "/mnt/" + s.tag
	work := fmt.Sprintf("/run/relaywork %s '%s' '%s'", dir, s.suffix(), s.work())
	if s.asks() {
		work += " /run/host/" + s.tag
	}
	switch s.recipe.name {
	case "raw":
		work = fmt.Sprintf(`[ "$(cat %s/hello)" = "hello, guest" ]`, dir)
	case "nbdfuse":
		work = fmt.Sprintf("echo block >/tmp/block; dd if=/tmp/block of=%[1]s/disk conv=notrunc bs=6 seek=7 2>/dev/null && sync && "+
			`[ "$(dd if=%[1]s/disk bs=6 skip=7 count=1 2>/dev/null)" = block ]`, dir)
	case restarted.name:
		work = fmt.Sprintf("/run/relaywork %s restarts /run/host/%s", dir, s.tag)
	case notified.name:
		work = fmt.Sprintf(notifiedScript, dir, "/run/host/"+s.tag)
	case "lxcfs":
		work = fmt.Sprintf("grep -q ^processor %[1]s/cpuinfo && grep -q '^MemTotal: *[1-9]' %[1]s/meminfo && "+
			"[ $(wc -w <%[1]s/uptime) = 2 ] && grep -q ^cpu0 %[1]s/stat", dir+"/proc")
	}
	return fmt.Sprintf("if %s; then echo 'ok %s'; else echo 'failed %s'; fi\n", work, s.tag, s.tag)
}

// answer answers the guest's questions in a directory.
func (s *served) answer(dir string) {
	if s.recipe.name == restarted.name {
		go sample.Answer(s.bench.t.Context(), dir, s.endProgram())
		return
	}
	if s.recipe.name == notified.name {
		go sample.Answer(s.bench.t.Context(), dir, func(string) bool {
			pids := s.programs(rawfuse)
			return len(pids) == 1 && unix.Kill(pids[0], unix.SIGUSR1) == nil
		})
		return
	}
	s.ask(s.bench, dir)
}

// suffix is that of what is written.
func (s *served) suffix() string {
	if s.readOnly {
		return ""
	}
	return "-guest"
}

// notified is a program that changes files by itself and notifies its kernel, in a guest with a helper. It is not among the recipes.
var notified = recipe{name: "notified", options: []string{"--events=auto"}, readOnly: true, prepare: func(*bench) []string {
	return []string{rawfuse, "{mount}", "changes"}
}}

// notifiedScript looks at all names, has the program change, and expects to hear of it. The program has said that what is known is good for an hour.
const notifiedScript = `(cd %[1]s || exit; /run/helper watch %[1]s >/tmp/helper 2>&1 & h=$!
	until grep -q 'are reported' /tmp/helper; do kill -0 $h || { cat /tmp/helper; exit 1; }; sleep 0.1; done
	[ "$(cat hello)" = "hello, guest" ] && cat gone && [ ! -e new ] || exit
	/run/guestwatch -ready /tmp/ready -until new %[1]s >/tmp/events & w=$!
	until [ -e /tmp/ready ]; do sleep 0.1; done
	mkdir %[2]s/change; wait $w
	for e in 'MODIFY hello' 'CLOSE_WRITE hello' 'DELETE gone' 'CREATE new'; do grep -q "^$e" /tmp/events || { cat /tmp/events; exit 1; }; done
	[ "$(cat hello)" = changed ] && [ ! -e gone ] && [ "$(cat new)" = changed ]; r=$?
	kill $h; wait $h; exit $r)`

// TestIntegrationGuest: one guest uses all programs, which root or another user has started.
func TestIntegrationGuest(t *testing.T) {
	guest.Need(t, guest.UML)
	guest.NeedRoot(t)
	for _, u := range users {
		t.Run(u.name, func(t *testing.T) {
			t.Parallel() // programs wait for servers and disks more than they compute
			inGuest(t, u)
		})
	}
}

func inGuest(t *testing.T, u user) {
	var all []*served
	o := guest.Options{HostDir: t.TempDir(), Files: map[string]string{relaywork: "/run/relaywork", guestProgram(): "/run/helper", guestwatch: "/run/guestwatch"}, Mem: 256, Timeout: 10 * time.Minute}
	for _, r := range append(recipes(), restarted, notified) {
		if !r.chosen() || r.rootOnly && u.uid != 0 {
			continue
		}
		needPrograms(t, r.needs...)
		s := r.serve(t, u, r.name)
		all = append(all, s)
		asked := filepath.Join(o.HostDir, s.tag)
		if err := os.Mkdir(asked, 0o755); err != nil {
			t.Fatal(err)
		}
		s.answer(asked)
		o.Shares = append(o.Shares, guest.Share{Tag: s.tag, Socket: s.bench.path("sock")})
		o.Script += s.script()
	}
	result, err := guest.Run(t.Context(), guest.UML, o)
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(result.Console))
	}
	for _, s := range all {
		t.Run(s.recipe.name, func(t *testing.T) {
			t.Parallel()
			outer := s.relayed.t
			s.bench.t, s.relayed.t = t, t
			defer func() { s.bench.t, s.relayed.t = outer, outer }()
			if !strings.Contains(result.Output, "ok "+s.tag+"\n") {
				t.Errorf("the guest says:\n%s\nthe relay says:\n%s", tail(result.Output), tail(s.out.String()))
				return
			}
			select { // the VMM has disconnected
			case <-s.ended:
			case <-time.After(patience):
				t.Fatal("the relay does not end with its guest")
			}
			if s.err != nil {
				t.Errorf("the relay ended with %v:\n%s", s.err, tail(s.out.String()))
			}
			if left, _ := filepath.Glob(s.bench.path("sock*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if path, err := exec.LookPath(s.args[0]); err != nil || len(s.programs(path)) > 0 {
				t.Errorf("processes of %s are left behind: %v, %v", path, s.programs(path), err)
			}
			if !s.readOnly && s.recipe.name != restarted.name && (s.recipe.own == nil || s.host != nil) {
				s.checkHost(s.bench, s.args, s.suffix())
			}
		})
	}
}
