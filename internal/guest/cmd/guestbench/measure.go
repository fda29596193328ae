package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// script runs the workloads in wanted and prints "figure NAME NUMBER" for each run. The
// clock of the guest's uptime ticks every 10 ms. The script needs definitions before it:
// wanted, the number of runs of each workload, and the MiB of the large file.
const script = `
cd /mnt/fs || exit 1
now() { read -r t rest < /proc/uptime; echo "${t%.*}${t#*.}"; }
timed() { name=$1; shift; from=$(now); "$@" > /dev/null || exit 1; to=$(now); echo "figure $name $((to - from))e-2"; }
forget() { sync; echo 3 > /proc/sys/vm/drop_caches; }
run() { # NAME FUNCTION ARGUMENT...
	case ,$wanted, in *,$1,*) ;; *) return ;; esac
	shift
	for i in $(seq $times); do "$@"; done
}
large() { $BUSYBOX dd if=large$1 of=/dev/null bs=1M; }
cold() { timed cold large $((i - 1)); } # another file each time: after that the host has it
backend() { forget; timed backend large 0; }
extract() { $BUSYBOX mkdir -p tree$i; timed extract $BUSYBOX tar -C tree$i -xf tree.tar; forget; }
walk() { forget; timed walk $BUSYBOX find tree$i -type f -size +1000k; }
fio() { # NAME FIELD OPTION...
	name=$1 field=$2; shift 2
	line=$(prog/ld.so --library-path prog prog/fio --minimal --name=$name --filename=large0 --size=${megabytes}M \
		--direct=1 --runtime=3 --time_based --ioengine=psync --thread "$@") || { echo "$line"; exit 1; }
	echo "figure $name $(echo "$line" | $BUSYBOX cut -d';' -f$field)"
}
seq() { $BUSYBOX seq "$@"; }

run cold cold
run backend backend
case ,$wanted, in *,cached,*) large 0 2> /dev/null ;; esac
run cached timed cached large 0
run extract extract
run walk walk
run randread1 fio randread1 8 --rw=randread --bs=4k
run randread16 fio randread16 8 --rw=randread --bs=4k --numjobs=16 --group_reporting
run randwrite16 fio randwrite16 49 --rw=randwrite --bs=4k --numjobs=16 --group_reporting
run seqread fio seqread 8 --rw=read --bs=1M
`

// definitions are the script's parameters.
func (p *plan) definitions() string {
	var wanted []string
	for _, w := range workloads {
		if p.workloads[w.name] {
			wanted = append(wanted, w.name)
		}
	}
	if p.workloads["walk"] && !p.workloads["extract"] {
		wanted = append(wanted, "extract") // needs the extracted tree
	}
	return fmt.Sprintf("wanted=%s times=%d megabytes=%d\n", strings.Join(wanted, ","), max(p.repeat, 1), p.megabytes)
}

// measure boots one guest on one back-end and returns its figures.
func measure(ctx context.Context, p *plan, t target) (map[string]float64, error) {
	dir, err := os.MkdirTemp("/var/tmp", "guestbench-") // UML hides /tmp
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	share := filepath.Join(dir, "share")
	if err := p.prepare(share); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	socket := filepath.Join(dir, "socket")
	stop, err := start(t, share, socket)
	if err != nil {
		return nil, err
	}
	defer stop()
	if p.kind == guest.UML && t.tagless {
		tagged := filepath.Join(dir, "tagged")
		stop, err := serveTag(tagged, socket, "fs")
		if err != nil {
			return nil, err
		}
		defer stop()
		socket = tagged
	}
	r, err := guest.Run(ctx, p.kind, guest.Options{Script: p.definitions() + script, Mem: 1024, Timeout: measureTimeout,
		Shares: []guest.Share{{Tag: "fs", Socket: socket, QueueSize: queueSize(p.kind)}}})
	if err != nil || r.Status != 0 {
		return nil, fmt.Errorf("guest: status %d, %w\n%s", r.Status, err, r.Console)
	}
	return p.parse(r.Output)
}

// queueSize is the usual size where it can be chosen.
func queueSize(kind guest.Kind) int {
	if kind == guest.UML {
		return 0
	}
	return 1024
}

// parse returns the median of each workload's figures.
func (p *plan) parse(output string) (map[string]float64, error) {
	all := map[string][]float64{}
	for line := range strings.Lines(output) {
		words := strings.Fields(line)
		if len(words) != 3 || words[0] != "figure" {
			continue
		}
		v, err := strconv.ParseFloat(words[2], 64)
		if err != nil {
			return nil, fmt.Errorf("figure of %s: %w", words[1], err)
		}
		all[words[1]] = append(all[words[1]], v)
	}
	figures := map[string]float64{}
	for name, chosen := range p.workloads {
		if !chosen {
			continue
		}
		if len(all[name]) == 0 {
			return nil, fmt.Errorf("no figure of %s:\n%s", name, output)
		}
		figures[name] = median(all[name])
	}
	return figures, nil
}

// start runs the back-end and waits until it listens.
func start(t target, share, socket string) (stop func(), err error) {
	replace := strings.NewReplacer("{dir}", share, "{socket}", socket, "{tag}", "fs")
	var args []string
	for _, a := range t.args {
		args = append(args, replace.Replace(a))
	}
	var log bytes.Buffer
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	stop = func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
	}
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		select {
		case <-ended:
			return nil, fmt.Errorf("%s ended: %s", args[0], log.String())
		default:
		}
		if _, err := os.Stat(socket); err == nil {
			return stop, nil
		}
	}
	stop()
	return nil, fmt.Errorf("%s does not listen: %s", args[0], log.String())
}

// prepare makes the files that the guest works on. The large ones are cached nowhere.
func (p *plan) prepare(share string) error {
	if err := os.MkdirAll(filepath.Join(share, "prog"), 0o755); err != nil {
		return err
	}
	if err := program(filepath.Join(share, "prog")); err != nil {
		return err
	}
	if err := sourceTree(filepath.Join(share, "tree.tar"), 2000); err != nil {
		return err
	}
	for i := range p.files() {
		if err := largeFile(filepath.Join(share, fmt.Sprintf("large%d", i)), p.megabytes); err != nil {
			return err
		}
	}
	return nil
}

// files is the number of large files. Each run needs a new one, because reading a file caches
// it.
func (p *plan) files() int {
	if p.workloads["cold"] {
		return max(p.repeat, 1)
	}
	return 1
}

// largeFile makes a file of random bytes and drops its pages from the host's
// cache.
func largeFile(path string, megabytes int) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	block := make([]byte, 1<<20)
	random := rand.NewChaCha8([32]byte{1})
	for range megabytes {
		_, _ = random.Read(block)
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
}

// program copies fio with its loader and libraries, as they are set up for guests.
func program(dir string) error {
	tree, err := guest.TreePath("fio")
	if err != nil {
		return err
	}
	return os.CopyFS(dir, os.DirFS(tree))
}

// sourceTree writes an archive of files with sizes as in a source tree: 1 to 32 KiB.
func sourceTree(path string, files int) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	content := bytes.Repeat([]byte("int main(void) { return 0; }\n"), 1200)
	for i := range files {
		name := fmt.Sprintf("dir%02d/sub%d/file%04d.c", i%40, i%5, i)
		size := 1024 + i*7919%(31<<10)
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		if _, err := w.Write(content[:size]); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
