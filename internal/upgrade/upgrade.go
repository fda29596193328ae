// Package upgrade compares two programs to decide whether one can take over from the
// other.
package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Option makes a program print what Parse reads.
const Option = "--print-ledger-versions"

// Versions is what a program reports about itself.
type Versions struct {
	Program string // name and version
	Ledger  int    // the version of the ledgers that it writes
	Reads   int    // the oldest that it reads
	Keeper  int    // of the messages between keeper and worker
}

// String is what a program prints.
func (v Versions) String() string {
	return fmt.Sprintf("program %s\nledger %d\nreads %d\nkeeper %d\n", v.Program, v.Ledger, v.Reads, v.Keeper)
}

// Parse reads the output of a program.
func Parse(text string) (v Versions, err error) {
	found := 0
	numbers := map[string]*int{"ledger": &v.Ledger, "reads": &v.Reads, "keeper": &v.Keeper}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "program" {
			v.Program = value
			continue
		}
		n := numbers[name]
		if n == nil {
			continue
		}
		if _, err := fmt.Sscan(value, n); err != nil {
			return v, fmt.Errorf("%q is no version", strings.TrimSpace(line))
		}
		delete(numbers, name)
		found++
	}
	if found != 3 || v.Program == "" {
		return v, errors.New("it does not say which ledgers it reads: it is older than recovery, or no govirtiofsd")
	}
	return v, nil
}

// Fits returns nil if a program can take over from the program old.
func (v Versions) Fits(old Versions) error {
	switch {
	case v.Keeper != old.Keeper:
		return fmt.Errorf("%s speaks version %d with its keeper, and the keeper version %d: stop the daemon and start it again instead",
			v.Program, v.Keeper, old.Keeper)
	case v.Reads > old.Ledger || v.Ledger < old.Ledger:
		return fmt.Errorf("%s reads ledgers of the versions %d to %d, and this one has version %d: stop the daemon and start it again instead",
			v.Program, v.Reads, v.Ledger, old.Ledger)
	}
	return nil
}

// askTime is how long a program may take to print its versions.
const askTime = 10 * time.Second

// Ask runs a program with Option and returns its versions.
func Ask(path string) (Versions, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, Option)
	cmd.Args[0] = "govirtiofsd"
	cmd.Env = []string{} // that process needs no variable
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return Versions{}, fmt.Errorf("it can't say what it is: %w", err)
	}
	return Parse(string(out))
}
