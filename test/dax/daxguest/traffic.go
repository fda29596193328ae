package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Turn is the layout of a file that players write in turns: the number of the turn,
// and a page for each player, filled with the number of its last turn.
const turnPage = 4096

// patience is how long a player waits for its turn.
const patience = 90 * time.Second

// turns plays one player: it sees the others' writes at once, or it fails when
// patience is over.
func turns(args []string) error {
	me, players, rounds := number(args[1]), number(args[2]), number(args[3])
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	b, err := mapping(f, turnPage*(players+1), true)
	if err != nil {
		return err
	}
	return play(b, me, players, rounds)
}

// play takes turns in b.
func play(b []byte, me, players, rounds int) error {
	turn := word(b, 0)
	start := time.Now()
	for t := uint64(me); t < uint64(rounds*players); t += uint64(players) {
		for atomic.LoadUint64(turn) != t {
			if time.Since(start) > patience {
				return fmt.Errorf("player %d waits for turn %d, sees %d", me, t, atomic.LoadUint64(turn))
			}
			time.Sleep(20 * time.Microsecond)
		}
		if t > 0 {
			before := int(t-1)%players + 1
			for i := before * turnPage / 8; i < (before+1)*turnPage/8; i++ {
				if got := atomic.LoadUint64(word(b, i)); got != t-1 {
					return fmt.Errorf("player %d in turn %d reads %d", me, t, got)
				}
			}
		}
		for i := (me + 1) * turnPage / 8; i < (me+2)*turnPage/8; i++ {
			atomic.StoreUint64(word(b, i), t)
		}
		atomic.StoreUint64(turn, t+1)
	}
	fmt.Printf("# player %d: %d rounds in %v\n", me, rounds, time.Since(start).Round(time.Millisecond))
	return nil
}

// verify writes blocks of random lengths at random places, by write(2) and through a
// mapping, and compares what it reads in either way with a copy in memory.
func verify(args []string) error {
	size, steps := number(args[1]), number(args[2])
	r := rand.New(rand.NewPCG(uint64(number(args[3])), 2))
	f, err := os.OpenFile(args[0], os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	model := make([]byte, size)
	fill(model, r.Uint64())
	if _, err := f.Write(model); err != nil {
		return err
	}
	b, err := mapping(f, size, true)
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for i := range steps {
		n := 1 + r.IntN(len(buf))
		off := r.IntN(size - n + 1)
		p, want := buf[:n], model[off:off+n]
		var err error
		switch r.IntN(4) {
		case 0:
			fill(want, r.Uint64())
			_, err = f.WriteAt(want, int64(off))
		case 1:
			fill(want, r.Uint64())
			copy(b[off:], want)
		case 2:
			_, err = f.ReadAt(p, int64(off))
			if err == nil && !bytes.Equal(p, want) {
				err = errors.New("read differs " + firstDifference(p, want))
			}
		case 3:
			if got := b[off : off+n]; !bytes.Equal(got, want) {
				err = errors.New("mmap differs " + firstDifference(got, want))
			}
		}
		if err != nil {
			return fmt.Errorf("step %d, %d bytes at %d: %w", i, n, off, err)
		}
	}
	if err := unix.Msync(b, unix.MS_SYNC); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	sum, err := sumFile(args[0])
	fmt.Printf("%x  %s\n", sum, filepath.Base(args[0]))
	return err
}

// Stamp is a number in every stampEvery bytes of the files of churn: the number of the
// file, which is its name, and the place.
const stampEvery = 64 << 10

func stamp(file, off int) uint64 { return uint64(file)<<40 | uint64(off) | 1 }

// churn maps the files of a directory again and again from several goroutines, and
// checks the stamps. The files are larger than the window. The word after each stamp
// counts the visits of workers.
func churn(args []string) error {
	passes, workers, seed := number(args[1]), number(args[2]), number(args[3])
	var names []string
	err := filepath.WalkDir(args[0], func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, path)
		}
		return err
	})
	if err != nil || len(names) == 0 {
		return fmt.Errorf("%d files: %w", len(names), err)
	}
	var wg sync.WaitGroup
	errs := make([]error, workers)
	var checked atomic.Int64
	start := time.Now()
	for w := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(seed), uint64(w)))
			for range passes {
				for _, i := range r.Perm(len(names)) {
					n, err := churnFile(names[i])
					checked.Add(int64(n))
					if err != nil {
						errs[w] = fmt.Errorf("%s: %w", names[i], err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	fmt.Printf("# %d stamps in %v\n", checked.Load(), time.Since(start).Round(time.Millisecond))
	return errors.Join(errs...)
}

func churnFile(name string) (checked int, err error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	b, err := mapping(f, int(st.Size()), true)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, unix.Munmap(b)) }()
	file := number(filepath.Base(name)[1:])
	for off := 0; off < len(b); off += stampEvery {
		if got := binary.LittleEndian.Uint64(b[off:]); got != stamp(file, off) {
			return checked, fmt.Errorf("stamp %#x at %#x", got, off)
		}
		atomic.AddUint64(word(b, off/8+1), 1)
		checked++
	}
	return checked, nil
}

// rate maps ranges of a file that is larger than the window, so that each mapping is a
// REMOVEMAPPING and a SETUPMAPPING.
func rate(args []string) error {
	b, err := mapFile(args[0], false)
	if err != nil {
		return err
	}
	n, sum := 0, byte(0)
	start := time.Now()
	for end := start.Add(time.Duration(number(args[1])) * time.Second); time.Now().Before(end); {
		for off := 0; off < len(b); off += 2 << 20 {
			sum += b[off]
			n++
		}
	}
	fmt.Printf("# %d ranges in %v: %.0f a second (%d)\n", n, time.Since(start), float64(n)/time.Since(start).Seconds(), sum)
	return nil
}

// touch reads all files of a directory, prints a line and waits until it is
// ended.
func touch(args []string) error {
	total, sum := 0, byte(0)
	err := filepath.WalkDir(args[0], func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		st, err := f.Stat()
		if err != nil {
			return err
		}
		if args[1] == "no" {
			buf := make([]byte, 1<<20)
			for {
				n, err := f.Read(buf)
				total += n
				if err != nil || n == 0 {
					return f.Close()
				}
			}
		}
		b, err := mapping(f, int(st.Size()), false) // stays mapped
		if err != nil {
			return err
		}
		for off := 0; off < len(b); off += 4096 {
			sum += b[off]
		}
		total += len(b)
		return nil
	})
	if err == nil {
		fmt.Printf("# touched %d bytes (%d)\n", total, sum) // keeps the reads
		time.Sleep(time.Hour)
	}
	return err
}

// peek reads all pages of a mapping, waits, and reads them again. Meanwhile the host may
// have changed the file.
func peek(args []string) error {
	b, err := mapFile(args[0], false)
	if err != nil {
		return err
	}
	for _, when := range []string{"before", "after"} {
		sum := byte(0)
		for off := 0; off < len(b); off += 4096 {
			sum += b[off]
		}
		fmt.Printf("# %s %d\n", when, sum)
		time.Sleep(time.Duration(number(args[1])) * time.Second)
	}
	return nil
}

// echo reads orders that another process writes into the first word of a file. It reads
// them in a mapping and repeats each. In the second word it counts its looks. With order
// 3 it maps the other file, in which it writes order 4. It runs until it is ended.
func echo(args []string) error {
	b, err := mapFile(args[0], true)
	if err != nil {
		return err
	}
	var other []byte
	_, last := b[2<<20], ^uint64(0) // both ranges are mapped
	for {
		order := atomic.LoadUint64(word(b, 0))
		atomic.AddUint64(word(b, 1), 1)
		if order == last {
			time.Sleep(time.Millisecond)
			continue
		}
		last = order
		if order == 4 {
			other[0], other[2<<20] = 4, 4
		}
		fmt.Printf("# echo %d\n", order)
		if order == 3 {
			if other, err = mapFile(args[1], true); err != nil {
				return err
			}
			other[0], other[2<<20] = 1, 1
			fmt.Println("# mapped more")
		}
	}
}
