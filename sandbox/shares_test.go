package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// sharesOf are three shares in a directory that has something beside them.
func sharesOf(dir string) []Share {
	return []Share{{Path: filepath.Join(dir, "first")}, {Path: filepath.Join(dir, "second"), ReadOnly: true}, {Path: filepath.Join(dir, "file")}}
}

// helpShares enters a sandbox with several shares, and tries what can be reached.
func helpShares(arg string) error {
	dir, mode, _ := strings.Cut(arg, ":")
	shares := sharesOf(dir)
	var v View
	var err error
	if mode == "namespace" {
		n := &Namespace{}
		const insideEnv = "GOVIRTIOFS_SANDBOX_INSIDE"
		if os.Getenv(insideEnv) == "" {
			cmd, err := n.Start([]string{insideEnv + "=1"}, nil)
			if err != nil {
				return err
			}
			return cmd.Wait()
		}
		v, err = n.EnterAll(shares)
	} else {
		v, err = OpenAll(shares)
	}
	if err != nil {
		return err
	}
	defer v.Close()
	outside := func() {
		fd, err := unix.Open(filepath.Join(dir, "outside"), unix.O_RDONLY, 0)
		fmt.Println("outside", errnoOf(err))
		_ = unix.Close(fd)
	}
	if mode == "landlock" {
		outside() // it is there before
		if err := Landlock(LandlockOptions{Share: v.Root, More: []LandlockShare{{v.More[0], true}, {v.More[1], false}}}); err != nil {
			return err
		}
	}
	outside()
	lookAtShares(v)
	return nil
}

// lookAtShares prints what can be done with each share.
func lookAtShares(v View) {
	if names, err := os.ReadDir("/"); err == nil && len(names) < 5 {
		fmt.Println("root", names)
	}
	for i, dir := range []int{v.Root, v.More[0]} {
		fd, err := unix.Openat(dir, "inside", unix.O_RDONLY, 0)
		fmt.Println(i, "read", errnoOf(err))
		_ = unix.Close(fd)
		fd, err = unix.Openat(dir, "made", unix.O_WRONLY|unix.O_CREAT, 0o600)
		fmt.Println(i, "make", errnoOf(err))
		_ = unix.Close(fd)
		fd, err = unix.Openat(dir, "../outside", unix.O_RDONLY, 0)
		fmt.Println(i, "above", errnoOf(err))
		_ = unix.Close(fd)
		fd, err = unix.Openat(dir, "../../../etc/passwd", unix.O_RDONLY, 0)
		fmt.Println(i, "passwd", errnoOf(err))
		_ = unix.Close(fd)
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", v.More[1]), unix.O_RDWR, 0)
	if err != nil { // there is no /proc
		fd, err = unix.Openat(v.Proc, fmt.Sprint(v.More[1]), unix.O_RDWR, 0)
	}
	fmt.Println("file", errnoOf(err))
	_ = unix.Close(fd)
	fmt.Println("beside", errnoOf(unix.Mkdir("/beside", 0o700)))
}

func makeShares(t *testing.T) string {
	t.Helper()
	dir := share(t)
	for _, name := range []string{"first/inside", "second/inside", "file", "outside"} {
		path := filepath.Join(dir, name)
		_ = os.Mkdir(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, []byte("x"), 0o666); err != nil {
			t.Fatal(err)
		}
		_ = os.Chmod(path, 0o666)
	}
	_ = os.Chmod(filepath.Join(dir, "first"), 0o777)
	_ = os.Chmod(filepath.Join(dir, "second"), 0o777)
	return dir
}

// TestIntegrationShares: several shares are all that a process can reach, those that are read-only can't be
// changed, and none leads out.
func TestIntegrationShares(t *testing.T) {
	guest.NeedRoot(t)
	for _, uid := range []uint32{0, 65534} {
		out := mustHelper(t, "shares", makeShares(t)+":namespace", uid)
		expect(t, out, "outside ENOENT", "root [d 0/ d 1/ - 2]", "0 read <nil>", "0 make <nil>", "0 above ENOENT", "0 passwd ENOENT",
			"1 read <nil>", "1 make EROFS", "1 above ENOENT", "1 passwd ENOENT", "file <nil>", "beside EROFS")
	}
}

// TestIntegrationLandlockShares: the same by Landlock alone.
func TestIntegrationLandlockShares(t *testing.T) {
	needLandlock(t)
	program, err := withoutCgo()
	if err != nil {
		t.Fatal(err)
	}
	out, err := helperOf(t, program, "shares", makeShares(t)+":landlock", 0)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	expect(t, out, "outside <nil>", "outside EACCES", "0 read <nil>", "0 make <nil>", "0 above EACCES", "0 passwd EACCES",
		"1 read <nil>", "1 make EACCES", "1 above EACCES", "1 passwd EACCES", "file <nil>", "beside EACCES")
}
