package vsock

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/guest"
)

// workload is a run of fio in the guest. field is where its terse output (version 3) has the figure.
type workload struct {
	name, unit, args string
	field            int
}

// Fields of fio's terse output, from 0 on.
const (
	readKiB, readIOPS   = 6, 7
	writeKiB, writeIOPS = 47, 48
)

var workloads = []workload{
	{"write 64 MiB, 1 MiB each, then fsync", "MiB/s", "--rw=write --bs=1M --size=64M --end_fsync=1", writeKiB},
	{"read 64 MiB, 1 MiB each, not in the guest's cache", "MiB/s", "--rw=read --bs=1M --size=64M --invalidate=1", readKiB},
	{"read 4 KiB at random, O_DIRECT, one at a time", "/s", "--rw=randread --bs=4k --size=64M --direct=1 --runtime=3 --time_based", readIOPS},
	{"read 4 KiB at random, O_DIRECT, 8 processes", "/s", "--rw=randread --bs=4k --size=64M --direct=1 --runtime=3 --time_based --numjobs=8 --group_reporting", readIOPS},
	{"write 4 KiB at random, O_DIRECT, one at a time", "/s", "--rw=randwrite --bs=4k --size=64M --direct=1 --runtime=3 --time_based", writeIOPS},
}

// ways are the file systems that are compared, by their directories in the guest. The ratio is of the first to
// each.
var ways = []string{"s", "fs", "9p"}

// Length of a question and its answer: a READ of 4 KiB with their headers.
const (
	question = 80
	answer   = 4096 + 16
)

// connections of the transport alone, for which there are rows of their own.
var connections = []int{1, 4}

