// Serve is a program for the module of gocryptfs, whose file system is in internal packages: copied into that module it
// can import them. It serves the decrypted tree by package gofuse. gocryptfs_test.go builds and uses it.
//
//	serve CIPHERDIR PASSWORD SOCKET
//	serve -mount CIPHERDIR PASSWORD DIR
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/rfjakob/gocryptfs/v2/internal/configfile"
	"github.com/rfjakob/gocryptfs/v2/internal/contentenc"
	"github.com/rfjakob/gocryptfs/v2/internal/cryptocore"
	"github.com/rfjakob/gocryptfs/v2/internal/fusefrontend"
	"github.com/rfjakob/gocryptfs/v2/internal/nametransform"

	"github.com/govirtiofs/govirtiofs"
	"github.com/govirtiofs/govirtiofs/fusedev"
	"github.com/govirtiofs/govirtiofs/gofuse"
)

func main() {
	mount := flag.Bool("mount", false, "mount on a directory of this machine instead")
	flag.Parse()
	if flag.NArg() != 3 {
		log.Fatal("want CIPHERDIR, PASSWORD, and a socket or a directory")
	}
	if err := serve(flag.Arg(0), flag.Arg(1), flag.Arg(2), *mount); err != nil {
		log.Fatal(err)
	}
}

func serve(cipherdir, password, to string, mount bool) error {
	files, err := decrypted(cipherdir, password)
	if err != nil {
		return err
	}
	syscall.Umask(0) // the client's is in the modes that it sends
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s := govirtiofs.Server{FS: files, Tag: "gocryptfs"}
	if mount {
		err = s.Mount(ctx, to, fusedev.Options{AllowOther: true, Permissions: true})
	} else {
		err = s.ListenAndServe(ctx, to)
	}
	end, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(err, s.Close(end))
}

// decrypted is the tree below cipherdir as gocryptfs shows it with its option -allow_other.
func decrypted(cipherdir, password string) (*gofuse.FS, error) {
	key, conf, err := configfile.LoadAndDecrypt(filepath.Join(cipherdir, configfile.ConfDefaultName), []byte(password))
	if err != nil {
		return nil, err
	}
	algorithm, err := conf.ContentEncryption()
	if err != nil {
		return nil, err
	}
	has := conf.IsFeatureFlagSet
	core := cryptocore.New(key, algorithm, algorithm.NonceSize*8, has(configfile.FlagHKDF))
	content := contentenc.New(core, contentenc.DefaultBS)
	args := fusefrontend.Args{
		Cipherdir: cipherdir, LongNames: has(configfile.FlagLongNames), PlaintextNames: has(configfile.FlagPlaintextNames),
		DeterministicNames: !has(configfile.FlagDirIV), PreserveOwner: os.Geteuid() == 0,
	}
	names := nametransform.New(core.EMECipher, args.LongNames, conf.LongNameMax, has(configfile.FlagRaw64), nil, args.DeterministicNames)
	root := fusefrontend.NewRootNode(args, content, names)
	second := time.Second
	o := &fs.Options{
		EntryTimeout: &second, AttrTimeout: &second, NegativeTimeout: &second, NullPermissions: true,
		RootStableAttr: &fs.StableAttr{Ino: root.RootIno()},
		MountOptions:   fuse.MountOptions{MaxWrite: fuse.MAX_KERNEL_WRITE}, // the size of its buffers
	}
	return gofuse.New(fs.NewNodeFS(root, o), gofuse.Options{Mount: o.MountOptions}), nil
}
