package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
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

// syslogSocket writes to the local system log. It connects once: in the sandbox
// there is no socket to connect to again. (log/syslog would try.)
type syslogSocket struct{ conn net.Conn }

func openSyslog() (*syslogSocket, error) {
	paths := []string{"/dev/log", "/var/run/syslog", "/var/run/log"}
	for _, path := range paths {
		if conn, err := net.Dial("unixgram", path); err == nil {
			return &syslogSocket{conn}, nil
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

// Fire implements logrus.Hook.
func (s *syslogSocket) Fire(e *logrus.Entry) error {
	line, err := lineFormatter{plain: true}.Format(e)
	if err != nil {
		return err
	}
	return s.write(severity(e.Level), e.Time, line)
}

func (s *syslogSocket) write(severity int, at time.Time, line []byte) error {
	line = bytes.TrimRight(line, "\n")
	line = line[:min(len(line), maxSyslogBytes)]
	_, err := fmt.Fprintf(s.conn, "<%d>%s govirtiofsd[%d]: %s",
		facilityUser|severity, at.Format(time.Stamp), os.Getpid(), line)
	return err
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
