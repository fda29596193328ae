package program

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/time/rate"
)

// Limits of what a program can write to the log.
const (
	maxLine        = 1024 // bytes; the rest of a longer line is a line of its own
	linesPerSecond = 20
	linesAtOnce    = 200
)

// output writes what a program prints to the log, and remembers the end of it.
type output struct {
	name string
	log  *slog.Logger

	mu    sync.Mutex
	last  string
	usage bool
	done  chan struct{}
}

// newOutput reads from r until its end, and closes it.
func newOutput(name string, log *slog.Logger, r io.ReadCloser) *output {
	o := &output{name: name, log: log, done: make(chan struct{})}
	go o.run(r)
	return o
}

func (o *output) run(r io.ReadCloser) {
	defer close(o.done)
	defer r.Close()
	b := bufio.NewReaderSize(r, maxLine)
	limit, dropped := rate.NewLimiter(linesPerSecond, linesAtOnce), 0
	for {
		line, err := b.ReadSlice('\n') // ErrBufferFull: what is there
		if text := printable(line); text != "" {
			o.remember(text)
			if !limit.Allow() {
				dropped++
			} else {
				if dropped > 0 {
					o.log.Warn(o.name+" printed more than the log takes", "lines_left_out", dropped)
					dropped = 0
				}
				o.log.Info(o.name + ": " + text)
			}
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// printable is a line without what could make it look like several, or like something else.
func printable(line []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\t' {
			return ' '
		}
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(line), "?")))
}

func (o *output) remember(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.last = line
	if strings.HasPrefix(strings.ToLower(line), "usage:") {
		o.usage = true
	}
}

// outputPatience is how long the last lines of a program that has ended may take.
const outputPatience = time.Second

const saidNothing = "it has printed nothing"

// said is what an error says about the output of a program that has ended.
func (o *output) said() string {
	select {
	case <-o.done:
	case <-time.After(outputPatience): // another process has the pipe
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.usage:
		return "it has printed its usage: its arguments are wrong"
	case o.last != "":
		return "its last words: " + o.last
	}
	return saidNothing
}
