package keeper_test

import (
	"fmt"
	"os"
	"os/exec"

	"github.com/govirtiofs/govirtiofs/keeper"
)

// A keeper whose worker, the program true, ends without having served: so there is no other one.
func ExampleKeeper_Run() {
	k := keeper.New(keeper.Options{
		Start: func(keeper.Launch) (*os.Process, error) {
			cmd := exec.Command("true")
			err := cmd.Start()
			return cmd.Process, err
		},
		Recover: true, Limit: 100,
	})
	end := k.Run(make(chan os.Signal))
	fmt.Println(end.State, "- served:", end.Served)
	// Output: exit status 0 - served: false
}
