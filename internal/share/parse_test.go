package share

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
	"github.com/govirtiofs/govirtiofs/sandbox"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

func ptr[T any](v T) *T { return &v }

// usual are the required options. Each test adds to them.
var usual = []string{"--shared-dir", "/s", "--socket-path", "/x"}

// warned reports whether there is exactly one warning, with this beginning.
func warned(c *Config, begin string) bool {
	return len(c.Warnings) == 1 && strings.HasPrefix(c.Warnings[0], begin)
}

// onHost reports whether the kinds of locks are taken on the host as wanted.
func onHost(c *Config, posix, flock bool) bool {
	return c.PosixLocks() == posix && c.Flocks() == flock
}

func TestParse(t *testing.T) {
	same := func(get func(*Config) any, want any) func(*Config) bool {
		return func(c *Config) bool { return get(c) == want }
	}
	for _, test := range []struct {
		args string
		ok   func(*Config) bool
	}{
		{"", func(c *Config) bool {
			return c.SharedDir == "/s" && c.SocketPath == "/x" && c.Cache == passthrough.CacheAuto && !c.ReadOnly && c.FD == -1 &&
				c.RequestQueues == 64 && c.Sandbox == sandbox.ModeNamespace && c.Seccomp == sandbox.FilterKill &&
				c.AnnounceSubmounts && c.Readdirplus && !c.Xattr && c.PosixACL == passthrough.Never && c.SecurityLabel == passthrough.Never &&
				!c.KillprivV2 && !c.PreserveNoatime && onHost(c, false, false) && c.NoFile == nil && c.LogLevel == "info" &&
				len(c.Warnings) == 0 && c.FileHandles == passthrough.HandlesPrefer &&
				slices.Equal(c.Capabilities, append(sandbox.DefaultCapabilities(), cap.DAC_READ_SEARCH))
		}},
		{"--socket /y", func(c *Config) bool { return c.SocketPath == "/x" && len(c.Warnings) == 1 }},
		{"--socket-path /a --socket-path=/b", same(func(c *Config) any { return c.SocketPath }, "/b")},
		{"--sandbox none --sandbox chroot --seccomp none --seccomp=log", func(c *Config) bool {
			return c.Sandbox == sandbox.ModeChroot && c.Seccomp == sandbox.FilterLog
		}},
		{"--xattr --xattr --readonly --readonly", func(c *Config) bool { return c.Xattr && c.ReadOnly }},
		{"--posix-acl=never --posix-acl --posix-acl=auto", same(func(c *Config) any { return c.PosixACL }, passthrough.Auto)},
		{"--modcaps=-mknod --modcaps=-chown", func(c *Config) bool {
			return slices.Contains(c.Capabilities, cap.MKNOD) && !slices.Contains(c.Capabilities, cap.CHOWN)
		}},
		{"--rlimit-nofile 5 --rlimit-nofile 6000", same(func(c *Config) any { return *c.NoFile }, uint64(6000))},
		{"--request-timeout=60", same(func(c *Config) any { return c.RequestTimeout }, 60)},
		{"", same(func(c *Config) any { return c.RequestTimeout }, 0)},
		{"--request-timeout=65535 --immutable --locks=host", same(func(c *Config) any { return c.RequestTimeout }, 65535)},
		{"--tag a --tag=b", same(func(c *Config) any { return c.Tag }, "b")},
		{"-df", func(c *Config) bool { return c.LogLevel == "debug" && len(c.Warnings) == 2 }},
		{"-oxattr -o=readdirplus --option writeback", func(c *Config) bool { return c.Xattr && c.Readdirplus && c.Writeback }},
		{"--cache=never -o cache=always", same(func(c *Config) any { return c.Cache }, passthrough.CacheAlways)}, // -o comes last
		{"-o cache=never,sandbox=none,log_level=debug,debug,timeout=1,flock,posix_lock", func(c *Config) bool {
			return c.Cache == passthrough.CacheNever && c.Sandbox == sandbox.ModeNone && c.LogLevel == "debug" && *c.AttrTimeout == time.Second
		}},
		{"--shared-dir=.", same(func(c *Config) any { return c.SharedDir }, ".")},
		{"--shared-dir /a --shared-dir=/b", same(func(c *Config) any { return c.SharedDir }, "/b")},
		{"--cache NEVER", same(func(c *Config) any { return c.Cache }, passthrough.CacheNever)},
		{"--cache=always --cache=metadata", same(func(c *Config) any { return c.Cache }, passthrough.CacheMetadata)},
		{"--readonly", func(c *Config) bool { return c.ReadOnly && c.Namespace.ReadOnly }},
		{"--tag=a", func(c *Config) bool { return c.Tag == "a" && c.RequestQueues == 64 && c.ConfigQueues == 1 }},
		{"--tag " + strings.Repeat("x", 36), func(c *Config) bool { return len(c.Tag) == 36 }},
		{"--tag a --num-request-queues 4", same(func(c *Config) any { return c.RequestQueues }, 4)},
		{"--num-request-queues=255", same(func(c *Config) any { return c.RequestQueues }, 255)},
		{"--busy-poll=50", same(func(c *Config) any { return c.BusyPoll }, virtiofs.BusyPoll{Max: 50 * time.Microsecond})},
		{"--busy-poll 1ms,25", same(func(c *Config) any { return c.BusyPoll }, virtiofs.BusyPoll{Max: time.Millisecond, CPU: 25})},
		{"--busy-poll=0", same(func(c *Config) any { return c.BusyPoll }, virtiofs.BusyPoll{Max: virtiofs.NoPoll})},
		{"", same(func(c *Config) any { return c.BusyPoll }, virtiofs.BusyPoll{})},
		{"--thread-pool-size=16", func(c *Config) bool { return len(c.Warnings) == 0 && len(c.Notes) == 1 }},
		{"--migration-confirm-paths", func(c *Config) bool { return warned(c, "--migration-confirm-paths has no effect: paths") }},
		{"--migration-confirm-paths=false", func(c *Config) bool { return len(c.Warnings) == 0 }},
		{"--thread-pool-size 0", func(c *Config) bool { return len(c.Warnings) == 0 }},
		{"--xattr", same(func(c *Config) any { return c.Xattr }, true)},
		{"--xattrmap=:ok:all:::", func(c *Config) bool { return c.Xattr && c.Names != nil && len(c.Warnings) == 0 }},
		{"--xattrmap :bad:all::: --xattrmap :map::user.v.:", func(c *Config) bool {
			p, v := c.Names.ToHost([]byte("user.a"))
			return p == "user.v." && v == xattrmap.Pass
		}},
		{"--xattrmap :map:security.selinux:trusted.v.:", func(c *Config) bool { return len(c.Warnings) == 1 }},
		{"--xattrmap :map::user.v.: --posix-acl=auto", func(c *Config) bool { return len(c.Warnings) == 1 }},
		{"--xattrmap :map:trusted.:user.v.: --posix-acl", func(c *Config) bool { return len(c.Warnings) == 0 }},
		{"--xattrmap-preset=selinux,overlayfs --modcaps=+sys_admin", func(c *Config) bool { return c.Xattr && c.Names != nil && len(c.Warnings) == 0 }},
		{"-o no_xattr,xattrmap=:map:trusted.:user.v.:", func(c *Config) bool { return c.Xattr && c.Names != nil }},
		{"--posix-acl", func(c *Config) bool { return c.PosixACL == passthrough.Always && c.Xattr }},
		{"--posix-acl=auto", func(c *Config) bool { return c.PosixACL == passthrough.Auto && c.Xattr }},
		{"--posix-acl=never", func(c *Config) bool { return c.PosixACL == passthrough.Never && !c.Xattr }},
		{"--posix-acl --security-label=Auto", func(c *Config) bool { return c.SecurityLabel == passthrough.Auto && c.PosixACL == passthrough.Always }},
		{"--security-label", func(c *Config) bool { return c.SecurityLabel == passthrough.Always && c.Xattr }},
		{"--writeback --allow-direct-io --allow-mmap --preserve-noatime", func(c *Config) bool {
			return c.Writeback && c.AllowDirectIO && c.AllowMmap && c.PreserveNoatime
		}},
		{"--no-readdirplus", same(func(c *Config) any { return c.Readdirplus }, false)},
		{"--announce-submounts", same(func(c *Config) any { return c.AnnounceSubmounts }, true)},
		{"--no-announce-submounts", same(func(c *Config) any { return c.AnnounceSubmounts }, false)},
		{"--no-announce-submounts --announce-submounts", same(func(c *Config) any { return c.AnnounceSubmounts }, true)},
		{"--announce-submounts --no-announce-submounts", same(func(c *Config) any { return c.AnnounceSubmounts }, false)},
		{"--killpriv-v2", same(func(c *Config) any { return c.KillprivV2 }, true)},
		{"--killpriv-v2 --no-killpriv-v2", same(func(c *Config) any { return c.KillprivV2 }, false)},
		{"--locks=host", func(c *Config) bool { return onHost(c, true, true) }},
		{"--locks host --locks=Guest", func(c *Config) bool { return onHost(c, false, false) }},
		{"--locks=host -o no_flock", func(c *Config) bool { return onHost(c, true, false) }},
		{"--sandbox=Chroot", same(func(c *Config) any { return c.Sandbox }, sandbox.ModeChroot)},
		{"--sandbox none", same(func(c *Config) any { return c.Sandbox }, sandbox.ModeNone)},
		{"--seccomp=none", same(func(c *Config) any { return c.Seccomp }, sandbox.FilterNone)},
		{"--seccomp log", same(func(c *Config) any { return c.Seccomp }, sandbox.FilterLog)},
		{"--seccomp trap", same(func(c *Config) any { return c.Seccomp }, sandbox.FilterTrap)},
		{"--modcaps=-mknod:+SYS_ADMIN", func(c *Config) bool {
			return !slices.Contains(c.Capabilities, cap.MKNOD) && slices.Contains(c.Capabilities, cap.SYS_ADMIN)
		}},
		{"--uid-map :0:1000:1: --uid-map=/1/100000/9/", func(c *Config) bool {
			return slices.Equal(c.Namespace.UIDs, []sandbox.IDMap{{Inside: 0, Outside: 1000, Count: 1}, {Inside: 1, Outside: 100000, Count: 9}})
		}},
		{"--gid-map :0:1000:1", func(c *Config) bool { return len(c.Namespace.GIDs) == 1 }},
		{"--translate-uid map:0:1000:10 --translate-uid=forbid-guest:10:0", func(c *Config) bool { return c.UIDs != nil && c.GIDs == nil }},
		{"--translate-gid squash-host:0:5:4294967295 --posix-acl=auto", func(c *Config) bool { return c.UIDs == nil && c.GIDs != nil }},
		{"", same(func(c *Config) any { return c.Ownership }, passthrough.OwnershipHost)},
		{"--ownership=Xattr", same(func(c *Config) any { return c.Ownership }, passthrough.OwnershipXattr)},
		{"--rlimit-nofile 0", func(c *Config) bool { return c.NoFile != nil && *c.NoFile == 0 }},
		{"--rlimit-nofile=1048576", func(c *Config) bool { return c.NoFile != nil && *c.NoFile == 1048576 }},
		{"--log-level ERROR", same(func(c *Config) any { return c.LogLevel }, "error")},
		{"--syslog", same(func(c *Config) any { return c.Syslog }, true)},
		{"--inode-file-handles=never", func(c *Config) bool {
			return c.FileHandles == passthrough.HandlesNever && slices.Equal(c.Capabilities, sandbox.DefaultCapabilities())
		}},
		{"--inode-file-handles=prefer --inode-file-handles=fallback", func(c *Config) bool {
			return c.FileHandles == passthrough.HandlesPrefer && len(c.Warnings) == 1
		}},
		{"--inode-file-handles=Mandatory", func(c *Config) bool {
			return c.FileHandles == passthrough.HandlesMandatory && slices.Contains(c.Capabilities, cap.DAC_READ_SEARCH)
		}},
		{"--modcaps=-dac_read_search", func(c *Config) bool {
			return c.FileHandles == passthrough.HandlesNever && !slices.Contains(c.Capabilities, cap.DAC_READ_SEARCH)
		}},
		{"--modcaps=-dac_read_search:+Dac_Read_Search", same(func(c *Config) any { return c.FileHandles }, passthrough.HandlesPrefer)},
		{"--keep-listening", same(func(c *Config) any { return c.KeepListening }, true)},
		{"--entry-timeout 1.5 --attr-timeout=200ms --negative-timeout=0", func(c *Config) bool {
			return *c.EntryTimeout == 1500*time.Millisecond && *c.AttrTimeout == 200*time.Millisecond && *c.NegativeTimeout == 0
		}},
		{"--dax=inode --tag a", func(c *Config) bool {
			return c.DAX == "inode" && c.DAXWindow == 1<<30 && c.DAXMinSize == 64<<10 && len(c.Warnings) == 0
		}},
		{"--tag a --dax=inode --dax-include=*.db --dax-exclude /tmp/** --dax-exclude *.log", func(c *Config) bool {
			return slices.Equal(c.DAXInclude, []string{"*.db"}) && slices.Equal(c.DAXExclude, []string{"/tmp/**", "*.log"})
		}},
		{"--tag a --dax-window-size 64MiB --dax-min-size=1 --dax always", func(c *Config) bool {
			return c.DAX == "always" && c.DAXWindow == 64<<20 && c.DAXMinSize == 1 && c.HasWindow()
		}},
		{"--dax=always", func(c *Config) bool { return len(c.Warnings) == 1 }}, // no tag
		{"--dax-window-size=8g", func(c *Config) bool { return !c.HasWindow() && len(c.Warnings) == 1 }},
		{"--immutable", func(c *Config) bool {
			return c.Immutable && c.ReadOnly && c.Namespace.ReadOnly && c.Cache == passthrough.CacheAlways && c.CacheSymlinks == nil
		}},
		{"--immutable --cache=always --entry-timeout=60", func(c *Config) bool { return c.Immutable && *c.EntryTimeout == time.Minute }},
		{"--cache-symlinks", func(c *Config) bool { return *c.CacheSymlinks }},
		{"--cache=always --no-cache-symlinks", func(c *Config) bool { return !*c.CacheSymlinks }},
		{"--direct-io *.db --direct-io=vm/**/*.img --direct-io-size 64m", func(c *Config) bool {
			return slices.Equal(c.DirectIO, []string{"*.db", "vm/**/*.img"}) && c.DirectIOSize == 64<<20
		}},
		{"--direct-io-size=4096", same(func(c *Config) any { return c.DirectIOSize }, uint64(4096))},
		{"--direct-io-size=8T", same(func(c *Config) any { return c.DirectIOSize }, uint64(8)<<40)},
		{"-d", func(c *Config) bool { return c.LogLevel == "debug" && len(c.Warnings) == 1 }},
		{"--immutable --locks=host", func(c *Config) bool { return warned(c, "--immutable: locks stay in the guest") }},
		{"-f", func(c *Config) bool { return warned(c, "-f has no effect") }},
		{"-o announce_submounts", func(c *Config) bool { return c.AnnounceSubmounts && len(c.Warnings) == 0 && len(c.Notes) == 1 }},
		{"-o source=/o=1,cache=none,xattr,no_readdirplus", func(c *Config) bool {
			return c.SharedDir == "/o=1" && c.Cache == passthrough.CacheNever && c.Xattr && !c.Readdirplus
		}},
		{"-o flock -o posix_lock", func(c *Config) bool { return onHost(c, true, true) }},
		{"-o posix_lock", func(c *Config) bool { return onHost(c, true, false) }},
		{"-o flock,posix_lock,no_posix_lock", func(c *Config) bool { return onHost(c, false, true) }},
		{"-o no_flock,no_posix_lock,no_posix_acl,no_security_label", func(c *Config) bool { return onHost(c, false, false) }},
		{"-o posix_acl,security_label", func(c *Config) bool {
			return c.PosixACL == passthrough.Always && c.SecurityLabel == passthrough.Always && c.Xattr
		}},
		{"-o sandbox=chroot,loglevel=err,modcaps=-mknod", func(c *Config) bool {
			return c.Sandbox == sandbox.ModeChroot && c.LogLevel == "error" && !slices.Contains(c.Capabilities, cap.MKNOD)
		}},
		{"-o timeout=2.5", func(c *Config) bool {
			return *c.EntryTimeout == 2500*time.Millisecond && *c.AttrTimeout == *c.EntryTimeout
		}},
		{"-o writeback,allow_direct_io,killpriv_v2", func(c *Config) bool { return c.Writeback && c.AllowDirectIO && c.KillprivV2 }},
	} {
		c, err := Parse(slices.Concat(usual, strings.Fields(test.args)), false)
		if err != nil || !test.ok(c) {
			t.Errorf("%s: got %+v, %v", test.args, c, err)
		}
	}
}

