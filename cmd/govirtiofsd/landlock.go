package main

import (
	"errors"
	"fmt"

	"github.com/sirupsen/logrus"

	"github.com/govirtiofs/govirtiofs/internal/share"
	"github.com/govirtiofs/govirtiofs/sandbox"
)

// enterLandlock puts the process under Landlock's rules if the options and the kernel say
// so. e has the files that the process removes at its end; nil if it removes none.
func (o *options) enterLandlock(v sandbox.View, e *endpoint, log *logrus.Logger) error {
	if o.Landlock == share.LandlockNever {
		return nil
	}
	shares := o.Shares()
	opts := sandbox.LandlockOptions{Share: v.Root, ReadOnly: shares[0].ReadOnly}
	for i, root := range v.More {
		opts.More = append(opts.More, sandbox.LandlockShare{Share: root, ReadOnly: shares[i+1].ReadOnly})
	}
	if v.Tasks >= 0 {
		opts.Read = append(opts.Read, v.Tasks)
	}
	if e != nil && e.socket != nil {
		opts.Remove = append(opts.Remove, e.socket.dir)
	}
	if e != nil && e.pid != nil {
		opts.Remove = append(opts.Remove, e.pid.dir)
	}
	err := sandbox.Landlock(opts)
	switch {
	case err == nil:
		o.landlocked = true
		log.Debugf("Landlock is in force, version %d", sandbox.LandlockVersion())
		return nil
	case errors.Is(err, sandbox.ErrNoLandlock) && o.Landlock == share.LandlockAuto:
		log.Debug(err)
		return nil
	case errors.Is(err, sandbox.ErrNoLandlock):
		return fmt.Errorf("--landlock=always: %w", err)
	}
	return err
}
