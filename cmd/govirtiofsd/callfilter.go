package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/sirupsen/logrus"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/passthrough"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// probeCalls finds out what a system call filter that is in force already forbids,
// SystemCallFilter= of a systemd unit for example. It returns an error if there can't be
// the sandbox.
func (o *options) probeCalls(log *logrus.Logger) (forbidden []string, err error) {
	forbidden, err = sandbox.ProbeCalls()
	if err != nil {
		log.WithError(err).Debug("Can't find out what the system call filter forbids")
	}
	return forbidden, o.Sandbox.CheckCalls()
}

// goWithout settles what the daemon does without, because a filter forbids these calls. It
// returns an error if an option asks for that.
func (o *options) goWithout(calls []string, log *logrus.Logger) error {
	var missed []string
	if o.Landlock == share.LandlockAuto && slices.ContainsFunc(calls, func(c string) bool { return strings.HasPrefix(c, "landlock") }) {
		missed = append(missed, "Landlock")
	}
	if sandbox.FileHandlesForbidden() && o.FileHandles != passthrough.HandlesNever {
		if o.FileHandles == passthrough.HandlesMandatory {
			return errors.New("--inode-file-handles=mandatory: a system call filter is in force that ends the process at open_by_handle_at")
		}
		o.FileHandles = passthrough.HandlesNever
		o.Capabilities = slices.DeleteFunc(o.Capabilities, func(v cap.Value) bool { return v == cap.DAC_READ_SEARCH })
		missed = append(missed, "file handles")
	}
	if o.Events == share.EventsAuto && o.relay == nil && sandbox.FanotifyForbidden() {
		missed = append(missed, "fanotify")
	}
	if len(missed) > 0 {
		log.Warnf("A system call filter is in force (SystemCallFilter= of a systemd unit?). It forbids %s: continuing without %s. govirtiofsd(1) says how to allow them",
			strings.Join(calls, ", "), strings.Join(missed, " and "))
	}
	return nil
}
