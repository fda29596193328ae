package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
	"github.com/govirtiofs/govirtiofs/internal/spawn"
)

// TestIntegrationWatchers: the programs that people watch directories with see in a guest what they see of a local
// directory: inotifywait -r of inotify-tools, tail -F of coreutils, chokidar (vite, webpack), and systemd's path units. Then the
// daemon's worker dies, and the guest, which may keep everything, sees what the host changes after that.
func TestIntegrationWatchers(t *testing.T) {
	need(t, "inotifywait", "node")
	if _, err := os.Stat("/usr/share/nodejs/chokidar"); err != nil {
		guest.Missing(t, err)
	}
	files := map[string]string{}
	for _, name := range []string{"watchers.sh", "watch.js"} {
		path, err := filepath.Abs(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		files[path] = "/run/" + name
	}
	for _, kind := range []guest.Kind{guest.UML, guest.QEMU72, guest.QEMU11} {
		t.Run(kind.String(), func(t *testing.T) {
			if kind != guest.UML {
				long(t) // an emulated processor takes long to start node and systemd
			}
			testWatchers(t, kind, files)
		})
	}
}

// watchersScript waits for what watchers.sh says by files.
const watchersScript = `seen() { n=0; until [ -e .ready-$1 ]; do n=$((n+1)); [ $n -lt 3000 ] || { echo "no .ready-$1" >&2; exit 1; }; sleep 0.1; done; }
` + eventsScript + "\n: >the-end"

// localWatch are the programs that watch a local directory.
type localWatch struct {
	dir, out string
	cmd      *exec.Cmd
	said     bytes.Buffer
}

func watchLocally(t *testing.T) *localWatch {
	t.Helper()
	js, err := filepath.Abs("testdata/watch.js")
	if err != nil {
		t.Fatal(err)
	}
	l := &localWatch{dir: guest.TempDir(t), out: guest.TempDir(t)}
	prepareEvents(t, l.dir)
	l.cmd = exec.Command("/bin/sh", "testdata/watchers.sh", l.dir, l.out, js)
	l.cmd.Stdout, l.cmd.Stderr = &l.said, &l.said
	l.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := spawn.Start(l.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-l.cmd.Process.Pid, syscall.SIGKILL) })
	return l
}

// ready waits until all programs watch.
func (l *localWatch) ready(t *testing.T) {
	t.Helper()
	for range 9000 {
		if _, err := os.Stat(filepath.Join(l.dir, ".ready")); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("the programs do not get ready on a local directory")
}

// inHostWatch runs watchers.sh in a QEMU guest that has the host's programs, which a second share is for.
const inHostWatch = `h=/mnt/host; mount -t tmpfs none $h/run; mkdir $h/run/host; mount --bind /run/host $h/run/host
mount --bind /mnt/fs $h/mnt; mount --bind /proc $h/proc; mount --rbind /sys $h/sys; mount --bind /dev $h/dev
mount -t tmpfs none $h/tmp; cp /run/watchers.sh /run/watch.js $h/run/
chroot $h /bin/sh /run/watchers.sh /mnt /run/host /run/watch.js`

func testWatchers(t *testing.T, kind guest.Kind, files map[string]string) {
	guest.Need(t, kind)
	helper := build(t, "build", "./cmd/govirtiofs-guest")
	d := start(t, "", "--events=auto", "--cache=always")
	prepareEvents(t, d.dir)
	out := guest.TempDir(t)
	all := map[string]string{helper: "/run/helper"}
	for from, to := range files {
		all[from] = to
	}
	watch := "sh /run/watchers.sh /mnt/fs /run/host /run/watch.js"
	o := guest.Options{Shares: []guest.Share{d.Share}, HostDir: out, Files: all, Timeout: 8 * time.Minute}
	if kind != guest.UML {
		host := start(t, "/", "--readonly", "--tag=host", "--log-level=info")
		host.Tag = "host"
		o.Shares, o.Mem = append(o.Shares, host.Share), 1024
		watch = inHostWatch
	}
	o.Script = fmt.Sprintf(`/run/helper watch /mnt/fs >/run/helped 2>&1 & h=$!
		i=0; until grep -q reported /run/helped; do sleep 0.1; i=$((i+1)); [ $i -lt 1200 ] || exit 1; done
		( %s ); status=$?
		cd /mnt/fs; cat src/main.go lib/lib.go >/dev/null; ls src >/dev/null; : >.ready-dies
		i=0; until [ "$(cat src/main.go)" = later ] && [ ! -e lib/lib.go ] && [ -e src/born ]; do
			sleep 0.1; i=$((i+1)); [ $i -lt 1200 ] || { status=9; ls src lib; break; }
		done
		cd /; cat /run/helped; kill $h; wait; exit $status`, watch)
	local := watchLocally(t)
	vm, err := guest.Start(context.Background(), kind, o)
	if err != nil {
		t.Fatal(err)
	}
	appears(t, vm, filepath.Join(d.dir, ".ready"))
	local.ready(t)
	both := make(chan error)
	for _, dir := range []string{d.dir, local.dir} {
		go func() {
			cmd := exec.Command("/bin/sh", "-ec", watchersScript)
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			both <- err
		}()
	}
	if err := errors.Join(<-both, <-both); err != nil {
		t.Fatalf("%v\nhere: %s\nin the guest: %s", err, local.said.String(), tail(vm.Output()))
	}
	if err := local.cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, local.said.String())
	}
	k := newWorkerKiller(t, d, vm)
	k.exists(".ready-dies")
	k.kill(1)
	sh(t, d.dir, "echo later >src/main.go; rm lib/lib.go; : >src/born")
	r, err := vm.Wait()
	if err != nil || r.Status != 0 {
		t.Fatalf("%v: status %d\n%s", err, r.Status, tail(r.Output))
	}
	for _, program := range []string{"inotifywait", "tail", "chokidar"} { // the script has waited for the path units
		want, got := saw(t, local.out, program), saw(t, out, program)
		if program == "chokidar" {
			want = chokidarSees
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s sees\n%s\nand of a local directory\n%s", program, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// chokidarSees is what it sees for sure of watchersScript, sorted.
var chokidarSees = []string{"add log.1", "change src/main.go", "unlink src/old.go"}

// saw is what a program has said, up to the last file. The events of inotifywait are without their order
// (TestIntegrationEvents compares that), since two of one file may have become one. Of those of chokidar only some
// count: it looks at the files some time after it has heard of something, and loses what comes, goes and comes back
// meanwhile, on a local file system, too.
func saw(t *testing.T, dir, program string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, program))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	if i := slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, "the-end") }); i >= 0 {
		lines = lines[:i]
	}
	switch program {
	case "chokidar":
		lines = slices.DeleteFunc(lines, func(l string) bool {
			return !slices.Contains(chokidarSees, l)
		})
		fallthrough
	case "inotifywait":
		slices.Sort(lines)
		lines = slices.Compact(lines)
	}
	return lines
}
