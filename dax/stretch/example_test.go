package stretch_test

import (
	"fmt"
	"os"

	"github.com/govirtiofs/govirtiofs/dax/stretch"
)

// A file as long as any window. This needs CAP_SYS_ADMIN and Linux 6.9, so the example is not
// run. A daemon that serves guests has the Helper in a process of its own; see Client.
func ExampleHelper_Stretch() {
	helper, err := stretch.NewHelper()
	if err != nil {
		panic(err)
	}
	defer helper.Close()
	file, err := os.Open("/etc/hostname")
	if err != nil {
		panic(err)
	}
	fd, err := helper.Stretch(int(file.Fd()))
	if err != nil {
		panic(err)
	}
	stretched := os.NewFile(uintptr(fd), "stretched")
	info, err := stretched.Stat()
	if err != nil {
		panic(err)
	}
	fmt.Println(info.Size() == stretch.Size)
}
