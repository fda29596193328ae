package guest

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// The lines by which init.sh encloses the output of the script.
const (
	scriptBegin = "@@ script\n"
	scriptEnd   = "@@ end\n"
)

// console collects what a guest writes. It is safe for concurrent use.
type console struct {
	mu     sync.Mutex
	buf    strings.Builder
	notify chan struct{} // closed at the next write, nil if nobody waits
}

// Write adds output. Serial ports give carriage returns, which are dropped.
func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range p {
		if b != '\r' {
			c.buf.WriteByte(b)
		}
	}
	if c.notify != nil {
		close(c.notify)
		c.notify = nil
	}
	return len(p), nil
}

// text returns all output up to now.
func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// changed returns a channel that is closed at the next output.
func (c *console) changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.notify == nil {
		c.notify = make(chan struct{})
	}
	return c.notify
}

// scriptOutput returns the output of the script in a console's text. If the guest
// was rebooted, it is that of the last run.
func scriptOutput(console string) string {
	_, rest, found := cutLast(console, scriptBegin)
	if !found {
		return ""
	}
	output, _, _ := cutLast(rest, scriptEnd)
	return output
}

// cutLast slices s around the last occurrence of sep. Without sep, all of s is
// before it.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// tail returns the last lines of a console, for an error message.
func tail(s string) string {
	const most = 2000
	if len(s) > most {
		s = "..." + s[len(s)-most:]
	}
	return s
}

// unpackResults unpacks a guest's /run/host into dir. It leaves out links and
// special files: nothing that a guest sends may lead outside of dir.
func unpackResults(archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r := tar.NewReader(f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = unpackEntry(root, h, r)
		}
		if err != nil {
			return fmt.Errorf("guest: results: %w", err)
		}
	}
}

// unpackEntry unpacks one member of an archive.
func unpackEntry(root *os.Root, h *tar.Header, contents io.Reader) error {
	name := filepath.Clean(h.Name)
	switch h.Typeflag {
	case tar.TypeDir:
		return root.MkdirAll(name, 0o755)
	case tar.TypeReg:
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, h.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(f, contents)
		return errors.Join(err, f.Close())
	}
	return nil
}
