package xattrmap_test

import (
	"fmt"

	"github.com/govirtiofs/govirtiofs/passthrough/xattrmap"
)

// The guest's trusted attributes are stored as user attributes of the host's files.
func ExampleParse() {
	m, err := xattrmap.Parse(":map:trusted.:user.guest.:")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"trusted.overlay.opaque", "user.color", "user.guest.x"} {
		prepend, verdict := m.ToHost([]byte(name))
		if verdict != xattrmap.Pass {
			fmt.Println(name, "is refused")
			continue
		}
		fmt.Println(name, "is", prepend+name, "on the host")
	}
	for _, name := range []string{"user.guest.trusted.overlay.opaque", "user.color"} {
		if strip, visible := m.ToGuest([]byte(name)); visible {
			fmt.Println(name, "is", name[strip:], "in the guest")
		}
	}
	// Output:
	// trusted.overlay.opaque is user.guest.trusted.overlay.opaque on the host
	// user.color is user.color on the host
	// user.guest.x is refused
	// user.guest.trusted.overlay.opaque is trusted.overlay.opaque in the guest
	// user.color is user.color in the guest
}
