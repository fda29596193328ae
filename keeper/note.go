package keeper

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// note is a worker's end that is not in the log yet: its line says also what came of it.
type note struct {
	generation uint64
	how        string
	at         time.Time
	back       string // what the successor has taken over
	upgrade    bool   // the worker has ended for an upgrade, as it was told to: nothing is wrong
}

// back notes what the successor has taken over.
func (k *Keeper) back(what string) { k.notes[len(k.notes)-1].back = what }

// sinceDeath is how long ago the last worker has ended.
func (k *Keeper) sinceDeath() string {
	if len(k.notes) == 0 {
		return "0 s"
	}
	return k.clock.now().Sub(k.notes[len(k.notes)-1].at).Round(10 * time.Microsecond).String()
}

// firstReply says how long after the last worker's end a guest had a reply.
func (k *Keeper) firstReply() string {
	end := "the death"
	if n := len(k.notes); n > 0 && k.notes[n-1].upgrade {
		end = "the old worker's end"
	}
	return fmt.Sprintf("first reply %s after %s", k.sinceDeath(), end)
}

// tell writes the ends of workers to the log that are not in it. last is what is known by now.
func (k *Keeper) tell(last string) {
	for _, n := range k.notes {
		line := fmt.Sprintf("worker %d %s", n.generation, n.how)
		if n.back != "" {
			line += "; " + n.back
		}
		level := slog.LevelWarn
		if n.upgrade {
			level = slog.LevelInfo
		}
		k.log.Log(context.Background(), level, line+"; "+last)
	}
	k.notes, k.quiet = nil, nil
}
