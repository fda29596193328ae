package fuseproto

import (
	"testing"
)

// TestShapes compares rows with what fs/fuse/*.c sends, counted by hand in bytes.
func TestShapes(t *testing.T) {
	for op, want := range map[Opcode]Shape{
		OpLookup:          {Name: "LOOKUP", Names: 1, Reply: 128},                            // fuse_lookup_init
		OpBatchForget:     {Name: "BATCH_FORGET", Body: 8, NoReply: true, Data: ToServer},    // fuse_read_batch_forget
		OpRead:            {Name: "READ", Body: 40, Data: FromServer},                        // fuse_read_args_fill
		OpWrite:           {Name: "WRITE", Body: 40, Reply: 8, Data: ToServer},               // fuse_write_args_fill
		OpInit:            {Name: "INIT", Body: 16, Reply: 8},                                // minors below 36 and 5
		OpSetxattr:        {Name: "SETXATTR", Body: 8, Names: 1, Data: ToServer},             // without SETXATTR_EXT
		OpIoctl:           {Name: "IOCTL", Body: 32, Reply: 16, Data: ToServer | FromServer}, // fuse_do_ioctl
		OpInterrupt:       {Name: "INTERRUPT", Body: 8, NoReply: true},                       // fuse_read_interrupt
		OpSyncfs:          {Name: "SYNCFS", Body: 8},                                         // fuse_sync_fs
		OpTmpfile:         {Name: "TMPFILE", Body: 16, Names: 1, Reply: 144},                 // fuse_create_open
		OpDestroy:         {Name: "DESTROY"},                                                 // fuse_send_destroy
		OpCopyFileRange64: {Name: "COPY_FILE_RANGE_64", Body: 56, Reply: 8},                  // __fuse_copy_file_range
		NumOpcodes:        {},                                                                // unknown
		7:                 {},                                                                // never given
		OpStatx:           {Name: "STATX", Body: 24, Reply: Size[StatxOut]()},                // fuse_do_statx
		OpNotifyReply:     {Name: "NOTIFY_REPLY", Body: 40, NoReply: true, Data: ToServer},   // fuse_retrieve
		OpCreate:          {Name: "CREATE", Body: 16, Names: 1, Reply: 144},                  // fuse_create_open
		OpRename2:         {Name: "RENAME2", Body: 16, Names: 2},                             // fuse_rename_common
		OpGetxattr:        {Name: "GETXATTR", Body: 8, Names: 1, Data: FromServer},           // fuse_getxattr
		OpRemoveMapping:   {Name: "REMOVEMAPPING", Body: 4, Data: ToServer},                  // fuse_send_removemapping
	} {
		if got := *op.Shape(); got != want {
			t.Errorf("%v: shape %+v, want %+v", op, got, want)
		}
	}
}

func TestReplyData(t *testing.T) {
	read, xattr, ioctl := &ReadIn{Size: 4096}, &GetxattrIn{Size: 255}, &IoctlIn{OutSize: 16}
	for _, tt := range []struct {
		op   Opcode
		body []byte
		want int
	}{
		{OpRead, Bytes(read), 4096},
		{OpReaddir, Bytes(read), 4096},
		{OpReaddirplus, Bytes(read), 4096},
		{OpRead, Bytes(read)[:39], 0},
		{OpGetxattr, Bytes(xattr), 255},
		{OpListxattr, Bytes(xattr), 255},
		{OpIoctl, Bytes(ioctl), 32},
		{OpWrite, Bytes(read), 0},
		{NumOpcodes, nil, 0},
	} {
		if got := tt.op.ReplyData(tt.body); got != tt.want {
			t.Errorf("%v: %d bytes, want %d", tt.op, got, tt.want)
		}
	}
}
