package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// Priorities of RFC 3164: facility USER, and the severities.
const (
	facilityUser   = 1 << 3
	severityErr    = 3
	severityWarn   = 4
	severityInfo   = 6
	severityDebug  = 7
	maxSyslogBytes = 2048
)

// syslogSocket writes to the local system log. It connects once, because in the sandbox
// there is no socket to connect to again. As with standard error, it never waits, and it
// counts messages that do not fit. The hook of logrus can't do that: package log/syslog
// waits while the system log does not read, and then requests would wait, too.
type syslogSocket struct {
	conn    *net.UnixConn
	mu      sync.Mutex
	dropped int
}

func openSyslog() (*syslogSocket, error) {
	paths := []string{"/dev/log", "/var/run/syslog", "/var/run/log"}
	for _, path := range paths {
		if conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}); err == nil {
			return &syslogSocket{conn: conn}, nil
		}
	}
	return nil, fmt.Errorf("nobody listens on %s", strings.Join(paths, ", "))
}

// attach makes s what l writes to.
func (s *syslogSocket) attach(l *logrus.Logger) {
	l.SetFormatter(lineFormatter{plain: true})
	l.SetOutput(io.Discard)
	l.AddHook(s)
}

// Levels implements logrus.Hook.
func (s *syslogSocket) Levels() []logrus.Level { return logrus.AllLevels }

// Fire implements logrus.Hook. It returns no error: logrus would write that to standard
// error, which may be stalled as well.
func (s *syslogSocket) Fire(e *logrus.Entry) error {
	line, err := lineFormatter{plain: true}.Format(e)
	if err != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped > 0 {
		if s.write(severityWarn, e.Time, []byte(droppedMessage(s.dropped))) != nil {
			s.dropped++
			return nil
		}
		s.dropped = 0
	}
	if s.write(severity(e.Level), e.Time, line) != nil {
		s.dropped++
	}
	return nil
}

// write sends one message, or returns EAGAIN if it would have to wait.
func (s *syslogSocket) write(severity int, at time.Time, line []byte) error {
	line = bytes.TrimRight(line, "\n")
	line = line[:min(len(line), maxSyslogBytes)]
	b := fmt.Appendf(nil, "<%d>%s govirtiofsd[%d]: %s",
		facilityUser|severity, at.Format(time.Stamp), os.Getpid(), line)
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	sendErr := error(nil)
	err = raw.Write(func(fd uintptr) bool {
		_, sendErr = unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return true
	})
	return errors.Join(err, sendErr)
}

func severity(l logrus.Level) int {
	switch l {
	case logrus.WarnLevel:
		return severityWarn
	case logrus.InfoLevel:
		return severityInfo
	case logrus.DebugLevel, logrus.TraceLevel:
		return severityDebug
	}
	return severityErr
}
