package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/test/relay/sample"
)

// restarts works on a directory while the host ends the program again and again that has it. The host does what it is asked
// for in a directory that both see.
func restarts(dir, asked string) error {
	tell := func(what string) error { return sample.Tell(asked, what) }
	kill := func() error { return tell("kill") }
	if err := catOver(dir, kill); err != nil {
		return fmt.Errorf("cat: %w", err)
	}
	if err := inFlight(dir, tell); err != nil {
		return fmt.Errorf("in flight: %w", err)
	}
	if err := manyTasks(dir, kill); err != nil {
		return fmt.Errorf("many tasks: %w", err)
	}
	return nil
}

// catOver reads a file from one program and then from its successor.
func catOver(dir string, kill func() error) error {
	f, err := os.Open(filepath.Join(dir, sample.Big))
	if err != nil {
		return err
	}
	defer f.Close()
	got, want := sha256.New(), sha256.New()
	if _, err := io.CopyN(got, f, 1<<20); err != nil {
		return err
	}
	if err := kill(); err != nil {
		return err
	}
	if _, err := io.Copy(got, f); err != nil {
		return err
	}
	if _, err := io.Copy(want, sample.BigContent()); err != nil {
		return err
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return errors.New("the file has other bytes")
	}
	return nil
}

// inFlight has requests under way to a program that is stopped, and then killed.
func inFlight(dir string, tell func(string) error) error {
	data := bytes.Repeat([]byte("data"), 5000)
	written := filepath.Join(dir, "in-flight")
	if err := os.WriteFile(written, data, 0o644); err != nil {
		return err
	}
	f, err := os.OpenFile(written, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := errors.Join(f.Sync(), tell("stop")); err != nil {
		return err
	}
	one := []byte("changed")
	results := map[string]<-chan error{
		"write": asleep(func() error { _, err := f.WriteAt(one, 4096); return err }),
		"stat":  asleep(func() error { return unix.Statfs(dir, new(unix.Statfs_t)) }),
		"open":  asleep(func() error { return sample.CheckMega(dir) }),
	}
	if err := tell("kill"); err != nil {
		return err
	}
	for name, c := range results {
		if err := <-c; err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	copy(data[4096:], one)
	got, err := os.ReadFile(written)
	if err != nil || !bytes.Equal(got, data) {
		return fmt.Errorf("what was written in flight is not there: %d bytes, %v", len(got), err)
	}
	// The file was written, and the program that has done it is gone: it is told once that this may be lost, and then
	// goes on.
	if err := f.Sync(); err != nil && !errors.Is(err, unix.EIO) {
		return err
	}
	return f.Sync()
}

// asleep does something on a thread of its own, and returns when that waits for something, or is done.
func asleep(do func() error) <-chan error {
	result, done := make(chan error, 1), make(chan struct{})
	tid := make(chan int)
	go func() {
		runtime.LockOSThread()
		tid <- unix.Gettid()
		result <- do()
		close(done)
	}()
	stat := fmt.Sprintf("/proc/self/task/%d/stat", <-tid)
	_ = sample.Until(func() error {
		select {
		case <-done:
			return nil
		default:
		}
		b, err := os.ReadFile(stat)
		if _, state, ok := strings.Cut(string(b), ") "); !ok || state[0] != 'D' && state[0] != 'S' {
			return fmt.Errorf("it runs: %s, %w", b, err)
		}
		return nil
	})
	return result
}

const tasks, kills = 6, 4

// manyTasks changes files while programs are killed. Each change must have happened if it succeeds, and can only fail with
// EIO.
func manyTasks(dir string, kill func() error) error {
	var stop atomic.Bool
	var wg sync.WaitGroup
	var good, failed atomic.Int64
	errs := make(chan error, tasks)
	for i := range tasks {
		wg.Go(func() {
			d := filepath.Join(dir, fmt.Sprintf("task-%d", i))
			for n := 0; !stop.Load(); n++ {
				err := task(filepath.Join(d, fmt.Sprint(n)))
				switch {
				case err == nil:
					good.Add(1)
				case errors.Is(err, unix.EIO) && !errors.Is(err, errViolation):
					failed.Add(1)
				default:
					errs <- err
					return
				}
			}
		})
	}
	var err error
	for range kills {
		before := good.Load()
		if err = kill(); err != nil {
			break
		}
		// All of them go on with the next program.
		if err = sample.Until(func() error {
			if good.Load() < before+2*tasks && len(errs) == 0 {
				return errors.New("no task goes on after the program was killed")
			}
			return nil
		}); err != nil {
			break
		}
	}
	stop.Store(true)
	wg.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	fmt.Printf("restarts: %d tasks were done, %d got EIO\n", good.Load(), failed.Load())
	return err
}

// errViolation marks that something has succeeded and not happened.
var errViolation = errors.New("it has succeeded, but not happened")

// task makes, writes, renames and removes in a directory that it makes, and looks whether that has happened.
func task(dir string) error {
	is := func(path string, there bool) error {
		_, err := os.Lstat(path)
		switch {
		case err == nil && !there, errors.Is(err, os.ErrNotExist) && there:
			return fmt.Errorf("%s: %w: %v", path, errViolation, err)
		case err != nil && there || !errors.Is(err, os.ErrNotExist):
			return err
		}
		return nil
	}
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	data := bytes.Repeat([]byte(dir), 1000)
	for _, step := range []func() error{
		func() error { return os.MkdirAll(filepath.Dir(dir), 0o755) },
		func() error { return os.Mkdir(dir, 0o755) },
		func() error { return is(dir, true) },
		func() error { return writeSynced(a, data) },
		func() error { return is(a, true) },
		func() error { return os.Rename(a, b) },
		func() error { return errors.Join(is(a, false), is(b, true)) },
		func() error {
			if got, err := os.ReadFile(b); err != nil || !bytes.Equal(got, data) {
				if errors.Is(err, unix.EIO) {
					return err
				}
				return fmt.Errorf("%s: %w: %d bytes: %v", b, errViolation, len(got), err)
			}
			return nil
		},
		func() error { return os.Remove(b) },
		func() error { return is(b, false) },
		func() error { return os.Remove(dir) },
		func() error { return is(dir, false) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// writeSynced makes a file.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
