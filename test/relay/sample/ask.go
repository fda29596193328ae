package sample

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Ask asks whoever Answers in a directory that both see, a guest and its host for example. What it returns is for Write. A
// question is an empty directory there, whose name has the name and the size of a file; the answer is its removal.
func Ask(dir string) func(name string, size int) error {
	return func(name string, size int) error {
		question := filepath.Join(dir, fmt.Sprintf("%d %s", size, url.PathEscape(name)))
		if err := os.Mkdir(question, 0o755); err != nil {
			return err
		}
		return Until(func() error {
			if _, err := os.Lstat(question); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s: the program has not stored %d bytes in %v: %v", name, size, Patience, err)
			}
			return nil
		})
	}
}

// Answer answers the questions in dir until ctx ends: a file is stored when it has its size below side.
func Answer(ctx context.Context, dir, side string) {
	for ctx.Err() == nil {
		questions, _ := os.ReadDir(dir)
		for _, q := range questions {
			var size int64
			var escaped string
			if _, err := fmt.Sscanf(q.Name(), "%d %s", &size, &escaped); err != nil {
				continue
			}
			name, err := url.PathUnescape(escaped)
			if err != nil {
				continue
			}
			if st, err := os.Stat(filepath.Join(side, name)); err == nil && st.Size() == size {
				_ = os.Remove(filepath.Join(dir, q.Name()))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}
