package main

import (
	"os"
	"testing"

	"github.com/govirtiofs/govirtiofs/fuse"
	"github.com/govirtiofs/govirtiofs/internal/mounttest"
	"github.com/govirtiofs/govirtiofs/passthrough/fstest"
	"github.com/govirtiofs/govirtiofs/server"
)

func TestMain(m *testing.M) {
	os.Exit(mounttest.Main(m, map[string]func() fuse.Handler{
		"memfs": func() fuse.Handler { return server.New(newFS(1<<30, 1<<20, true, false), server.Options{}) },
	}))
}

// TestSuite: the suite that package passthrough passes, but for what memfs says it does not have.
func TestSuite(t *testing.T) {
	fstest.Run(t, mounttest.Mount(t, "memfs"), "", "FileFlags")
}