// answerAll is the host's program that the transport is measured with.
func answerAll(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				b := make([]byte, answer)
				for {
					if _, err := io.ReadFull(c, b[:question]); err != nil {
						return
					}
					if _, err := c.Write(b); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// TestIntegrationFigures measures the same workloads over vsock, virtio-fs, and 9p over the same vsock device in
// one guest, in turn, and logs medians. It is no test of anything but that they run.
func TestIntegrationFigures(t *testing.T) {
	if os.Getenv("GOVIRTIOFS_LONG") == "" {
		t.Skip("set GOVIRTIOFS_LONG=1: it takes minutes")
	}
	h := newHost(t, guest.UML, "")
	fio := guest.NeedTree(t, "fio")
	other := filepath.Join(h.dir, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(h.dir, "fs")
	start(t, socket, program(t, "govirtiofsd"), "--shared-dir", other, "--socket-path", socket, "--tag", "fs")
	nine := guest.NeedTree(t, "diod")
	start(t, h.uds()+"_564", filepath.Join(nine, "usr/sbin/diod"), "-f", "-n", "-N", "-l", h.uds()+"_564", "-e", other, "-L", "stderr")
	for i, m := range []string{"netfs", "9pnet", "9pnet_fd", "9p"} {
		h.files[filepath.Join(filepath.Dir(nine), "uml", m+".ko")] = fmt.Sprintf("/run/9-%d-%s.ko", i, m)
	}
	h.files[program(t, "mount9p")] = "/run/mount9p"
	h.files[program(t, "model")] = "/run/model"
	answerAll(t, h.uds()+"_7")
	const rounds = 5
	var script strings.Builder
	fmt.Fprintf(&script, `mkdir /mnt/9p
$guest mount -o token=/run/token vsock:2:1024 /mnt/s
$BUSYBOX cp /run/mount9p /run/bin/mount9p; $BUSYBOX chmod 755 /run/bin/mount9p
/run/bin/mount9p 2 564 %s /mnt/9p
$BUSYBOX cp /run/model /run/bin/model; $BUSYBOX chmod 755 /run/bin/model
fio='%s/ld.so --library-path %s %s/fio'
create() { i=0; while [ $i -lt 500 ]; do echo $i >$1/c$i; i=$((i+1)); done; }
walk() { i=0; while [ $i -lt 500 ]; do read x <$1/c$i; i=$((i+1)); done; }
now() { read up rest </proc/uptime; echo $up; }
`, other, fio, fio, fio)
	for range rounds {
		for _, n := range connections {
			fmt.Fprintf(&script, "echo = %d $(/run/bin/model echo 2 7 %d %d %d 3)\n", n, question, answer, n)
		}
		for i, w := range workloads {
			for _, dir := range ways {
				fmt.Fprintf(&script, "echo @%d %s $($fio --minimal --terse-version=3 --name=f --filename=/mnt/%s/f --fallocate=none %s | $BUSYBOX tail -n 1)\n",
					i, dir, dir, w.args)
			}
		}
		for _, dir := range ways {
			fmt.Fprintf(&script, "a=$(now); create /mnt/%s; b=$(now); walk /mnt/%s; c=$(now); $BUSYBOX rm /mnt/%s/c*; echo ! %s $a $b $c $(now)\n", dir, dir, dir, dir)
		}
	}
	script.WriteString("$BUSYBOX umount /mnt/s\n")
	o := h.options(guest.UML, script.String())
	o.Timeout, o.Shares = 9*time.Minute, []guest.Share{{Tag: "fs", Socket: socket}}
	r, err := guest.Run(context.Background(), guest.UML, o)
	f, err := readFigures(h.output(t, r, err))
	if err != nil {
		t.Fatal(err)
	}
	logFigures(t, f)
}

// transport is the key of what the transport can do alone.
const transport = "transport "

// files are what the guest does with 500 small files, by the clock of its shell.
var files = []string{"create 500 files by a shell", "open and read them", "remove them"}

// readFigures returns the figures by workload and way.
func readFigures(output string) (map[string][]float64, error) {
	figures := map[string][]float64{}
	for line := range strings.Lines(output) {
		f := strings.Fields(line)
		switch {
		case len(f) == 6 && f[0] == "!":
			for i := range files {
				from, err := strconv.ParseFloat(f[2+i], 64)
				if err != nil {
					return nil, err
				}
				to, err := strconv.ParseFloat(f[3+i], 64)
				if err != nil {
					return nil, err
				}
				key := files[i] + f[1]
				figures[key] = append(figures[key], 500/max(to-from, 0.01))
			}
		case len(f) == 3 && f[0] == "=":
			v, err := strconv.ParseFloat(f[2], 64)
			if err != nil {
				return nil, err
			}
			figures[transport+f[1]] = append(figures[transport+f[1]], v)
		case len(f) > 2 && f[0][0] == '@':
			i, err := strconv.Atoi(f[0][1:])
			terse := strings.Split(strings.Join(f[2:], " "), ";")
			if err != nil || i >= len(workloads) || len(terse) <= workloads[i].field || terse[4] != "0" {
				return nil, fmt.Errorf("fio says %q", line)
			}
			v, err := strconv.ParseFloat(terse[workloads[i].field], 64)
			if err != nil {
				return nil, err
			}
			if workloads[i].unit == "MiB/s" {
				v /= 1024
			}
			key := workloads[i].name + f[1]
			figures[key] = append(figures[key], v)
		}
	}
	return figures, nil
}

// logFigures logs a table: the median of each way, what its smallest and largest figure are of it, and the first
// way's ratio to it.
func logFigures(t *testing.T, figures map[string][]float64) {
	t.Helper()
	for _, n := range connections {
		f := figures[fmt.Sprint(transport, n)]
		if len(f) == 0 {
			t.Fatalf("no figures of the transport with %d connections", n)
		}
		slices.Sort(f)
		t.Logf("the transport alone, %d bytes and %d back, %d connections: %.0f /s (%.0f to %.0f)", question, answer, n, f[len(f)/2], f[0], f[len(f)-1])
	}
	rows := workloads
	for _, name := range files {
		rows = append(rows, workload{name: name, unit: "/s"})
	}
	for _, w := range rows {
		line := "| " + w.name + " | "
		first := 0.0
		for i, way := range ways {
			f := figures[w.name+way]
			if len(f) == 0 {
				t.Fatalf("%s: no figures of %s", w.name, way)
			}
			slices.Sort(f)
			median := f[len(f)/2]
			if i == 0 {
				first = median
			}
			line += fmt.Sprintf("%.0f %s (%.0f to %.0f) | ", median, w.unit, f[0], f[len(f)-1])
			if i > 0 {
				line += fmt.Sprintf("%.2f | ", first/median)
			}
		}
		t.Log(line)
	}
}
