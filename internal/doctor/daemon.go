package doctor

// DaemonOption is an option that govirtiofsd can be started with.
type DaemonOption struct {
	Name, Short string
	Bare        string // what it means without a value; empty if it needs one
}

// DaemonOptions are all of them, so that the doctor can be given a daemon's whole command
// line. A test of the daemon's keeps the list whole.
var DaemonOptions = []DaemonOption{
	{"shared-dir", "", ""}, {"readonly", "", "true"}, {"tag", "", ""},
	{"announce-submounts", "", "true"}, {"no-announce-submounts", "", "true"},

	{"socket-path", "", ""}, {"socket-group", "", ""}, {"fd", "", ""}, {"keep-listening", "", "true"},
	{"num-request-queues", "", ""}, {"busy-poll", "", ""},

	{"cache", "", ""}, {"entry-timeout", "", ""}, {"attr-timeout", "", ""}, {"negative-timeout", "", ""},
	{"immutable", "", "true"}, {"cache-symlinks", "", "true"}, {"no-cache-symlinks", "", "true"},
	{"direct-io", "", ""}, {"direct-io-size", "", ""}, {"writeback", "", "true"}, {"allow-direct-io", "", "true"},
	{"allow-mmap", "", "true"}, {"readdirplus", "", "true"}, {"no-readdirplus", "", "true"},

	{"dax", "", ""}, {"dax-window-size", "", ""}, {"dax-min-size", "", ""},
	{"dax-include", "", ""}, {"dax-exclude", "", ""}, {"dax-protocol", "", ""},

	{"xattr", "", "true"}, {"xattrmap", "", ""}, {"xattrmap-preset", "", ""},
	{"posix-acl", "", "always"}, {"security-label", "", "always"},
	{"killpriv-v2", "", "true"}, {"no-killpriv-v2", "", "true"}, {"inode-file-handles", "", ""},
	{"preserve-noatime", "", "true"}, {"locks", "", ""},

	{"translate-uid", "", ""}, {"translate-gid", "", ""}, {"ownership", "", ""}, {"uid-map", "", ""}, {"gid-map", "", ""},

	{"sandbox", "", ""}, {"seccomp", "", ""}, {"landlock", "", ""}, {"modcaps", "", ""}, {"rlimit-nofile", "", ""},

	{"migration-mode", "", ""}, {"migration-on-error", "", ""},
	{"migration-verify-handles", "", "true"}, {"migration-confirm-paths", "", "true"},

	{"log-level", "", ""}, {"syslog", "", "true"}, {"socket", "", ""}, {"option", "o", ""},
	{"debug", "d", "true"}, {"foreground", "f", "true"}, {"thread-pool-size", "", ""},
}