// TestParseVsock: the options to reach guests without a virtio-fs device.
func TestParseVsock(t *testing.T) {
	for args, want := range map[string]Vsock{
		"--vsock 1024":                                       {VsockPort: 1024},
		"--vsock 7:1024 --vsock-token /t":                    {VsockPort: 1024, VsockGuest: 7, VsockToken: "/t"},
		"--vsock 1:1024":                                     {VsockPort: 1024, VsockGuest: 1},
		"--vsock-uds /v --vsock-token none":                  {VsockUDS: "/v_1024", VsockToken: NoToken},
		"--vsock-uds v:52 --vsock-token t":                   {VsockUDS: "v_52", VsockToken: "t"},
		"--vsock-uds /a:b/v.sock --vsock-token /t":           {VsockUDS: "/a:b/v.sock_1024", VsockToken: "/t"},
		"--vsock-uds /a:5/v.sock:9 --vsock-token /t":         {VsockUDS: "/a:5/v.sock_9", VsockToken: "/t"},
		"--vsock-uds /v --vsock-token /t --tag data":         {VsockUDS: "/v_1024", VsockToken: "/t"},
		"--vsock-uds /v --vsock-token=none --xattr":          {VsockUDS: "/v_1024", VsockToken: NoToken},
		"--vsock-uds /v --vsock-token /t --socket-group kvm": {VsockUDS: "/v_1024", VsockToken: "/t"},
	} {
		c, err := Parse(append([]string{"--shared-dir", "/s"}, strings.Fields(args)...), false)
		if err != nil {
			t.Errorf("%s: %v", args, err)
			continue
		}
		got := c.Vsock
		got.vsock, got.vsockUDS, got.vsockShares = "", "", nil
		if !reflect.DeepEqual(got, want) || !c.Streams() {
			t.Errorf("%s: %+v, want %+v", args, got, want)
		}
	}
}

