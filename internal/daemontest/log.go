package daemontest

import (
	"strings"
	"sync"
)

// Log keeps what is written to it. It can be read meanwhile.
type Log struct {
	mu   sync.Mutex
	text strings.Builder
}

// Write implements io.Writer. It does not fail.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// String is all that was written.
func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// Count is how often a text that is not empty was written.
func (l *Log) Count(text string) int { return strings.Count(l.String(), text) }
