package main

import (
	"bytes"
	"fmt"
	"io"
	"log/syslog"
	"os"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	lsyslog "github.com/sirupsen/logrus/hooks/syslog"
)

// lineFormat writes lines as virtiofsd does, which some runtimes read:
//
//	[2026-11-21T01:51:28Z INFO  govirtiofsd] Waiting for vhost-user socket connection...
type lineFormat struct{}

var levelNames = map[logrus.Level]string{
	logrus.ErrorLevel: "ERROR", logrus.WarnLevel: "WARN ", logrus.InfoLevel: "INFO ",
	logrus.DebugLevel: "DEBUG", logrus.TraceLevel: "TRACE", logrus.FatalLevel: "ERROR", logrus.PanicLevel: "ERROR",
}

func (lineFormat) Format(e *logrus.Entry) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "[%s %s govirtiofsd] %s", e.Time.UTC().Format(time.RFC3339), levelNames[e.Level], e.Message)
	if q, ok := e.Data["queue"]; ok {
		fmt.Fprintf(&b, " (queue %v)", q)
	}
	if err, ok := e.Data[logrus.ErrorKey]; ok {
		fmt.Fprintf(&b, ": %v", err)
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// newLog logs to stderr, or to the system's log. RUST_LOG, which callers of virtiofsd
// set, stands for --log-level on stderr.
func newLog(opts *options) *logrus.Entry {
	l := logrus.New()
	l.SetOutput(os.Stderr)
	l.SetFormatter(lineFormat{})
	level := opts.logLevel
	if opts.syslog {
		hook, err := lsyslog.NewSyslogHook("", "", syslog.LOG_USER|syslog.LOG_INFO, "govirtiofsd")
		if err == nil {
			l.AddHook(hook)
			l.SetOutput(io.Discard)
		} else {
			opts.warnings = append(opts.warnings, fmt.Sprintf("no system log (%v), logging to stderr", err))
		}
	} else if env := os.Getenv("RUST_LOG"); env != "" {
		level = env
	}
	switch strings.ToLower(level) {
	case "off":
		l.SetOutput(io.Discard)
		l.SetLevel(logrus.PanicLevel)
	default:
		if lv, err := logrus.ParseLevel(strings.ToLower(level)); err == nil {
			l.SetLevel(lv)
		}
	}
	return logrus.NewEntry(l)
}
