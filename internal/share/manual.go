package share

import (
	"fmt"
	"io"
	"strings"
)

// WriteManual writes the part of govirtiofsd(1) that lists the options, in mdoc(7).
func WriteManual(w io.Writer) {
	for _, g := range Groups() {
		title := g.Manual
		if title == "" {
			title = g.Title
		}
		fmt.Fprintf(w, ".Ss %s\n", title)
		if g.Intro != "" {
			fmt.Fprintln(w, g.Intro)
		}
		fmt.Fprintln(w, ".Bl -tag -width Ds")
		for i := 0; i < len(g.Options); {
			first := &g.Options[i]
			headings := []string{first.heading()}
			for i++; i < len(g.Options) && g.Options[i].Joined; i++ {
				headings = append(headings, g.Options[i].heading())
			}
			text := first.Manual
			if text == "" {
				text = first.Text()
			}
			fmt.Fprintf(w, ".It %s\n%s\n", strings.Join(headings, " , "), text)
		}
		fmt.Fprintln(w, ".El")
		if g.Outro != "" {
			fmt.Fprintln(w, g.Outro)
		}
	}
}

// heading is the heading of the option in the manual.
func (o *Option) heading() string {
	name := "Fl -" + o.Name
	if o.Short != "" {
		name = "Fl " + o.Short + " , " + name
	}
	if o.Off != "" {
		name += " , Fl -" + o.Off
	}
	value := ""
	if words := o.Words(); words != nil && o.Arg == "" {
		value = "Cm " + strings.Join(words, " | ")
	} else if o.Arg != "" {
		arg, rest, hasRest := strings.Cut(strings.ToLower(o.Arg), "[,") // as in TIME[,PERCENT]
		value = "Ar " + arg
		if hasRest {
			value += " Ns Op , Ns Ar " + strings.TrimSuffix(rest, "]")
		}
	}
	switch {
	case value == "":
		return name
	case o.Bare != "":
		return name + " Ns Op = Ns " + value
	}
	return name + " " + value
}
