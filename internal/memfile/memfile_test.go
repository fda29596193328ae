package memfile

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestFile: the size of a file is fixed, and memory that was provided can be written.
func TestFile(t *testing.T) {
	const size = 1 << 30
	fd, err := Create("test", size)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, n := range []int64{size - 1, size + 1} {
		if err := unix.Ftruncate(fd, n); err != unix.EPERM {
			t.Errorf("ftruncate to %d bytes: %v, want EPERM", n, err)
		}
	}
	if err := Check(fd, size); err != nil {
		t.Error(err)
	}
	if err := Check(fd, size-1); err == nil {
		t.Error("a file of another size passes")
	}
	b, err := unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(b) }()
	const at, n = 3*pageSize + 5, 2 * pageSize
	if err := Populate(b, fd, at, n); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Blocks*512 != 3*pageSize {
		t.Errorf("%d bytes are taken, %v, want %d", st.Blocks*512, err, 3*pageSize)
	}
	b[at], b[at+n-1] = 1, 1
}
