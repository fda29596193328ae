package main

import (
	"context"
	"net"
	"sync/atomic"

	"github.com/sirupsen/logrus"

	"github.com/govirtiofs/govirtiofs/keeper"
	"github.com/govirtiofs/govirtiofs/vhostuser"
	"github.com/govirtiofs/govirtiofs/virtiofs"
)

// connectionKeeper has the keeper hold what belongs to a front-end's connection.
type connectionKeeper struct{ client *keeper.Client }

// kindOf is the keeper's kind of a connection's descriptor.
var kindOf = map[vhostuser.DescriptorKind]keeper.Kind{
	vhostuser.DescriptorSocket:   keeper.KindConnection,
	vhostuser.DescriptorRegion:   keeper.KindRegion,
	vhostuser.DescriptorKick:     keeper.KindKick,
	vhostuser.DescriptorCall:     keeper.KindCall,
	vhostuser.DescriptorErr:      keeper.KindErr,
	vhostuser.DescriptorLog:      keeper.KindLog,
	vhostuser.DescriptorInflight: keeper.KindInflight,
	vhostuser.DescriptorChannel:  keeper.KindChannel,
	vhostuser.DescriptorAnswer:   keeper.KindAnswer,
	vhostuser.DescriptorOutbox:   keeper.KindOutbox,
}

func keyOf(d vhostuser.Descriptor) keeper.Key { return keeper.Key{Kind: kindOf[d.Kind], ID: d.Number} }

// Keep implements vhostuser.Keeper.
func (k connectionKeeper) Keep(d vhostuser.Descriptor, fd int) error {
	return k.client.Keep(keyOf(d), fd)
}

// Drop implements vhostuser.Keeper.
func (k connectionKeeper) Drop(d vhostuser.Descriptor) { k.client.Drop(keyOf(d)) }

// left is what another worker has left of its connection, but for the notes.
func (k connectionKeeper) left() vhostuser.Inherited {
	l := vhostuser.Inherited{Take: func(d vhostuser.Descriptor) (int, bool) { return k.client.Take(keyOf(d)) }}
	for _, key := range k.client.Kept() {
		for kind, is := range kindOf {
			if is == key.Kind {
				l.Kept = append(l.Kept, vhostuser.Descriptor{Kind: kind, Number: key.ID})
			}
		}
	}
	return l
}

// recovery is where the device leaves what a successor needs; nil is nowhere.
func (p *process) recovery() *virtiofs.Recovery {
	if p.client == nil {
		return nil
	}
	return &virtiofs.Recovery{Ledger: p.ledger, Keeper: connectionKeeper{p.client}}
}

// frontend is the next front-end, and how to serve it: the one that another worker has served, or one
// that connects.
func (p *process) frontend(ctx context.Context, o *options, a *acceptor, d *virtiofs.Device, log *logrus.Logger) (
	conn *net.UnixConn, serve func(context.Context, *net.UnixConn) error, err error) {
	if p.again {
		p.again = false
		conn, a.first = a.first, nil
		log.Debug("Continuing with the front-end of the previous process")
		return conn, func(ctx context.Context, conn *net.UnixConn) error { return d.Resume(ctx, conn, p.left(o, log)) }, nil
	}
	log.Info("Waiting for vhost-user socket connection...")
	conn, err = a.next(ctx, func(err error) {
		log.WithError(err).Warn("A front-end can't connect for now")
	})
	return conn, func(ctx context.Context, conn *net.UnixConn) error {
		log.Info("Client connected, servicing requests")
		log.Info(o.describe(conn))
		p.client.Replied() // the worker has done something: its death says nothing about the next
		return d.Serve(ctx, conn)
	}, err
}

// left is what another worker has left.
func (p *process) left(o *options, log *logrus.Logger) virtiofs.Inherited {
	var steps atomic.Int32
	replied := func() { // the keeper is told of replies after it is told that the worker serves
		if steps.Add(1) == 2 {
			p.client.Replied()
			p.phases.end("reply")
			log.Debugf("Until the first reply, and processor time: %s", p.phases)
		}
	}
	return virtiofs.Inherited{
		Inherited: connectionKeeper{p.client}.left(),
		Fail:      p.start.Fail, Killed: p.start.Killed,
		Goes: func() {
			p.phases.end("rings")
			o.connected()
			if err := p.ready(); err != nil {
				log.WithError(err).Debug("The keeper is gone")
			}
			replied()
		},
		Done: replied,
	}
}
