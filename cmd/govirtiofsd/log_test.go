package main

import (
	"bytes"
	"errors"
	"regexp"
	"testing"

	"github.com/sirupsen/logrus"
)

func TestLogLines(t *testing.T) {
	var b bytes.Buffer
	log := newLog(&options{logLevel: "info"}, &b, "")
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

func TestLogLevel(t *testing.T) {
	for _, test := range []struct {
		option, env string
		info, error bool
	}{
		{"info", "", true, true},
		{"error", "", false, true},
		{"off", "", false, false},
		{"info", "ERROR", false, true},
		{"error", "info", true, true},
		{"error", "virtiofsd=debug", true, true},
		{"info", "virtiofsd=off,info", false, false},
		{"error", "vhost=trace,info", true, true},
		{"error", "vhost=trace", false, true},
		{"info", "nonsense", true, true},
		{"info", "warn/pattern", false, true},
	} {
		var b bytes.Buffer
		log := newLog(&options{logLevel: test.option}, &b, test.env)
		log.Info("i")
		info := b.Len() > 0
		b.Reset()
		log.Error("e")
		if info != test.info || b.Len() > 0 != test.error {
			t.Errorf("--log-level=%s RUST_LOG=%s: info %v, error %v", test.option, test.env, info, b.Len() > 0)
		}
	}
}

func TestLogLevelDebug(t *testing.T) {
	log := newLog(&options{logLevel: "trace"}, &bytes.Buffer{}, "debug")
	if log.Level != logrus.DebugLevel {
		t.Errorf("got %v", log.Level)
	}
}
