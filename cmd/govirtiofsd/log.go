package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
)

// lineFormatter writes the lines that programs which start the daemon look for on
// its standard error:
//
//	[2026-11-21T01:51:28Z INFO  govirtiofsd] Waiting for vhost-user socket connection...
type lineFormatter struct {
	plain bool           // without time and program, which the system log adds itself
	only  *regexp.Regexp // nil, or what a message must match to be written
}

// Format implements logrus.Formatter.
func (f lineFormatter) Format(e *logrus.Entry) ([]byte, error) {
	if f.only != nil && !f.only.MatchString(e.Message) {
		return nil, nil
	}
	b := &bytes.Buffer{}
	if !f.plain {
		fmt.Fprintf(b, "[%s %-5s govirtiofsd] ", e.Time.UTC().Format(time.RFC3339), levelName(e.Level))
	}
	b.WriteString(e.Message)
	for _, k := range slices.Sorted(maps.Keys(e.Data)) {
		if k == logrus.ErrorKey {
			fmt.Fprintf(b, ": %v", e.Data[k])
			continue
		}
		fmt.Fprintf(b, " %s=%v", k, e.Data[k])
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

func levelName(l logrus.Level) string {
	if l == logrus.WarnLevel {
		return "WARN"
	}
	return strings.ToUpper(l.String())
}

// newLog makes the daemon's log. w is where it goes without --syslog, and rustLog
// the environment's RUST_LOG, if it is there.
func newLog(o *options, w io.Writer, rustLog *string) *logrus.Logger {
	l := logrus.New()
	if f, ok := w.(*os.File); ok {
		w = &steadyWriter{put: steadily(f), notice: func(n int) []byte { return warningLine(l, droppedMessage(n)) }}
	}
	l.SetOutput(w)
	l.SetFormatter(lineFormatter{})
	level := o.LogLevel
	if o.Syslog {
		s, err := openSyslog()
		if err == nil {
			s.attach(l)
			setLevel(l, level)
			return l
		}
		o.Warn("Messages go to standard error instead of the system log: %v", err)
	}
	if rustLog != nil {
		spec := parseRustLog(*rustLog)
		for _, bad := range spec.bad {
			o.Warn("RUST_LOG: %q is ignored: want LEVEL, NAME or NAME=LEVEL", bad)
		}
		level = spec.level
		l.SetFormatter(lineFormatter{only: spec.only})
	}
	setLevel(l, level)
	return l
}

// warningLine is a warning in the form of the log.
func warningLine(l *logrus.Logger, message string) []byte {
	e := &logrus.Entry{Logger: l, Time: time.Now(), Level: logrus.WarnLevel, Message: message}
	line, _ := lineFormatter{}.Format(e)
	return line
}

func setLevel(l *logrus.Logger, name string) {
	level, err := logrus.ParseLevel(name)
	if err != nil { // "off"
		l.SetOutput(io.Discard)
		level = logrus.PanicLevel
	}
	l.SetLevel(level)
}

// explain logs an error and says what to do about it.
func explain(l *logrus.Logger, err error) {
	l.Error(err)
	for _, hint := range hints(err) {
		l.Error(hint)
	}
}
