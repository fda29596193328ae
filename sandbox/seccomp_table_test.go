package sandbox

import (
	"encoding/binary"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// names is a set of names of system calls, such as SYS_READ.
type names map[string]bool

// The packages that run under the filter.
var confinedPackages = []string{
	"../passthrough", "../passthrough/xattrmap", "../dax", "../dax/stretch", "../server", "../fuseproto",
	"../virtiofs", "../virtqueue", "../vhostuser", "../internal/eventfd", "../internal/pause", "../internal/record", "../keeper", "../stream",
	"../events", "../hostwatch",
}

// beforeFilter are calls in those packages that are over when the filter is set, or are
// made by tests only, with the reason.
var beforeFilter = map[string]string{
	"SYS_GETRLIMIT":     "passthrough.New, once",
	"SYS_PIDFD_OPEN":    "the keeper's own process, which has no filter",
	"SYS_FANOTIFY_INIT": "FilterOptions.Extra, with --events",
	"SYS_FANOTIFY_MARK": "the same",
	"SYS_INOTIFY_INIT1": "the same", "SYS_INOTIFY_ADD_WATCH": "the same", "SYS_INOTIFY_RM_WATCH": "the same",
	"SYS_CHROOT":     "dax/stretch's helper, before it answers",
	"SYS_FSCONFIG":   "the same",
	"SYS_FSMOUNT":    "the same",
	"SYS_FSOPEN":     "the same",
	"SYS_SOCKETPAIR": "the same",
}

// otherCalls are on the list although no source that is searched below makes them.
var otherCalls = map[string]string{
	"SYS_RESTART_SYSCALL": "the kernel's own, after a stop signal",
	"SYS_GETRANDOM":       "seeds of maps, crypto/rand",
	"SYS_GETSOCKNAME":     "net: accept, FileConn",
	"SYS_GETPEERNAME":     "net.FileConn, for the back-end channel",
	"SYS_NEWFSTATAT":      "cmd/govirtiofsd: is the socket still ours to remove? (amd64)",
	"SYS_FSTATAT":         "the same on arm64",
	"SYS_CLOCK_NANOSLEEP": "the C library, of programs with cgo",
	"SYS_RSEQ":            "the same: threads",
	"SYS_SET_ROBUST_LIST": "the same: threads",
}

// goFiles parses the files of a directory that are built for an architecture.
func goFiles(t *testing.T, dir, arch string) []*ast.File {
	t.Helper()
	ctx := build.Default
	ctx.GOOS, ctx.GOARCH, ctx.CgoEnabled = "linux", arch, false
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("%s: %d files, %v", dir, len(paths), err)
	}
	var out []*ast.File
	for _, path := range paths {
		if ok, err := ctx.MatchFile(filepath.Dir(path), filepath.Base(path)); err != nil || !ok || strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

// wrappers are the functions of a package of system calls, and what they end up in.
type wrappers struct {
	direct map[string]names    // by function
	calls  map[string][]string // functions of the same package
}

func readWrappers(t *testing.T, dir, arch string) wrappers {
	t.Helper()
	w := wrappers{map[string]names{}, map[string][]string{}}
	for _, f := range goFiles(t, dir, arch) {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil || fn.Recv != nil {
				continue
			}
			w.direct[fn.Name.Name] = names{}
			ast.Inspect(fn.Body, func(n ast.Node) bool {
				if id, ok := n.(*ast.Ident); ok {
					if strings.HasPrefix(id.Name, "SYS_") {
						w.direct[fn.Name.Name][id.Name] = true
					} else {
						w.calls[fn.Name.Name] = append(w.calls[fn.Name.Name], id.Name)
					}
				}
				return true
			})
		}
	}
	return w
}

// reach adds the system calls of a function to out.
func (w wrappers) reach(function string, out names, seen map[string]bool) {
	if seen[function] || w.direct[function] == nil {
		return
	}
	seen[function] = true
	maps.Copy(out, w.direct[function])
	for _, callee := range w.calls[function] {
		w.reach(callee, out, seen)
	}
}

// moduleDir is where the source of a module is.
func moduleDir(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Skip("no go command: ", err)
	}
	return strings.TrimSpace(string(out))
}

// goroot is where the source of the Go that runs this test is.
func goroot(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Skip("no go command: ", err)
	}
	return strings.TrimSpace(string(out))
}

// usedCalls finds the system calls that our packages make on an architecture, directly
// or by way of packages unix and syscall.
func usedCalls(t *testing.T, arch string) names {
	t.Helper()
	by := map[string]wrappers{
		"unix":    readWrappers(t, filepath.Join(moduleDir(t, "golang.org/x/sys"), "unix"), arch),
		"syscall": readWrappers(t, filepath.Join(goroot(t), "src/syscall"), arch),
	}
	out := names{}
	for _, dir := range confinedPackages {
		for _, f := range goFiles(t, dir, arch) {
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				id, ok := sel.X.(*ast.Ident)
				if !ok {
					return true
				}
				if w, ok := by[id.Name]; ok {
					if strings.HasPrefix(sel.Sel.Name, "SYS_") {
						out[sel.Sel.Name] = true
					}
					w.reach(sel.Sel.Name, out, map[string]bool{})
				}
				return true
			})
		}
	}
	return out
}

