package usage

import (
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestMessage(t *testing.T) {
	for line, want := range map[string]string{
		"--queues abc":                  `invalid value "abc" for option --queues: want a whole number`,
		"--queues 99999999999999999999": `invalid value "99999999999999999999" for option --queues: the number is too large`,
		"--queues=-4":                   `invalid value "-4" for option --queues: want a whole number, 0 or more`,
		"--json=7":                      `invalid value "7" for option --json: want no value, true or false`,
		"--duration soon":               `invalid value "soon" for option --duration: want a duration, such as 500ms, 10s or 2m`,
		"--ratio x":                     `invalid value "x" for option --ratio: want a number`,
		"--soket-path s":                "unknown option --soket-path; did you mean --socket-path?",
		"--jsno":                        "unknown option --jsno; did you mean --json?",
		"--nonsense":                    "unknown option --nonsense",
		"--hide":                        "unknown option --hide",
		"-x":                            "unknown option -x",
		"-jx":                           "unknown option -x",
		"-queues 4":                     "unknown option -queues; did you mean --queues?",
		"-duratoin=4s":                  "unknown option -duratoin; did you mean --duration?",
		"-nonsense":                     "unknown option -n",
		"--socket-path":                 "option --socket-path needs a value",
		"-s":                            "option --socket-path needs a value",
		"--=x":                          "--=x is no option",
	} {
		set := pflag.NewFlagSet("test", pflag.ContinueOnError)
		set.Uint("queues", 0, "")
		set.BoolP("json", "j", false, "")
		set.Duration("duration", 0, "")
		set.Float64("ratio", 0, "")
		set.StringP("socket-path", "s", "", "")
		set.Bool("hidden", false, "")
		if err := set.MarkHidden("hidden"); err != nil {
			t.Fatal(err)
		}
		err := set.Parse(strings.Fields(line))
		if err == nil || Message(set, err) != want {
			t.Errorf("%s:\n got %v\nwant %s", line, err, want)
			if err != nil {
				t.Error(Message(set, err))
			}
		}
	}
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"json", "jsno", 2}, {"tag", "tag", 0}} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("distance(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
