package doctor

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/internal/token"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// Vsock is what a share for guests that have only vsock needs.
type Vsock struct {
	Socket *Socket          // of --vsock-uds; nil for --vsock
	Family error            // of a vsock socket of this kernel, for --vsock
	Device error            // of finding /dev/vhost-vsock, for --vsock
	Token  error            // of reading --vsock-token; nil if there is none
	Shares map[string]error // of the directories of --vsock-share, by name
}

func (h host) vsock(p *share.Config) Vsock {
	v := Vsock{Shares: make(map[string]error)}
	if p.VsockUDS != "" {
		s := h.socket(p.VsockUDS)
		v.Socket = &s
	} else {
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if v.Family = err; err == nil {
			_ = unix.Close(fd)
		}
		_, v.Device = os.Stat("/dev/vhost-vsock")
	}
	if p.VsockToken != "" && p.VsockToken != share.NoToken {
		_, v.Token = token.Read(p.VsockToken)
	}
	for _, s := range p.VsockShares {
		v.Shares[s.Name] = sandbox.CheckShare(s.Dir)
	}
	return v
}

func (r *Report) vsock(p *share.Config, v *Vsock) {
	port := fmt.Sprint(p.VsockPort)
	if v.Socket != nil {
		port = p.VsockUDS[strings.LastIndexByte(p.VsockUDS, '_')+1:]
		r.vsockSocket(p.VsockUDS, port, v.Socket)
	} else {
		r.vsockFamily(v)
	}
	r.vsockToken(p, v)
	mount := func(name, dir string) string {
		return "govirtiofs-guest mount vsock:2:" + port + "/" + name + " " + dir + " (as root in the guest)"
	}
	remedy := mount("", "/mnt")
	for _, s := range p.VsockShares {
		remedy = "" // each share has its own
		access := ""
		if s.ReadOnly || p.ReadOnly {
			access = ", read-only"
		}
		dir := "/mnt"
		if len(p.VsockShares) > 1 {
			dir += "/" + s.Name
		}
		if err := v.Shares[s.Name]; err != nil {
			r.add(Fail, "vsock.share", "give a directory that is there", "share %s: %v", s.Name, err)
		} else {
			r.add(OK, "vsock.share", mount(s.Name, dir), "%s is %s%s", s.Name, s.Dir, access)
		}
	}
	r.add(OK, "vsock.guest", remedy,
		"the guest needs Linux 4.20 with FUSE and vsock (modprobe vmw_vsock_virtio_transport), and the program govirtiofs-guest")
}

func (r *Report) vsockSocket(path, port string, s *Socket) {
	const check = "vsock.socket"
	vmm := strings.TrimSuffix(path, "_"+port)
	switch {
	case s.Err == nil && s.Listening:
		r.ok(check, "the daemon listens on %s, for guests whose VMM has the vsock socket %s", path, vmm)
	case s.Err == nil && s.Listed == nil:
		r.add(Warn, check, "start the daemon: it replaces the file", "nobody listens on %s", path)
	case s.Err == nil:
		r.ok(check, "%s is there; it is unknown whether a program listens: %v", path, s.Listed)
	case s.DirErr != nil:
		r.add(Fail, check, "make the directory, or start the daemon as a user that can write there",
			"the daemon can't make %s: %v", path, s.DirErr)
	default:
		r.ok(check, "the daemon will make %s, for guests whose VMM has the vsock socket %s", path, vmm)
	}
}

func (r *Report) vsockFamily(v *Vsock) {
	switch {
	case v.Family != nil:
		r.add(Fail, "vsock.device", "modprobe vhost_vsock", "this kernel has no vsock: %v", v.Family)
	case errors.Is(v.Device, os.ErrNotExist):
		r.add(Fail, "vsock.device", "modprobe vhost_vsock; for VMMs with Unix sockets (Firecracker, cloud-hypervisor) use --vsock-uds",
			"there is no /dev/vhost-vsock, by which QEMU gives a guest a vsock device")
	default:
		r.ok("vsock.device", "/dev/vhost-vsock is there")
	}
}

func (r *Report) vsockToken(p *share.Config, v *Vsock) {
	const check = "vsock.token"
	const remedy = "head -c 32 /dev/urandom | base64 >token; chmod 600 token, the same on host and guest"
	switch {
	case v.Token != nil:
		r.add(Fail, check, remedy, "--vsock-token: %v", v.Token)
	case p.VsockToken == share.NoToken:
		r.add(Warn, check, remedy, "any process in the guest may connect and act as its root")
	case p.VsockToken == "" && v.Socket != nil:
		r.add(Fail, check, remedy, "--vsock-uds needs --vsock-token")
	case p.VsockToken == "":
		r.ok(check, "without a token the guest connects from a port below 1024, as its root")
	default:
		r.ok(check, "only a guest that knows the contents of %s may connect", p.VsockToken)
	}
}