// goRuntimeCalls are those of the Go runtime itself.
func goRuntimeCalls(t *testing.T, arch string) names {
	t.Helper()
	out := names{}
	define := regexp.MustCompile(`(?m)^#define SYS_(\w+)`)
	b, err := os.ReadFile(filepath.Join(goroot(t), "src/runtime/sys_linux_"+arch+".s"))
	if err != nil {
		t.Skip("no source of the Go runtime: ", err)
	}
	for _, m := range define.FindAllStringSubmatch(string(b), -1) {
		out["SYS_"+strings.ToUpper(strings.ReplaceAll(m[1], "setittimer", "setitimer"))] = true
	}
	constant := regexp.MustCompile(`(?m)^\s+SYS_(\w+)\s+=`)
	for _, name := range []string{"defs_linux.go", "defs_linux_" + arch + ".go"} {
		b, err := os.ReadFile(filepath.Join(goroot(t), "src/internal/runtime/syscall/linux", name))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range constant.FindAllStringSubmatch(string(b), -1) {
			out["SYS_"+m[1]] = true
		}
	}
	return out
}

// listedCalls are the names in this package's tables for an architecture; ruled are
// those that are allowed with some arguments only.
func listedCalls(t *testing.T, arch string) (listed, ruled names) {
	t.Helper()
	collect := func(file string) names {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		out := names{}
		ast.Inspect(f, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && strings.HasPrefix(sel.Sel.Name, "SYS_") {
				out[sel.Sel.Name] = true
			}
			return true
		})
		return out
	}
	listed = collect("seccomp_calls.go")
	maps.Copy(listed, collect("seccomp_"+arch+".go"))
	ruled = collect("seccomp.go")
	delete(ruled, "SYS_SECCOMP") // Filter itself
	return listed, ruled
}

// TestFilterTables holds the lists of both architectures against the sources of all
// that runs under them: every system call that the source makes is on the list, and
// nothing is on the list that nobody makes.
func TestFilterTables(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		t.Run(arch, func(t *testing.T) {
			listed, ruled := listedCalls(t, arch)
			ours, theirs := usedCalls(t, arch), goRuntimeCalls(t, arch)
			if len(ours) < 50 || len(theirs) < 20 || len(listed) < 80 {
				t.Fatalf("found %d calls of ours, %d of the runtime, %d listed: the search is broken", len(ours), len(theirs), len(listed))
			}
			for _, name := range slices.Sorted(maps.Keys(ours)) {
				if !listed[name] && !ruled[name] && beforeFilter[name] == "" {
					t.Errorf("%s is made and not allowed", name)
				}
			}
			for _, name := range slices.Sorted(maps.Keys(listed)) {
				if !ours[name] && !theirs[name] && otherCalls[name] == "" {
					t.Errorf("%s is allowed and nobody makes it", name)
				}
			}
			t.Logf("%d system calls on the list, %d with rules", len(listed), len(ruled))
		})
	}
}

// TestFilterIoctls: the requests on the list are those that package passthrough hands to
// its one wrapper, on both architectures, and no others.
func TestFilterIoctls(t *testing.T) {
	for _, arch := range []string{"amd64", "arm64"} {
		numbers, used := map[string]uint32{}, map[uint32]string{}
		files := goFiles(t, "../passthrough", arch)
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				spec, ok := n.(*ast.ValueSpec)
				if !ok || len(spec.Values) != 1 || !strings.HasPrefix(spec.Names[0].Name, "fsIoc") {
					return true
				}
				v, err := strconv.ParseUint(spec.Values[0].(*ast.BasicLit).Value, 0, 32)
				if err != nil {
					t.Fatal(err)
				}
				numbers[spec.Names[0].Name] = uint32(v)
				return true
			})
		}
		for _, f := range files {
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				fn, ok := call.Fun.(*ast.SelectorExpr)
				if !ok || fn.Sel.Name != "getIoctl" && fn.Sel.Name != "setIoctl" {
					return true
				}
				for _, arg := range call.Args {
					if id, ok := arg.(*ast.Ident); ok && numbers[id.Name] != 0 {
						used[numbers[id.Name]] = id.Name
					}
				}
				return true
			})
		}
		if len(used) < 4 {
			t.Fatalf("%s: found %v: the search is broken", arch, used)
		}
		for nr, name := range used {
			if !slices.Contains(allowedIoctls, nr) {
				t.Errorf("%s: %s is made and not allowed", arch, name)
			}
		}
		for _, nr := range allowedIoctls {
			if used[nr] == "" {
				t.Errorf("%s: ioctl %#x is allowed and nobody makes it", arch, nr)
			}
		}
	}
}

