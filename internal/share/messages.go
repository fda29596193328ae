package share

// Messages is what the process logs.
type Messages struct {
	LogLevel string // one of LogLevels
	Syslog   bool
}

// LogLevels are the words of --log-level.
var LogLevels = []string{"error", "warn", "info", "debug", "trace", "off"}

// Shells are those that complete options.
var Shells = []string{"bash", "zsh", "fish"}

func messageOptions() []Option {
	return []Option{
		{
			Name: "log-level", Default: "info",
			Value: oneOf(func(c *Config) *string { return &c.LogLevel }, literally(LogLevels...)...),
			Help:  "Which messages to write. The environment variable RUST_LOG overrides this option. Default {default}.",
			Manual: `Which messages to write.
Default:
.Cm info .`,
		},
		{
			Name:   "syslog",
			Value:  on(func(c *Config) *bool { return &c.Syslog }),
			Help:   "Write messages to the system log instead of standard error.",
			Manual: `Write to the system log.`,
		},
		{
			Name: "print-capabilities", Alone: true,
			Value:  on(func(c *Config) *bool { return &c.PrintCapabilities }),
			Help:   "Print vhost-user capabilities as JSON.",
			Manual: `Print the daemon's vhost-user capabilities as JSON, for management programs.`,
		},
		{
			Name: "print-ledger-versions", Alone: true,
			Value: on(func(c *Config) *bool { return &c.PrintLedgerVersions }),
			Help:  "Print which versions of the daemon's state this program can read, for an upgrade.",
			Manual: `Print which versions of the daemon's state this program can read.
.Xr govirtiofs 1
checks this before an upgrade.`,
		},
		{
			Name: "completion", Alone: true,
			Value: oneOf(func(c *Config) *string { return &c.Completion }, literally(Shells...)...),
			Help:  "Print a script that lets this shell complete the options.",
			Manual: `Print a script that lets this shell complete the options.
The shell runs the program to get the possible words; bash needs the package bash-completion for this.`,
		},
		{
			Name: "version", Short: "V", Alone: true,
			Value: on(func(c *Config) *bool { return &c.Version }),
			Help:  "Print the version.",
			Manual: `Print the version.
A program that is installed under the name virtiofsd first prints which version of
virtiofsd it replaces, in the form that other programs read:
.Ql virtiofsd 1.14.0 (govirtiofsd ...) .`,
		},
		{
			Name: "help", Short: "h", Alone: true,
			Value:  on(func(c *Config) *bool { return &c.Help }),
			Help:   "Print this help.",
			Manual: `Print all options.`,
		},
	}
}
