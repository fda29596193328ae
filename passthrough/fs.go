package passthrough

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	fp "github.com/govirtiofs/govirtiofs/fuseproto"
	"github.com/govirtiofs/govirtiofs/host"
	"github.com/govirtiofs/govirtiofs/server"
)

// FS is a server.FileSystem over a directory tree of the host. What belongs together is a
// struct of its own, in the file of its subject.
type FS struct {
	cfg Config
	features
	access

	// Files of the host.
	fds       descriptors
	mounts    mountTable
	nodes     nodeTable
	find      locator
	opener    opener
	openFiles openTable
	openless  openless
	io        ioState
	locks     shareLocks
	sweeper   sweeper

	// What the guest sees of them.
	attrs      attributes
	entries    entries
	maker      maker
	names      names
	listing    listing
	own        ownership
	converted  convertedLinks
	who        *credentials
	caps       capState // of files
	privileges privileges
	xattrs     xattrs
	cache      cacheRules
	dax        daxChoice

	// What a successor of this process gets.
	recovery recovery
	pins     pinner
	again    decider

	destroyExcluded sync.Mutex  // one Destroy at a time
	limits          stateLimits // of what moves to another host
}

var _ server.FileSystem = (*FS)(nil)

// New returns a file system for the share; it takes over the descriptors of cfg
// when it succeeds.
func New(cfg Config) (*FS, error) {
	if cfg.Immutable {
		cfg.forImmutable()
	}
	if cfg.BackingFiles && cfg.Writeback {
		return nil, errors.New("passthrough: BackingFiles and Writeback exclude each other: the kernel has no pages to write back")
	}
	cfg.Xattr = cfg.Xattr || cfg.XattrMap != nil || cfg.PosixACL != Never || cfg.SecurityLabel != Never
	if cfg.FirstGeneration >= 1<<31 {
		return nil, fmt.Errorf("passthrough: first generation %d: want less than %d", cfg.FirstGeneration, uint32(1<<31))
	}
	fs := &FS{
		cfg:    cfg,
		limits: defaultStateLimits,
	}
	if err := fs.setLedger(); err != nil {
		return nil, err
	}
	var err error
	if fs.cache, err = newCacheRules(&cfg); err != nil {
		return nil, fmt.Errorf("passthrough: %w", err)
	}
	if fs.dax, err = newDAXChoice(cfg.DAX); err != nil {
		return nil, fmt.Errorf("passthrough: %w", err)
	}
	fs.caps.set(&cfg, fs.cache.attr.duration())
	if fs.who, err = newCredentials(cfg.UIDs, cfg.GIDs); err != nil {
		return nil, err
	}
	if err = fs.cfg.checkOwnership(); err != nil {
		return nil, err
	}
	fs.join()
	if err = fs.fds.setBudget(); err == nil {
		err = fs.setRoot()
	}
	if err != nil {
		fs.letMountsGo()
		return nil, err
	}
	fs.nodes.StartAt(cfg.FirstGeneration) // the root has its id
	fs.openFiles.StartAt(cfg.FirstGeneration)
	return fs, nil
}

// setRoot makes the root node, which is never forgotten.
func (fs *FS) setRoot() error {
	var st unix.Statx_t
	if errno := statxFD(fs.cfg.RootFD, &st); errno != 0 {
		return fmt.Errorf("passthrough: statx of the shared directory: %w", errno)
	}
	if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFDIR && kind != unix.S_IFREG {
		return errors.New("passthrough: the share is neither a directory nor a file")
	}
	if err := fs.sameShare(&st); err != nil {
		return err
	}
	if err := fs.find.setHandles(&st); err != nil {
		return err
	}
	k := keyOf(&st)
	fs.recovery.mounts.set(k.mount, rootMount)
	fs.mounts.of(k, fs.cfg.RootFD) // most nodes will be on it
	n, errno := fs.nodes.intern(nil, &st, fs.cfg.RootFD, nil, nil)
	if errno != 0 {
		return errno
	}
	fs.fds.used.Add(1)
	const own = 3 // with ProcFD and that of the mount, see mountfd.go
	if !fs.fds.part.Take(own) {
		return fmt.Errorf("passthrough: descriptors of the shared directory: %w", host.ErrBudget)
	}
	fs.nodes.root = n // the reference of intern is kept
	return nil
}