// runFilter interprets the filter for one system call, as the kernel does
// (Documentation/userspace-api/seccomp_filter.rst).
func runFilter(t *testing.T, prog []unix.SockFilter, arch, nr uint32, args [6]uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.NativeEndian.PutUint32(data, nr)
	binary.NativeEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.NativeEndian.PutUint64(data[16+8*i:], a)
	}
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		jump := func(yes bool) {
			if yes {
				pc += int(in.Jt)
			} else {
				pc += int(in.Jf)
			}
		}
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = binary.NativeEndian.Uint32(data[in.K:])
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(acc == in.K)
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			jump(acc&in.K != 0)
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		default:
			t.Fatalf("instruction %d: code %#x", pc, in.Code)
		}
	}
	t.Fatal("the filter has no end")
	return 0
}

// TestFilterVerdicts asks the filter about every system call there is.
func TestFilterVerdicts(t *testing.T) {
	o := FilterOptions{Action: FilterKill, Accept: true}
	prog := program(o)
	list := allowed(o)
	ruled := map[uint32]argRule{}
	for _, r := range argRules(o) {
		ruled[uint32(r.number)] = r
	}
	for nr := range uint32(1024) {
		if _, ok := ruled[nr]; ok {
			continue
		}
		want := uint32(unix.SECCOMP_RET_KILL_PROCESS)
		if slices.Contains(list, uintptr(nr)) {
			want = unix.SECCOMP_RET_ALLOW
		}
		if got := runFilter(t, prog, auditArch, nr, [6]uint64{}); got != want {
			t.Errorf("system call %d: verdict %#x, want %#x", nr, got, want)
		}
		// The same number in another table, and that of the x32 interface.
		for _, other := range [][2]uint32{{unix.AUDIT_ARCH_I386, nr}, {unix.AUDIT_ARCH_ARM, nr}, {auditArch, nr | 1<<30}} {
			if got := runFilter(t, prog, other[0], other[1], [6]uint64{}); got != unix.SECCOMP_RET_KILL_PROCESS {
				t.Errorf("system call %d of %#x: verdict %#x", other[1], other[0], got)
			}
		}
	}
	for _, test := range []struct {
		nr   uintptr
		args [6]uint64
		want uint32
	}{
		{unix.SYS_MMAP, [6]uint64{2: unix.PROT_READ | unix.PROT_WRITE}, unix.SECCOMP_RET_ALLOW},
		{unix.SYS_MMAP, [6]uint64{2: unix.PROT_EXEC}, unix.SECCOMP_RET_KILL_PROCESS},
		{unix.SYS_MMAP, [6]uint64{2: 1<<40 | unix.PROT_EXEC}, unix.SECCOMP_RET_KILL_PROCESS},
		{unix.SYS_MPROTECT, [6]uint64{2: unix.PROT_READ | unix.PROT_EXEC}, unix.SECCOMP_RET_KILL_PROCESS},
		{unix.SYS_CLONE, [6]uint64{unix.CLONE_VM | unix.CLONE_THREAD}, unix.SECCOMP_RET_ALLOW},
		{unix.SYS_CLONE, [6]uint64{unix.CLONE_NEWUSER}, unix.SECCOMP_RET_KILL_PROCESS},
		{unix.SYS_CLONE3, [6]uint64{}, refuse(unix.ENOSYS)},
		{unix.SYS_UNSHARE, [6]uint64{unix.CLONE_FS}, unix.SECCOMP_RET_ALLOW},
		{unix.SYS_UNSHARE, [6]uint64{unix.CLONE_FS | unix.CLONE_NEWNS}, unix.SECCOMP_RET_KILL_PROCESS},
		{unix.SYS_IOCTL, [6]uint64{1: unix.FS_IOC_GETFLAGS}, unix.SECCOMP_RET_ALLOW},
		{unix.SYS_IOCTL, [6]uint64{1: unix.TIOCSTI}, refuse(unix.ENOTTY)},
		{unix.SYS_IOCTL, [6]uint64{1: unix.FICLONE}, refuse(unix.ENOTTY)},
		{unix.SYS_IOCTL, [6]uint64{1: unix.FICLONERANGE}, refuse(unix.ENOTTY)},
		{unix.SYS_IOCTL, [6]uint64{1: unix.FIDEDUPERANGE}, refuse(unix.ENOTTY)},
		{unix.SYS_IOCTL, [6]uint64{1: unix.FS_IOC_ENABLE_VERITY}, refuse(unix.ENOTTY)},
		{unix.SYS_PRCTL, [6]uint64{unix.PR_SET_VMA}, unix.SECCOMP_RET_ALLOW},
		{unix.SYS_PRCTL, [6]uint64{unix.PR_SET_NAME}, refuse(unix.EINVAL)},
		{unix.SYS_PRCTL, [6]uint64{unix.PR_SET_DUMPABLE}, refuse(unix.EINVAL)},
	} {
		if got := runFilter(t, prog, auditArch, uint32(test.nr), test.args); got != test.want {
			t.Errorf("system call %d %#x: verdict %#x, want %#x", test.nr, test.args, got, test.want)
		}
	}
}
