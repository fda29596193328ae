package main

import (
	"github.com/spf13/pflag"

	"github.com/govirtiofs/govirtiofs/passthrough"
)

// migrationOptions are about guests that move between hosts, see doc/migration.md.
type migrationOptions struct {
	mode, onError   string
	verify, confirm bool
}

func (m *migrationOptions) flags(f *pflag.FlagSet) {
	choice(f, &m.mode, "find-paths", "migration-mode", "", []string{"find-paths", "file-handles"},
		"`find-paths|file-handles` How the guest's files are found on the host that it comes to: by their paths; or by paths and file handles, for a file system that both hosts mount. Give both daemons the same mode. Default find-paths.")
	choice(f, &m.onError, "abort", "migration-on-error", "", []string{"abort", "guest-error"},
		"`abort|guest-error` If a file is not found on this host: refuse the guest, which goes on where it was; or let it get an error when it uses the file. Default abort.")
	f.BoolVar(&m.verify, "migration-verify-handles", false, "With find-paths, let the other host check that a file it found has the same file handle; on the host that the guest comes to, refuse a state without handles.")
	f.BoolVar(&m.confirm, "migration-confirm-paths", false, "No effect: paths are always confirmed when they are sent.")
}

// check refuses what does not go together.
func (m *migrationOptions) check(set *pflag.FlagSet) error {
	for _, name := range []string{"migration-verify-handles", "migration-confirm-paths"} {
		if m.mode != "find-paths" && set.Changed(name) {
			return usagef("--%s is for --migration-mode=find-paths: with file-handles, handles are compared anyway", name)
		}
	}
	return nil
}

// config is the options in the file system's terms.
func (m *migrationOptions) config() passthrough.Migration {
	return passthrough.Migration{FileHandles: m.mode == "file-handles", VerifyHandles: m.verify,
		GuestErrors: m.onError == "guest-error"}
}