// Init implements server.Session.
func (fs *FS) Init(p *server.InitParams) unix.Errno {
	want := fp.InitCreateSuppGroup | fp.InitNoExportSupport
	add := func(on bool, flags fp.InitFlags) {
		if on {
			want |= flags
		}
	}
	add(!fs.cfg.NoReaddirplus && fs.cfg.Cache != CacheNever, fp.InitDoReaddirplus|fp.InitReaddirplusAuto)
	add(fs.cfg.AnnounceSubmounts, fp.InitSubmounts)
	add(fs.cfg.KillprivV2, fp.InitHandleKillprivV2)
	add(fs.cfg.AllowIdmap, fp.InitAllowIdmap)
	add(fs.cfg.Writeback, fp.InitWritebackCache)
	add(fs.cfg.BackingFiles, fp.InitPassthrough)
	add(fs.cfg.AllowMmap, fp.InitDirectIOAllowMmap)
	add(fs.cache.symlinks, fp.InitCacheSymlinks)
	add(fs.cfg.PosixLocks, fp.InitPosixLocks)
	add(fs.cfg.Flocks, fp.InitFlockLocks)
	const acl = fp.InitPosixACL | fp.InitDontMask | fp.InitSetxattrExt
	canACL := p.Offered&acl == acl && fs.who.privateThreads(tryUnshareFS)
	if fs.cfg.PosixACL == Always && !canACL ||
		fs.cfg.SecurityLabel == Always && p.Offered&fp.InitSecurityCtx == 0 {
		return unix.EPROTO
	}
	add(fs.cfg.PosixACL != Never && canACL, acl)
	add(fs.cfg.SecurityLabel != Never, fp.InitSecurityCtx)
	want |= fs.dax.init(p)
	openless := fs.openless.can(p.Offered)
	add(openless, openlessFlags) // which Linux does not read, but a daemon that it moves to does
	p.Flags |= want
	if got := p.Flags & p.Offered; !p.Resumed && got&fp.InitAllowIdmap != 0 && got&fp.InitHandleKillprivV2 == 0 {
		// Nothing would say who truncates a file by opening it: see killpriv.go. It costs
		// the guest a request when that is an existing file.
		p.Flags &^= fp.InitAtomicOTrunc
	}
	fs.openless.agreed.Store(openless)
	fs.features.flags.Store(uint64(p.Flags & p.Offered))
	return 0
}

// features are what was agreed on with the client at INIT.
type features struct{ flags atomic.Uint64 } // fp.InitFlags

// agreed reports whether a feature was settled with the client.
func (f *features) agreed(flag fp.InitFlags) bool { return fp.InitFlags(f.flags.Load())&flag != 0 }

// Destroy implements server.Session. Requests that still run keep what they use.
func (fs *FS) Destroy() {
	fs.destroyExcluded.Lock()
	defer fs.destroyExcluded.Unlock()
	if fs.cfg.DAX != nil {
		fs.cfg.DAX.Table.Reset()
	}
	for f := range fs.openFiles.All {
		fs.openFiles.close(f)
	}
	for n := range fs.nodes.All {
		fs.entries.forget(nil, n, ^uint64(0))
	}
}

// Statfs implements server.Session.
func (fs *FS) Statfs(r *server.Request, out *fp.Kstatfs) unix.Errno {
	ts, n, fd, errno := fs.enter(r, intentStat)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(n)
	st := &ts.statfs
	if errno := sysFstatfs(fd, st); errno != 0 {
		return errno
	}
	*out = fp.Kstatfs{Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail, Files: st.Files,
		Ffree: st.Ffree, Bsize: uint32(st.Bsize), NameLen: uint32(st.Namelen), Frsize: uint32(st.Frsize)}
	return 0
}

// Syncfs implements server.Session.
func (fs *FS) Syncfs(r *server.Request) unix.Errno {
	if !r.MayWait {
		return server.WouldBlock
	}
	ts, n, fd, errno := fs.enter(r, intentSync)
	if errno != 0 {
		return errno
	}
	defer fs.nodes.release(n)
	if !n.isDir() && !n.isReg() {
		return 0
	}
	f, errno := fs.fds.open(fs.cfg.ProcFD, procName(&ts.num, fd), unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errno != 0 {
		return errno
	}
	defer fs.fds.close(f)
	_, errno = syscall6(unix.SYS_SYNCFS, uintptr(f), 0, 0, 0, 0, 0)
	return errno
}
