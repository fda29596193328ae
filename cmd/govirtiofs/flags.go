package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagError says what is wrong with an option, in the user's words.
func flagError(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && len(unknown.GetSpecifiedName()) > 1 {
		if name := similar(cmd.Flags(), unknown.GetSpecifiedName()); name != "" {
			return usagef("%w; did you mean --%s?", err, name)
		}
	}
	return usageError{errors.New(parseMessage(err))}
}

// parseMessage is what was wrong, without the words of Go's parsers.
func parseMessage(err error) string {
	var number *strconv.NumError
	if !errors.As(err, &number) {
		return withoutDuration(err)
	}
	want := "want a whole number"
	switch {
	case number.Func == "ParseBool":
		want = "takes no value"
	case errors.Is(number, strconv.ErrRange):
		want = "the number is too large"
		if strings.HasPrefix(number.Num, "-") {
			want = "the number is too small"
		}
	case number.Func == "ParseUint" && strings.HasPrefix(number.Num, "-"):
		want = "want a whole number, 0 or more"
	case number.Func == "ParseFloat":
		want = "want a number"
	}
	return strings.Replace(err.Error(), number.Error(), want, 1)
}

// withoutDuration is an error's message; package time has no type for what it says of
// durations.
func withoutDuration(err error) string {
	var value *pflag.InvalidValueError
	if !errors.As(err, &value) || value.GetFlag().Value.Type() != "duration" {
		return err.Error()
	}
	return fmt.Sprintf("invalid argument %q for \"--%s\" flag: want a duration, such as 500ms, 10s or 2m",
		value.GetValue(), value.GetFlag().Name)
}

// similar returns the option that name is most likely meant to be: up to a third of
// the letters may be wrong, and two when there are four (swapped ones count as two). ""
// if there is none.
func similar(flags *pflag.FlagSet, name string) (best string) {
	least := len(name)/3 + 1
	if len(name) >= 4 {
		least = max(least, 3)
	}
	flags.VisitAll(func(f *pflag.Flag) {
		if d := distance(name, f.Name); !f.Hidden && d < least {
			best, least = f.Name, d
		}
	})
	return best
}

// distance counts the letters that have to be put in, left out or changed to make b of
// a (Levenshtein).
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