// TestParseVsockShares: several shares behind one port.
func TestParseVsockShares(t *testing.T) {
	for args, want := range map[string][]Shared{
		"--vsock-share a=/x": {{"a", "/x", false}},
		"--vsock-share a=/x --vsock-share=B.2-c_d:ro=/y=z:ro":      {{"a", "/x", false}, {"B.2-c_d", "/y=z:ro", true}},
		"--readonly --vsock-share a=/x --vsock-share a2=/x":        {{"a", "/x", true}, {"a2", "/x", true}},
		"--sandbox=chroot --vsock-share a=/x --vsock-state /var/s": {{"a", "/x", false}},
	} {
		c, err := Parse(append([]string{"--vsock", "1024"}, strings.Fields(args)...), false)
		if err != nil {
			t.Errorf("%s: %v", args, err)
		} else if got := c.Shares(); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", args, got, want)
		}
	}
	c, err := Parse([]string{"--vsock", "1024", "--shared-dir", "/s", "--tag", "data", "--readonly"}, false)
	if err != nil || !reflect.DeepEqual(c.Shares(), []Shared{{"data", "/s", true}}) {
		t.Errorf("--shared-dir: %+v, %v", c.Shares(), err)
	}
}

// Command lines of programs that start virtiofsd.
func TestParseIntegrators(t *testing.T) {
	for name, args := range map[string]string{
		"Kata Go":     "--syslog --cache=auto --shared-dir=/d --fd=3 --thread-pool-size=1 --announce-submounts --xattr",
		"Kata Rust":   "--socket-path S --shared-dir D --cache auto --thread-pool-size=1 -o announce_submounts --xattr",
		"libvirt":     "--fd=23 --shared-dir /d --cache always --sandbox chroot --xattr --thread-pool-size=4 --rlimit-nofile=1024 --log-level debug --readonly",
		"libvirt uid": "--fd=23 --shared-dir /d --uid-map=:0:1000:1: --uid-map=:1:100000:65536: --gid-map=:0:1000:1:",
		"libvirt old": "--fd=23 -o source=/d,cache=always,sandbox=namespace,xattr,flock,no_posix_lock -d",
		"virtme-ng":   "--syslog --no-announce-submounts --posix-acl --readonly --socket-path S --shared-dir P --sandbox none --cache always",
		"Incus":       "--fd=3 --cache=metadata --shared-dir=D --posix-acl=auto",
		"Incus ids":   "--fd=3 --cache=never --shared-dir=D --translate-uid=map:0:1000000:1000000000 --translate-uid=forbid-guest:1000000000:0 --translate-gid=map:0:1000000:1000000000 --translate-gid=forbid-guest:1000000000:0",
		"LXD":         "--fd=3 --shared-dir D --cache auto --allow-direct-io --thread-pool-size 8 --xattr",
		"Lima":        "--socket-path S --shared-dir D",
		"Podman":      "--sandbox none --socket-path S --shared-dir . --seccomp=none",
		"mkosi":       "--shared-dir D --xattr --no-announce-submounts --sandbox=chroot --inode-file-handles=prefer --log-level=error --modcaps=-mknod --security-label --fd 3",
		"vmspawn":     "--shared-dir D --xattr --fd 3 --no-announce-submounts --log-level=error --modcaps=-mknod --translate-uid map:0:524288:65536 --translate-gid map:0:524288:65536",
		"Proxmox":     "--fd=7 --shared-dir=P --xattr --posix-acl --announce-submounts --allow-direct-io --cache=auto --inode-file-handles=prefer --syslog",
		"microvm.nix": "--socket-path=S --socket-group=kvm --shared-dir=D --rlimit-nofile 1048576 --thread-pool-size 4 --posix-acl --xattr --cache=auto --inode-file-handles=never --tag=T --readonly",
		"bcvk":        "--socket-path S --shared-dir D --cache=never --allow-mmap --sandbox=none --readonly --inode-file-handles=fallback",
	} {
		if c, err := Parse(strings.Fields(args), false); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if c.SharedDir == "" || (c.SocketPath == "") == (c.FD < 0) {
			t.Errorf("%s: got %+v", name, c)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, test := range []struct{ args, says string }{
		{"--socket-path /x", "--shared-dir"},
		{"--shared-dir /s", "--socket-path"},
		{"--shared-dir", "needs a value"},
		{"--shared-dir /s --socket-path /x --posix-lock", "--locks=host"},
		{"--shared-dir /s --socket-path /x --no-posix-lock", "--locks=guest"},
		{"--shared-dir /s --socket-path /x --flock", "--locks=host"},
		{"--shared-dir /s --socket-path /x --no-flock", "--locks=guest"},
		{"--shared-dir /s --socket-path /x extra", "extra"},
		{"--shared-dir /s --socket-path /x --fd 3", "exclude"},
		{"--shared-dir /s --fd 3 --socket /y", "exclude"},
		{"+ --request-timeout=30 --locks=host", "a program that waits for a lock would have the guest give up the mount"},
		{"+ --request-timeout=65536", "1 to 65535 seconds"},
		{"+ --request-timeout=-1", "1 to 65535 seconds"},
		{"+ --request-timeout=30s", "request-timeout"},
		{"--shared-dir /s --socket-group kvm", "no way"},
		{"+ --posix-acl auto", "auto"}, // a value needs the equals sign
		{"+ --security-label always", "always"},
		{"+ --shared", "shared"}, // no abbreviations
		{"+ -o xattr,", "no such option"},
		{"+ -o source", "no such option"},
		{"+ -x", "unknown option -x"},
		{"+ --soket-path /s", "did you mean --socket-path?"},
		{"+ --tag", "needs a value"},
		{"--shared-dir /s --fd 3 --socket-group kvm", "--socket-group"},
		{"--shared-dir /s --fd -3", "--fd"},
		{"--shared-dir /s --fd x", "--fd"},
		{"--nosuch", "nosuch"},
		{"+ --cache=some", "never, metadata, auto, always"},
		{"+ --cache=none", "never, metadata, auto, always"},
		{"+ --tag=", "1 to 36"},
		{"+ --tag " + strings.Repeat("x", 37), "1 to 36"},
		{"+ --num-request-queues 0", "1 to 255"},
		{"+ --num-request-queues 256", "1 to 255"},
		{"+ --posix-acl=yes", "never, auto, always"},
		{"+ --sandbox=jail", "namespace, chroot, none"},
		{"+ --seccomp=on", "none, kill, log, trap"},
		{"+ --modcaps=mknod", "+ or -"},
		{"+ --modcaps=-nosuch", "no such capability"},
		{"+ --uid-map 0:0", "uid-map"},
		{"+ --sandbox none --uid-map :0:1:1:", "--sandbox=namespace"},
		{"+ --ownership=guest", "host, xattr"},
		{"+ --ownership xattr --translate-uid map:0:1:1", "excludes --translate-uid"},
		{"+ --ownership xattr --posix-acl=auto", "excludes --posix-acl"},
		{"+ --ownership xattr --killpriv-v2", "excludes --killpriv-v2"},
		{"+ --rlimit-nofile -1", "rlimit-nofile"},
		{"+ --log-level loud", "error, warn"},
		{"+ --entry-timeout -1", "0 or more seconds"},
		{"+ --entry-timeout -1s", "a unit"},
		{"+ --attr-timeout NaN", "0 or more seconds"},
		{"+ --attr-timeout 1e300", "0 or more seconds"},
		{"+ --negative-timeout x", "a unit"},
		{"+ --inode-file-handles=always", "never, prefer, fallback, mandatory"},
		{"+ --inode-file-handles=prefer --modcaps=-DAC_READ_SEARCH", "leave -dac_read_search out"},
		{"+ --immutable --cache=auto", "leave --cache out"},
		{"+ --immutable --writeback", "exclude"},
		{"+ --direct-io a//b", "bad pattern"},
		{"+ --direct-io-size 10X", "a number of bytes"},
		{"+ --thread-pool-size -1", "thread-pool-size"},
		{"+ --busy-poll=fast", "want a time"},
		{"+ --busy-poll=-1us", "want a time"},
		{"+ --busy-poll=11ms", "up to 10ms"},
		{"+ --busy-poll=50,0", "1 to 100 percent"},
		{"+ --busy-poll=50,101", "1 to 100 percent"},
		{"+ --translate-uid 0:1:1", "--translate-uid: id rule"},
		{"+ --translate-gid map:0:1", "want map:FROM:TO:COUNT"},
		{"+ --translate-uid map:0:1000:10 --translate-uid forbid-guest:5:0 --translate-uid guest:9:1:1", "both cover guest id 9"},
		{"+ --translate-gid squash-guest:0:4294967295:1", "4294967295 is not an id"},
		{"+ --xattrmap :ok:both:::", "rule 1, at byte 5"},
		{"+ --xattrmap=", "no rules"},
		{"+ --xattrmap :prefix:all:trusted.:user.v.:", "end with"},
		{"+ --xattrmap overlayfs", "use --xattrmap-preset=overlayfs"},
		{"+ --xattrmap-preset windows", "want selinux"},
		{"+ --xattrmap :ok:all::: --xattrmap-preset separate", "exclude"},
		{"+ --migration-mode=paths", "find-paths, file-handles"},
		{"+ --migration-mode=file-handles --migration-verify-handles", "is for --migration-mode=find-paths"},
		{"+ --migration-confirm-paths --migration-mode file-handles", "is for --migration-mode=find-paths"},
		{"+ --migration-on-error=ignore", "abort, guest-error"},
		{"+ --dax", "needs a value"},
		{"+ --dax=yes", "never, inode, always"},
		{"+ --dax-window-size=0", "multiple of 2M"},
		{"+ --dax-include=[", "--dax-include: bad pattern"},
		{"+ --dax-exclude=a//b", "--dax-exclude: bad pattern"},
		{"+ --dax-window-size=3M", "multiple of 2M"},
		{"+ --dax-window-size=1T", "at most 64G"},
		{"+ --dax-min-size=-1", "number of bytes"},
		{"+ -o nosuch", "nosuch"},
		{"+ -o nosuch=1", "nosuch"},
		{"+ -o cache=some", "want auto"},
		{"+ -o sandbox=jail", "want namespace"},
		{"+ -o xattrmap=x", "rule 1"},
		{"+ -o xattrmap=", "no rules"},
		{"+ -o timeout=soon", "a unit"},
		{"--print-capabilities --socket-group kvm", "exclude"},
		{"--shared-dir /s --vsock x", "not a port"},
		{"--shared-dir /s --vsock 0", "not a port"},
		{"--shared-dir /s --vsock 4294967295", "not a port: want a number from 1 to 4294967294"},
		{"--shared-dir /s --vsock 99999999999", "not a port: want a number from 1 to 4294967294"},
		{"--vsock 1024", "--vsock-share NAME=DIR"},
		{"--shared-dir /s --vsock 2:1024", "not a guest's CID"},
		{"--shared-dir /s --vsock 3:", "not a port"},
		{"--shared-dir /s --vsock-uds=:5", "path of the VMM's"},
		{"--shared-dir /s --vsock-uds /", "path of the VMM's"},
		{"--shared-dir /s --vsock-uds /v:0 --vsock-token none", "not a port"},
		{"--shared-dir /s --vsock-uds /v", "needs --vsock-token"},
		{"--shared-dir /s --vsock 1024 --vsock-uds /v --vsock-token none", "exclude each other"},
		{"+ --vsock 1024", "not with --vsock"},
		{"+ --vsock-token none", "is for --vsock"},
		{"+ --vsock-state /f", "is for --vsock"},
		{"--shared-dir /s --vsock 1024 --socket-group kvm", "--socket-group"},
		{"--shared-dir /s --vsock 1024 --dax=inode", "not with --vsock"},
		{"--vsock 1024 --vsock-share /s", "want NAME=DIR"},
		{"--vsock 1024 --vsock-share a=", "want NAME=DIR"},
		{"--vsock 1024 --vsock-share =/s", "1 to 100 letters"},
		{"--vsock 1024 --vsock-share a/b=/s", "1 to 100 letters"},
		{"--vsock 1024 --vsock-share ..=/s", "1 to 100 letters"},
		{"--vsock 1024 --vsock-share a:rw=/s", "not ro"},
		{"--vsock 1024 --vsock-share a=/s --vsock-share a:ro=/t", "two shares"},
		{"--vsock 1024 --vsock-share a=/s --shared-dir /t", "exclude each other"},
		{"--vsock 1024 --vsock-share a=/s --tag t", "exclude each other"},
		{"--vsock 1024 --vsock-share a=/s --vsock-share b=/s --sandbox chroot", "one directory"},
		{"--socket-path /s --vsock-share a=/s", "is for --vsock"},
		{"--shared-dir /s --vsock 1024 --num-request-queues 2", "not with --vsock"},
	} {
		args := strings.Fields(test.args)
		if args[0] == "+" {
			args = slices.Concat(usual, args[1:])
		}
		c, err := Parse(args, false)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %+v, %v, want an error with %q", test.args, c, err, test.says)
		}
	}
}

func TestParseTime(t *testing.T) {
	for in, want := range map[string]*time.Duration{
		"0": ptr(time.Duration(0)), "1": ptr(time.Second), "0.25": ptr(time.Second / 4), "2h": ptr(2 * time.Hour),
		"86400": ptr(24 * time.Hour), "1us": ptr(time.Microsecond), "": nil, "s": nil, "-0.5": nil, "Inf": nil,
	} {
		got, err := parseTime(in)
		if (err == nil) != (want != nil) || want != nil && got != *want {
			t.Errorf("%q: got %v, %v", in, got, err)
		}
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]uint64{"0": 0, "4096": 4096, "64K": 64 << 10, "2m": 2 << 20, "8GiB": 8 << 30, "1TB": 1 << 40} {
		if got, err := parseSize(s); err != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "G", "1P", "-1", "1.5G", "x", "0x10", "99999999999999999999", "18014398509481984K", "1KM"} {
		if got, err := parseSize(s); err == nil {
			t.Errorf("%q: %d", s, got)
		}
	}
	for n, want := range map[uint64]string{0: "0", 1: "1", 1 << 20: "1M", 3 << 10: "3K", 1 << 50: "1024T"} {
		if got := formatSize(n); got != want {
			t.Errorf("%d: %s", n, got)
		}
	}
}

func TestParseMessage(t *testing.T) {
	for arg, want := range map[string]string{
		"--fd=abc":                  `invalid value "abc" for option --fd: want a whole number`,
		"--fd=99999999999999999999": `invalid value "99999999999999999999" for option --fd: the number is too large`,
		"--rlimit-nofile=-4":        `invalid value "-4" for option --rlimit-nofile: want a whole number, 0 or more`,
		"--readonly=yes":            `invalid value "yes" for option --readonly: want no value, true or false`,
	} {
		_, err := Parse([]string{arg}, false)
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", arg, err, want)
		}
	}
}
