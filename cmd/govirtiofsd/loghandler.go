package main

import (
	"context"
	"log/slog"
	"maps"

	"github.com/sirupsen/logrus"
)

// libraryHandler writes what the packages below cmd say, by slog, to the program's log: in
// the same lines, at the same level.
type libraryHandler struct {
	log    *logrus.Logger
	fields logrus.Fields // of WithAttrs
	group  string        // of WithGroup, with a dot at its end
}

// logrusLevel is the level of the program's log for one of slog's. What is below
// slog.LevelDebug is server.LevelTrace.
func logrusLevel(l slog.Level) logrus.Level {
	switch {
	case l >= slog.LevelError:
		return logrus.ErrorLevel
	case l >= slog.LevelWarn:
		return logrus.WarnLevel
	case l >= slog.LevelInfo:
		return logrus.InfoLevel
	case l >= slog.LevelDebug:
		return logrus.DebugLevel
	}
	return logrus.TraceLevel
}

// Enabled implements slog.Handler.
func (h libraryHandler) Enabled(_ context.Context, l slog.Level) bool {
	return h.log.IsLevelEnabled(logrusLevel(l))
}

// Handle implements slog.Handler.
func (h libraryHandler) Handle(_ context.Context, r slog.Record) error {
	fields := maps.Clone(h.fields)
	if fields == nil {
		fields = make(logrus.Fields, r.NumAttrs())
	}
	r.Attrs(func(a slog.Attr) bool {
		addField(fields, h.group, a)
		return true
	})
	h.log.WithFields(fields).WithTime(r.Time).Log(logrusLevel(r.Level), r.Message)
	return nil
}

// WithAttrs implements slog.Handler.
func (h libraryHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	fields := make(logrus.Fields, len(h.fields)+len(attrs))
	maps.Copy(fields, h.fields)
	for _, a := range attrs {
		addField(fields, h.group, a)
	}
	h.fields = fields
	return h
}

// WithGroup implements slog.Handler.
func (h libraryHandler) WithGroup(name string) slog.Handler {
	if name != "" {
		h.group += name + "."
	}
	return h
}

// addField adds an attribute; those of a group have the group's name before theirs.
func addField(fields logrus.Fields, group string, a slog.Attr) {
	v := a.Value.Resolve()
	switch {
	case v.Kind() != slog.KindGroup && a.Key == "": // slog ignores it
	case v.Kind() != slog.KindGroup:
		fields[group+a.Key] = v.Any()
	default:
		if a.Key != "" {
			group += a.Key + "."
		}
		for _, b := range v.Group() {
			addField(fields, group, b)
		}
	}
}
