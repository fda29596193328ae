package share

import (
	"fmt"
	"io"
	"strings"
)

// helpWidth is the length of the longest line, helpIndent where explanations start.
const (
	helpWidth  = 80
	helpIndent = 12
)

// WriteHelp writes the options by group, as --help shows them.
func WriteHelp(w io.Writer) {
	for _, g := range Groups() {
		fmt.Fprintf(w, "\n%s:\n", g.Title)
		for _, o := range g.Options {
			o.writeHelp(w)
		}
	}
}

// writeHelp writes an option and its explanation.
func (o *Option) writeHelp(w io.Writer) {
	name := "    --" + o.Shown()
	if o.Short != "" {
		name = "-" + o.Short + ", --" + o.Shown()
	}
	switch arg := o.ArgWord(); {
	case arg != "" && o.Bare != "":
		name += "[=" + arg + "]"
	case arg != "":
		name += " " + arg
	}
	fmt.Fprintf(w, "  %s\n", name)
	for _, line := range wrap(o.Text(), helpWidth-helpIndent) {
		fmt.Fprintf(w, "%*s%s\n", helpIndent, "", line)
	}
}

// wrap breaks text into lines of at most width bytes.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
