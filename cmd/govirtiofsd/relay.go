package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/events"
	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/relay"
	fuseprogram "github.com/govirtiofs/govirtiofs/relay/program"
	"github.com/govirtiofs/govirtiofs/server"
	"github.com/govirtiofs/govirtiofs/stream"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// relayEnv tells the daemon that `govirtiofs relay` has started it: it serves what a FUSE program has, not a
// directory. Its value is a relayed. --shared-dir is an empty directory then, the daemon's sandbox.
const relayEnv = "GOVIRTIOFSD_RELAY"

// childRelay is the channel's descriptor in a worker.
const childRelay = childStretch + 1

// relayed is a FUSE program that is the share.
type relayed struct {
	Channel int           // a fuseprogram.Remote's descriptor
	Program string        // what the program is called
	Restart bool          // start the program again when it ends
	Timeout time.Duration // of one request; 0 is none

	file *os.File
}

// takeRelay takes what the environment says of a FUSE program out of it.
func (o *options) takeRelay() error {
	value, ok := os.LookupEnv(relayEnv)
	if !ok {
		return nil
	}
	_ = os.Unsetenv(relayEnv)
	r := &relayed{}
	if err := json.Unmarshal([]byte(value), r); err != nil {
		return fmt.Errorf("%s: %w", relayEnv, err)
	}
	kind, err := unix.GetsockoptInt(r.Channel, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_SEQPACKET {
		return fmt.Errorf("%s: descriptor %d is not the channel of 'govirtiofs relay'", relayEnv, r.Channel)
	}
	unix.CloseOnExec(r.Channel)
	r.file = os.NewFile(uintptr(r.Channel), "relay")
	o.relay = r
	o.Capabilities = nil // it opens no files
	return nil
}

// pass gives the program to a worker.
func (r *relayed) pass(env []string, files []*os.File) ([]string, []*os.File) {
	value, err := json.Marshal(relayed{Channel: childRelay, Program: r.Program, Restart: r.Restart, Timeout: r.Timeout})
	if err != nil {
		return env, files
	}
	files = append(files[:len(files):len(files)], make([]*os.File, childRelay-3-len(files))...)
	return append(env, relayEnv+"="+string(value)), append(files, r.file)
}

// withNotifications is the program's file system, with what tells a guest's helper of the program's notifications if it is asked for.
func (o *options) withNotifications(fs *relay.FS, log *slog.Logger) (server.FileSystem, error) {
	if o.Events != share.EventsAuto {
		return fs, nil
	}
	around, err := events.NewNotified(fs, events.Options{ReadOnly: o.ReadOnly, Log: log})
	if err != nil {
		return nil, err
	}
	fs.Connect(around)
	return around, nil
}

// newRelay serves the program.
func newRelay(o *options, p *process, files *vsockFiles, settings server.Options, log *logrus.Logger) (service, error) {
	conn, err := net.FileConn(o.relay.file)
	if err != nil {
		return nil, fmt.Errorf("relay: %w", err)
	}
	_ = o.relay.file.Close()
	channel, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, errors.New("relay: the channel is not a Unix socket")
	}
	fs, err := relay.New(context.Background(), fuseprogram.NewRemote(channel),
		relay.Options{Restart: o.relay.Restart, Timeout: o.relay.Timeout, Users: o.UIDs, Groups: o.GIDs, Log: settings.Log})
	if err != nil {
		return nil, err
	}
	settings.Host.AddQueues(1) // a thread of the relay's waits for replies in a system call
	settings.MaxWrite = relay.MaxData
	if o.Streams() {
		settings.MaxWrite = min(settings.MaxWrite, stream.DefaultMaxWrite)
	}
	if !o.Streams() {
		around, err := o.withNotifications(fs, settings.Log)
		if err != nil {
			return nil, err
		}
		return o.serveDevice(p, server.New(around, settings), settings, virtiofs.Options{}, log)
	}
	s, err := o.streamServer(p, server.New(fs, settings), o.Tag, files, nil, false, settings)
	if err != nil {
		return nil, err
	}
	fs.Connect(s)
	return o.streams([]*stream.Server{s}, files, log), nil
}
