package vhostuser

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/govirtiofs/govirtiofs/internal/record"
	"github.com/govirtiofs/govirtiofs/internal/socketpair"
)

// lastNote keeps what was stored last.
type lastNote struct{ b []byte }

func (l *lastNote) Store(b []byte) error {
	l.b = slices.Clone(b)
	return nil
}

// journalWords is a journal of the channel 1: slots, taking, and five words for each request.
func journalWords(slots, taking uint64, list ...uint64) []byte {
	var b bytes.Buffer
	w := record.NewWriter(&b)
	w.Uint(1, slots, taking, 0, uint64(len(list)/5))
	w.Uint(list...)
	_ = w.Flush()
	return b.Bytes()
}

// resumeJournalOf takes a journal over, with an outbox whose position is at.
func resumeJournalOf(t testing.TB, left []byte, at int64) (*channel, *lastNote, error) {
	t.Helper()
	ours, theirs := socketpair.New(t)
	defer theirs.Close()
	defer ours.Close()
	box, err := newOutbox()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Seek(box.fd, at, unix.SEEK_SET); err != nil {
		t.Fatal(err)
	}
	note := &lastNote{}
	c := NewConn(ours, newFullDevice(), testLog())
	c.Recover(Recovery{Notes: nowhere{}, Channel: note, Keeper: nowhere{}})
	ch := newChannel(NewSocket(ours, ToFrontend), ProtocolReplyAck|ProtocolSharedMemory|ProtocolBackendSendFD)
	taken := false
	err = c.resumeJournal(ch, &notes{channel: 1, outbox: 2}, Inherited{Channel: left, Take: func(Descriptor) (int, bool) {
		taken = true
		return box.fd, true
	}})
	if !taken {
		box.close()
	}
	ch.journal.close()
	return ch, note, err
}

const unmapBytes = HeaderSize + 40

// TestResumeJournal: which answers a successor waits for.
func TestResumeJournal(t *testing.T) {
	const maps, unmaps = uint64(BackendShmemMap), uint64(BackendShmemUnmap)
	request := func(number, bits uint64) []uint64 { return []uint64{number, bits, 1, 4096, 8192} }
	for name, test := range map[string]struct {
		left []byte
		at   int64
		want int // -1: an error
	}{
		"nothing":                     {journalWords(0, 0), 0, 0},
		"answers to come":             {journalWords(1, 0, slices.Concat(request(maps, 1), request(unmaps, 0))...), unmapBytes, 2},
		"unmap was sent":              {journalWords(3, 0, request(unmaps, 2)...), 2*outboxSlot + unmapBytes, 1},
		"unmap was not sent":          {journalWords(3, 0, request(unmaps, 2)...), 2 * outboxSlot, 0},
		"unmap was not even put in":   {journalWords(3, 0, request(unmaps, 2)...), outboxSlot + unmapBytes, 0},
		"map is doubtful":             {journalWords(0, 0, request(maps, 3)...), 0, 1},
		"two are, with one between":   {journalWords(1, 0, slices.Concat(request(maps, 3), request(unmaps, 0), request(maps, 3))...), unmapBytes, 3},
		"two are":                     {journalWords(0, 0, slices.Concat(request(maps, 3), request(maps, 3))...), 0, -1},
		"a part was sent":             {journalWords(3, 0, request(unmaps, 2)...), 2*outboxSlot + 7, -1},
		"unsure and not the last":     {journalWords(1, 0, slices.Concat(request(unmaps, 2), request(unmaps, 0))...), unmapBytes, -1},
		"a map that has no file":      {journalWords(0, 0, request(maps, 0)...), 0, -1},
		"another request":             {journalWords(0, 0, request(3, 0)...), 0, -1},
		"beyond the window":           {journalWords(0, 0, maps, 1, 1, 1<<20, 4096), 0, -1},
		"of no window":                {journalWords(0, 0, maps, 1, 7, 0, 4096), 0, -1},
		"too many":                    {journalWords(0, 0, slices.Repeat(request(unmaps, 0), mostWaiting+1)...), 0, -1},
		"cut off":                     {journalWords(0, 0, 9, 1, 1), 0, -1},
		"of another channel":          {append([]byte{77}, journalWords(0, 0)[1:]...), 0, 0},
		"an answer that is not there": {journalWords(0, 1), 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			ch, _, err := resumeJournalOf(t, test.left, test.at)
			if (err != nil) != (test.want < 0) {
				t.Fatal(err)
			}
			if err == nil && len(ch.waiting) != test.want {
				t.Errorf("%d answers are waited for, want %d", len(ch.waiting), test.want)
			}
		})
	}
}

// FuzzJournal takes over a journal that was forged. What is taken over is what the next process takes
// over, and no answer is doubtful that can't be told from the next one.
func FuzzJournal(f *testing.F) {
	const maps, unmaps = uint64(BackendShmemMap), uint64(BackendShmemUnmap)
	f.Add(journalWords(1, 0, maps, 3, 1, 4096, 8192, unmaps, 0, 1, 4096, 8192), int64(unmapBytes))
	f.Add(journalWords(1<<63, 1, unmaps, 2, 1, 4096, 8192), int64(0))
	f.Add([]byte{}, int64(0))
	f.Fuzz(func(t *testing.T, b []byte, at int64) {
		ch, note, err := resumeJournalOf(t, b, max(at, 0)%outboxSize)
		if err != nil || note.b == nil {
			return
		}
		if len(ch.waiting) > mostWaiting {
			t.Fatalf("%d requests", len(ch.waiting))
		}
		doubt := false
		for _, p := range ch.waiting {
			if p.unsure != p.doubtful || p.doubtful && (doubt || !p.maps) {
				t.Fatalf("%+v", p)
			}
			doubt = p.doubtful || doubt && p.maps
		}
		again, err := readJournal(note.b)
		if err != nil || len(again.list) != len(ch.waiting) {
			t.Fatalf("%d requests are noted, %v", len(again.list), err)
		}
		for i, p := range again.list {
			want := *ch.waiting[i]
			want.doubtful, want.answer, p.answer = false, nil, nil
			if !reflect.DeepEqual(*p, want) {
				t.Fatalf("request %d is noted as %+v, want %+v", i, *p, want)
			}
		}
	})
}
