package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// The tests of DAX run QEMU 11.1, whose generic vhost-user device shows a window to the
// guest, with two versions of Linux. See doc/dax.md.

// daxKernels are the kernels, by the guest that they come with.
var daxKernels = map[string]guest.Kind{"linux-7.2": guest.QEMU11, "linux-6.1": guest.QEMU72}

// forDAXKernels runs a test with each kernel.
func forDAXKernels(t *testing.T, test func(*testing.T, guest.Kind)) {
	for name, kernel := range daxKernels {
		t.Run(name, func(t *testing.T) {
			guest.Need(t, guest.QEMU11)
			guest.Need(t, kernel)
			test(t, kernel)
		})
	}
}

// long skips tests that take minutes, unless they are asked for.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("GOVIRTIOFS_LONG") != "1" {
		t.Skip("takes minutes: set GOVIRTIOFS_LONG=1")
	}
}

// fewOrMany is how many of a kind a test has, many with GOVIRTIOFS_LONG=1.
func fewOrMany(few, many int) int {
	if os.Getenv("GOVIRTIOFS_LONG") == "1" {
		return many
	}
	return few
}

// daxProgram is daxguest, which runs on both sides.
func daxProgram(t testing.TB) string { return build(t, "build", "./test/dax/daxguest") }

// steadyTimes stops the guest from asking whether a file was modified. When Linux 7.2 is told of
// a change while programs have the file mapped, its page accounting goes wrong and it may hang
// later; see doc/dax.md.
const steadyTimes = "--cache=always"

// noComplaints ends a script with a failure if the guest's kernel has reported a fault in
// its own state. Such a fault often does no harm at once.
const noComplaints = `
	if dmesg | grep -q "cut here"; then dmesg | grep -A 40 "cut here"; exit 3; fi
	`

// daxGuest are the options of a guest with d as /mnt/fs.
func daxGuest(t testing.TB, d *daemon, kernel guest.Kind, script string) guest.Options {
	return guest.Options{Shares: []guest.Share{d.Share}, DAX: true, Kernel: kernel,
		Files: map[string]string{daxProgram(t): "/bin/daxguest"}, Script: "set -e\n" + script}
}

// onHost runs daxguest here.
func onHost(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(daxProgram(t), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("daxguest %v: %v\n%s", args, err, tail(string(out)))
	}
	return string(out)
}

// sumLines are the lines that daxguest prints for files. Its remarks and the messages
// of the guest's kernel are left out.
func sumLines(output string) map[string]string {
	sums := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^([0-9a-f]{64}|EIO)  (\S+)$`).FindAllStringSubmatch(output, -1) {
		sums[m[2]] = m[1]
	}
	return sums
}

// anySize reports whether the daemon can map files of any size with QEMU. This needs
// Linux 6.9 on the host. Otherwise a guest that maps everything (-o dax=always) gets EIO
// in the last part of most files. The daemon is stopped.
func anySize(t testing.TB, d *daemon) bool {
	d.stop(t)
	return !strings.Contains(d.log.String(), "DAX only for files of a multiple of 2 MiB")
}

// section is the output between the line "== name" and the next one.
func section(output, name string) string {
	_, rest, _ := strings.Cut(output, "== "+name+"\n")
	part, _, _ := strings.Cut(rest, "\n== ")
	return part
}

// sameSums compares the files of both sides. may reports for which files the guest may
// have got EIO.
func sameSums(t *testing.T, what string, guest, host map[string]string, want int, may func(name string) bool) {
	t.Helper()
	if len(guest) != want || len(host) != want {
		t.Errorf("%s: %d files in the guest, %d on the host, want %d", what, len(guest), len(host), want)
	}
	failed := 0
	for name, sum := range guest {
		switch {
		case sum == host[name]:
		case sum == "EIO" && may(name):
			failed++
		default:
			t.Errorf("%s: %s: guest %s, host %s", what, name, sum, host[name])
		}
	}
	t.Logf("%s: %d files, %d with EIO", what, len(guest), failed)
}

// TestIntegrationDAXSums compares files of random sizes both ways under each of the
// guest's mount options, and mounts again in between.
func TestIntegrationDAXSums(t *testing.T) {
	const most = 3 << 20
	files := fewOrMany(60, 200)
	forDAXKernels(t, func(t *testing.T, kernel guest.Kind) {
		options := []string{"none", "dax=inode", "dax=always"}
		if kernel != guest.QEMU11 && os.Getenv("GOVIRTIOFS_LONG") != "1" {
			options = options[:1] // what the kernels do is the same
		}
		d := start(t, "", "--dax=inode", "--dax-window-size=64M")
		fromHost := filepath.Join(d.dir, "host")
		if err := os.Mkdir(fromHost, 0o755); err != nil {
			t.Fatal(err)
		}
		host := sumLines(onHost(t, "make", fromHost, "1", fmt.Sprint(files), fmt.Sprint(most), "all"))
		script := "mkdir /mnt/fs\n"
		for i, o := range options {
			ways := "all"
			if o == "dax=always" {
				ways = "plain"
			}
			script += fmt.Sprintf(`
				mount -t virtiofs -o %s fs /mnt/fs
				echo "== %[1]s reads"; daxguest sums /mnt/fs/host
				mkdir /mnt/fs/%[1]s
				echo "== %[1]s writes"; daxguest make /mnt/fs/%[1]s %[2]d %[3]d %[4]d %[5]s
				umount /mnt/fs; echo "== "
				`, o, i+2, files, most, ways)
		}
		o := daxGuest(t, d, kernel, strings.ReplaceAll(script, "-o none ", ""))
		o.Shares[0].NoMount = true
		out := run(t, guest.QEMU11, o)
		all := anySize(t, d)
		for _, o := range options {
			reads := section(out, o+" reads")
			may := func(name string) bool {
				st, err := os.Stat(filepath.Join(fromHost, name))
				return !all && o == "dax=always" && err == nil && st.Size()%(2<<20) != 0
			}
			sameSums(t, o+" reads", sumLines(reads), host, files, may)
			written := sumLines(onHost(t, "sums", filepath.Join(d.dir, o)))
			sameSums(t, o+" writes", sumLines(section(out, o+" writes")), written, files, func(string) bool { return false })
			if m := regexp.MustCompile(`# \d+ files, (\d+) with DAX`).FindStringSubmatch(reads); m == nil || m[1] == "0" {
				t.Errorf("%s: no file is DAX: %v", o, m)
			} else {
				t.Logf("%s: %s", o, m[0])
			}
		}
		if t.Failed() {
			t.Logf("the guest:\n%.700s\n...\n%s", out, tail(out))
		}
	})
}

