package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"strings"
	"sync"
	"time"
)

// openLog is a log as the daemon has it: the same lines, level and place.
func (o *relayOptions) openLog() (*slog.Logger, error) {
	h := &lineHandler{w: os.Stderr, mu: &sync.Mutex{}}
	switch o.daemon.LogLevel {
	case "off":
		h.level, h.w = slog.LevelError, io.Discard
	case "error":
		h.level = slog.LevelError
	case "warn":
		h.level = slog.LevelWarn
	case "info":
		h.level = slog.LevelInfo
	default:
		h.level = slog.LevelDebug
	}
	if o.daemon.Syslog {
		w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "govirtiofs")
		if err != nil {
			return nil, fmt.Errorf("--syslog: %w", err)
		}
		h.w, h.plain = w, true
	}
	return slog.New(h), nil
}

// lineHandler writes the lines that the daemon writes, too.
type lineHandler struct {
	level slog.Level
	plain bool // the system log adds time and level itself
	attrs string

	mu *sync.Mutex
	w  io.Writer
}

// Enabled implements slog.Handler.
func (h *lineHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

// Handle implements slog.Handler.
func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if !h.plain {
		fmt.Fprintf(&b, "[%s %-5s govirtiofs] ", r.Time.UTC().Format(time.RFC3339), r.Level)
	}
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(attrText(a))
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, b.String())
	return err
}

func attrText(a slog.Attr) string {
	if a.Key == "err" {
		return fmt.Sprintf(": %v", a.Value)
	}
	return fmt.Sprintf(" %s=%v", a.Key, a.Value)
}

// WithAttrs implements slog.Handler.
func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	n := *h
	for _, a := range attrs {
		n.attrs += attrText(a)
	}
	return &n
}

// WithGroup implements slog.Handler. Groups have no names here.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }
