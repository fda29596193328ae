package keeper

import (
	"fmt"
	"time"
)

// note is a death that is not in the log yet: its line says also what came of it.
type note struct {
	generation uint64
	how        string
	at         time.Time
	back       string // what the successor has taken over
}

// back notes what the successor has taken over.
func (k *Keeper) back(what string) { k.notes[len(k.notes)-1].back = what }

// sinceDeath is how long ago the last death was.
func (k *Keeper) sinceDeath() string {
	if len(k.notes) == 0 {
		return "0 s"
	}
	return k.clock.now().Sub(k.notes[len(k.notes)-1].at).Round(10 * time.Microsecond).String()
}

// tell writes the deaths to the log that are not in it. last is what is known by now.
func (k *Keeper) tell(last string) {
	for _, n := range k.notes {
		line := fmt.Sprintf("worker %d %s", n.generation, n.how)
		if n.back != "" {
			line += "; " + n.back
		}
		k.log.Warn(line + "; " + last)
	}
	k.notes, k.quiet = nil, nil
}
