package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// inUML runs a script with a new share on /mnt/fs as its working directory.
func inUML(t *testing.T, d *daemon, script string) string {
	t.Helper()
	return run(t, guest.UML, guest.Options{Shares: []guest.Share{d.Share}, Script: "set -e; cd /mnt/fs\n" + script})
}

func TestIntegrationReadWrite(t *testing.T) {
	guest.Need(t, guest.UML)
	for _, sandbox := range []string{"namespace", "chroot", "none"} {
		t.Run(sandbox, func(t *testing.T) {
			d := start(t, "", "--sandbox="+sandbox)
			if err := os.WriteFile(filepath.Join(d.dir, "from-host"), []byte("hello\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			inUML(t, d, `[ "$(cat from-host)" = hello ]; echo world >from-guest`)
			if b, err := os.ReadFile(filepath.Join(d.dir, "from-guest")); err != nil || string(b) != "world\n" {
				t.Fatalf("%q, %v", b, err)
			}
			if err := d.cmd.Wait(); err != nil { // it ends with the front-end
				t.Fatal(err)
			}
			if _, err := os.Stat(d.Socket); err == nil {
				t.Error("the socket is left behind")
			}
			if _, err := os.Stat(d.Socket + ".pid"); err == nil {
				t.Error("the pid file is left behind")
			}
		})
	}
}

// TestIntegrationPosix runs the suites of test/inguest in the guest, under each cache
// policy.
func TestIntegrationPosix(t *testing.T) {
	guest.Need(t, guest.UML)
	suite := build(t, "test", "./test/inguest")
	for _, args := range [][]string{{"--xattr"}, {"--xattr", "--cache=never"}, {"--cache=always", "--writeback", "--xattr"},
		{"--cache=metadata", "--allow-mmap", "--posix-acl"}, {"--xattr", "--allow-direct-io", "--killpriv-v2"}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			d := start(t, "", args...)
			out := run(t, guest.UML, guest.Options{Shares: []guest.Share{d.Share},
				Files:  map[string]string{suite: "/run/inguest"},
				Script: "[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd; GOVIRTIOFS_GUEST_DIR=/mnt/fs /run/inguest -test.v -test.timeout 200s"})
			if strings.Contains(out, "FAIL") || !strings.Contains(out, "PASS: TestConformance/IdmappedMount") {
				t.Error(tail(out))
			}
		})
	}
}

func TestIntegrationGit(t *testing.T) {
	guest.Need(t, guest.UML)
	need(t, "git")
	d := start(t, "")
	tree(t, filepath.Join(d.dir, "src"), 300)
	inUML(t, d, `
		git config --global user.name g; git config --global user.email g@g; git config --global safe.directory '*'
		cd src; git init -q .; git add .; git commit -q -m one
		cd ..; git clone -q src copy; cd copy; [ -z "$(git status --porcelain)" ]
		git checkout -q -b other; rm -r d00; echo new >new; git add -A; git commit -q -m two
		git checkout -q -; [ -e d00 ]; [ ! -e new ]; git gc -q; git fsck; git checkout -q other; [ -e new ]
		diff -r -x .git -x d00 -x new . ../src`)
}

func TestIntegrationSqlite(t *testing.T) {
	guest.Need(t, guest.UML)
	need(t, "sqlite3")
	d := start(t, "")
	out := inUML(t, d, `
		sqlite3 db 'pragma journal_mode=wal; create table t(a integer primary key, b text);'
		for w in 1 2 3; do
			( for i in 1 2 3 4 5 6 7 8 9 10; do sqlite3 -cmd '.timeout 20000' db "insert into t(b) values('$w.$i')"; done ) &
		done
		wait
		sqlite3 db 'select count(*) from t; pragma integrity_check;'`)
	if !strings.Contains(out, "30") || !strings.Contains(out, "ok") {
		t.Error(out)
	}
}

// TestIntegrationTar packs and unpacks 2,000 files and compares checksums of both
// sides.
func TestIntegrationTar(t *testing.T) {
	guest.Need(t, guest.UML)
	d := start(t, "")
	tree(t, filepath.Join(d.dir, "a"), 2000)
	inUML(t, d, `
		tar cf a.tar a; mkdir b; tar xf a.tar -C b; diff -r a b/a
		cd b; find a -type f | sort | xargs sha256sum >../guest.sums`)
	cmd := exec.Command("sha256sum", "--quiet", "-c", "guest.sums")
	cmd.Dir = d.dir
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
}

