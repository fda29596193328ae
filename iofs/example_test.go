package iofs_test

import (
	"log"
	"os"

	"github.com/govirtiofs/govirtiofs"
	"github.com/govirtiofs/govirtiofs/iofs"
)

// A directory of the host, read-only, for a guest that mounts it with "mount -t virtiofs docs /mnt".
// Links that lead out of the directory lead nowhere in the guest's tree: the guest follows them, not
// the host. The example is not run, because it does not end.
func ExampleNew() {
	root, err := os.OpenRoot("/usr/share/doc")
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(govirtiofs.ListenAndServe("/run/docs.sock", "docs", iofs.New(root.FS())))
}
