package passthrough

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// TestOpenDAXKeeps: opening a file that the guest maps must not make the guest's kernel
// throw away what is mapped. It does not hold for files of which the guest has copies: one
// that the guest was first told not to map keeps its copies, whatever it is told later.
func TestOpenDAXKeeps(t *testing.T) {
	const direct = fp.FopenDirectIO | fp.FopenParallelDirectWrites
	for what, c := range map[string]struct {
		policy              CachePolicy
		flags               fp.InitFlags
		large, small, grown uint32
	}{
		"inode":               {CacheAuto, daxFlags, fp.FopenKeepCache, 0, 0},
		"inode, cache never":  {CacheNever, daxFlags, direct | fp.FopenKeepCache, direct, direct},
		"inode, cache always": {CacheAlways, daxFlags, fp.FopenKeepCache, fp.FopenKeepCache, fp.FopenKeepCache},
		"all":                 {CacheAuto, fp.InitMapAlignment, fp.FopenKeepCache, fp.FopenKeepCache, fp.FopenKeepCache},
		"none":                {CacheAuto, 0, 0, 0, 0},
	} {
		t.Run(what, func(t *testing.T) {
			g, _ := windowFor(t, &window{}, func(c2 *Config) { c2.DAX.MinSize, c2.Cache = 1<<16, c.policy }, c.flags)
			for name, size := range map[string]int64{"large": 1 << 20, "small": 100, "grown": 100} {
				g.write(name, "")
				if err := os.Truncate(g.path(name), size); err != nil {
					t.Fatal(err)
				}
			}
			nodes := map[string]uint64{}
			for _, name := range []string{"large", "small", "grown"} {
				nodes[name] = g.lookup(fp.RootID, name)
			}
			if err := os.Truncate(g.path("grown"), 1<<20); err != nil {
				t.Fatal(err)
			}
			if told := g.daxFlag("grown") != 0; told != (c.flags == daxFlags) {
				t.Errorf("told now to map the file that has grown: %v", told)
			}
			for name, want := range map[string]uint32{"large": c.large, "small": c.small, "grown": c.grown} {
				out, errno := g.tryOpen(nodes[name], unix.O_RDWR)
				wantErrno(t, name, errno, 0)
				if out.OpenFlags != want {
					t.Errorf("%s: FOPEN flags %#x, want %#x", name, out.OpenFlags, want)
				}
			}
			out, errno := g.tryOpen(fp.RootID, unix.O_DIRECTORY)
			wantErrno(t, "directory", errno, 0)
			if keeps := out.OpenFlags&fp.FopenKeepCache != 0; keeps != (c.policy == CacheAlways) {
				t.Errorf("directory: FOPEN flags %#x", out.OpenFlags)
			}
		})
	}
}
