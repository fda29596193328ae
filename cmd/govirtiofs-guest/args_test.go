package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAddress(t *testing.T) {
	for s, want := range map[string]address{
		"vsock:2:1024":         {cid: 2, port: 1024},
		"vsock:2:1024/data":    {cid: 2, port: 1024, share: "data"},
		"vsock:7:7/a b":        {cid: 7, port: 7, share: "a b"},
		"vsock:1024/data":      {cid: 2, port: 1024, share: "data"},
		"vsock:4294967295:1/":  {cid: 4294967295, port: 1},
		"unix:/run/x_1024":     {path: "/run/x_1024"},
		"unix:dir/with:colons": {path: "dir/with:colons"},
	} {
		want.text = s
		if got, err := parseAddress(s); err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "host:/x", "vsock:", "vsock:x:1", "vsock:2:", "vsock:2:-1", "vsock:2:99999999999", "vsock:0:5", "unix:", "/srv/share"} {
		if got, err := parseAddress(s); err == nil || !strings.Contains(err.Error(), "want ") {
			t.Errorf("%q: %+v, %v: want an error that says what is right", s, got, err)
		}
	}
}

func TestWords(t *testing.T) {
	for list, ok := range map[string]func(o *mountOptions) bool{
		"":                                 func(o *mountOptions) bool { return o.suid && o.dev && !o.readOnly && o.flags == 0 },
		"defaults,_netdev,rw":              func(o *mountOptions) bool { return !o.readOnly },
		"rw,ro":                            func(o *mountOptions) bool { return o.readOnly },
		"nosuid,nodev,noexec":              func(o *mountOptions) bool { return !o.suid && !o.dev && o.flags == unix.MS_NOEXEC },
		"noatime,atime,noatime":            func(o *mountOptions) bool { return o.flags == unix.MS_NOATIME },
		"token=/a,channels=3":              func(o *mountOptions) bool { return o.token == "/a" && o.channels == 3 },
		"share=data":                       func(o *mountOptions) bool { return o.address.share == "data" },
		"reconnect=5,private":              func(o *mountOptions) bool { return o.patience == 5*time.Second && o.private },
		"x-systemd.automount,nofail,x-a=b": func(o *mountOptions) bool { return true },
	} {
		o := &mountOptions{suid: true, dev: true}
		if err := o.words(list); err != nil || !ok(o) {
			t.Errorf("%s: %+v, %v", list, o, err)
		}
	}
	for _, list := range []string{"nosuch", "token", "token=", "share", "share=", "channels=0", "channels=5", "channels", "reconnect=0", "ro=1x,nosuch", "noexec=1"} {
		if err := new(mountOptions).words(list); err == nil {
			t.Errorf("%s: no error", list)
		}
	}
}

// TestUsage: mistakes are told in one line, with the exit status of the command that was called.
func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"govirtiofs-guest", 2, "a command is missing"},
		{"govirtiofs-guest unmount", 2, `unknown command "unmount"`},
		{"govirtiofs-guest mount", 2, "give the ADDRESS"},
		{"govirtiofs-guest mount --nosuch a b", 2, "--nosuch"},
		{"govirtiofs-guest mount nfs:/x /", 2, "want vsock:CID:PORT/SHARE"},
		{"govirtiofs-guest mount -o nosuch vsock:2:1 /", 2, "no such option"},
		{"govirtiofs-guest mount vsock:2:1 /nonexistent", 1, "no such file or directory: make the directory to mount on first: mkdir -p /nonexistent"},
		{"govirtiofs-guest mount vsock:2:1 /proc/version", 1, "not a directory"},
		{"/sbin/mount.govirtiofs nfs:/x /", 1, "want vsock:CID:PORT/SHARE"},
		{"/sbin/mount.govirtiofs vsock:2:1 /nonexistent -o rw", 32, "mkdir -p /nonexistent"},
		{"mount.fuse.govirtiofs vsock:2:1 / -sfnv -o rw,_netdev -t fuse.govirtiofs", 0, ""},
		{"govirtiofs-guest --help", 0, ""},
		{"govirtiofs-guest mount --help", 0, ""},
		{"govirtiofs-guest --version", 0, ""},
	} {
		var out, errs bytes.Buffer
		status := run(strings.Fields(c.args), &out, &errs)
		if status != c.status || !strings.Contains(errs.String(), c.says) || (c.says == "") != (errs.Len() == 0) {
			t.Errorf("%s: status %d, %q; want %d, %q", c.args, status, &errs, c.status, c.says)
		}
	}
}

// TestReadToken: a token that others could read is none, and none in its usual place is no error.
func TestReadToken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	o := &mountOptions{token: path}
	if _, err := o.readToken(); err == nil {
		t.Error("a file that is not there is no error")
	}
	write("0123456789abcdef \r\n", 0o400)
	if b, err := o.readToken(); err != nil || string(b) != "0123456789abcdef" {
		t.Errorf("%q, %v", b, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o644} {
		write("0123456789abcdef", mode)
		if _, err := o.readToken(); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	for _, text := range []string{"", "0123456789abcde\n", strings.Repeat("x", 1025), strings.Repeat("x", 1<<20)} {
		write(text, 0o600)
		if _, err := o.readToken(); err == nil {
			t.Errorf("%d bytes are a token", len(text))
		}
	}
	if os.Geteuid() == 0 {
		write("0123456789abcdef", 0o600)
		if err := os.Chown(path, 1000, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := o.readToken(); err == nil || !strings.Contains(err.Error(), "user 1000") {
			t.Errorf("another user's file: %v", err)
		}
	}
}
