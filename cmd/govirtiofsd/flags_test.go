package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	versions "github.com/govirtiofs/govirtiofs/internal/version"
	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
	"github.com/govirtiofs/govirtiofs/sandbox"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

func ptr[T any](v T) *T { return &v }

// usual is the least that is needed, which each test adds to.
var usual = []string{"--shared-dir", "/s", "--socket-path", "/x"}

// warned reports whether there is one warning, which begins so.
func warned(o *options, begin string) bool {
	return len(o.warnings) == 1 && strings.HasPrefix(o.warnings[0], begin)
}

// onHost reports whether the kinds of locks are taken on the host as wanted.
func onHost(o *options, posix, flock bool) bool {
	return *o.hostLocks.posix == posix && *o.hostLocks.flock == flock
}

func TestParse(t *testing.T) {
	same := func(get func(*options) any, want any) func(*options) bool {
		return func(o *options) bool { return get(o) == want }
	}
	for _, test := range []struct {
		args string
		ok   func(*options) bool
	}{
		{"", func(o *options) bool {
			return o.sharedDir == "/s" && o.socketPath == "/x" && o.cache == "auto" && !o.readOnly && o.fd == -1 &&
				o.requestQueues == 64 && o.sandboxMode == sandbox.ModeNamespace && o.filter == sandbox.FilterKill &&
				o.submounts && o.readdirplus && !o.xattr && o.posixACL == "never" && o.label == "never" &&
				!o.killpriv && !o.noatime && onHost(o, false, false) && !o.noFileSet && o.logLevel == "info" &&
				len(o.warnings) == 0 && o.fileHandles == "prefer" &&
				slices.Equal(o.capabilities, append(sandbox.DefaultCapabilities(), cap.DAC_READ_SEARCH))
		}},
		{"--socket /y", func(o *options) bool { return o.socketPath == "/x" && len(o.warnings) == 1 }},
		{"--socket-path /a --socket-path=/b", same(func(o *options) any { return o.socketPath }, "/b")},
		{"--sandbox none --sandbox chroot --seccomp none --seccomp=log", func(o *options) bool {
			return o.sandboxMode == sandbox.ModeChroot && o.filter == sandbox.FilterLog
		}},
		{"--xattr --xattr --readonly --readonly", func(o *options) bool { return o.xattr && o.readOnly }},
		{"--posix-acl=never --posix-acl --posix-acl=auto", same(func(o *options) any { return o.posixACL }, "auto")},
		{"--modcaps=-mknod --modcaps=-chown", func(o *options) bool {
			return slices.Contains(o.capabilities, cap.MKNOD) && !slices.Contains(o.capabilities, cap.CHOWN)
		}},
		{"--rlimit-nofile 5 --rlimit-nofile 6000", same(func(o *options) any { return o.noFile }, uint64(6000))},
		{"--tag a --tag=b", same(func(o *options) any { return o.tag }, "b")},
		{"-df", func(o *options) bool { return o.logLevel == "debug" && len(o.warnings) == 2 }},
		{"-oxattr -o=readdirplus --option writeback", func(o *options) bool { return o.xattr && o.readdirplus && o.writeback }},
		{"--cache=never -o cache=always", same(func(o *options) any { return o.cache }, "always")}, // -o comes last
		{"-o cache=never,sandbox=none,log_level=debug,debug,timeout=1,flock,posix_lock", func(o *options) bool {
			return o.cache == "never" && o.sandboxMode == sandbox.ModeNone && o.logLevel == "debug" && *o.attrTimeout == time.Second
		}},
		{"--shared-dir=.", same(func(o *options) any { return o.sharedDir }, ".")},
		{"--shared-dir /a --shared-dir=/b", same(func(o *options) any { return o.sharedDir }, "/b")},
		{"--cache NEVER", same(func(o *options) any { return o.cache }, "never")},
		{"--cache=always --cache=metadata", same(func(o *options) any { return o.cache }, "metadata")},
		{"--readonly", func(o *options) bool { return o.readOnly && o.namespace.ReadOnly }},
		{"--tag=a", func(o *options) bool { return o.tag == "a" && o.requestQueues == 64 && o.configQueues == 1 }},
		{"--tag " + strings.Repeat("x", 36), func(o *options) bool { return len(o.tag) == 36 }},
		{"--tag a --num-request-queues 4", same(func(o *options) any { return o.requestQueues }, 4)},
		{"--num-request-queues=255", same(func(o *options) any { return o.requestQueues }, 255)},
		{"--busy-poll=50", same(func(o *options) any { return o.busyPoll }, virtiofs.BusyPoll{Max: 50 * time.Microsecond})},
		{"--busy-poll 1ms,25", same(func(o *options) any { return o.busyPoll }, virtiofs.BusyPoll{Max: time.Millisecond, CPU: 25})},
		{"--busy-poll=0", same(func(o *options) any { return o.busyPoll }, virtiofs.BusyPoll{Max: virtiofs.NoPoll})},
		{"", same(func(o *options) any { return o.busyPoll }, virtiofs.BusyPoll{})},
		{"--thread-pool-size=16", func(o *options) bool { return len(o.warnings) == 0 && len(o.notes) == 1 }},
		{"--migration-confirm-paths", func(o *options) bool { return warned(o, "--migration-confirm-paths has no effect: paths") }},
		{"--migration-confirm-paths=false", func(o *options) bool { return len(o.warnings) == 0 }},
		{"--thread-pool-size 0", func(o *options) bool { return len(o.warnings) == 0 }},
		{"--xattr", same(func(o *options) any { return o.xattr }, true)},
		{"--xattrmap=:ok:all:::", func(o *options) bool { return o.xattr && o.names != nil && len(o.warnings) == 0 }},
		{"--xattrmap :bad:all::: --xattrmap :map::user.v.:", func(o *options) bool {
			p, v := o.names.ToHost([]byte("user.a"))
			return p == "user.v." && v == xattrmap.Pass
		}},
		{"--xattrmap :map:security.selinux:trusted.v.:", func(o *options) bool { return len(o.warnings) == 1 }},
		{"--xattrmap :map::user.v.: --posix-acl=auto", func(o *options) bool { return len(o.warnings) == 1 }},
		{"--xattrmap :map:trusted.:user.v.: --posix-acl", func(o *options) bool { return len(o.warnings) == 0 }},
		{"--xattrmap-preset=selinux,overlayfs --modcaps=+sys_admin", func(o *options) bool { return o.xattr && o.names != nil && len(o.warnings) == 0 }},
		{"-o no_xattr,xattrmap=:map:trusted.:user.v.:", func(o *options) bool { return o.xattr && o.names != nil }},
		{"--posix-acl", func(o *options) bool { return o.posixACL == "always" && o.xattr }},
		{"--posix-acl=auto", func(o *options) bool { return o.posixACL == "auto" && o.xattr }},
		{"--posix-acl=never", func(o *options) bool { return o.posixACL == "never" && !o.xattr }},
		{"--posix-acl --security-label=Auto", func(o *options) bool { return o.label == "auto" && o.posixACL == "always" }},
		{"--security-label", func(o *options) bool { return o.label == "always" && o.xattr }},
		{"--writeback --allow-direct-io --allow-mmap --preserve-noatime", func(o *options) bool {
			return o.writeback && o.directIO && o.allowMmap && o.noatime
		}},
		{"--no-readdirplus", same(func(o *options) any { return o.readdirplus }, false)},
		{"--announce-submounts", same(func(o *options) any { return o.submounts }, true)},
		{"--no-announce-submounts", same(func(o *options) any { return o.submounts }, false)},
		{"--no-announce-submounts --announce-submounts", same(func(o *options) any { return o.submounts }, true)},
		{"--announce-submounts --no-announce-submounts", same(func(o *options) any { return o.submounts }, false)},
		{"--killpriv-v2", same(func(o *options) any { return o.killpriv }, true)},
		{"--killpriv-v2 --no-killpriv-v2", same(func(o *options) any { return o.killpriv }, false)},
		{"--locks=host", func(o *options) bool { return onHost(o, true, true) }},
		{"--locks host --locks=Guest", func(o *options) bool { return onHost(o, false, false) }},
		{"--locks=host -o no_flock", func(o *options) bool { return onHost(o, true, false) }},
		{"--sandbox=Chroot", same(func(o *options) any { return o.sandboxMode }, sandbox.ModeChroot)},
		{"--sandbox none", same(func(o *options) any { return o.sandboxMode }, sandbox.ModeNone)},
		{"--seccomp=none", same(func(o *options) any { return o.filter }, sandbox.FilterNone)},
		{"--seccomp log", same(func(o *options) any { return o.filter }, sandbox.FilterLog)},
		{"--seccomp trap", same(func(o *options) any { return o.filter }, sandbox.FilterTrap)},
		{"--modcaps=-mknod:+SYS_ADMIN", func(o *options) bool {
			return !slices.Contains(o.capabilities, cap.MKNOD) && slices.Contains(o.capabilities, cap.SYS_ADMIN)
		}},
		{"--uid-map :0:1000:1: --uid-map=/1/100000/9/", func(o *options) bool {
			return slices.Equal(o.namespace.UIDs, []sandbox.IDMap{{Inside: 0, Outside: 1000, Count: 1}, {Inside: 1, Outside: 100000, Count: 9}})
		}},
		{"--gid-map :0:1000:1", func(o *options) bool { return len(o.namespace.GIDs) == 1 }},
		{"--translate-uid map:0:1000:10 --translate-uid=forbid-guest:10:0", func(o *options) bool { return o.users != nil && o.groupIDs == nil }},
		{"--translate-gid squash-host:0:5:4294967295 --posix-acl=auto", func(o *options) bool { return o.users == nil && o.groupIDs != nil }},
		{"", same(func(o *options) any { return o.ownership }, "host")},
		{"--ownership=Xattr", same(func(o *options) any { return o.ownership }, "xattr")},
		{"--rlimit-nofile 0", func(o *options) bool { return o.noFileSet && o.noFile == 0 }},
		{"--rlimit-nofile=1048576", func(o *options) bool { return o.noFileSet && o.noFile == 1048576 }},
		{"--log-level ERROR", same(func(o *options) any { return o.logLevel }, "error")},
		{"--syslog", same(func(o *options) any { return o.syslog }, true)},
		{"--inode-file-handles=never", func(o *options) bool {
			return o.fileHandles == "never" && slices.Equal(o.capabilities, sandbox.DefaultCapabilities())
		}},
		{"--inode-file-handles=prefer --inode-file-handles=fallback", func(o *options) bool {
			return o.fileHandles == "prefer" && len(o.warnings) == 1
		}},
		{"--inode-file-handles=Mandatory", func(o *options) bool {
			return o.fileHandles == "mandatory" && slices.Contains(o.capabilities, cap.DAC_READ_SEARCH)
		}},
		{"--modcaps=-dac_read_search", func(o *options) bool {
			return o.fileHandles == "never" && !slices.Contains(o.capabilities, cap.DAC_READ_SEARCH)
		}},
		{"--modcaps=-dac_read_search:+Dac_Read_Search", same(func(o *options) any { return o.fileHandles }, "prefer")},
		{"--keep-listening", same(func(o *options) any { return o.keepListening }, true)},
		{"--entry-timeout 1.5 --attr-timeout=200ms --negative-timeout=0", func(o *options) bool {
			return *o.entryTimeout == 1500*time.Millisecond && *o.attrTimeout == 200*time.Millisecond && *o.negativeTimeout == 0
		}},
		{"--dax=inode --tag a", func(o *options) bool {
			return o.dax == "inode" && o.daxWindow == 1<<30 && o.daxMinSize == 64<<10 && len(o.warnings) == 0
		}},
		{"--tag a --dax=inode --dax-include=*.db --dax-exclude /tmp/** --dax-exclude *.log", func(o *options) bool {
			d := o.daxConfig(nil)
			return slices.Equal(d.Include, []string{"*.db"}) && slices.Equal(d.Exclude, []string{"/tmp/**", "*.log"})
		}},
		{"--tag a --dax-window-size 64MiB --dax-min-size=1 --dax always", func(o *options) bool {
			return o.dax == "always" && o.daxWindow == 64<<20 && o.daxMinSize == 1 && o.daxConfig(nil).Table.Size() == 64<<20
		}},
		{"--dax=always", func(o *options) bool { return len(o.warnings) == 1 }}, // no tag
		{"--dax-window-size=8g", func(o *options) bool { return o.daxConfig(nil) == nil && len(o.warnings) == 1 }},
		{"--immutable", func(o *options) bool {
			return o.immutable && o.readOnly && o.namespace.ReadOnly && o.cache == "always" && o.cacheSymlinks == nil
		}},
		{"--immutable --cache=always --entry-timeout=60", func(o *options) bool { return o.immutable && *o.entryTimeout == time.Minute }},
		{"--cache-symlinks", func(o *options) bool { return *o.cacheSymlinks }},
		{"--cache=always --no-cache-symlinks", func(o *options) bool { return !*o.cacheSymlinks }},
		{"--direct-io *.db --direct-io=vm/**/*.img --direct-io-size 64m", func(o *options) bool {
			return slices.Equal(o.directIOs, []string{"*.db", "vm/**/*.img"}) && o.directIOSize == 64<<20
		}},
		{"--direct-io-size=4096", same(func(o *options) any { return o.directIOSize }, uint64(4096))},
		{"--direct-io-size=8T", same(func(o *options) any { return o.directIOSize }, uint64(8)<<40)},
		{"-d", func(o *options) bool { return o.logLevel == "debug" && len(o.warnings) == 1 }},
		{"-f", func(o *options) bool { return warned(o, "-f has no effect") }},
		{"-o announce_submounts", func(o *options) bool { return o.submounts && len(o.warnings) == 0 && len(o.notes) == 1 }},
		{"-o source=/o=1,cache=none,xattr,no_readdirplus", func(o *options) bool {
			return o.sharedDir == "/o=1" && o.cache == "never" && o.xattr && !o.readdirplus
		}},
		{"-o flock -o posix_lock", func(o *options) bool { return onHost(o, true, true) }},
		{"-o posix_lock", func(o *options) bool { return onHost(o, true, false) }},
		{"-o flock,posix_lock,no_posix_lock", func(o *options) bool { return onHost(o, false, true) }},
		{"-o no_flock,no_posix_lock,no_posix_acl,no_security_label", func(o *options) bool { return onHost(o, false, false) }},
		{"-o posix_acl,security_label", func(o *options) bool { return o.posixACL == "always" && o.label == "always" && o.xattr }},
		{"-o sandbox=chroot,loglevel=err,modcaps=-mknod", func(o *options) bool {
			return o.sandboxMode == sandbox.ModeChroot && o.logLevel == "error" && !slices.Contains(o.capabilities, cap.MKNOD)
		}},
		{"-o timeout=2.5", func(o *options) bool {
			return *o.entryTimeout == 2500*time.Millisecond && *o.attrTimeout == *o.entryTimeout
		}},
		{"-o writeback,allow_direct_io,killpriv_v2", func(o *options) bool { return o.writeback && o.directIO && o.killpriv }},
	} {
		o, err := parse(slices.Concat(usual, strings.Fields(test.args)))
		if err != nil || !test.ok(o) {
			t.Errorf("%s: got %+v, %v", test.args, o, err)
		}
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
		if o, err := parse(strings.Fields(args)); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if o.sharedDir == "" || (o.socketPath == "") == (o.fd < 0) {
			t.Errorf("%s: got %+v", name, o)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, test := range []struct{ args, says string }{
		{"--socket-path /x", "--shared-dir"},
		{"--shared-dir /s", "--socket-path"},
		{"--shared-dir", "needs a value"},
		{"--shared-dir /s --socket-path /x extra", "extra"},
		{"--shared-dir /s --socket-path /x --fd 3", "exclude"},
		{"--shared-dir /s --fd 3 --socket /y", "exclude"},
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
	} {
		args := strings.Fields(test.args)
		if args[0] == "+" {
			args = slices.Concat(usual, args[1:])
		}
		o, err := parse(args)
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %+v, %v, want an error with %q", test.args, o, err, test.says)
		}
		if err != nil && !errors.Is(err, errUsage) {
			t.Errorf("%s: %v is not a usage error", test.args, err)
		}
	}
}

// What only prints needs no share.
func TestRunPrints(t *testing.T) {
	for _, test := range []struct {
		args   string
		status int
		stdout string
		stderr string
	}{
		{"", exitUsage, "", "Usage: govirtiofsd"},
		{"--help", exitOK, "--readonly", ""},
		{"-h", exitOK, "--shared-dir DIR", ""},
		{"--version", exitOK, "govirtiofsd " + versions.String("") + "\n", ""},
		{"-V", exitOK, "govirtiofsd ", ""},
		{"--print-capabilities", exitOK, `"type": "fs"`, ""},
		{"--print-capabilities --shared-dir /s", exitOK, `"separate-options"`, ""},
		{"--nosuch", exitUsage, "", "--help"},
		{"--socket-path /x", exitUsage, "", "nothing to share"},
	} {
		var stdout, stderr bytes.Buffer
		status := run(strings.Fields(test.args), &stdout, &stderr)
		if status != test.status || !strings.Contains(stdout.String(), test.stdout) || !strings.Contains(stderr.String(), test.stderr) ||
			(test.stdout == "") != (stdout.Len() == 0) || (test.stderr == "") != (stderr.Len() == 0) {
			t.Errorf("%q: got status %d, stdout %q, stderr %q", test.args, status, stdout.String(), stderr.String())
		}
	}
}

// TestRunFull: what can't be printed is a failure.
func TestRunFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, arg := range []string{"--help", "--version", "--completion=bash", "--print-capabilities"} {
		var stderr bytes.Buffer
		if status := run([]string{arg}, full, &stderr); status != exitStart || !strings.Contains(stderr.String(), "no space left") {
			t.Errorf("%s: status %d, %q", arg, status, stderr.String())
		}
	}
}