// stampedFiles makes sparse files with a stamp in every 64 KiB, as churn of daxguest
// expects.
func stampedFiles(t testing.TB, dir string, files, size int) {
	t.Helper()
	for i := range files {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("f%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(int64(size)); err != nil {
			t.Fatal(err)
		}
		for off := 0; off < size; off += 64 << 10 {
			b := binary.LittleEndian.AppendUint64(nil, uint64(i)<<40|uint64(off)|1)
			if _, err := f.WriteAt(b, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIntegrationDAXPressure maps files of 384 MiB, with GOVIRTIOFS_LONG=1 of 1 GiB, through a window of two ranges and also
// writes to them. The files are sparse: one page of 16 has data.
func TestIntegrationDAXPressure(t *testing.T) {
	const size, workers = 16 << 20, 2
	files := fewOrMany(24, 64)
	forDAXKernels(t, func(t *testing.T, kernel guest.Kind) {
		if kernel != guest.QEMU11 {
			long(t)
		}
		d := start(t, "", "--dax=inode", "--dax-window-size=4M", steadyTimes)
		stampedFiles(t, d.dir, files, size)
		out := run(t, guest.QEMU11, daxGuest(t, d, kernel, fmt.Sprintf(
			"daxguest dax /mnt/fs/f0 yes; daxguest churn /mnt/fs 1 %d 7"+noComplaints, workers)))
		t.Log(out)
		for i := range files {
			f, err := os.ReadFile(filepath.Join(d.dir, fmt.Sprintf("f%d", i)))
			if err != nil || len(f) != size {
				t.Fatalf("%d bytes, %v", len(f), err)
			}
			for off := 0; off < size; off += 64 << 10 {
				if n := binary.LittleEndian.Uint64(f[off+8:]); n != workers {
					t.Fatalf("file %d, offset %#x: written %d times, want %d", i, off, n, workers)
				}
			}
		}
	})
}

// TestIntegrationDAXCoherence has two guests and the host write one file through
// mappings, in turns. Each turn sees the one before, without a system call in between.
func TestIntegrationDAXCoherence(t *testing.T) {
	guest.Need(t, guest.QEMU11)
	guest.Need(t, guest.QEMU72)
	const rounds = "200"
	one := start(t, "", "--dax=inode", "--dax-window-size=64M")
	two := start(t, one.dir, "--dax=inode", "--dax-window-size=64M")
	path := filepath.Join(one.dir, "shared")
	if err := os.WriteFile(path, make([]byte, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	script := func(me int) string {
		return fmt.Sprintf("daxguest dax /mnt/fs/shared yes; daxguest turns /mnt/fs/shared %d 3 %s", me, rounds)
	}
	vm, err := guest.Start(context.Background(), guest.QEMU11, daxGuest(t, one, guest.QEMU11, script(1)))
	if err != nil {
		t.Fatal(err)
	}
	defer vm.Kill()
	host := exec.Command(daxProgram(t), "turns", path, "0", "3", rounds)
	var hostOut bytes.Buffer
	host.Stdout = &hostOut
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	t.Log(run(t, guest.QEMU11, daxGuest(t, two, guest.QEMU72, script(2))))
	if err := host.Wait(); err != nil {
		t.Errorf("host: %v: %s", err, hostOut.String())
	}
	if r, err := vm.Wait(); err != nil || r.Status != 0 {
		t.Errorf("first guest: %v, %s", err, tail(r.Output))
	}
}

// TestIntegrationDAXVerify writes and reads a file at random, by system calls and through
// mappings, with the window smaller than the file.
func TestIntegrationDAXVerify(t *testing.T) {
	forDAXKernels(t, func(t *testing.T, kernel guest.Kind) {
		if kernel != guest.QEMU11 {
			long(t)
		}
		d := start(t, "", "--dax=inode", "--dax-window-size=8M")
		// The second file is no multiple of 2 MiB, so it may have no DAX.
		out := run(t, guest.QEMU11, daxGuest(t, d, kernel, `cd /mnt/fs
			truncate -s 16M even; truncate -s 10000001 odd
			daxguest verify even 16777216 1000 5; daxguest verify odd 10000001 500 6`))
		sameSums(t, "verify", sumLines(out), sumLines(onHost(t, "sums", d.dir)), 2, func(string) bool { return false })
	})
}
