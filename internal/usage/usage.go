// Package usage says what is wrong with a command line in words that its users know, not
// in those of the packages that read it.
package usage

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Message is the message for an error of a parser of options, which set holds. Other
// errors keep their message.
func Message(set *pflag.FlagSet, err error) string {
	var unknown *pflag.NotExistError
	var empty *pflag.ValueRequiredError
	var value *pflag.InvalidValueError
	var syntax *pflag.InvalidSyntaxError
	switch {
	case errors.As(err, &unknown):
		return unknownOption(set, unknown)
	case errors.As(err, &empty):
		return fmt.Sprintf("option --%s needs a value", empty.GetFlag().Name)
	case errors.As(err, &value):
		return fmt.Sprintf("invalid value %q for option --%s: %s", value.GetValue(), value.GetFlag().Name, cause(value))
	case errors.As(err, &syntax):
		return fmt.Sprintf("%s is no option", syntax.GetSpecifiedFlag())
	}
	return err.Error()
}

func unknownOption(set *pflag.FlagSet, err *pflag.NotExistError) string {
	name := err.GetSpecifiedName()
	if letters := err.GetSpecifiedShortnames(); letters != "" {
		long, _, _ := strings.Cut(letters, "=")
		if like := similar(set, long); len(long) > 1 && like != "" { // getopt_long_only(3) takes it
			return fmt.Sprintf("unknown option -%s; did you mean --%s?", long, like)
		}
		return "unknown option -" + name
	}
	if like := similar(set, name); like != "" {
		return fmt.Sprintf("unknown option --%s; did you mean --%s?", name, like)
	}
	return "unknown option --" + name
}

// cause is what is wrong with a value, without the words of Go's parsers'
// errors.
func cause(err *pflag.InvalidValueError) string {
	var number *strconv.NumError
	switch {
	case err.GetFlag().Value.Type() == "duration": // package time has no type of error
		return "want a duration, such as 500ms, 10s or 2m"
	case !errors.As(err, &number):
		return err.Unwrap().Error()
	case number.Func == "ParseBool":
		return "want no value, true or false"
	case errors.Is(number, strconv.ErrRange) && strings.HasPrefix(number.Num, "-"):
		return "the number is too small"
	case errors.Is(number, strconv.ErrRange):
		return "the number is too large"
	case number.Func == "ParseUint" && strings.HasPrefix(number.Num, "-"):
		return "want a whole number, 0 or more"
	case number.Func == "ParseFloat":
		return "want a number"
	}
	return "want a whole number"
}

// similar returns the option that name is most likely meant to be, or "".
func similar(set *pflag.FlagSet, name string) string {
	var names []string
	set.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	return Similar(names, name)
}

// Similar returns the one of names that name is most likely meant to be. Up to a third of
// the letters may be wrong, and two when there are four (swapped letters count as two).
// It returns "" if there is none.
func Similar(names []string, name string) (best string) {
	least := len(name)/3 + 1
	if len(name) >= 4 {
		least = max(least, 3)
	}
	for _, one := range names {
		if d := distance(name, one); d < least {
			best, least = one, d
		}
	}
	return best
}

// distance is the number of letters to insert, delete or change to make b from a
// (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
