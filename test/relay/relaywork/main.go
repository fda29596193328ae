// Command relaywork checks the sample in a directory, in a guest for example: relaywork DIR SUFFIX OMIT [ASKED]. OMIT has letters
// for what the file system can't do, f to make the sample first, n not to check it, o for sample.CheckOver. With a SUFFIX it
// also writes. In ASKED it asks the host: for what CheckOver needs, or else whether files are stored, see sample.Ask.
// "relaywork DIR restarts ASKED" is a test of its own, "relaywork DIR load SIZE" a measurement.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/govirtiofs/govirtiofs/test/relay/sample"
)

func main() {
	if os.Args[2] == "load" {
		if err := load(os.Args[1], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Args[2] == "restarts" {
		if err := restarts(os.Args[1], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	dir, suffix, omit := os.Args[1], os.Args[2], os.Args[3]
	has := func(letter string) bool { return strings.Contains(omit, letter) }
	o := sample.Omit{Modes: has("m"), Times: has("t"), Links: has("l"), Big: has("b"), Rename: has("r"), Truncate: has("c")}
	var err error
	if has("f") {
		err = sample.Make(dir, o)
	}
	if err == nil && !has("n") {
		err = sample.Check(dir, o)
	}
	if err == nil && suffix != "" {
		var stored func(string, int) error
		if len(os.Args) > 4 && !has("o") {
			stored = sample.Ask(os.Args[4])
		}
		err = sample.Write(dir, suffix, o, stored)
	}
	if err == nil && has("o") {
		err = sample.CheckOver(dir, os.Args[4])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", dir, err)
		os.Exit(1)
	}
}
