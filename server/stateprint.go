package server

import (
	"fmt"
	"io"

	"github.com/govirtiofs/govirtiofs/internal/record"
)

// IsState reports whether what begins with these bytes may be a state that Save has written.
func IsState(begin []byte) bool {
	// Its length is in front of the magic.
	want := append([]byte{byte(len(stateMagic))}, stateMagic[:len(stateMagic)-1]...)
	return len(begin) >= len(want) && string(begin[:len(want)]) == string(want)
}

// PrintState writes what Save has written as text, a line a record. rest prints what comes from
// the FileSystem. The state may come from anywhere.
func PrintState(to io.Writer, from io.Reader, rest func(to io.Writer, from io.Reader) error) error {
	r := record.NewReader(from, maxStateBytes)
	magic := r.Bytes(len(stateMagic))
	if r.Err() != nil || string(magic) != stateMagic {
		return fmt.Errorf("server: this is not a state of govirtiofsd, or it is one of another version (%q)", magic)
	}
	if _, err := fmt.Fprintf(to, "state version=%d\n", magic[len(magic)-1]); err != nil {
		return err
	}
	if r.Max(1) == 0 {
		r.End()
		return r.Err()
	}
	minor, flags, maxWrite, maxRead := r.Uint(), r.Uint(), r.Uint(), r.Uint()
	if r.Err() != nil {
		return r.Err()
	}
	if _, err := fmt.Fprintf(to, "session minor=%d features=%#x max-write=%d max-read=%d\n", minor, flags, maxWrite, maxRead); err != nil {
		return err
	}
	if err := rest(to, r); err != nil {
		return err
	}
	r.End()
	return r.Err()
}
