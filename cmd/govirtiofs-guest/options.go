package main

import (
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mountOptions are what mount takes.
type mountOptions struct {
	address    address
	dir        string
	token      string // a file, or ""
	channels   int    // 0 is one for each CPU
	patience   time.Duration
	readOnly   bool
	suid, dev  bool
	flags      uintptr
	private    bool
	foreground bool
	fake       bool
}

// defaultToken is where the token is, if it is there.
const defaultToken = "/etc/govirtiofs/token"

// flag is a word of -o that sets or clears a flag of mount(2).
type flag struct {
	bit uintptr
	off bool
}

var flags = map[string]flag{
	"noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true},
	"noatime": {unix.MS_NOATIME, false}, "atime": {unix.MS_NOATIME, true},
	"nodiratime": {unix.MS_NODIRATIME, false}, "diratime": {unix.MS_NODIRATIME, true},
	"relatime": {unix.MS_RELATIME, false}, "norelatime": {unix.MS_RELATIME, true},
	"strictatime": {unix.MS_STRICTATIME, false}, "nostrictatime": {unix.MS_STRICTATIME, true},
	"lazytime": {unix.MS_LAZYTIME, false}, "nolazytime": {unix.MS_LAZYTIME, true},
	"sync": {unix.MS_SYNCHRONOUS, false}, "async": {unix.MS_SYNCHRONOUS, true},
	"dirsync": {unix.MS_DIRSYNC, false},
}

// ignored are words that are for mount(8) and systemd, not for the file system.
var ignored = map[string]bool{
	"": true, "defaults": true, "_netdev": true, "auto": true, "noauto": true, "nofail": true, "fail": true,
	"user": true, "nouser": true, "users": true, "group": true, "owner": true, "silent": true, "loud": true,
	"rw": true, "suid": true, "dev": true,
}

// words reads the words of -o. The last one counts.
func (o *mountOptions) words(list string) error {
	for word := range strings.SplitSeq(list, ",") {
		name, value, hasValue := strings.Cut(word, "=")
		switch name {
		case "ro", "rw":
			o.readOnly = name == "ro"
		case "suid", "nosuid":
			o.suid = name == "suid"
		case "dev", "nodev":
			o.dev = name == "dev"
		case "private":
			o.private = true
		case "token":
			if o.token = value; value == "" {
				return usagef("-o token: want token=FILE")
			}
		case "share":
			if o.address.share = value; value == "" {
				return usagef("-o share: want share=NAME")
			}
		case "channels":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > 4 {
				return usagef("-o %s: want 1 to 4 channels", word)
			}
			o.channels = n
		case "reconnect":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 {
				return usagef("-o %s: want a number of seconds, 1 or more; without this option the mount waits without a limit", word)
			}
			o.patience = time.Duration(n) * time.Second
		default:
			f, known := flags[name]
			switch {
			case known && !hasValue && f.off:
				o.flags &^= f.bit
			case known && !hasValue:
				o.flags |= f.bit
			case ignored[name] && !hasValue, strings.HasPrefix(name, "x-"), name == "comment":
			default:
				return usagef("-o %s: no such option", word)
			}
		}
	}
	return nil
}
