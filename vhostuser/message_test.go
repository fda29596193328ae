package vhostuser

import (
	"reflect"
	"testing"
	"unsafe"
)

// TestLayout compares the structures with the tables of vhost-user, "Message
// Specification", written down by hand: name, offset and size of each field.
func TestLayout(t *testing.T) {
	type field struct {
		name         string
		offset, size uintptr
	}
	for _, test := range []struct {
		v      any
		size   uintptr
		fields []field
	}{
		{Header{}, 12, []field{{"Request", 0, 4}, {"Flags", 4, 4}, {"Size", 8, 4}}},
		{U64{}, 8, []field{{"Value", 0, 8}}},
		{VringState{}, 8, []field{{"Index", 0, 4}, {"Num", 4, 4}}},
		{VringAddr{}, 40, []field{{"Index", 0, 4}, {"Flags", 4, 4}, {"Desc", 8, 8}, {"Used", 16, 8}, {"Avail", 24, 8}, {"Log", 32, 8}}},
		{MemoryHeader{}, 8, []field{{"Regions", 0, 4}}},
		{MemoryRegion{}, 32, []field{{"GuestAddr", 0, 8}, {"Size", 8, 8}, {"UserAddr", 16, 8}, {"MmapOffset", 24, 8}}},
		{SingleRegion{}, 40, []field{{"Region", 8, 32}}},
		{LogDescription{}, 16, []field{{"Size", 0, 8}, {"Offset", 8, 8}}},
		{InflightDescription{}, 24, []field{{"MmapSize", 0, 8}, {"MmapOffset", 8, 8}, {"NumQueues", 16, 2}, {"QueueSize", 18, 2}}},
		{ConfigHeader{}, 12, []field{{"Offset", 0, 4}, {"Size", 4, 4}, {"Flags", 8, 4}}},
		{TransferState{}, 8, []field{{"Direction", 0, 4}, {"Phase", 4, 4}}},
		{SharedMemoryConfig{}, 2056, []field{{"Regions", 0, 4}, {"Sizes", 8, 2048}}},
		{SharedMemoryMap{}, 40, []field{{"ID", 0, 1}, {"FileOffset", 8, 8}, {"Offset", 16, 8}, {"Length", 24, 8}, {"Flags", 32, 8}}},
	} {
		typ := reflect.TypeOf(test.v)
		if typ.Size() != test.size {
			t.Errorf("%s has %d bytes, want %d", typ, typ.Size(), test.size)
		}
		named := 0
		for i := range typ.NumField() {
			if typ.Field(i).Name != "_" {
				named++
			}
		}
		if named != len(test.fields) {
			t.Errorf("%s has %d fields, want %d", typ, named, len(test.fields))
		}
		for _, f := range test.fields {
			got, ok := typ.FieldByName(f.name)
			if !ok || got.Offset != f.offset || got.Type.Size() != f.size {
				t.Errorf("%s.%s: offset %d size %d, want %d, %d", typ, f.name, got.Offset, got.Type.Size(), f.offset, f.size)
			}
		}
	}
}

func TestDecode(t *testing.T) {
	b := []byte{1, 0, 0, 0, 2, 0, 0, 0}
	if s, ok := Decode[VringState](b); !ok || s.Index != 1 || s.Num != 2 {
		t.Errorf("got %+v, %v", s, ok)
	}
	if _, ok := Decode[VringState](b[:7]); ok {
		t.Error("7 bytes were enough for a VringState")
	}
	s := VringState{Index: 1, Num: 2}
	if string(Bytes(&s)) != string(b) || unsafe.Sizeof(s) != 8 {
		t.Errorf("got % x", Bytes(&s))
	}
}

func TestNames(t *testing.T) {
	for r, want := range map[Request]string{
		1: "GET_FEATURES", 22: "IOTLB_MSG", 44: "GET_SHMEM_CONFIG", 0: "request 0", 45: "request 45", 1 << 31: "request 2147483648",
	} {
		if got := r.String(); got != want {
			t.Errorf("Request(%d) is %q, want %q", uint32(r), got, want)
		}
	}
	for r, want := range map[BackendRequest]string{2: "BACKEND_CONFIG_CHANGE_MSG", 9: "BACKEND_SHMEM_MAP", 11: "back-end request 11"} {
		if got := r.String(); got != want {
			t.Errorf("BackendRequest(%d) is %q, want %q", uint32(r), got, want)
		}
	}
	for p, want := range map[ProtocolFeatures]string{
		0: "", ProtocolMQ | ProtocolReplyAck: "MQ|REPLY_ACK", 1<<22 | 1<<40: "SHMEM|bit 40",
	} {
		if got := p.String(); got != want {
			t.Errorf("%#x is %q, want %q", uint64(p), got, want)
		}
	}
	for d, last := range map[Direction]uint32{ToBackend: uint32(ReqGetShmemConfig), ToFrontend: uint32(BackendShmemUnmap)} {
		for n := uint32(1); n <= last; n++ {
			if FormatOf(d, n) == nil {
				t.Errorf("direction %d: request %d is not in the table", d, n)
			}
		}
		if FormatOf(d, 0) != nil || FormatOf(d, last+1) != nil || FormatOf(d, 1<<32-1) != nil {
			t.Errorf("direction %d: the table has numbers that are none", d)
		}
	}
}
