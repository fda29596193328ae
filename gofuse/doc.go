// Package gofuse serves file systems that were written for go-fuse v2 (github.com/hanwen/go-fuse/v2) to
// guests, over vsock, and to this machine:
//
//	root, err := fs.NewLoopbackRoot("/srv")
//	if err != nil {
//		log.Fatal(err)
//	}
//	files := gofuse.New(fs.NewNodeFS(root, nil), gofuse.Options{})
//	log.Fatal(govirtiofs.ListenAndServe("/run/srv.sock", "srv", files))
//
// All of fs.InodeEmbedder works, and every fuse.RawFileSystem. Only programs that import this
// package depend on go-fuse.
//
// # What is different from fuse.NewServer
//
// The client is a guest, and hostile. The numbers of nodes and open files that it gets are numbers of this
// package: a number that a guest makes up never reaches the file system. Nor does a request that is malformed.
//
// There is no fuse.Server: RawFileSystem.Init is not called, and notifications (NotifyContent,
// NotifyEntry, ...) return an error or do nothing. Set timeouts to what the file system can bear. Caller.Pid is a
// number of the guest's. Locks are the client's own. Tmpfile, Ioctl and Statx are not passed on. A session can't
// be moved to another process.
//
// # Experimental
//
// The messages go through fuse.ProtocolServer, which go-fuse calls experimental: this package may have to change
// with it.
package gofuse
