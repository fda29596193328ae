package guest

import (
	"fmt"
	"os"
	"os/exec"
)

// Build runs "go build" with args for programs of the repository. It builds them as they are
// shipped: without cgo, which the race detector needs and sandboxes can't have. Packages are
// named from the root of the repository.
func Build(args ...string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	cmd := exec.Command("go", append([]string{"build"}, args...)...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return nil
}
