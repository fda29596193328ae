package main

import (
	"os"

	"github.com/govirtiofs/govirtiofs/dax"
	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/passthrough"
)

// daxConfig is the window, or nil; long is the connection of the helper that stretches
// files, or nil.
func (o *options) daxConfig(long *os.File) *passthrough.DAX {
	if !o.HasWindow() {
		return nil
	}
	d := &passthrough.DAX{
		Table:   dax.NewTable(o.DAXWindow, passthrough.DAXUnit),
		Every:   o.DAX == share.DAXAlways,
		MinSize: o.DAXMinSize,
		Include: o.DAXInclude,
		Exclude: o.DAXExclude,
	}
	if c := stretcher(long); c != nil {
		d.Stretch = c
	}
	return d
}
