// Command guestwatch prints what inotify says of all that is in a directory and below it, as
// "inotifywait -r -m" does, until a file with a certain name appears.
package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const mask = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_ATTRIB | unix.IN_ONLYDIR

var words = []struct {
	bit  uint32
	text string
}{{unix.IN_CREATE, "CREATE"}, {unix.IN_DELETE, "DELETE"}, {unix.IN_MODIFY, "MODIFY"}, {unix.IN_CLOSE_WRITE, "CLOSE_WRITE"},
	{unix.IN_MOVED_FROM, "MOVED_FROM"}, {unix.IN_MOVED_TO, "MOVED_TO"}, {unix.IN_ATTRIB, "ATTRIB"}, {unix.IN_ISDIR, "ISDIR"},
	{unix.IN_Q_OVERFLOW, "Q_OVERFLOW"}}

// watcher has a watch for each directory.
type watcher struct {
	fd      int
	root    string
	dirs    map[int32]string
	cookies map[uint32]int
	out     *bufio.Writer
	count   bool // print only how many there were of each kind
	counts  map[string]int
}

func main() {
	ready := flag.String("ready", "", "`file` to make when all is watched")
	until := flag.String("until", "the-end", "`name` of the file that ends it")
	count := flag.Bool("count", false, "print only how many events of each kind there were")
	flag.Parse()
	if err := run(flag.Arg(0), *ready, *until, *count); err != nil {
		fmt.Fprintln(os.Stderr, "guestwatch:", err)
		os.Exit(1)
	}
}

func run(root, ready, until string, count bool) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	w := &watcher{fd: fd, root: root, dirs: map[int32]string{}, cookies: map[uint32]int{}, out: bufio.NewWriter(os.Stdout),
		count: count, counts: map[string]int{}}
	defer w.out.Flush()
	if err := w.add("."); err != nil {
		return err
	}
	if ready != "" {
		if err := os.WriteFile(ready, nil, 0o666); err != nil {
			return err
		}
	}
	b := make([]byte, 1<<20)
	for {
		n, err := unix.Read(fd, b)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		for e := b[:n]; len(e) >= unix.SizeofInotifyEvent; {
			size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(e[12:]))
			if w.event(e[:size]) == until {
				for kind, n := range w.counts {
					fmt.Fprintf(w.out, "%s %d\n", kind, n)
				}
				return nil
			}
			e = e[size:]
		}
	}
}

// add watches a directory and all below it. What is gone meanwhile is left out.
func (w *watcher) add(dir string) error {
	return filepath.WalkDir(filepath.Join(w.root, dir), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		wd, err := unix.InotifyAddWatch(w.fd, path, mask)
		if err == nil {
			w.dirs[int32(wd)], err = filepath.Rel(w.root, path)
		} else if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			return nil
		}
		return err
	})
}

// event prints one event, and returns the name.
func (w *watcher) event(e []byte) string {
	bits := binary.NativeEndian.Uint32(e[4:])
	if bits&unix.IN_IGNORED != 0 {
		return ""
	}
	name := strings.TrimRight(string(e[unix.SizeofInotifyEvent:]), "\x00")
	path := filepath.Join(w.dirs[int32(binary.NativeEndian.Uint32(e))], name)
	var text []string
	for _, k := range words {
		if bits&k.bit != 0 {
			text = append(text, k.text)
		}
	}
	line := strings.Join(text, ",")
	switch cookie := binary.NativeEndian.Uint32(e[8:]); {
	case w.count:
		w.counts[line]++
	case cookie != 0:
		if w.cookies[cookie] == 0 {
			w.cookies[cookie] = len(w.cookies) + 1
		}
		fmt.Fprintf(w.out, "%s %s #%d\n", line, path, w.cookies[cookie])
	default:
		fmt.Fprintln(w.out, line, path)
	}
	if bits&unix.IN_ISDIR != 0 && bits&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 {
		_ = w.add(path)
	}
	return name
}
