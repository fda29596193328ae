package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/daemontest"
	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// aliveScript is what a guest does while workers die: four programs at once, each of which notices
// a reply that is wrong, and a file that has no name from the start to the end. $1 is the share, $2
// the directory with fio.
const aliveScript = `set -eu
export LC_ALL=C
cd $1
export HOME=/run/recovered; mkdir -p $HOME
git config --global user.name g; git config --global user.email g@g; git config --global safe.directory '*'
wrong() { echo "WRONG: $*"; exit 1; }
storm() {
	mkdir storm$1; cd storm$1; i=0
	while [ ! -e ../stop ]; do
		i=$((i+1))
		mkdir d; echo $i >f; ln f d/l; mv f d/f; mv d/f g; echo more >>g; ln -s g sym
		[ "$(cat d/l)" = "$(printf '%s\nmore' $i)" ] || wrong "round $i has $(cat d/l)"
		[ "$(readlink sym)" = g ] || wrong "link in round $i"
		mv d e; rm e/l; rmdir e; rm sym; mv g kept$((i % 40))
	done
	echo $i >rounds
}
commits() {
	sqlite3 db 'create table t(a integer primary key, b text)'; i=0
	while [ $i = 0 ] || [ ! -e stop ]; do i=$((i+1)); sqlite3 db "insert into t(b) values('$i')"; done
	[ "$(sqlite3 db 'select count(*), max(a) from t; pragma integrity_check')" = "$(printf '%s|%s\nok' $i $i)" ] || wrong "$i commits"
}
clones() {
	i=0
	while [ ! -e stop ]; do
		i=$((i+1)); git clone -q src copy
		git -C copy fsck 2>&1 | grep . && wrong "clone $i is damaged"
		[ -z "$(git -C copy status --porcelain)" ] || wrong "clone $i differs"
		rm -r copy
	done
}
verified() {
	while [ ! -e stop ]; do
		$2/ld.so --library-path $2 $2/fio --output-format=terse --name=v --thread --ioengine=psync --filename=fio --size=6M --bsrange=4k-128k \
			--rw=randwrite --verify=crc32c --verify_fatal=1 --end_fsync=1 >/dev/null
		rm fio
	done
}
echo >ready
exec 7<>nameless; rm nameless; echo before >&7
( storm 1 ) & a=$!
( storm 2 ) & b=$!
( commits ) & c=$!
( clones ) & d=$!
( verified $1 $2 ) & e=$!
for p in $a $b $c $d $e; do wait $p || wrong "a program has failed"; done
echo after >&7; [ "$(cat /proc/self/fd/7)" = "$(printf 'before\nafter')" ] || wrong "the file without a name has $(cat /proc/self/fd/7)"
exec 7>&-
cat storm?/rounds; sqlite3 db 'select count(*) from t'
rm ready; echo 3 >/proc/sys/vm/drop_caches
{ ` + treeScript + `; } >/run/recovered/tree; cp /run/recovered/tree tree.new; mv tree.new tree
while [ ! -e leave ]; do sleep 0.1; done
`

// treeScript prints all there is in the working directory.
const treeScript = `find . ! -name tree ! -name tree.new ! -name leave -printf '%y %m %n %l %p\n' | sort
find . -type f ! -name tree ! -name leave | sort | xargs sha256sum`

// inHost runs a script in a QEMU guest that has the host's programs, which a second share is for.
const inHost = `h=/mnt/host; mount -t tmpfs none $h/run; mkdir $h/run/recovered; mount --bind /mnt/fs $h/mnt
mount --bind /proc $h/proc; mount --bind /dev $h/dev; mount -t tmpfs none $h/tmp
cp /run/alive $h/run/alive; exec chroot $h /bin/sh /run/alive /mnt %s`

// TestIntegrationAlive kills workers with SIGKILL while a guest writes, renames, removes, commits and
// clones. The guest notices nothing, and both sides see the same tree. With GOVIRTIOFS_LONG=1 it
// does so 300 times, and in QEMU, too.
func TestIntegrationAlive(t *testing.T) {
	for _, kind := range []guest.Kind{guest.UML, guest.QEMU72, guest.QEMU11} {
		t.Run(kind.String(), func(t *testing.T) {
			kills := 300
			if kind != guest.UML {
				long(t)
			} else if os.Getenv("GOVIRTIOFS_LONG") == "" {
				kills = 25
			}
			guest.Need(t, kind)
			stayAlive(t, kind, kills)
		})
	}
}

func stayAlive(t *testing.T, kind guest.Kind, kills int) {
	need(t, "git")
	need(t, "sqlite3")
	fio := guest.NeedTree(t, "fio")
	d := start(t, "", "--log-level=info")
	tree(t, filepath.Join(d.dir, "src"), 60)
	commit := exec.Command("sh", "-c", "git init -q . && git add . && git -c user.name=g -c user.email=g@g commit -q -m one")
	commit.Dir = filepath.Join(d.dir, "src")
	if out, err := commit.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	script := filepath.Join(guest.TempDir(t), "script")
	if err := os.WriteFile(script, []byte(aliveScript), 0o644); err != nil {
		t.Fatal(err)
	}
	o := guest.Options{Shares: []guest.Share{d.Share}, Files: map[string]string{script: "/run/alive"},
		Timeout: 5*time.Minute + time.Duration(kills)*3*time.Second, Script: "sh /run/alive /mnt/fs " + fio}
	if kind != guest.UML {
		host := start(t, "/", "--readonly", "--tag=host", "--log-level=info")
		host.Tag = "host"
		o.Shares, o.Script, o.Mem = append(o.Shares, host.Share), fmt.Sprintf(inHost, fio), 1024
	}
	vm, err := guest.Start(context.Background(), kind, o)
	if err != nil {
		t.Fatal(err)
	}
	k := newWorkerKiller(t, d, vm)
	defer func() {
		if t.Failed() {
			t.Log(tail(vm.Output()), tail(d.log.String()))
		}
		vm.Kill()
	}()
	k.exists("ready")
	before := k.keeperHas()
	k.kill(kills)
	k.put("stop")
	k.exists("tree")
	k.backAt(before)
	k.compareTrees()
	k.put("leave")
	r, err := vm.Wait()
	if err != nil || r.Status != 0 || strings.Contains(r.Output, "WRONG") {
		t.Fatalf("%v, status %d\n%s\n%s", err, r.Status, tail(r.Output), tail(d.log.String()))
	}
	t.Logf("%d deaths; rounds of both storms, commits: %v", k.killed, strings.Fields(r.Output))
	k.logTimes()
}