func TestVersionLine(t *testing.T) {
	own := "govirtiofsd " + versions.String("")
	for name, want := range map[string]string{
		"govirtiofsd": own, "/usr/bin/govirtiofsd": own, "": own, "/usr/libexec/virtiofsd-go": own,
		"virtiofsd": "virtiofsd 1.14.0 (" + own + ")", "/usr/libexec/virtiofsd": "virtiofsd 1.14.0 (" + own + ")",
	} {
		if got := versionLine(name); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}

func TestHelp(t *testing.T) {
	var b bytes.Buffer
	printHelp(&b)
	for line := range strings.Lines(b.String()) {
		if len(line) > 84 {
			t.Errorf("long line: %s", line)
		}
		if strings.Contains(line, "`") {
			t.Errorf("quote left over: %s", line)
		}
	}
}

func TestPrintCapabilities(t *testing.T) {
	var b bytes.Buffer
	if err := printCapabilities(&b); err != nil {
		t.Fatal(err)
	}
	var got capabilities
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Type != "fs" || !slices.Contains(got.Features, "separate-options") || !slices.IsSorted(got.Features) {
		t.Errorf("got %+v", got)
	}
}

func TestParseTimeout(t *testing.T) {
	for in, want := range map[string]*time.Duration{
		"0": ptr(time.Duration(0)), "1": ptr(time.Second), "0.25": ptr(time.Second / 4), "2h": ptr(2 * time.Hour),
		"86400": ptr(24 * time.Hour), "1us": ptr(time.Microsecond), "": nil, "s": nil, "-0.5": nil, "Inf": nil,
	} {
		got, err := parseTimeout(in)
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
		"--readonly=yes":            `invalid value "yes" for option --readonly: takes no value`,
	} {
		_, err := parse([]string{arg})
		if err == nil || usageMessage(err) != want {
			t.Errorf("%s: %v, want %s", arg, err, want)
		}
	}
}
