// Package fstest is a conformance suite for file systems: what programs expect of a
// directory, tested with ordinary system calls. Run works on any mounted directory: a
// share in a guest, a share mounted with /dev/fuse, or a directory of the host, which
// tests the suite itself.
//
// Each test is a subtest in a directory of its own. What a file system or kernel does
// not have (O_TMPFILE, extended attributes, SEEK_HOLE) is skipped; what it has and does
// wrong is an error. Tests that need root skip without.
//
// A test of locks between processes starts the program again, as a helper: see helper.go.
package fstest
