package main

import (
	"bytes"
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/govirtiofs/govirtiofs/internal/share"
)

func TestLogLines(t *testing.T) {
	var b bytes.Buffer
	log := newLog(logsAt("info"), &b, nil)
	log.Info("Waiting for vhost-user socket connection...")
	log.WithError(errors.New("gone")).WithField("queue", 1).Warn("queue stopped")
	log.Debug("not this")
	want := regexp.MustCompile(`^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO  govirtiofsd\] Waiting for vhost-user socket connection\.\.\.
\[\S+Z WARN  govirtiofsd\] queue stopped: gone queue=1
$`)
	if !want.MatchString(b.String()) {
		t.Errorf("got %q", b.String())
	}
}

// The rows with RUST_LOG were tried with virtiofsd 1.14.
func TestLogLevel(t *testing.T) {
	for _, test := range []struct {
		option      string
		env         *string
		info, error bool
	}{
		{"info", nil, true, true},
		{"error", nil, false, true},
		{"off", nil, false, false},
		{"info", ptr("ERROR"), false, true},
		{"error", ptr("info"), true, true},
		{"error", ptr(" info "), true, true},
		{"info", ptr(""), false, true},
		{"error", ptr("virtiofsd=debug"), true, true},
		{"error", ptr("virtiofsd=debug,warn"), true, true},
		{"error", ptr("error,virtiofsd=info"), true, true},
		{"error", ptr("virtio=info"), true, true},
		{"error", ptr("virtiofsd"), true, true},
		{"error", ptr("virtiofsd="), true, true},
		{"info", ptr("virtiofsd=off,info"), false, false},
		{"info", ptr("info,virtiofsd=off"), false, false},
		{"info", ptr("virtiofsd::limits=warn"), false, false},
		{"error", ptr("vhost=trace,info"), true, true},
		{"info", ptr("vhost=trace"), false, false},
		{"info", ptr("nonsense"), false, false},
		{"error", ptr(",info"), true, true},
		{"error", ptr("a=b=c,info"), true, true},
		{"info", ptr("info=virtiofsd"), false, true},
		{"info", ptr("warn/e"), false, true},
		{"error", ptr("info/[i]"), true, false},
		{"error", ptr("info/["), true, true},
		{"info", ptr("info/a/b"), false, true},
		{"error", ptr("govirtiofsd=info"), true, true},
	} {
		var b bytes.Buffer
		log := newLog(logsAt(test.option), &b, test.env)
		log.Info("i")
		info := b.Len() > 0
		b.Reset()
		log.Error("e")
		if info != test.info || b.Len() > 0 != test.error {
			env := "not set"
			if test.env != nil {
				env = *test.env
			}
			t.Errorf("--log-level=%s RUST_LOG %s: info %v, error %v", test.option, env, info, b.Len() > 0)
		}
	}
}

// What is wrong with RUST_LOG is said once there is a log.
func TestRustLogWarning(t *testing.T) {
	o := &options{}
	newLog(o, &bytes.Buffer{}, ptr("info,a=b=c"))
	if len(o.Warnings) != 1 || !strings.Contains(o.Warnings[0], "a=b=c") {
		t.Errorf("got %q", o.Warnings)
	}
}

func TestLogLevelDebug(t *testing.T) {
	log := newLog(logsAt("trace"), &bytes.Buffer{}, ptr("debug"))
	if log.Level != logrus.DebugLevel {
		t.Errorf("got %v", log.Level)
	}
}

func logsAt(level string) *options {
	return &options{Config: share.Config{Messages: share.Messages{LogLevel: level}}}
}
