package guest

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// umlDeviceID is the number of virtio-fs in the virtio specification.
const umlDeviceID = 26

// prepareUML writes the files of a UML guest below dir and returns the command that
// runs it.
func prepareUML(dir string, o *Options) (*command, error) {
	kernel, err := partFile("uml", "linux.uml")
	if err != nil {
		return nil, err
	}
	part := filepath.Dir(kernel)
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		return nil, err
	}
	vars := initVars{
		kind:        "uml",
		interpreter: "/bin/sh",
		busybox:     filepath.Join(part, "busybox"),
		modules:     filepath.Join(part, "modules"),
		state:       state,
		hostdir:     o.HostDir,
	}
	if o.Script != "" {
		// init.sh mounts the state directory there.
		vars.script = "/run/guest/script"
		if err := os.WriteFile(filepath.Join(state, "script"), []byte(o.Script), 0o600); err != nil {
			return nil, err
		}
	}
	init := filepath.Join(dir, "init")
	if err := os.WriteFile(init, []byte(initScript(vars, o)), 0o700); err != nil {
		return nil, err
	}
	return &command{
		path:   kernel,
		args:   umlArgs(dir, init, o),
		status: filepath.Join(state, "status"),
		env:    umlEnv(dir, o),
	}, nil
}

// umlEnv returns the environment of the kernel. The kernel's memory is a file
// that it maps with the right to execute. The file is in /dev/shm, or in dir
// where a container has a small /dev/shm or forbids this.
func umlEnv(dir string, o *Options) []string {
	var fs unix.Statfs_t
	if unix.Statfs("/dev/shm", &fs) == nil && fs.Type == unix.TMPFS_MAGIC &&
		fs.Flags&unix.ST_NOEXEC == 0 && fs.Bavail*uint64(fs.Bsize) >= uint64(o.Mem)<<20 {
		return nil
	}
	return []string{"TMPDIR=" + dir}
}

// umlArgs returns the kernel's command line. The root is the host's, read-only.
func umlArgs(dir, init string, o *Options) []string {
	console := "con0=null,fd:1"
	if o.Interactive {
		console = "con0=fd:0,fd:1"
	}
	args := []string{
		fmt.Sprintf("mem=%dM", o.Mem),
		"seccomp=on", "quiet", "loglevel=3", "panic=-1",
		"uml_dir=" + dir, "umid=uml",
		"rootfstype=hostfs", "rootflags=/", "ro",
		"init=" + init,
		"con=null", console, "ssl=null",
	}
	for _, s := range o.Shares {
		args = append(args, fmt.Sprintf("virtio_uml.device=%s:%d", s.Socket, umlDeviceID))
	}
	return append(args, o.ExtraArgs...)
}
