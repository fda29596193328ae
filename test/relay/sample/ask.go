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

// Tell asks the program that runs Answers in a directory that both see, a guest and its host for example, to do something, and returns when
// that is done. The question is an empty directory with its name; the answer is its removal.
func Tell(dir, question string) error {
	path := filepath.Join(dir, url.PathEscape(question))
	if err := os.Mkdir(path, 0o755); err != nil {
		return err
	}
	return Until(func() error {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: no answer in %v, %v", question, Patience, err)
		}
		return nil
	})
}

// Answer answers the questions in dir until ctx ends. answer returns true when a question is done; until then it is called
// again.
func Answer(ctx context.Context, dir string, answer func(question string) bool) {
	for ctx.Err() == nil {
		questions, _ := os.ReadDir(dir)
		for _, q := range questions {
			if question, err := url.PathUnescape(q.Name()); err == nil && answer(question) {
				_ = os.Remove(filepath.Join(dir, q.Name()))
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Ask asks in a directory whether files are stored; it is for Write.
func Ask(dir string) func(name string, size int) error {
	return func(name string, size int) error { return Tell(dir, fmt.Sprintf("%d %s", size, name)) }
}

// Stored reports whether the file that a question of Ask is about has its size below side.
func Stored(question, side string) bool {
	var size int64
	var name string
	if _, err := fmt.Sscanf(question, "%d %s", &size, &name); err != nil {
		return false
	}
	st, err := os.Stat(filepath.Join(side, name))
	return err == nil && st.Size() == size
}
