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
			Help:  "Which messages to write. RUST_LOG in the environment comes first. Default {default}.",
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
			Manual: `Print what management programs want to know, as JSON.`,
		},
		{
			Name: "print-ledger-versions", Alone: true,
			Value: on(func(c *Config) *bool { return &c.PrintLedgerVersions }),
			Help:  "Print what another version has to know for an upgrade.",
			Manual: `Print what another version of the program has to know before this one takes over from it.
.Xr govirtiofs 1
asks for it at an upgrade.`,
		},
		{
			Name: "completion", Alone: true,
			Value: oneOf(func(c *Config) *string { return &c.Completion }, literally(Shells...)...),
			Help:  "Print a script that lets this shell complete the options.",
			Manual: `Print a script that lets this shell complete the options.
The shell then asks the program what to offer; bash needs the package bash-completion for that.`,
		},
		{
			Name: "version", Short: "V", Alone: true,
			Value: on(func(c *Config) *bool { return &c.Version }),
			Help:  "Print the version.",
			Manual: `Print the version.
A program that was put in place of virtiofsd, under that name, prints first which version of
virtiofsd it replaces, in the form that other programs read:
.Ql virtiofsd 1.14.0 (govirtiofsd ...) .`,
		},
		{
			Name: "help", Short: "h", Alone: true,
			Value:  on(func(c *Config) *bool { return &c.Help }),
			Help:   "Print this.",
			Manual: `Print all options.`,
		},
	}
}
