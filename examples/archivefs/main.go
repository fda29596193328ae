// Archivefs shows what is in a zip or tar archive, as squashfuse and ratarmount do. Nothing is
// unpacked: a zip archive has an index, and one of a tar archive is made at the start.
//
//	archivefs --mount=/mnt ARCHIVE
//
// A tar archive that is compressed with gzip or bzip2 is decompressed into a temporary file without a
// name, because it could not be read in the middle.
package main

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/govirtiofs/govirtiofs/examples/internal/cli"
	"github.com/govirtiofs/govirtiofs/iofs"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/vfs"
)

// open is the file system of an archive.
func open(path string) (server.FileSystem, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	root, err := newRoot(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return vfs.New(root, vfs.Options{ReadOnly: true, Immutable: true}), nil
}

// newRoot is the root directory of the archive f.
func newRoot(f *os.File) (vfs.Node, error) {
	start := bufio.NewReaderSize(f, 4096)
	magic, err := start.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte("PK")):
		st, err := f.Stat()
		if err != nil {
			return nil, err
		}
		z, err := zip.NewReader(f, st.Size())
		if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // no path leads out of a file system
			return nil, fmt.Errorf("%w (%w)", errNoArchive, err)
		}
		return iofs.Root(z, iofs.Options{Immutable: true}), nil
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(start)
		if err != nil {
			return nil, fmt.Errorf("%w (%w)", errNoArchive, err)
		}
		return decompressed(z)
	case bytes.HasPrefix(magic, []byte("BZh")):
		return decompressed(bzip2.NewReader(start))
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return readTar(f)
}

// errNoArchive is the error for a file that no package can read.
var errNoArchive = errors.New("this is no zip archive, no tar archive, and no tar archive that is compressed with gzip or bzip2; or it is damaged")

// decompressed is the root of a tar archive that r has.
func decompressed(r io.Reader) (vfs.Node, error) {
	f, err := os.CreateTemp("", "archivefs-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, err
	}
	if _, err := io.Copy(f, r); err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	return readTar(f)
}

func main() {
	p := cli.Program{Args: "ARCHIVE", NArgs: 1, New: func(args []string) (server.FileSystem, error) { return open(args[0]) }}
	p.Main()
}
