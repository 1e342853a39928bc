// Package spool keeps one message while it is handled: small ones in memory,
// larger ones in a file that only this process can read. The file is unlinked as
// soon as it is open, and what is written to it is encrypted under a key that is
// never written anywhere, so that no plaintext lies on a disk, not even after a
// crash.
package spool

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// InMemory is how many bytes stay in memory before a file is made.
const InMemory = 256 << 10

// chunkSize is the length of an encrypted chunk, in bytes of plaintext.
const chunkSize = 64 << 10

// Spool is one message. It is written once, closed for writing by the first Open,
// and may then be read several times, also in parallel.
type Spool struct {
	dir  string
	size int64
	mem  []byte // all of it, or the chunk that is not full yet
	file *os.File
	aead cipher.AEAD
	full int64 // chunks in the file
	buf  []byte
	done bool
	err  error
}

// New makes an empty spool. dir is where a file is made if one is needed; "" is
// the system's directory for temporary files.
func New(dir string) *Spool { return &Spool{dir: dir} }

// Size returns the number of bytes written.
func (s *Spool) Size() int64 { return s.size }

// Write appends p. After an error the spool is of no use but to be closed.
func (s *Spool) Write(p []byte) (int, error) {
	if s.done {
		return 0, errors.New("spool: written after it was opened")
	}
	if s.err != nil {
		return 0, s.err
	}
	s.mem = append(s.mem, p...)
	s.size += int64(len(p))
	if s.file == nil && len(s.mem) <= InMemory {
		return len(p), nil
	}
	if s.err = s.spill(); s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

// spill moves full chunks to the file.
func (s *Spool) spill() error {
	if s.file == nil {
		if err := s.create(); err != nil {
			return fmt.Errorf("spool: %w", err)
		}
	}
	rest := s.mem
	for len(rest) >= chunkSize {
		if err := s.put(rest[:chunkSize]); err != nil {
			return err
		}
		rest = rest[chunkSize:]
	}
	s.mem = append(s.mem[:0], rest...)
	if cap(s.mem) > 2*chunkSize {
		s.mem = append(make([]byte, 0, 2*chunkSize), s.mem...)
	}
	return nil
}

func (s *Spool) create() error {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	clear(key)
	if err != nil {
		return err
	}
	if s.aead, err = cipher.NewGCM(block); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.dir, "postseal-spool-*")
	if err != nil {
		return err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return err
	}
	s.file = f
	return nil
}

// nonce is a counter: the key is used for this spool alone.
func nonce(chunk int64) []byte {
	n := make([]byte, 12)
	binary.BigEndian.PutUint64(n[4:], uint64(chunk))
	return n
}

func (s *Spool) stride() int64 { return chunkSize + int64(s.aead.Overhead()) }

func (s *Spool) put(chunk []byte) error {
	s.buf = s.aead.Seal(s.buf[:0], nonce(s.full), chunk, nil)
	if _, err := s.file.WriteAt(s.buf, s.full*s.stride()); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	s.full++
	return nil
}

// Open returns a reader of the whole message. From then on nothing can be
// written.
func (s *Spool) Open() (io.ReadCloser, error) {
	if s.err != nil {
		return nil, s.err
	}
	s.done = true
	return &reader{s: s}, nil
}

// Close drops the message.
func (s *Spool) Close() error {
	s.done = true
	s.err = os.ErrClosed
	clear(s.mem)
	s.mem, s.buf = nil, nil
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return f.Close()
}

// reader reads the file's chunks, then what is in memory.
type reader struct {
	s     *Spool
	next  int64 // chunk
	tail  bool  // what is in memory was given
	have  []byte
	plain []byte
	box   []byte
}

func (r *reader) Read(p []byte) (int, error) {
	for len(r.have) == 0 {
		switch {
		case r.s.err != nil:
			return 0, r.s.err
		case r.next < r.s.full:
			if err := r.load(); err != nil {
				return 0, err
			}
		case !r.tail:
			r.have, r.tail = r.s.mem, true
		default:
			return 0, io.EOF
		}
		if len(p) == 0 {
			return 0, nil
		}
	}
	n := copy(p, r.have)
	r.have = r.have[n:]
	return n, nil
}

func (r *reader) load() error {
	if r.box == nil {
		r.box = make([]byte, r.s.stride())
	}
	if _, err := r.s.file.ReadAt(r.box, r.next*r.s.stride()); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	var err error
	if r.plain, err = r.s.aead.Open(r.plain[:0], nonce(r.next), r.box, nil); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	r.have = r.plain
	r.next++
	return nil
}

func (r *reader) Close() error { return nil }
