package integration

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// fioArgs are the arguments of fio for jobs that run one after the other. Each job is an
// engine, a file and further options. A job writes each block of its file once, in random
// order and of random lengths, with a checksum in its header. Then it verifies the blocks.
// The blocks are the same for all engines and on both sides.
func fioArgs(jobs ...string) string {
	args := "--thread --output-format=terse --terse-version=5"
	for i, job := range jobs {
		f := strings.Fields(job)
		args += fmt.Sprintf(" --name=%d --stonewall --ioengine=%s --filename=%s --size=12M --bsrange=4k-128k"+
			" --rw=randwrite --randseed=7 --verify=crc32c --verify_fatal=1 --end_fsync=1 %s",
			i, f[0], f[1], strings.Join(f[2:], " "))
	}
	return args
}

// TestIntegrationDAXFio has fio write files at random and verify them, through mappings and by
// system calls, with a window of two thirds of a file. Each file is then verified once more in
// the other way, and on the host. The guest verifies a file that the host's fio has written.
func TestIntegrationDAXFio(t *testing.T) {
	tree := guest.NeedTree(t, "fio")
	forDAXKernels(t, func(t *testing.T, kernel guest.Kind) {
		if kernel != guest.QEMU11 {
			long(t)
		}
		d := start(t, "", "--dax=inode", "--dax-window-size=8M")
		// A file that is empty when the guest first sees it has no DAX.
		for _, name := range []string{"mmap", "psync", "host"} {
			f, err := os.Create(filepath.Join(d.dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := f.Truncate(12 << 20); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		onHost := func(jobs ...string) {
			t.Helper()
			args := append([]string{"--library-path", tree, tree + "/fio"}, strings.Fields(fioArgs(jobs...))...)
			cmd := exec.Command(filepath.Join(tree, "ld.so"), args...)
			cmd.Dir = d.dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("fio on the host: %v\n%s", err, out)
			}
		}
		onHost("psync host --do_verify=0")
		programs := start(t, tree, "--readonly", "--tag", "programs")
		programs.Tag = "programs"
		o := daxGuest(t, d, kernel, `cd /mnt/fs
			for f in mmap psync host; do daxguest dax $f yes; done
			p=/mnt/programs; $p/ld.so --library-path $p $p/fio `+fioArgs(
			"mmap mmap", "psync psync", "psync mmap --verify_only", "mmap psync --verify_only",
			"mmap host --verify_only", "psync host --verify_only"))
		o.Shares = append(o.Shares, programs.Share)
		t.Log(run(t, guest.QEMU11, o))
		onHost("psync mmap --verify_only", "psync psync --verify_only")
	})
}
