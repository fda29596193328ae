package relay_test

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/govirtiofs/govirtiofs/test/relay/sample"
)

// A brick is a directory with a server of its own. The client writes to both and reads from the first, as long as it lives.
const (
	brickVolume = `
volume posix
  type storage/posix
  option directory {dir}
end-volume
volume locks
  type features/locks
  subvolumes posix
end-volume
volume index
  type features/index
  option index-base {dir}/.glusterfs/indices
  subvolumes locks
end-volume
volume brick
  type performance/io-threads
  subvolumes index
end-volume
volume server
  type protocol/server
  option transport-type socket
  option transport.address-family unix
  option transport.socket.listen-path {dir}.sock
  option auth.addr.brick.allow *
  option rpc-auth-allow-insecure on
  subvolumes brick
end-volume
`
	clientVolume = `
volume {name}
  type protocol/client
  option transport-type socket
  option transport.address-family unix
  option remote-host localhost
  option transport.socket.connect-path {dir}.sock
  option remote-subvolume brick
end-volume
`
	replicaVolume = `
volume replica
  type cluster/replicate
  option afr-pending-xattr brick1,brick2
  option read-subvolume brick1
  subvolumes brick1 brick2
end-volume
`
)

// prepareGluster starts the servers of two bricks with the sample, without glusterd. bench.kill ends the first
// one.
func prepareGluster(b *bench) []string {
	var client strings.Builder
	for _, name := range []string{"brick1", "brick2"} {
		dir := b.sample(name)
		values := strings.NewReplacer("{dir}", dir, "{name}", name)
		if err := os.Mkdir(dir+"/.glusterfs", 0o700); err != nil {
			b.t.Fatal(err)
		}
		b.write(name+".vol", values.Replace(brickVolume), 0o644)
		stop := startBrick(b.t, dir)
		if b.kill == nil {
			b.kill = stop
		}
		client.WriteString(values.Replace(clientVolume))
	}
	b.t.Cleanup(func() {
		if log, _ := os.ReadFile(b.path("client.log")); b.t.Failed() {
			b.t.Logf("client.log:\n%s", log[max(0, len(log)-8000):])
		}
	})
	b.write("client.vol", client.String()+replicaVolume, 0o644)
	return []string{"/usr/sbin/glusterfs", "-f", b.path("client.vol"), "-l", b.path("client.log"), "-p", b.path("client.pid"), "{mount}"}
}

// startBrick starts the server of a brick, and waits until it listens. The server ends with the test, or when it is killed.
func startBrick(t *testing.T, dir string) (kill func()) {
	t.Helper()
	cmd := exec.Command("glusterfsd", "-N", "-f", dir+".vol", "-l", dir+".log", "-p", dir+".pid")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	if err := sample.Until(func() error {
		c, err := net.Dial("unix", dir+".sock")
		if err == nil {
			_ = c.Close()
		}
		return err
	}); err != nil {
		log, _ := os.ReadFile(dir + ".log")
		t.Fatalf("glusterfsd: %v\n%s", err, tail(string(log)))
	}
	if err := os.Chmod(dir+".sock", 0o666); err != nil { // the user's client connects to it
		t.Fatal(err)
	}
	return kill
}

// inBricks looks into both bricks.
func inBricks(b *bench, suffix string, o sample.Omit) error {
	return errors.Join(inDir("brick1")(b, suffix, o), inDir("brick2")(b, suffix, o))
}
