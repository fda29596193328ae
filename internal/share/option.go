package share

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Option is a row of the table: all that users see of an option.
type Option struct {
	Name  string
	Off   string // the option that reverses it, or ""; help shows the one that changes the default
	Short string // one letter, or ""

	// Arg is the name of the value in help. It is empty for options without a value,
	// and for those whose value is one of a few words.
	Arg     string
	Default string // as the user would give it; "" is the zero value of the field
	Bare    string // what the option means without a value; "" if it needs one, or never has one

	Help   string // {default} and {bare} stand for these fields
	Manual string // mdoc(7), below the option's heading; Help if it is empty
	// Joined explains the option together with the one before it in the manual.
	Joined bool

	Complete Complete
	Suggest  []string // words that a shell offers although the value can be others
	// Doctor says that the doctor uses the option. The doctor accepts and ignores the
	// others.
	Doctor bool
	// Alone says that the option only prints something.
	Alone bool

	// Value is the field of a configuration.
	Value func(*Config) pflag.Value
	// Check refuses a wrong value with an error in the user's words. It is called if the
	// option was given. It is nil if Value itself refuses all wrong values. Config.Settle
	// checks what depends on more than one option.
	Check func(*Config) error
}

// Complete is what a shell offers for a value. For options with a few words as
// values it offers these words in any case.
type Complete int

// The kinds.
const (
	CompleteNothing Complete = iota
	CompleteDirectory
	CompleteFile
	CompleteGroup // a group of users of this host
)

// Group is a part of the options with a heading.
type Group struct {
	Title  string
	Manual string // its heading in the manual; Title if it is empty
	Intro  string // mdoc(7), before the options in the manual
	Outro  string // mdoc(7), after them

	Options []Option
}

// Groups is the table. Defaults are those of virtiofsd.
func Groups() []Group {
	return []Group{
		{Title: "The share", Options: directoryOptions()},
		{Title: "The connection", Options: connectionOptions()},
		{Title: "Caching", Options: cachingOptions()},
		{Title: "The window into the host's page cache (DAX)", Intro: windowIntro, Options: windowOptions()},
		{Title: "Features of the file system", Manual: "Features", Options: featureOptions()},
		{Title: "Users and groups", Options: identityOptions()},
		{Title: "Security", Options: securityOptions(), Outro: securityOutro},
		{Title: "When the daemon dies or hangs", Options: recoveryOptions()},
		{Title: "Moving to another host", Intro: migrationIntro, Options: migrationOptions()},
		{Title: "Messages", Options: messageOptions()},
		{Title: "Accepted for compatibility", Options: compatOptions()},
	}
}

// Declare adds the option and its Off option to a flag set, and sets the field of c to
// the default.
func (o *Option) Declare(set *pflag.FlagSet, c *Config) {
	v := o.Value(c)
	if o.Default != "" {
		if err := v.Set(o.Default); err != nil {
			panic(fmt.Sprintf("--%s: default %q: %v", o.Name, o.Default, err)) // a test declares all
		}
	}
	f := set.VarPF(v, o.Name, o.Short, o.Summary())
	f.NoOptDefVal = o.Bare
	if v.Type() == "bool" {
		f.NoOptDefVal = "true"
	}
	if o.Off == "" {
		return
	}
	off := set.VarPF(inverse{v}, o.Off, "", o.Summary())
	off.NoOptDefVal = "true"
	f.Hidden, off.Hidden = o.Default == "true", o.Default != "true"
}

// WithoutValue is the meaning of the option without a value; "" if it needs
// one.
func (o *Option) WithoutValue() string {
	if o.Bare == "" && o.isSwitch() {
		return "true"
	}
	return o.Bare
}

func (o *Option) isSwitch() bool { return o.Value(&Config{}).Type() == "bool" }

// Words are the possible words for the value, without deprecated ones; nil if other
// values are possible.
func (o *Option) Words() []string {
	if v, ok := o.Value(&Config{}).(interface{ words() []string }); ok {
		return v.words()
	}
	return nil
}

// ArgWord is what help calls the value; "" if there is none.
func (o *Option) ArgWord() string {
	if o.Arg == "" {
		return strings.Join(o.Words(), "|")
	}
	return o.Arg
}

// Shown is the name that help shows.
func (o *Option) Shown() string {
	if o.Off != "" && o.Default == "true" {
		return o.Off
	}
	return o.Name
}

// Text is the explanation in help.
func (o *Option) Text() string { return o.fillIn(o.Help) }

// Summary is the first sentence of Text, without a full stop.
func (o *Option) Summary() string {
	first, _, _ := strings.Cut(o.Help, ". ")
	return o.fillIn(strings.TrimSuffix(first, "."))
}

func (o *Option) fillIn(s string) string {
	if !strings.Contains(s, "{") {
		return s
	}
	return strings.NewReplacer("{default}", o.Default, "{bare}", o.Bare).Replace(s)
}
