// Package share describes once what the daemon shares and how: a typed configuration,
// and a table of the options. The table has all that users see of each option. The
// command line, its help, completion by shells, the manual's list of options and the
// doctor's options all come from the table. Other sources, such as a file, can fill the
// same flag set by names and text.
//
// Each subject has a file: the part of Config, its rows of the table with what the
// manual says, and the checks.
package share

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/internal/usage"
)

// Config is a share, the device that serves it, and the process that has the device.
// The zero value is not usable; see Parse and Flags.
type Config struct {
	Directory  // what is shared
	Connection // how front-ends reach the device
	Caching    // what the guest may keep
	Window     // DAX
	Features   // what else the file system can do
	Identity   // the owners of files
	Security   // what confines the process
	Recovery   // what happens when a process dies
	Moves      // guests that move between hosts
	Messages   // what the process logs
	Compat     // old forms of options
	Line       // what exists only on a command line
}

// Line has what exists only on a command line.
type Line struct {
	Help, Version, PrintCapabilities, PrintLedgerVersions bool

	Completion string // a shell, or ""

	Given    []string // the options as they were given, sorted, for the log
	Warnings []string // logged as soon as there is a log
	Notes    []string // the same, at level debug
}

// Asks reports whether the options only ask for something to be printed.
func (l *Line) Asks() bool {
	return l.Help || l.Version || l.Completion != "" || l.PrintCapabilities || l.PrintLedgerVersions
}

// Note is Warn for what the user who starts the daemon can't change. Only
// --log-level=debug shows it.
func (l *Line) Note(format string, args ...any) {
	l.Notes = append(l.Notes, fmt.Sprintf(format, args...))
}

// Warn adds a warning.
func (l *Line) Warn(format string, args ...any) {
	l.Warnings = append(l.Warnings, fmt.Sprintf(format, args...))
}

// removed names the replacement for an option of an earlier version. It returns nil for
// other errors.
func removed(err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return nil
	}
	switch name := unknown.GetSpecifiedName(); name {
	case "posix-lock", "no-posix-lock", "flock", "no-flock":
		return fmt.Errorf("option --%s is gone: use --locks=guest or --locks=host", name)
	}
	return nil
}

// Parse reads the daemon's command line, without the program's name. passed is set if a
// service manager has opened a socket, or if there is a socket for another reason.
// Parse prints nothing. Every error is a mistake of the user, in one line.
func Parse(args []string, passed bool) (*Config, error) {
	c := &Config{}
	groups := Groups()
	set := declare(groups, c)
	if err := set.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			c.Help = true
			return c, nil
		}
		if gone := removed(err); gone != nil {
			return nil, gone
		}
		return nil, errors.New(usage.Message(set, err))
	}
	if c.Asks() {
		return c, c.checkAlone()
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q: every value belongs to an option", set.Arg(0))
	}
	return c, c.settle(groups, set, passed)
}

// Flags declares all options with the fields of c as their values, and sets the
// fields to the defaults. When the options have been set, the caller must call
// Settle.
func Flags(c *Config) *pflag.FlagSet { return declare(Groups(), c) }

func declare(groups []Group, c *Config) *pflag.FlagSet {
	set := pflag.NewFlagSet("govirtiofsd", pflag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.Usage = func() {}
	for _, g := range groups {
		for i := range g.Options {
			g.Options[i].Declare(set, c)
		}
	}
	return set
}

// Settle checks the options of set, which Flags has declared. It sets the fields that
// follow from them. passed is that of Parse.
func (c *Config) Settle(set *pflag.FlagSet, passed bool) error {
	return c.settle(Groups(), set, passed)
}

func (c *Config) settle(groups []Group, set *pflag.FlagSet, passed bool) error {
	if err := c.applyCompat(); err != nil {
		return err
	}
	c.Given = givenOptions(set)
	if err := c.checkRows(groups, set); err != nil {
		return err
	}
	for _, check := range []func(*pflag.FlagSet) error{
		c.checkMigration, c.checkDirectory, c.checkCaching,
		func(s *pflag.FlagSet) error { return c.checkConnection(s, passed) },
		c.checkQueues, c.checkWindow, c.checkFeatures, c.checkIdentity, c.checkSecurity, c.checkRecovery,
	} {
		if err := check(set); err != nil {
			return err
		}
	}
	c.warnOldWords(set)
	return nil
}

// checkRows runs the table's checks of the options that were given.
func (c *Config) checkRows(groups []Group, set *pflag.FlagSet) error {
	for _, g := range groups {
		for i := range g.Options {
			o := &g.Options[i]
			if o.Check == nil || !set.Changed(o.Name) {
				continue
			}
			if err := o.Check(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkAlone checks the options that only print something.
func (c *Config) checkAlone() error {
	if c.PrintCapabilities && c.SocketGroup != "" {
		return errors.New("--print-capabilities and --socket-group exclude each other")
	}
	return nil
}

// unsaid are the options that are not in Given: the log says them in other words, or they
// say how front-ends reach the daemon.
var unsaid = map[string]bool{"shared-dir": true, "socket-path": true, "socket": true, "fd": true, "vsock": true, "vsock-uds": true, "vsock-share": true, "readonly": true}

// givenOptions are the options that were set, in alphabetical order.
func givenOptions(set *pflag.FlagSet) (given []string) {
	set.Visit(func(f *pflag.Flag) {
		switch value := f.Value.String(); {
		case unsaid[f.Name]:
		case f.Value.Type() == "bool" && value == "true":
			given = append(given, "--"+f.Name)
		default:
			given = append(given, "--"+f.Name+"="+value)
		}
	})
	return given
}
