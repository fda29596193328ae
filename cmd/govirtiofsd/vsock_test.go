package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/stream"
)

// TestLoadStateRefused: a saved session that can't be used is named, with what becomes of the guest, and the file is empty then.
func TestLoadStateRefused(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		renews  bool
		want    string
	}{
		"short": {"junk", true, "it ends in its first bytes: unexpected EOF: the guest begins another session; what it has open is stale"},
		"other": {strings.Repeat("junk", 20), true, "it is no saved session, or one of another version: the guest begins another session; what it has open is stale"},
		"relay": {"junk", false, "it ends in its first bytes: unexpected EOF: the guest has to mount again"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "state")
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			state, err := openState(path)
			if err != nil {
				t.Fatal(err)
			}
			defer state.Close()
			s, err := stream.New(nil, stream.Options{})
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			log := logrus.New()
			log.SetOutput(&out)
			log.SetFormatter(&logrus.TextFormatter{DisableQuote: true})
			if err := loadState(s, state, c.renews, log); err != nil {
				t.Fatal(err)
			}
			if want := "The saved session in " + path + " can't be used: " + c.want; !strings.Contains(out.String(), want) {
				t.Errorf("the log has %q, want %q", &out, want)
			}
			if st, err := state.Stat(); err != nil || st.Size() != 0 {
				t.Errorf("the file is not emptied: %v, %v", st, err)
			}
		})
	}
}

// TestVsockMistakes: errors name the option of vsock that is to be changed.
func TestVsockMistakes(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for name, c := range map[string]struct {
		set  func(o *options)
		want string
	}{
		"socket's directory of vsock": {func(o *options) { o.VsockUDS = missing + "/v_1024" }, "or choose another path for --vsock-uds"},
		"socket's directory":          {func(o *options) { o.SocketPath = missing + "/s" }, "or choose another --socket-path"},
	} {
		o := &options{}
		c.set(o)
		_, err := openEndpoint(o, nil)
		if want := "the socket's directory " + missing + " does not exist: make it (mkdir -p " + missing + "), " + c.want; err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
	for name, c := range map[string]struct {
		set  func(o *options)
		want string
	}{
		"one of two": {func(o *options) { o.VsockShares = []share.Shared{{Name: "a", Dir: "/"}, {Name: "b", Dir: missing}} }, "shared directory of --vsock-share b: "},
		"the only":   {func(o *options) { o.SharedDir = missing }, "shared directory: "},
	} {
		o := &options{}
		c.set(o)
		err := o.checkShares()
		if want := c.want + "stat " + missing + ": no such file or directory: make the directory first (mkdir -p " + missing + "), or give another path"; err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}
