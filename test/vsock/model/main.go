// Command model changes a tree until a file appears, and leaves what must be in the tree then in another.
//
//	model DIR STOP RESULT
//
// Or it measures the transport alone:
//
//	model echo CID PORT QUESTION ANSWER CONNECTIONS SECONDS
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/govirtiofs/govirtiofs/internal/treemodel"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "model:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 && args[0] == "echo" {
		return echo(args[1:])
	}
	if len(args) != 3 {
		return fmt.Errorf("want DIR STOP RESULT, not %q", args)
	}
	dir, stop, result := args[0], args[1], args[2]
	var ended atomic.Bool
	go func() {
		for {
			if _, err := os.Stat(stop); !errors.Is(err, os.ErrNotExist) {
				ended.Store(true)
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	}()
	var done atomic.Int64
	models, err := treemodel.Run(dir, ended.Load, &done)
	if err != nil {
		return err
	}
	if err := treemodel.Check(dir, models); err != nil {
		return err
	}
	fmt.Println(done.Load(), "operations")
	b, err := json.Marshal(models)
	if err != nil {
		return err
	}
	return os.WriteFile(result, b, 0o600)
}
