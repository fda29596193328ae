package relay

import (
	fp "github.com/govirtiofs/govirtiofs/fuseproto"
)

// notify takes a notification of the program's, on the receiving goroutine. The program can't be told that it was not
// heard: to write to a socket does not fail. cut says that there was more than body.
func (fs *FS) notify(l *link, code fp.NotifyCode, body []byte, cut bool) {
	if code == fp.NotifyStore {
		// The client can read what is to be stored in its memory. That there is something new is what it has to know.
		if code, body = fp.NotifyInvalInode, stored(body); body == nil {
			l.lie("a malformed notification")
			return
		}
	} else if cut {
		l.lie("a notification that is too long")
		return
	}
	switch code {
	case fp.NotifyInvalInode, fp.NotifyInvalEntry, fp.NotifyDelete, fp.NotifyPrune, fp.NotifyIncEpoch:
		// Not every client can be told, and others may be notified of it too late. From now on they ask again soon.
		if fs.most.CompareAndSwap(0, int64(fs.opts.Notified)) {
			fs.opts.Log.Info("the program reports changes that it makes by itself; clients do not cache names and attributes "+
				"longer than", "time", fs.opts.Notified)
		}
		fs.tell(l, code, body)
	case fp.NotifyRetrieve:
		l.retrieve(body)
	case fp.NotifyPoll:
		// Nobody polls: POLL is answered ENOSYS.
	case fp.NotifyResend:
		// A program that is started again gets another socket, and what is under way without asking.
		l.lie("FUSE_NOTIFY_RESEND, which it was not offered (FUSE_HAS_RESEND): it does not get requests a second time")
	default:
		l.lie("a notification with an unknown code")
	}
}

// stored is what INVAL_INODE would say of a STORE, whose data may be cut off; nil if it is malformed.
func stored(body []byte) []byte {
	var in fp.NotifyStoreOut
	if len(body) < fp.Size[fp.NotifyStoreOut]() {
		return nil
	}
	copy(fp.Bytes(&in), body)
	if int64(in.Offset) < 0 {
		return nil
	}
	return fp.Bytes(&fp.NotifyInvalInodeOut{Ino: in.NodeID, Off: int64(in.Offset), Len: int64(in.Size)})
}

// retrieve answers a wish for the client's cached data: there is none.
func (l *link) retrieve(body []byte) {
	var out fp.NotifyRetrieveOut
	if len(body) != fp.Size[fp.NotifyRetrieveOut]() {
		l.lie("a malformed notification")
		return
	}
	copy(fp.Bytes(&out), body)
	in := fp.NotifyRetrieveIn{Offset: out.Offset}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.small) < maxSmall {
		l.post(packet(fp.OpNotifyReply, out.NotifyUnique, out.NodeID, fp.Bytes(&in)))
	}
}

// maxSmall bounds the messages that wait for room and that a program can cause by itself.
const maxSmall = 1024
