package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// choiceValue is one of a few words, in any case.
type choiceValue struct {
	to    *string
	words []string
}

// choice declares an option with one of words as its value. With bare, the option
// alone means that word, and other values need the form with "=".
func choice(f *pflag.FlagSet, to *string, initial, name, bare string, words []string, usage string) {
	*to = initial
	f.Var(&choiceValue{to, words}, name, usage)
	f.Lookup(name).NoOptDefVal = bare
}

func (v *choiceValue) String() string {
	if v.to == nil {
		return ""
	}
	return *v.to
}

func (v *choiceValue) Type() string { return "string" }

func (v *choiceValue) Set(s string) error {
	word := strings.ToLower(s)
	if !slices.Contains(v.words, word) {
		return fmt.Errorf("want %s", strings.Join(v.words, ", "))
	}
	*v.to = word
	return nil
}

// switchValue is an option without a value that sets a variable to one of its two
// states.
type switchValue struct {
	to *bool
	on bool
}

// enable declares a pair of options that turn one thing on and off; the last one
// given wins. The one that changes the initial state is in the help text.
func enable(f *pflag.FlagSet, to *bool, initial bool, on, off, usage string) {
	*to = initial
	f.Var(&switchValue{to, true}, on, usage)
	f.Var(&switchValue{to, false}, off, usage)
	f.Lookup(on).NoOptDefVal, f.Lookup(off).NoOptDefVal = "true", "true"
	f.Lookup(on).Hidden, f.Lookup(off).Hidden = initial, !initial
}

// String is empty, as an option of a pair has no state of its own to show.
func (v *switchValue) String() string { return "" }
func (v *switchValue) Type() string   { return "bool" }

func (v *switchValue) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return fmt.Errorf("takes no value")
	}
	*v.to = b == v.on
	return nil
}

// timeoutValue is a time, in seconds or with a unit.
type timeoutValue struct{ to **time.Duration }

func timeout(f *pflag.FlagSet, to **time.Duration, name, usage string) {
	f.Var(timeoutValue{to}, name, usage)
}

func (v timeoutValue) String() string {
	if v.to == nil || *v.to == nil {
		return ""
	}
	return (*v.to).String()
}

func (v timeoutValue) Type() string { return "time" }

func (v timeoutValue) Set(s string) error {
	d, err := parseTimeout(s)
	if err != nil {
		return err
	}
	*v.to = &d
	return nil
}

// maxTimeout is about as long as a time.Duration can be.
const maxTimeout = 290 * 365 * 24 * time.Hour

func parseTimeout(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if seconds, ferr := strconv.ParseFloat(s, 64); ferr == nil {
		if !(seconds >= 0 && seconds <= maxTimeout.Seconds()) {
			return 0, fmt.Errorf("want 0 or more seconds, at most %.0f", maxTimeout.Seconds())
		}
		return time.Duration(seconds * float64(time.Second)), nil
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("want seconds, or a number with a unit such as 500ms")
	}
	return d, nil
}

// sizeValue is a number of bytes, with or without a unit.
type sizeValue struct{ to *uint64 }

func size(f *pflag.FlagSet, to *uint64, initial uint64, name, usage string) {
	*to = initial
	f.Var(sizeValue{to}, name, usage)
}

func (v sizeValue) String() string {
	if v.to == nil {
		return ""
	}
	return formatSize(*v.to)
}

func (v sizeValue) Type() string { return "size" }

func (v sizeValue) Set(s string) error {
	n, err := parseSize(s)
	if err == nil {
		*v.to = n
	}
	return err
}

const sizeUnits = "KMGT"

// parseSize reads a number with K, M, G or T, which are powers of 1024; M, MiB and m
// are the same.
func parseSize(s string) (uint64, error) {
	digits := strings.TrimRight(strings.ToUpper(s), "IB")
	shift := 0
	if n := len(digits); n > 0 {
		if i := strings.IndexByte(sizeUnits, digits[n-1]); i >= 0 {
			digits, shift = digits[:n-1], 10*(i+1)
		}
	}
	v, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || v<<shift>>shift != v {
		return 0, fmt.Errorf("want a number of bytes, or one with K, M, G or T")
	}
	return v << shift, nil
}

// formatSize is the shortest form that parseSize reads.
func formatSize(n uint64) string {
	i := 0
	for i < len(sizeUnits) && n != 0 && n%1024 == 0 {
		n, i = n/1024, i+1
	}
	if i == 0 {
		return strconv.FormatUint(n, 10)
	}
	return strconv.FormatUint(n, 10) + sizeUnits[i-1:i]
}

// busyPollValue is a time, with or without a unit, and perhaps a share of a CPU.
type busyPollValue struct{ to *virtiofs.BusyPoll }

func busyPoll(f *pflag.FlagSet, to *virtiofs.BusyPoll, name, usage string) {
	f.Var(&busyPollValue{to}, name, usage)
}

func (v *busyPollValue) String() string { return "" }
func (v *busyPollValue) Type() string   { return "string" }

func (v *busyPollValue) Set(s string) error {
	length, percent, hasPercent := strings.Cut(s, ",")
	if n, err := strconv.ParseUint(length, 10, 16); err == nil {
		length = fmt.Sprintf("%dus", n)
	}
	d, err := time.ParseDuration(length)
	if err != nil || d < 0 || d > virtiofs.MaxBusyPoll {
		return fmt.Errorf("want a time up to %s, as in 50 (microseconds) or 200us", virtiofs.MaxBusyPoll)
	}
	if d == 0 {
		d = virtiofs.NoPoll
	}
	*v.to = virtiofs.BusyPoll{Max: d}
	if !hasPercent {
		return nil
	}
	v.to.CPU, err = strconv.Atoi(strings.TrimSuffix(percent, "%"))
	if err != nil || v.to.CPU < 1 || v.to.CPU > 100 {
		return errors.New("want 1 to 100 percent of a CPU after the comma")
	}
	return nil
}

// listValue is an option that may be repeated. Unlike pflag's it makes nothing while it is
// declared, where that has a writer of CSV and its 4 KiB for each such option.
type listValue struct{ to *[]string }

func repeated(f *pflag.FlagSet, to *[]string, name, short, usage string) {
	f.VarP(listValue{to}, name, short, usage)
}

func (v listValue) String() string {
	if v.to == nil {
		return ""
	}
	return strings.Join(*v.to, ",")
}

func (v listValue) Type() string { return "list" }

func (v listValue) Set(s string) error { return v.Append(s) }

// Append, Replace and GetSlice make it a pflag.SliceValue.
func (v listValue) Append(s string) error {
	*v.to = append(*v.to, s)
	return nil
}

func (v listValue) Replace(list []string) error {
	*v.to = list
	return nil
}

func (v listValue) GetSlice() []string { return *v.to }
