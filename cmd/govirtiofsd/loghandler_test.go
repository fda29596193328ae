package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"regexp"
	"testing"

	"github.com/govirtiofs/govirtiofs/server"
)

// TestLibraryLines: what a library says is a line as those of the program.
func TestLibraryLines(t *testing.T) {
	gone := errors.New("gone")
	for _, tt := range []struct {
		say  func(*slog.Logger)
		want string
	}{
		{func(l *slog.Logger) { l.Info("a guest has moved to this host") }, "INFO  govirtiofsd] a guest has moved to this host"},
		{func(l *slog.Logger) { l.With("queue", 1).Warn("queue stopped", "error", gone) }, "WARN  govirtiofsd] queue stopped: gone queue=1"},
		{func(l *slog.Logger) { l.Error("panic: x\nstack") }, "ERROR govirtiofsd] panic: x\nstack"},
		{func(l *slog.Logger) { l.Debug("ring", "b", 2, "a", uint64(1)) }, "DEBUG govirtiofsd] ring a=1 b=2"},
		{func(l *slog.Logger) { l.Log(context.Background(), server.LevelTrace, "rx 2: INIT") }, "TRACE govirtiofsd] rx 2: INIT"},
		{func(l *slog.Logger) { l.WithGroup("g").With("k", 1).Info("m", slog.Group("h", "i", 2)) }, "INFO  govirtiofsd] m g.h.i=2 g.k=1"},
		{func(l *slog.Logger) { l.With("queue", 1); l.Info("not its") }, "INFO  govirtiofsd] not its"},
	} {
		var b bytes.Buffer
		tt.say(slog.New(libraryHandler{log: newLog(logsAt("trace"), &b, nil)}))
		line := regexp.MustCompile(`^\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ `).ReplaceAllString(b.String(), "")
		if line != tt.want+"\n" {
			t.Errorf("got %q, want %q", line, tt.want)
		}
	}
}

// TestLibraryLevels: --log-level and RUST_LOG hold for the libraries too.
func TestLibraryLevels(t *testing.T) {
	levels := []slog.Level{slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelDebug, server.LevelTrace}
	for name, want := range map[string]int{"off": 0, "error": 1, "warn": 2, "info": 3, "debug": 4, "trace": 5} {
		for _, env := range []*string{nil, &name} {
			o := logsAt(name)
			if env != nil {
				o = logsAt("info")
			}
			var b bytes.Buffer
			l := slog.New(libraryHandler{log: newLog(o, &b, env)})
			for _, level := range levels {
				l.Log(context.Background(), level, "x")
			}
			if n := bytes.Count(b.Bytes(), []byte("\n")); n != want {
				t.Errorf("%s, RUST_LOG %v: %d lines, want %d", name, env != nil, n, want)
			}
		}
	}
	var b bytes.Buffer
	l := slog.New(libraryHandler{log: newLog(logsAt("error"), &b, ptr("info/guest"))})
	l.Info("a host")
	l.Info("a guest")
	if n := bytes.Count(b.Bytes(), []byte("\n")); n != 1 {
		t.Errorf("RUST_LOG with a pattern: %q", b.String())
	}
}
