package share

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

// bind makes the value of an option from a field.
type bind = func(*Config) pflag.Value

// scalar is a value that is read in one piece.
type scalar[T any] struct {
	to   *T
	kind string // what pflag calls it: "bool" is an option without a value
	read func(string) (T, error)
	show func(T) string
}

func (v *scalar[T]) String() string {
	if v.to == nil { // pflag makes a zero value to learn the text of the default
		return ""
	}
	return v.show(*v.to)
}

func (v *scalar[T]) Type() string { return v.kind }

func (v *scalar[T]) Set(s string) error {
	x, err := v.read(s)
	if err == nil {
		*v.to = x
	}
	return err
}

// text is any text.
func text(field func(*Config) *string) bind {
	same := func(s string) string { return s }
	return func(c *Config) pflag.Value {
		return &scalar[string]{field(c), "string", func(s string) (string, error) { return s, nil }, same}
	}
}

// on is an option without a value.
func on(field func(*Config) *bool) bind {
	return func(c *Config) pflag.Value {
		return &scalar[bool]{field(c), "bool", strconv.ParseBool, strconv.FormatBool}
	}
}

// integer is a whole number.
func integer(field func(*Config) *int) bind {
	read := func(s string) (int, error) {
		n, err := strconv.ParseInt(s, 0, strconv.IntSize)
		return int(n), err
	}
	return func(c *Config) pflag.Value { return &scalar[int]{field(c), "int", read, strconv.Itoa} }
}

// count is a whole number, 0 or more.
func count(field func(*Config) *uint64) bind {
	return func(c *Config) pflag.Value {
		return &scalar[uint64]{field(c), "uint64", readCount, func(n uint64) string { return strconv.FormatUint(n, 10) }}
	}
}

func readCount(s string) (uint64, error) { return strconv.ParseUint(s, 0, 64) }

// maybe is a value that is nil when the option is not given.
func maybe[T any](field func(*Config) **T, kind string, read func(string) (T, error), show func(T) string) bind {
	return func(c *Config) pflag.Value {
		return &scalar[*T]{field(c), kind,
			func(s string) (*T, error) {
				x, err := read(s)
				return &x, err
			},
			func(p *T) string {
				if p == nil {
					return ""
				}
				return show(*p)
			}}
	}
}

// maybeOn is an option without a value, of a pair, that is nil if neither is given.
func maybeOn(field func(*Config) **bool) bind {
	return maybe(field, "bool", strconv.ParseBool, strconv.FormatBool)
}

// maybeTime is a time in seconds or with a unit.
func maybeTime(field func(*Config) **time.Duration) bind {
	return maybe(field, "time", parseTime, time.Duration.String)
}

// size is a number of bytes, with or without a unit.
func size(field func(*Config) *uint64) bind {
	return func(c *Config) pflag.Value { return &scalar[uint64]{field(c), "size", parseSize, formatSize} }
}

// busyPoll is a time, with or without a unit, and optionally a percentage of a
// CPU.
func busyPoll(field func(*Config) *virtiofs.BusyPoll) bind {
	return func(c *Config) pflag.Value {
		return &scalar[virtiofs.BusyPoll]{field(c), "string", parseBusyPoll, formatBusyPoll}
	}
}

// inverse is the value of an option that reverses another one.
type inverse struct{ pflag.Value }

func (v inverse) String() string {
	b, err := strconv.ParseBool(v.Value.String())
	if err != nil {
		return ""
	}
	return strconv.FormatBool(!b)
}

func (v inverse) Set(s string) error {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return err
	}
	return v.Value.Set(strconv.FormatBool(!b))
}

// word is a possible word for a value.
type word[T any] struct {
	text string
	is   T
	old  string // what to use instead; "" for a word that is not deprecated
}

// choice is one of a few words, in any case.
type choice[T comparable] struct {
	to    *T
	list  []word[T]
	given string // the word that was given last
}

func oneOf[T comparable](field func(*Config) *T, list ...word[T]) bind {
	return func(c *Config) pflag.Value { return &choice[T]{to: field(c), list: list} }
}

// literally are words that stand for themselves.
func literally[T ~string](texts ...T) (list []word[T]) {
	for _, t := range texts {
		list = append(list, word[T]{text: string(t), is: t})
	}
	return list
}

