package fstest

import "testing"

// TestHost runs the suite on a directory of the host: what fails there is wrong in the
// suite.
func TestHost(t *testing.T) {
	dir := t.TempDir()
	Run(t, dir, dir)
}
