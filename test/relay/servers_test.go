package relay_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"testing"

	"golang.org/x/net/webdav"
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