func TestIntegrationLargeDirectory(t *testing.T) {
	guest.Need(t, guest.UML)
	d := start(t, "")
	out := inUML(t, d, `
		mkdir big; cd big; seq -f 'name-%.0f' 20000 | xargs touch
		ls -f | grep -c name-; ls -l | grep -c name-; find . -name 'name-*' | sort -u | wc -l
		seq -f 'name-%.0f' 1 2 20000 | xargs rm; ls | wc -l; cd ..; rm -r big`)
	want := []string{"20000", "20000", "20000", "10000"}
	if got := strings.Fields(out); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestIntegrationLocks has two guests on one share exclude each other.
func TestIntegrationLocks(t *testing.T) {
	guest.Need(t, guest.UML)
	need(t, "flock")
	// Without the guest's caches, each guest sees the other's changes.
	one := start(t, "", "--cache=never", "--locks=host")
	two := start(t, one.dir, "--cache=never", "--locks=host")
	script := func(d *daemon, me string) guest.Options {
		return guest.Options{Shares: []guest.Share{d.Share}, Script: `cd /mnt/fs; touch lock count
			for i in $(seq 50); do
				flock lock sh -c 'n=$(cat count); n=${n:-0}; sleep 0.0$(($$ % 3)); echo $((n+1)) >count'
			done; echo ` + me}
	}
	vm, err := guest.Start(context.Background(), guest.UML, script(one, "one"))
	if err != nil {
		t.Fatal(err)
	}
	run(t, guest.UML, script(two, "two"))
	if r, err := vm.Wait(); err != nil || r.Status != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if b, _ := os.ReadFile(filepath.Join(one.dir, "count")); strings.TrimSpace(string(b)) != "100" {
		t.Errorf("two guests counted to %q, want 100: the lock does not lock", b)
	}
}

// TestIntegrationLocksInGuest: with locks that stay in the guest, a wait for one can be
// interrupted, and the guest's kernel finds deadlocks.
func TestIntegrationLocksInGuest(t *testing.T) {
	guest.Need(t, guest.UML)
	need(t, "flock")
	inUML(t, start(t, ""), `
		touch f; flock f sleep 1000 & holder=$!
		while flock -n f true; do sleep 0.1; done
		if flock -w 1 f true; then exit 1; fi
		flock f true & waiter=$!
		kill -9 $waiter; wait $waiter || true
		kill $holder; wait $holder || true`)
}

// TestIntegrationLocksCrowd has more programs of a guest wait for a lock on the host than
// its queue has entries. The share can be used meanwhile.
func TestIntegrationLocksCrowd(t *testing.T) {
	guest.Need(t, guest.UML)
	need(t, "flock")
	d := start(t, "", "--locks=host")
	path := filepath.Join(d.dir, "f")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	freed := make(chan error, 1)
	go func() { // runs when the guest has written to the share while all programs wait
		for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(filepath.Join(d.dir, "used")); err == nil {
				break
			}
		}
		freed <- unix.Flock(int(f.Fd()), unix.LOCK_UN)
	}()
	out := inUML(t, d, `
		for i in $(seq 200); do
			(if flock f true 2>/run/error.$i; then echo got >/run/$i; else echo refused >/run/$i; fi) &
		done
		while ! grep -qs refused /run/[0-9]*; do sleep 0.1; done
		echo x >g; [ "$(cat g)" = x ]; touch used
		wait; cat /run/[0-9]* | sort | uniq -c`)
	if err := <-freed; err != nil {
		t.Error(err)
	}
	if !strings.Contains(out, "got") || !strings.Contains(out, "refused") {
		t.Errorf("want some to wait and some to be refused:\n%s", out)
	}
}

// TestIntegrationReadonly tries to change a share that only the daemon makes
// read-only.
func TestIntegrationReadonly(t *testing.T) {
	guest.Need(t, guest.UML)
	d := start(t, "", "--readonly", "--xattr")
	if err := os.WriteFile(filepath.Join(d.dir, "f"), []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	inUML(t, d, `[ "$(cat f)" = x ]; if echo y >f || touch n || mkdir d || rm f || ln f g || chmod 600 f || mv f g; then exit 1; fi 2>/dev/null`)
}
