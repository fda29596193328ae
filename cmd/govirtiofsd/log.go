package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
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
	plain bool // without time and program, which the system log adds itself
}

// Format implements logrus.Formatter.
func (f lineFormatter) Format(e *logrus.Entry) ([]byte, error) {
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

// newLog makes the daemon's log. w is where it goes without --syslog.
func newLog(o *options, w io.Writer, rustLog string) *logrus.Logger {
	l := logrus.New()
	l.SetOutput(w)
	l.SetFormatter(lineFormatter{})
	level := o.logLevel
	if o.syslog {
		s, err := openSyslog()
		if err == nil {
			s.attach(l)
			setLevel(l, level)
			return l
		}
		o.warn("messages go to standard error: %v", err)
	}
	if found := rustLogLevel(rustLog); found != "" {
		level = found
	}
	setLevel(l, level)
	return l
}

func setLevel(l *logrus.Logger, name string) {
	level, err := logrus.ParseLevel(name)
	if err != nil { // "off"
		l.SetOutput(io.Discard)
		level = logrus.PanicLevel
	}
	l.SetLevel(level)
}

// rustLogLevel finds the level for this program in RUST_LOG, which has the form
// of env_logger: "warn", or "virtiofsd=debug,vhost=info,warn". Empty is none.
func rustLogLevel(s string) string {
	found, own := "", ""
	directives, _, _ := strings.Cut(s, "/") // what follows would be a pattern
	for d := range strings.SplitSeq(directives, ",") {
		module, level, hasModule := strings.Cut(strings.ToLower(strings.TrimSpace(d)), "=")
		if !hasModule {
			module, level = "", module
		}
		if !slices.Contains(logLevels, level) {
			continue
		}
		switch module {
		case "":
			found = level
		case "virtiofsd", "govirtiofsd":
			own = level
		}
	}
	if own != "" {
		return own
	}
	return found
}

// explain logs an error and says what to do about it.
func explain(l *logrus.Logger, err error) {
	l.Error(err)
	for _, hint := range hints(err) {
		l.Error(hint)
	}
}
