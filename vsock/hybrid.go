package vsock

import (
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/accept"
)

const (
	// Ports of the host's programs that connect to the guest.
	firstPort = 1 << 30
	endPort   = 1 << 31

	// maxCommand is the length of "CONNECT 4294967295\n" and some blanks, that of Firecracker.
	maxCommand = 32
	// maxCommands is how many programs may be connected that have said nothing yet.
	maxCommands = 64
)

// Listen serves programs of the host that connect to the guest, until ctx ends or the listener
// fails. It closes the listener.
func (d *Device) Listen(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer func() { _ = l.Close() }()
	for {
		s, err := accept.Next(ctx, l.AcceptUnix, func(err error) {
			d.broken.Do(func() { d.log.Warn("A program can't connect for now", "error", err) })
		})
		if err != nil {
			return err
		}
		d.mu.Lock()
		full := d.hellos >= maxCommands
		if !full {
			d.hellos++
		}
		d.mu.Unlock()
		if full {
			_ = s.Close()
			continue
		}
		go d.command(s)
	}
}

// command reads what a program wants, and connects it.
func (d *Device) command(s *net.UnixConn) {
	port, err := readCommand(s)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hellos--
	if err != nil || d.toGuest == nil || len(d.conns) >= maxConns {
		_ = s.Close()
		return
	}
	c := d.add(key{d.freePort(port), port})
	c.socket, c.state = s, awaited
	d.say(c, sayRequest)
	c.timer = time.AfterFunc(connectTime, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if c.state == awaited {
			d.reset(c)
		}
	})
}

// freePort is a port of the host that has no connection to that of the guest. d.mu is held; there are
// many more than connections.
func (d *Device) freePort(guest uint32) uint32 {
	for {
		port := d.lastPort
		if d.lastPort++; d.lastPort == endPort {
			d.lastPort = firstPort
		}
		if d.conns[key{port, guest}] == nil {
			return port
		}
	}
}

// readCommand reads "CONNECT PORT\n", and not a byte more. As with Firecracker a command also ends
// after maxCommand bytes.
func readCommand(s *net.UnixConn) (port uint32, err error) {
	_ = s.SetReadDeadline(time.Now().Add(connectTime))
	var line []byte
	for b := [1]byte{}; b[0] != '\n' && len(line) < maxCommand; {
		if _, err := io.ReadFull(s, b[:]); err != nil {
			return 0, err
		}
		line = append(line, b[0])
	}
	_ = s.SetReadDeadline(time.Time{})
	return parseCommand(string(line))
}

// parseCommand is the port of a command. What follows the port is ignored, as Firecracker does.
func parseCommand(line string) (port uint32, err error) {
	f := strings.Fields(line)
	if len(f) < 2 || !strings.EqualFold(f[0], "connect") {
		return 0, fmt.Errorf("command %q: want CONNECT PORT", line)
	}
	n, err := strconv.ParseUint(f[1], 10, 32)
	if err != nil {
		return 0, fmt.Errorf("command %q: %w", line, err)
	}
	return uint32(n), nil
}
