package relay_test

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"golang.org/x/net/webdav"

	"github.com/govirtiofs/govirtiofs/test/relay/sample"
)

// serveHTTP serves on the loopback until the end of the test, and returns the address.
func serveHTTP(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// prepareDAV starts a WebDAV server of the sample.
func prepareDAV(b *bench) []string {
	addr := serveHTTP(b.t, &webdav.Handler{FileSystem: webdav.Dir(b.sample("src")), LockSystem: webdav.NewMemLS()})
	config := fmt.Sprintf("ask_auth 0\ncache_dir %s\ndelay_upload 0\ncache_size 200\n", b.mkdir("cache"))
	b.write("davfs2.conf", config, 0o600)
	// davfs2 becomes another user, davfs2, who has the cache.
	for path, mode := range map[string]os.FileMode{b.dir: 0o755, b.path("cache"): 0o777} {
		if err := os.Chmod(path, mode); err != nil {
			b.t.Fatal(err)
		}
	}
	return []string{"mount.davfs", "-o", "conf=" + b.path("davfs2.conf"), "http://" + addr + "/", "{mount}"}
}

// s3Bucket is what s3fs shows.
const s3Bucket = "bucket"

// prepareS3 starts an S3 server of the sample: s3fs has a file's metadata in that of its object, and a directory is an
// object, too.
func prepareS3(b *bench) []string {
	backend := s3mem.New()
	if err := backend.CreateBucket(s3Bucket); err != nil {
		b.t.Fatal(err)
	}
	src := b.sample("src")
	if err := filepath.Walk(src, func(path string, info fs.FileInfo, err error) error {
		if err != nil || path == src {
			return err
		}
		return putObject(backend, path, path[len(src)+1:], info)
	}); err != nil {
		b.t.Fatal(err)
	}
	b.s3 = backend
	addr := serveHTTP(b.t, gofakes3.New(backend, gofakes3.WithoutVersioning()).Server())
	b.write("passwd", "key:secret\n", 0o600)
	return []string{"s3fs", s3Bucket, "{mount}", "-o", "url=http://" + addr, "-o", "use_path_request_style", "-o", "passwd_file=" + b.path("passwd")}
}

// putObject puts a file of this machine on an S3 server, as s3fs would.
func putObject(to gofakes3.Backend, path, key string, info fs.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t)
	meta := map[string]string{"X-Amz-Meta-Mode": fmt.Sprint(st.Mode), "X-Amz-Meta-Uid": fmt.Sprint(st.Uid), "X-Amz-Meta-Gid": fmt.Sprint(st.Gid),
		"X-Amz-Meta-Mtime": fmt.Sprint(info.ModTime().Unix())}
	var data []byte
	var err error
	switch info.Mode().Type() {
	case fs.ModeDir:
		key += "/"
	case fs.ModeSymlink:
		var target string
		target, err = os.Readlink(path)
		data = []byte(target)
	default:
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return err
	}
	_, err = to.PutObject(s3Bucket, key, meta, bytes.NewReader(data), int64(len(data)), nil)
	return err
}

// inBucket looks at the server for what s3fs has written.
func inBucket(b *bench, suffix string, o sample.Omit) error {
	name, want := sample.Written(suffix, o)
	object, err := b.s3.GetObject(s3Bucket, name, nil)
	if err != nil {
		return err
	}
	defer object.Contents.Close()
	if got, err := io.ReadAll(object.Contents); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("%s has %d bytes, want %d: %v", name, len(got), len(want), err)
	}
	return nil
}
