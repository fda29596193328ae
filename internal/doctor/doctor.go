// Package doctor finds out why a share does not work, and what to do about it.
//
// Gather and GatherGuest collect facts about the machine. Examine and ExamineGuest judge these
// facts and look at nothing else. So tests of the judgements need no machine with the fault.
//
// Gather leaves no traces. It tries features of the shared file system on a file without a
// name (O_TMPFILE), and connects to no socket. Only Ask connects to a back-end. This can
// disturb the back-end, so call Ask only if the user wants it.
package doctor

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/govirtiofs/govirtiofs/internal/share"
)

// Status is how a check ended.
type Status int

// With OK a share works, with Warn it works without some feature, with Fail it does not work.
const (
	OK Status = iota
	Warn
	Fail
)

// String returns "ok", "warn" or "FAIL".
func (s Status) String() string {
	switch s {
	case OK:
		return "ok"
	case Warn:
		return "warn"
	}
	return "FAIL"
}

// MarshalText returns the word of String in lower case.
func (s Status) MarshalText() ([]byte, error) { return []byte(strings.ToLower(s.String())), nil }

// Finding is the outcome of one check.
type Finding struct {
	Check  string `json:"check"`            // what was examined, such as "share.xattr"
	Status Status `json:"status"`           //
	Text   string `json:"text"`             // what was found, in one line
	Remedy string `json:"remedy,omitempty"` // what to type or to change, in one line
}

// Report is what an examination found, in the order in which it was looked at.
type Report struct {
	Status Status    `json:"status"` // of the worst finding
	Checks []Finding `json:"checks"`
}

// add appends a finding. The remedy may be empty.
func (r *Report) add(s Status, check, remedy, format string, args ...any) {
	r.Checks = append(r.Checks, Finding{check, s, fmt.Sprintf(format, args...), remedy})
	r.Status = max(r.Status, s)
}

func (r *Report) ok(check, format string, args ...any) { r.add(OK, check, "", format, args...) }

// WriteText writes a line for each finding, and its remedy in a second line.
func (r *Report) WriteText(w io.Writer) error {
	width := 0
	for _, f := range r.Checks {
		width = max(width, len(f.Check))
	}
	var b strings.Builder
	for _, f := range r.Checks {
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", f.Status, width, f.Check, f.Text)
		if f.Remedy != "" {
			fmt.Fprintf(&b, "%*s-> %s\n", width+8, "", f.Remedy)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

// Facts are the facts that Gather found. A part that is nil was not looked for.
type Facts struct {
	Kernel  Kernel
	Process Process
	Share   *Share
	Socket  *Socket
	VMMs    []VMM
	Vsock   *Vsock
}

// Gather collects facts about the host for the share p. pids are processes to examine: VMMs or
// the daemon. It finds VMMs that use the socket without pids.
func Gather(p *share.Config, pids []int) *Facts {
	h := host{root: "/"}
	f := &Facts{Kernel: h.kernel(), Process: h.process(p)}
	if p.SharedDir != "" {
		s := gatherShare(p.SharedDir)
		f.Share = &s
	}
	if p.SocketPath != "" {
		s := h.socket(p.SocketPath)
		f.Socket = &s
	}
	if p.Streams() {
		v := h.vsock(p)
		f.Vsock = &v
	}
	f.VMMs = h.vmms(p.SocketPath, f.Socket, pids)
	return f
}

// Examine judges facts: whether they let the daemon do what p says.
func Examine(p *share.Config, f *Facts) *Report {
	r := &Report{}
	r.kernel(p, &f.Kernel)
	r.process(p, &f.Process)
	if p.HasWindow() {
		r.hostDAX(p, f)
	}
	if f.Share != nil {
		r.share(p, f.Share)
		if p.Names != nil {
			r.trusted(p, f)
		}
		r.locks(p)
	}
	if f.Socket != nil {
		r.socket(p, f.Socket, f.VMMs)
	}
	if f.Vsock != nil {
		r.vsock(p, f.Vsock)
	}
	if f.Kernel.SELinux {
		r.selinuxOn(f)
	}
	for i := range f.VMMs {
		r.vmm(p, &f.VMMs[i])
	}
	r.noVMM(f)
	return r
}

// noVMM says that there was no VMM to look at.
func (r *Report) noVMM(f *Facts) {
	switch {
	case f.Socket == nil || len(f.VMMs) > 0:
	case f.Socket.Connected > 0:
		r.add(OK, "vmm", "", "%s %s the socket, and %s no VMM that this program knows (govirtiofs mount?): memory and queues were not checked",
			processes(f.Socket.Front), verb(f.Socket.Front, "uses", "use"), verb(f.Socket.Front, "is", "are"))
	default:
		r.add(OK, "vmm", "run this again with --pid PID of the VMM when it runs",
			"no VMM that uses the socket is running: its memory and queues were not checked")
	}
}

// selinuxOn says that SELinux is enforcing. The doctor can't tell whether its
// policy allows the share.
func (r *Report) selinuxOn(f *Facts) {
	labels := ""
	if f.Share != nil && f.Share.Label != "" {
		labels += "; the share is " + f.Share.Label
	}
	if f.Socket != nil && f.Socket.Label != "" {
		labels += "; the socket is " + f.Socket.Label
	}
	r.add(OK, "selinux", "ausearch -m avc -ts recent shows what it has refused", "SELinux is enforcing%s", labels)
}