// workerKiller kills the workers of a daemon.
type workerKiller struct {
	t      *testing.T
	d      *daemon
	ended  chan struct{} // closed when the guest has ended
	killed int
}

func newWorkerKiller(t *testing.T, d *daemon, vm *guest.VM) *workerKiller {
	k := &workerKiller{t: t, d: d, ended: make(chan struct{})}
	go func() { _, _ = vm.Wait(); close(k.ended) }()
	return k
}

// until waits for a condition, and fails when the guest ends before.
func (k *workerKiller) until(what string, holds func() bool) {
	k.t.Helper()
	for end := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-k.ended:
			k.t.Fatalf("the guest has ended before %s", what)
		default:
		}
		if time.Now().After(end) {
			k.t.Fatalf("waited in vain for this: %s", what)
		}
	}
}

func (k *workerKiller) exists(name string) {
	k.t.Helper()
	k.until(name+" is there", func() bool { _, err := os.Stat(filepath.Join(k.d.dir, name)); return err == nil })
}

func (k *workerKiller) put(name string) {
	k.t.Helper()
	if err := os.WriteFile(filepath.Join(k.d.dir, name), nil, 0o644); err != nil {
		k.t.Fatal(err)
	}
}

var deathLine = regexp.MustCompile(`worker (\d+) has died.*?; first reply (\S+) after the death`)

// kill kills n workers at random moments. One in five dies before it is known to serve.
func (k *workerKiller) kill(n int) {
	last := 0
	for k.killed < n {
		if k.killed%5 != 4 {
			k.until("the last worker has a successor that serves", func() bool {
				return strings.Count(k.d.log.String(), "has died (") >= k.killed
			})
		}
		time.Sleep(time.Duration(rand.IntN(120_000)) * time.Microsecond) // any moment will do
		pid := 0
		k.until("there is another worker", func() bool {
			all := daemontest.Children(k.t, k.d.cmd.Process.Pid)
			if len(all) == 1 && all[0] != last {
				pid = all[0]
			}
			return pid != 0
		})
		if unix.Kill(pid, unix.SIGKILL) == nil {
			last = pid
			k.killed++
		}
	}
}

// keeperHas is how many descriptors the keeper has.
func (k *workerKiller) keeperHas() int {
	k.t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", k.d.cmd.Process.Pid))
	if err != nil {
		k.t.Fatal(err)
	}
	return len(list)
}

// backAt waits until the keeper has no more descriptors than before all deaths, and logs what both
// processes take.
func (k *workerKiller) backAt(before int) {
	k.t.Helper()
	k.until(fmt.Sprintf("the keeper has %d descriptors again", before), func() bool { return k.keeperHas() <= before })
	keeper := k.d.cmd.Process.Pid
	for _, pid := range append(daemontest.Children(k.t, keeper), keeper) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			k.t.Fatal(err)
		}
		m := regexp.MustCompile(`(?s)Private_Dirty: +(\d+) kB`).FindSubmatch(b)
		private, _ := strconv.Atoi(string(m[1]))
		list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		k.t.Logf("process %d (the keeper is %d): %d KiB of its own, %d descriptors", pid, keeper, private, len(list))
		if pid == keeper && private > 24<<10 {
			k.t.Errorf("the keeper has %d KiB of its own", private)
		}
	}
}

// compareTrees compares what the guest sees with what there is.
func (k *workerKiller) compareTrees() {
	k.t.Helper()
	seen, err := os.ReadFile(filepath.Join(k.d.dir, "tree"))
	if err != nil {
		k.t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", treeScript)
	cmd.Dir = k.d.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	there, err := cmd.Output()
	if err != nil {
		k.t.Fatal(err)
	}
	if string(seen) == string(there) {
		k.t.Logf("%d lines of both trees are the same", strings.Count(string(there), "\n"))
		return
	}
	guest, host := strings.Split(string(seen), "\n"), strings.Split(string(there), "\n")
	for _, l := range guest {
		if !slices.Contains(host, l) {
			k.t.Errorf("only the guest sees: %s", l)
		}
	}
	for _, l := range host {
		if !slices.Contains(guest, l) {
			k.t.Errorf("the guest does not see: %s", l)
		}
	}
}

// logTimes logs how long the guest has waited.
func (k *workerKiller) logTimes() {
	var all []time.Duration
	for _, m := range deathLine.FindAllStringSubmatch(k.d.log.String(), -1) {
		if d, err := time.ParseDuration(m[2]); err == nil {
			all = append(all, d)
		}
	}
	if len(all) == 0 {
		k.t.Error("the log has no time of a recovery")
		return
	}
	slices.Sort(all)
	k.t.Logf("from the death to the first reply, %d times: p50 %v, p99 %v, max %v", len(all), all[len(all)/2], all[len(all)*99/100], all[len(all)-1])
}