func (v *choice[T]) String() string {
	if v.given == "" && v.to != nil {
		for _, w := range v.list {
			if w.is == *v.to {
				return w.text
			}
		}
	}
	return v.given
}

func (v *choice[T]) Type() string { return "string" }

func (v *choice[T]) Set(s string) error {
	s = strings.ToLower(s)
	var all []string
	for _, w := range v.list {
		if w.text == s {
			*v.to, v.given = w.is, s
			return nil
		}
		all = append(all, w.text)
	}
	return fmt.Errorf("want %s", strings.Join(all, ", "))
}

func (v *choice[T]) words() (texts []string) {
	for _, w := range v.list {
		if w.old == "" {
			texts = append(texts, w.text)
		}
	}
	return texts
}

// deprecated is the given word and its replacement, if the word is an old one.
func (v *choice[T]) deprecated() (text, instead string) {
	i := slices.IndexFunc(v.list, func(w word[T]) bool { return w.text == v.given })
	if i < 0 {
		return "", ""
	}
	return v.given, v.list[i].old
}

// warnOldWords warns of values that have other words now.
func (c *Config) warnOldWords(set *pflag.FlagSet) {
	set.Visit(func(f *pflag.Flag) {
		v, ok := f.Value.(interface{ deprecated() (text, instead string) })
		if !ok {
			return
		}
		if text, instead := v.deprecated(); instead != "" {
			c.Warn("--%s=%s is deprecated: %s", f.Name, text, instead)
		}
	})
}

// list is an option that may be repeated. pflag's own list allocates a CSV writer
// with 4 KiB for each declared option. This one allocates nothing.
type list struct{ to *[]string }

func lines(field func(*Config) *[]string) bind {
	return func(c *Config) pflag.Value { return list{field(c)} }
}

func (v list) String() string {
	if v.to == nil {
		return ""
	}
	return strings.Join(*v.to, ",")
}

func (v list) Type() string { return "list" }

func (v list) Set(s string) error { return v.Append(s) }

// Append, Replace and GetSlice make it a pflag.SliceValue.
func (v list) Append(s string) error {
	*v.to = append(*v.to, s)
	return nil
}

func (v list) Replace(all []string) error {
	*v.to = all
	return nil
}

func (v list) GetSlice() []string { return *v.to }

// maxTime is about the longest time.Duration.
const maxTime = 290 * 365 * 24 * time.Hour

// parseTime reads seconds, or a number with a unit.
func parseTime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if seconds, ferr := strconv.ParseFloat(s, 64); ferr == nil {
		if !(seconds >= 0 && seconds <= maxTime.Seconds()) {
			return 0, fmt.Errorf("want 0 or more seconds, at most %.0f", maxTime.Seconds())
		}
		return time.Duration(seconds * float64(time.Second)), nil
	}
	if err != nil || d < 0 {
		return 0, fmt.Errorf("want seconds, or a number with a unit such as 500ms")
	}
	return d, nil
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

func parseBusyPoll(s string) (b virtiofs.BusyPoll, err error) {
	length, percent, hasPercent := strings.Cut(s, ",")
	if n, err := strconv.ParseUint(length, 10, 16); err == nil {
		length = fmt.Sprintf("%dus", n)
	}
	d, err := time.ParseDuration(length)
	if err != nil || d < 0 || d > virtiofs.MaxBusyPoll {
		return b, fmt.Errorf("want a time up to %s, as in 50 (microseconds) or 200us", virtiofs.MaxBusyPoll)
	}
	if d == 0 {
		d = virtiofs.NoPoll
	}
	b.Max = d
	if !hasPercent {
		return b, nil
	}
	b.CPU, err = strconv.Atoi(strings.TrimSuffix(percent, "%"))
	if err != nil || b.CPU < 1 || b.CPU > 100 {
		return b, errors.New("want 1 to 100 percent of a CPU after the comma")
	}
	return b, nil
}

func formatBusyPoll(b virtiofs.BusyPoll) string {
	switch {
	case b.Max == virtiofs.NoPoll:
		return "0"
	case b.CPU != 0:
		return fmt.Sprintf("%s,%d", b.Max, b.CPU)
	}
	return b.Max.String()
}
