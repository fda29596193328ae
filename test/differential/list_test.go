package differential

// differences are all intended differences.
var differences = []difference{
	// INIT.
	{"init", "", "*#version", "7.38", "7.*", "we speak 7.45 and answer the guest's own minor, as the protocol says"},
	{"init", "", "init/newer major#length", "64", "8", "the kernel takes the rest of INIT's second try, with our major"},
	{"init", "*cache=*", "*#flag23", "-", "set", "what is kept for a day is kept with the targets of its links (CACHE_SYMLINKS)"},
	{"init", "", "*#flag3", "set", "-", "without HANDLE_KILLPRIV_V2 a guest that names no user (ALLOW_IDMAP) truncates with SETATTR, which says what becomes of set-ID bits (ATOMIC_O_TRUNC)"},
	{"init", "", "*#flag38", "-", "set", "node numbers are not for file handles of an NFS export (NO_EXPORT_SUPPORT)"},
	{"init", "--no-readdirplus --no-announce-submounts", "*#flag27", "set", "-", "SUBMOUNTS is not agreed when submounts are not announced"},
	{"init", "", "init/no flags#pages|init/linux 4.20#pages", "256", "32", "a guest without MAX_PAGES has 32 pages to a request"},
	{"init", "", "init/no flags#write|init/linux 4.20#write", "1048576", "131072", "the same"},

	// Names.
	{"replies", "", "rename/unknown flag#errno", "0", "EINVAL", "renameat2(2); virtiofsd ignores what it does not know"},
	{"replies", "", "create/*#errno|mkdir/*#errno|mknod/..#errno|link/*#errno|unlink/*#errno|rename/*#errno", "E*", "EINVAL",
		"a name is one component, not empty, . or .., whatever the sandbox would make of it"},
	{"replies", "", "lookup/bad:*#errno", "*", "EINVAL", "the same"},
	{"replies", "", "mknod/m-dir#errno", "EPERM", "EINVAL", "MKNOD makes no directories"},
	{"replies", "", "readlink/f*#errno", "ENOENT", "EINVAL", "readlink(2) of what is no link"},
	{"replies", "", "xattr/get x*300*#errno", "E*", "ERANGE", "a name that is too long, before anything else"},
	{"replies", "", `xattr/get "", *#errno`, "E*", "EINVAL", "an empty name, before anything else"},

	// Nodes and handles.
	{"replies", "", "numbers/*#errno|forget/*#errno|acl/*#errno", "EBADF", "ESTALE", "a node that is not there; EBADF is for handles"},
	{"replies", "", "setattr/bad handle#errno", "EBADF", "0", "the handle is for the size only, which does not change here"},

	// Opening.
	{"replies", "", "open/*#errno|create/over:*#errno", "EBADF", "ENXIO", "open(2) of a special file that nobody serves"},
	{"replies", "", "open/* as a directory#errno", "EBADF", "ENOTDIR", "open(2) with O_DIRECTORY"},
	{"replies", "", "open/link#errno|create/over:*#errno", "EBADF", "ELOOP", "open(2) with O_NOFOLLOW"},
	{"replies", "", "open/*#errno", "0", "EISDIR", "OPEN is for files, OPENDIR for directories"},
	{"replies", "", "openflags/path*#errno", "0", "*", "O_PATH: the guest never sends it, and there is nothing to read"},
	{"replies", "*direct*", "openflags/direct*#errno", "EINVAL", "0", "a READ whose flags have no O_DIRECT goes through the page cache, whatever the file was opened with"},
	{"replies", "", "openflags/directory*#errno|openflags/excl*#errno", "*", "0", "flags that are the guest's own business do nothing here"},
	{"replies", "", "openflags/tmpfile*#errno", "*", "*", "O_TMPFILE is not for OPEN"},

	// Permission.
	{"replies", "", "access/0/closed/*#errno", "EACCES", "0", "root may search every directory"},
	{"replies", "", "users/*#errno", "EACCES", "0", "the guest has checked permissions, and knows groups and capabilities that we don't"},
	{"replies", "", "users/device in *#errno", "EACCES", "EPERM", "the same, and the guest's user may still make no device"},

	// Requests that virtiofsd does not have.
	{"replies", "", "newer/*#errno", "ENOSYS", "*", "STATX, TMPFILE, COPY_FILE_RANGE_64 and IOCTL are served"},

	{"replies", "", "space/lseek 0, 1#errno", "0", "EINVAL", "SEEK_CUR: the guest keeps the position"},
	{"replies", "", "readdir/nothing#errno", "0", "EINVAL", "getdents(2) with no room for an entry"},
	{"replies", "", "unlink/create in a removed directory#errno", "E*", "ENOENT", "open(2) in a removed directory; virtiofsd may find its handle stale"},
	{"replies", "*-readdirplus*", "readdir/plus, agreed or not#errno", "0", "ENOSYS", "READDIRPLUS is served if it was agreed"},
	{"replies", "*cache=n*", "readdir/plus, agreed or not#errno", "0", "ENOSYS", "the same"},
	{"replies", "", "open*#open", "0x0", "0x20", "who can only read has nothing to flush at close (NOFLUSH)"},
	{"replies", "", "open*#open", "0x2", "0x22", "the same"},
	{"replies", "", "open*#open", "0x1", "0x61", "the same, with PARALLEL_DIRECT_WRITES"},
	{"replies", "*cache=*", "*#open", "*0x1", "*0x41", "several writers to a file that bypasses the cache (PARALLEL_DIRECT_WRITES)"},

	{"replies", "", "write/mode after it#value|setattr/*#mode", "106755", "100755", "setuid bits go when the guest asks for it (KILL_SUIDGID), agreed or not"},

	// Attribute names and ids that are mapped.
	{"replies", "*xattrmap*", "xattr/trusted, *#errno|xattr/remove, *#errno", "EPERM", "ENOTSUP", "the host can't keep the mapped attribute of a special file"},
	{"replies", "*xattrmap*", "xattr/list, 0#value", "*", "*", "as long as the list that follows, without the names that the guest does not see"},
	{"replies", "--translate*", "users/unlink in closed#errno|users/chmod home#*", "*", "*", "of what a user could make, see permission"},

	{"xattrmap", "", "map/link: set *#errno|map/link: remove *#errno", "EPERM", "ENOTSUP", "the host can't keep the mapped attribute of a link"},
	{"xattrmap", "", "map/file: list, 600#*", "*", "*", "what fits when it is mapped is listed, although the host's list does not fit"},
	{"xattrmap", "", "map/file: list, 5#*", "*", "*", "the same, of a list in which nothing is to be seen"},

	// Read-only shares.
	{"replies", "--readonly", "*#errno", "EBADF", "ESTALE", "node 0, of a file that could not be made"},
	{"replies", "--readonly", "acl/access by the list#errno", "EROFS", "ESTALE", "the same"},
	{"replies", "--readonly", "*#errno", "E*", "EROFS", "EROFS goes before other errors"},

	// Requests that no guest sends.
	{"malformed", "", "*/daemon#state", "ended", "-", "a malformed request is answered EINVAL; virtiofsd exits"},
	{"malformed", "", "*/daemon#state", "panicked", "-", "the same; the thread of virtiofsd's queues panics, and the share hangs"},
	{"malformed", "", "*/reply#*|*beyond all files/*#errno", "-", "*", "the answer to it"},
	{"malformed", "", "second session/reply#*", "*", "*", "a second INIT without DESTROY is refused"},
	{"malformed", "", "forget the root/statfs#errno|after all/getattr#errno", "EBADF", "0", "the root is never forgotten"},

	// Command lines.
	{"arguments", "", "arguments/-o cache=never|arguments/-o sandbox=none|arguments/-o flock|arguments/-o posix_lock|arguments/-o timeout=1|arguments/-o debug|arguments/-o log_level=debug",
		"exit 2", "serves", "words of the first virtiofsd, in C, that programs still pass"},
	{"arguments", "", "arguments/--seccomp=KILL|arguments/--posix-acl=AUTO", "exit 2", "serves", "words are accepted in any case everywhere"},
	{"arguments", "", "arguments/--inode-file-handles never", "exit 2", "serves", "values may follow after a space everywhere"},
	{"arguments", "", "arguments/--xattr=1|arguments/--readonly=true|arguments/-d=1", "exit 2", "serves", "switches take =true and =false"},
	{"arguments", "", "arguments/--modcaps=mknod|arguments/--modcaps=+*|arguments/--uid-map :0:0:1:|arguments/--migration-mode=file-handles --migration-*|arguments/--inode-file-handles=* --modcaps=-dac_read_search|arguments/--shared-dir= --socket-path k",
		"exit 1", "exit 2", "all that is wrong with the command line is 2; virtiofsd finds this later"},
	{"arguments", "", "arguments/--modcaps=", "exit 1", "serves", "no changes are no mistake"},
	{"arguments", "", "arguments/--rlimit-nofile=99999999999", "exit 1", "serves", "more than the kernel allows: the hard limit, and a warning"},
	{"arguments", "", "arguments/--translate-uid map:0:1:1 --posix-acl", "exit 1", "serves", "ids in access control lists are translated, too"},
	{"arguments", "", "arguments/--fd=3 --shared-dir s", "serves", "exit 1", "a descriptor that is no socket is found at once; virtiofsd fails when it accepts"},
}
