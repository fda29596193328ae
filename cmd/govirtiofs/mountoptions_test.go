package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// openDirs are a directory to share and one to mount on, which every user may enter.
func openDirs(t *testing.T) (source, target string) {
	t.Helper()
	source, target = t.TempDir(), t.TempDir()
	for _, dir := range []string{source, target, filepath.Dir(source)} {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return source, target
}

// TestMountOptions: set-user-ID programs and devices of the share work when they shall.
func TestMountOptions(t *testing.T) {
	guest.NeedFUSE(t)
	guest.NeedRoot(t)
	for _, c := range []struct {
		args      []string
		suid, dev bool
		readOnly  bool
	}{
		{nil, false, false, false},
		{[]string{"-o", "suid"}, true, false, false},
		{[]string{"-o", "dev"}, false, true, false},
		{[]string{"-o", "suid,dev"}, true, true, false},
		{[]string{"--options=suid,dev,nosuid", "-o", "nodev,ro"}, false, false, true},
	} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			source, target := openDirs(t)
			id, err := exec.LookPath("id")
			if err != nil {
				t.Skip(err)
			}
			image, err := os.ReadFile(id)
			if err != nil {
				t.Fatal(err)
			}
			err = errors.Join(os.WriteFile(source+"/id", image, 0o755), os.Chmod(source+"/id", 0o755|os.ModeSetuid),
				unix.Mknod(source+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
			if err != nil {
				t.Fatal(err)
			}
			socket, _ := backend(t, program(t, "govirtiofsd"), source)
			mountTool(t, socket, target, c.args...)
			cmd := exec.Command(target+"/id", "-u")
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
			out, err := cmd.CombinedOutput()
			want := map[bool]string{true: "0\n", false: "1000\n"}[c.suid]
			if err != nil || string(out) != want {
				t.Errorf("a set-user-ID program: %q, %v, want %q", out, err, want)
			}
			f, err := os.OpenFile(target+"/null", os.O_WRONLY, 0)
			if err == nil {
				_ = f.Close()
			}
			if (err == nil) != c.dev {
				t.Errorf("a device: %v", err)
			}
			if err := os.WriteFile(target+"/new", nil, 0o644); errors.Is(err, unix.EROFS) != c.readOnly {
				t.Errorf("a new file: %v", err)
			}
		})
	}
}

// TestImmutableFlags: chattr +i and +a take a capability that the daemon keeps on request.
func TestImmutableFlags(t *testing.T) {
	guest.NeedFUSE(t)
	guest.NeedRoot(t)
	const immutable, appendOnly = 0x10, 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL
	for _, c := range []struct {
		args []string
		want error
	}{{nil, unix.EPERM}, {[]string{"--modcaps=+linux_immutable"}, nil}} {
		t.Run(strings.Join(c.args, " "), func(t *testing.T) {
			source, target := openDirs(t)
			if err := os.WriteFile(source+"/f", []byte("start"), 0o644); err != nil {
				t.Fatal(err)
			}
			change := func(path string, set, clear int) error {
				f, err := os.Open(path)
				if err != nil {
					return err
				}
				defer f.Close()
				flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
				if err != nil {
					return err
				}
				return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags&^clear|set)
			}
			t.Cleanup(func() { _ = change(source+"/f", 0, immutable|appendOnly) })
			if err := change(source+"/f", 0, 0); errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("no attributes of files here: ", err)
			}
			socket, _ := backend(t, program(t, "govirtiofsd"), source, c.args...)
			mountTool(t, socket, target)
			write := func(flags int) error {
				f, err := os.OpenFile(target+"/f", flags, 0)
				if err != nil {
					return err
				}
				_, err = f.WriteString("+")
				return errors.Join(err, f.Close())
			}
			if err := change(target+"/f", immutable, 0); !errors.Is(err, c.want) {
				t.Fatalf("chattr +i: %v, want %v", err, c.want)
			}
			if c.want != nil {
				if err := change(target+"/f", appendOnly, 0); !errors.Is(err, c.want) {
					t.Errorf("chattr +a: %v, want %v", err, c.want)
				}
				return
			}
			for what, f := range map[string]func() error{
				"write":  func() error { return write(os.O_WRONLY) },
				"append": func() error { return write(os.O_WRONLY | os.O_APPEND) },
				"remove": func() error { return os.Remove(target + "/f") },
				"rename": func() error { return os.Rename(target+"/f", target+"/g") },
				"chmod":  func() error { return os.Chmod(target+"/f", 0o600) },
			} {
				if err := f(); !errors.Is(err, unix.EPERM) {
					t.Errorf("%s of an immutable file: %v", what, err)
				}
			}
			if err := change(target+"/f", appendOnly, immutable); err != nil {
				t.Fatalf("chattr -i +a: %v", err)
			}
			if err := write(os.O_WRONLY); !errors.Is(err, unix.EPERM) {
				t.Errorf("write to a file that can only grow: %v", err)
			}
			if err := write(os.O_WRONLY | os.O_APPEND); err != nil {
				t.Errorf("append: %v", err)
			}
			if err := change(target+"/f", 0, appendOnly); err != nil {
				t.Errorf("chattr -a: %v", err)
			}
			if b, err := os.ReadFile(source + "/f"); err != nil || string(b) != "start+" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

// TestMountCompletion: a shell is offered the words of -o, one after the other.
func TestMountCompletion(t *testing.T) {
	for typed, want := range map[string][]string{
		"":         mountWords,
		"no":       {"nosuid", "nodev"},
		"suid,":    {"suid,nosuid", "suid,dev", "suid,nodev", "suid,ro", "suid,rw"},
		"suid,r":   {"suid,ro", "suid,rw"},
		"ro,nodev": {"ro,nodev"},
	} {
		root := newRoot()
		var b bytes.Buffer
		root.SetOut(&b)
		root.SetArgs([]string{"__completeNoDesc", "mount", "-o", typed})
		if err := root.Execute(); err != nil {
			t.Fatal(err)
		}
		lines := strings.Fields(b.String())
		if got := lines[:len(lines)-1]; !slices.Equal(got, want) { // the last one is a directive
			t.Errorf("-o %s: %q, want %q", typed, got, want)
		}
	}
}
