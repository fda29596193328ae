package main

import (
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// Options that a form of "bench" uses, in addition to those that say what is measured
// and how.
var (
	writing = []string{"json", "benchstat", "markdown", "svg", "no-progress", "help"}
	// showHeeds is all that --show takes.
	showHeeds = append([]string{"show", "workload", "best", "require-ratio", "require-cpu-ratio"}, writing...)
	// idleIgnores and scaleIgnores make no difference to what these measure.
	idleIgnores = []string{"workload", "guests", "duration", "count", "rounds", "best", "warm-up", "files", "cold-size",
		"list-size", "floor", "syscalls", "scale", "self", "max-foreign", "require-ratio", "require-cpu-ratio"}
	scaleIgnores = []string{"workload", "best", "warm-up", "files", "cold-size", "syscalls", "self", "max-foreign",
		"require-ratio", "require-cpu-ratio"}
)

// given returns the options of the command line that pick chooses.
func given(cmd *cobra.Command, pick func(name string) bool) (list []string) {
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if pick(f.Name) {
			list = append(list, "--"+f.Name)
		}
	})
	return list
}

// checkFlags refuses what would have no effect, or would be replaced by something else.
func (f *benchFlags) checkFlags(cmd *cobra.Command) error {
	if f.json && f.benchstat || f.markdown && (f.json || f.benchstat) {
		return usagef("--json, --benchstat and --markdown exclude each other")
	}
	changed := cmd.Flags().Changed
	for _, name := range []string{"show", "daemon", "socket", "dir", "svg", "workload", "name", "vs"} {
		if flag := cmd.Flags().Lookup(name); changed(name) && empty(flag.Value) {
			return usagef("--%s is empty", name)
		}
	}
	mode, ignored := "", []string(nil)
	in := func(list []string) func(string) bool {
		return func(name string) bool { return slices.Contains(list, name) }
	}
	switch {
	case changed("show"):
		mode, ignored = "--show", given(cmd, func(name string) bool { return !slices.Contains(showHeeds, name) })
	case changed("idle"):
		mode, ignored = "--idle", given(cmd, in(idleIgnores))
	case changed("scale"):
		mode, ignored = "--scale", given(cmd, in(scaleIgnores))
	}
	if len(ignored) > 0 {
		return usagef("%s would have no effect with %s", strings.Join(ignored, ", "), mode)
	}
	return f.checkNumbers(changed)
}

// empty says whether an option's value, or one of its values, is the empty string.
func empty(v pflag.Value) bool {
	if list, ok := v.(pflag.SliceValue); ok {
		return len(list.GetSlice()) == 0 || slices.Contains(list.GetSlice(), "")
	}
	return v.String() == ""
}

// checkNumbers refuses 0 where package bench takes it for "the default".
func (f *benchFlags) checkNumbers(changed func(string) bool) error {
	o := &f.opts
	for _, v := range []struct {
		name  string
		value int64
	}{
		{"rounds", int64(o.Rounds)}, {"duration", int64(o.Duration)}, {"queues", int64(o.Queues)}, {"queue-size", int64(o.QueueSize)},
		{"guests", int64(o.Guests)}, {"files", int64(o.Files)}, {"cold-size", int64(f.coldMiB)}, {"list-size", int64(o.ListSize)},
		{"pid", int64(f.pid)}, {"max-foreign", int64(f.foreign)},
	} {
		if changed(v.name) && v.value <= 0 {
			return usagef("--%s must be more than 0", v.name)
		}
	}
	if changed("pid") && f.socket == "" {
		return usagef("--pid would have no effect without --socket")
	}
	return nil
}

// outFile is a file to write at the end. It is opened at the start, so that the user does
// not wait minutes for an error.
type outFile struct {
	file    *os.File
	made    bool // it was not there
	written bool
}

// openOut opens a file for writing and leaves what is in it.
func openOut(path string) (*outFile, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err == nil {
		return &outFile{file: file, made: true}, nil
	}
	file, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o666)
	return &outFile{file: file}, err
}

// Write replaces what was in the file.
func (f *outFile) Write(b []byte) (int, error) {
	if !f.written {
		f.written = true
		if err := f.file.Truncate(0); err != nil && !errors.Is(err, unix.EINVAL) { // a pipe or a terminal
			return 0, err
		}
	}
	return f.file.Write(b)
}

// close removes a file that is new and has got nothing.
func (f *outFile) close() error {
	if f.made && !f.written {
		return errors.Join(f.file.Close(), os.Remove(f.file.Name()))
	}
	return f.file.Close()
}
