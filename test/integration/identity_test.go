package integration

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// ordinaryUser runs daemons without privileges. No account has that id.
const ordinaryUser = 4711

// startAs is start as an ordinary user, with a directory of that user.
func startAs(t testing.TB, user int, args ...string) *daemon {
	t.Helper()
	guest.NeedRoot(t)
	tmp := guest.TempDir(t)
	d := &daemon{dir: filepath.Join(tmp, "share"), Share: guest.Share{Tag: "fs", Socket: filepath.Join(tmp, "sock")}}
	program := filepath.Join(tmp, "govirtiofsd") // where the user can reach it
	b, err := os.ReadFile(build(t, "build", "./cmd/govirtiofsd"))
	if err := errors.Join(err, os.WriteFile(program, b, 0o755), os.Mkdir(d.dir, 0o755), os.Chmod(tmp, 0o755),
		os.Chown(tmp, user, user), os.Chown(d.dir, user, user)); err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command(program, append([]string{"--shared-dir", d.dir, "--socket-path", d.Socket, "--tag", d.Tag}, args...)...)
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(user), Gid: uint32(user)}}
	d.cmd.Stderr = &d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.stop(t) })
	for range 5000 {
		if _, err := os.Stat(d.Socket); err == nil {
			return d
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("the daemon has made no socket:\n%s", d.log.String())
	return nil
}

// packageScript builds a Debian package on the share with owners, set-ID bits and links.
// It installs the package below another root there, as a package manager in a guest
// does. Then it copies a tree with devices through tar and compares.
const packageScript = `
show() { (cd $1; find . -mindepth 1 ! -path './var/lib/dpkg*' -printf '%M %U:%G %p %l\n' | sort -k3); }
mkdir -p pkg/DEBIAN pkg/usr/bin pkg/usr/games pkg/var/mail pkg/etc/ssl/private
printf 'Package: identity\nVersion: 1\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: test\n' >pkg/DEBIAN/control
cp /bin/busybox pkg/usr/bin/suid 2>/dev/null || cp /usr/bin/id pkg/usr/bin/suid
echo secret >pkg/etc/ssl/private/key
chown 0:8 pkg/var/mail; chmod 2775 pkg/var/mail
chown 5:60 pkg/usr/games; chmod 755 pkg/usr/games
chown 0:110 pkg/etc/ssl/private/key; chmod 640 pkg/etc/ssl/private/key; chmod 710 pkg/etc/ssl/private
chmod 4755 pkg/usr/bin/suid
ln -s suid pkg/usr/bin/alias; ln -s x pkg/usr/games/link; chown -h 5:60 pkg/usr/games/link
ln pkg/usr/bin/suid pkg/usr/bin/hard
dpkg-deb --build pkg p.deb >/dev/null
mkdir -p root/var/lib/dpkg/info root/var/lib/dpkg/updates; touch root/var/lib/dpkg/status
dpkg --root=$PWD/root --force-depends -i p.deb >/dev/null
rm -r pkg/DEBIAN
show pkg >/tmp/pkg; show root | grep -v ' \./var/lib \| \./var/log\| \./usr/share' >/tmp/root; diff /tmp/pkg /tmp/root
dpkg --root=$PWD/root -r identity >/dev/null; [ ! -e root/usr/bin/suid ]

mkdir dev; cd dev
mknod null c 1 3; mknod sda b 8 0; mknod -m 600 pipe p; chown 0:6 sda; chmod 660 sda; chmod 666 null; mkdir -m 1777 tmp
echo discarded >null; [ ! -s null ]; [ -c null ]; [ -b sda ]; [ -p pipe ]
cat pipe >/tmp/read & echo through >pipe; wait; [ "$(cat /tmp/read)" = through ]
cd ..; mkdir copy; tar cpf - dev | tar xpf - -C copy; show dev >/tmp/a; show copy/dev >/tmp/b; diff /tmp/a /tmp/b
[ "$(stat -c %t:%T copy/dev/sda)" = 8:0 ]

not() { if "$@" 2>/dev/null; then echo "not refused: $*"; exit 1; fi; }
as() { setpriv --reuid=$1 --regid=$1 --clear-groups sh -c "$2"; }
mkdir -m 1777 tmp; echo x >tmp/roots; chmod 600 tmp/roots
not as 1000 'cat tmp/roots'; not as 1000 'rm -f tmp/roots'
as 1000 'echo y >tmp/users; ln -s users tmp/link; chmod 640 tmp/users; mkdir tmp/d; [ "$(readlink tmp/link)" = users ]'
not as 1001 'cat tmp/users'; not as 1001 'rm -f tmp/link'; as 1000 'rm tmp/link'
not as 1000 'chown 0:0 tmp/users'
[ "$(stat -c %u:%g:%a tmp/users)" = 1000:1000:640 ]
cp /usr/bin/id tmp/suid; chown 0:0 tmp/suid; chmod 4755 tmp/suid; [ "$(as 1000 'tmp/suid -u')" = 0 ]
as 1000 'cp /usr/bin/id tmp/mine; chmod 4755 tmp/mine'; [ "$(as 1001 'tmp/mine -u')" = 1000 ]
`

// TestIntegrationOwnership has a daemon without privileges serve a guest whose root
// changes owners, set-ID bits and devices. It takes about 15 s.
func TestIntegrationOwnership(t *testing.T) {
	guest.Need(t, guest.UML)
	need(t, "dpkg", "setpriv", "tar")
	d := startAs(t, ordinaryUser, "--ownership=xattr", "--xattr")
	inUML(t, d, packageScript)
	ownedBy(t, d.dir, ordinaryUser)
}

// ownedBy checks that everything below dir is harmless on the host: each is a
// file, directory or link of the user, without set-ID bits.
func ownedBy(t *testing.T, dir string, user uint32) {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		n++
		const odd = fs.ModeSetuid | fs.ModeSetgid | fs.ModeDevice | fs.ModeNamedPipe | fs.ModeSocket
		if st := info.Sys().(*syscall.Stat_t); st.Uid != user || st.Gid != user || info.Mode()&odd != 0 ||
			info.Mode()&fs.ModeSymlink == 0 && info.Mode()&0o022 != 0 {
			t.Errorf("%s: %v %d:%d", path, info.Mode(), st.Uid, st.Gid)
		}
		if strings.Contains(e.Name(), ".govirtiofs") {
			t.Errorf("%s is left behind", path)
		}
		return nil
	})
	if err != nil || n < 20 {
		t.Errorf("%d files, %v", n, err)
	}
}
