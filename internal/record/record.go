// Package record writes and reads the numbers and byte strings of a saved state. Errors
// stick: the caller writes or reads a sequence and checks for an error at its end.
//
// A number is an unsigned varint (encoding/binary). A byte string is its length and its
// bytes. The data that is read is not trusted: a string is never longer than the reader
// allows.
package record

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Writer writes values. Flush must come last. More values may follow and need
// another Flush.
type Writer struct {
	w   *bufio.Writer
	err error
	buf [binary.MaxVarintLen64]byte
}

// NewWriter returns a Writer to w. If w is a Writer, it returns w.
func NewWriter(w io.Writer) *Writer {
	if w, ok := w.(*Writer); ok {
		return w
	}
	return NewWriterSize(w, 64<<10)
}

// NewWriterSize is NewWriter with a buffer of so many bytes.
func NewWriterSize(w io.Writer, size int) *Writer {
	return &Writer{w: bufio.NewWriterSize(w, size)}
}

// Write implements io.Writer: the bytes are written as they are.
func (w *Writer) Write(b []byte) (n int, err error) {
	if w.err != nil {
		return 0, w.err
	}
	n, w.err = w.w.Write(b)
	return n, w.err
}

// Uint writes numbers.
func (w *Writer) Uint(list ...uint64) {
	for _, v := range list {
		if w.err == nil {
			_, w.err = w.w.Write(w.buf[:binary.PutUvarint(w.buf[:], v)])
		}
	}
}

// Bytes writes a byte string.
func (w *Writer) Bytes(b []byte) {
	w.Uint(uint64(len(b)))
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

// Flush writes buffered bytes and returns the first error of all calls.
func (w *Writer) Flush() error {
	if w.err == nil {
		w.err = w.w.Flush()
	}
	return w.err
}

// Reader reads values. After an error all of them are zero.
type Reader struct {
	r   *bufio.Reader
	err error
}

// NewReader returns a Reader from r. It fails if r has more than limit bytes. It may read
// ahead. If r is a Reader, NewReader returns r, and the limit of r stays.
func NewReader(r io.Reader, limit int64) *Reader {
	if r, ok := r.(*Reader); ok {
		return r
	}
	return &Reader{r: bufio.NewReaderSize(&limited{r, limit, limit}, 64<<10)}
}

// Read implements io.Reader: the bytes are read as they are.
func (r *Reader) Read(b []byte) (n int, err error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err = r.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// limited is a reader that fails when there are more bytes than a limit. It asks for one
// more byte to tell this from the end.
type limited struct {
	r           io.Reader
	left, limit int64
}

func (l *limited) Read(b []byte) (int, error) {
	if l.left < 0 {
		return 0, fmt.Errorf("more than %d bytes", l.limit)
	}
	if int64(len(b))-1 > l.left {
		b = b[:l.left+1]
	}
	n, err := l.r.Read(b)
	if l.left -= int64(n); l.left < 0 {
		n--
	}
	return n, err
}

// Err is the first error. It is io.ErrUnexpectedEOF if the data ends before the end of
// a value.
func (r *Reader) Err() error { return r.err }

// Fail makes err the error if there is none yet.
func (r *Reader) Fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// Uint reads a number.
func (r *Reader) Uint() uint64 {
	if r.err != nil {
		return 0
	}
	v, err := binary.ReadUvarint(r.r)
	if err != nil {
		r.fail(err)
		return 0
	}
	return v
}

// Max reads a number that is limit at most.
func (r *Reader) Max(limit uint64) uint64 {
	v := r.Uint()
	if v > limit {
		r.Fail(fmt.Errorf("number %d is out of range, at most %d is possible", v, limit))
		return 0
	}
	return v
}

// Bytes reads a byte string of at most limit bytes. The caller owns it.
func (r *Reader) Bytes(limit int) []byte {
	n := r.Max(uint64(limit))
	if r.err != nil {
		return nil
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.r, b); err != nil {
		r.fail(err)
		return nil
	}
	return b
}

// End checks that nothing follows.
func (r *Reader) End() {
	if r.err != nil {
		return
	}
	if _, err := r.r.ReadByte(); !errors.Is(err, io.EOF) {
		if err == nil {
			err = errors.New("data after the end")
		}
		r.err = err
	}
}

func (r *Reader) fail(err error) {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	r.err = err
}
