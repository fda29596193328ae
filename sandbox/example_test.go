package sandbox_test

import (
	"fmt"
	"slices"

	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/govirtiofs/govirtiofs/sandbox"
)

// What a daemon keeps: the default set, less making device nodes. SetCapabilities would drop
// all others from every thread.
func ExampleModifyCapabilities() {
	keep, err := sandbox.ModifyCapabilities(sandbox.DefaultCapabilities(), "-mknod:+sys_admin")
	if err != nil {
		panic(err)
	}
	fmt.Println(slices.Contains(keep, cap.MKNOD), slices.Contains(keep, cap.SYS_ADMIN))
	_, err = sandbox.ModifyCapabilities(keep, "-everything")
	fmt.Println(err != nil)
	// Output:
	// false true
	// true
}

func ExampleParseIDMap() {
	m, err := sandbox.ParseIDMap(":0:100000:65536:")
	if err != nil {
		panic(err)
	}
	fmt.Printf("%d ids from %d on are those from %d on outside\n", m.Count, m.Inside, m.Outside)
	// Output: 65536 ids from 0 on are those from 100000 on outside
}

// The order in which a process confines itself, with a share that is opened in place. This
// can't be undone, so the example is not run.
func Example_order() {
	check := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	_, err := sandbox.SetNoFile(sandbox.DefaultNoFile())
	check(err)
	view, err := sandbox.Open("/srv/share")
	check(err)
	// Open the socket here, and whatever else needs privileges or names.
	check(sandbox.DropGroups())
	check(sandbox.SetCapabilities(sandbox.DefaultCapabilities()))
	check(sandbox.Landlock(sandbox.LandlockOptions{Share: view.Root}))
	check(sandbox.Filter(sandbox.FilterOptions{}))
	// Serve view.Root.
}
