package spool

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"testing"
)

func TestReadsWhatWasWritten(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, InMemory - 1, InMemory, InMemory + 1, InMemory + chunkSize, 5*chunkSize + 7, 3 << 20} {
		text := make([]byte, size)
		for i := range text {
			text[i] = byte(rnd.Uint32())
		}
		dir := t.TempDir()
		s := New(dir)
		for rest := text; len(rest) > 0; {
			n := min(len(rest), 1+rnd.IntN(50000))
			if _, err := s.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if s.Size() != int64(size) {
			t.Errorf("size %d, want %d", s.Size(), size)
		}
		if files, _ := os.ReadDir(dir); len(files) != 0 {
			t.Errorf("a file with a name: %v", files)
		}
		if (s.file != nil) != (size > InMemory) {
			t.Errorf("%d bytes: file %v", size, s.file != nil)
		}
		var readers sync.WaitGroup
		for range 3 {
			r, err := s.Open()
			if err != nil {
				t.Fatal(err)
			}
			readers.Go(func() {
				defer r.Close()
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, text) {
					t.Errorf("%d bytes: read %d, %v", size, len(got), err)
				}
			})
		}
		readers.Wait()
		if _, err := s.Write([]byte("x")); err == nil {
			t.Error("written after it was opened")
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if _, err := s.Open(); err == nil {
			t.Error("opened after it was closed")
		}
	}
}

func TestNothingIsReadableOnTheDisk(t *testing.T) {
	s := New(t.TempDir())
	defer s.Close()
	secret := []byte("the secret of the message ")
	for range 40000 {
		if _, err := s.Write(secret); err != nil {
			t.Fatal(err)
		}
	}
	st, err := s.file.Stat()
	if err != nil || st.Size() < 1<<19 || st.Mode().Perm() != 0o600 {
		t.Fatalf("file: %v, %v", st, err)
	}
	raw := make([]byte, st.Size())
	if _, err := s.file.ReadAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(raw, []byte("secret")) {
		t.Error("plaintext on the disk")
	}
	if bytes.Equal(raw[:1000], raw[s.stride():s.stride()+1000]) {
		t.Error("equal chunks look equal")
	}
	// A byte that changes on the disk is noticed.
	raw[100] ^= 1
	if _, err := s.file.WriteAt(raw[:200], 0); err != nil {
		t.Fatal(err)
	}
	r, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a damaged file was read")
	}
}

func TestNoRoom(t *testing.T) {
	s := New("/nonexistent")
	defer s.Close()
	if _, err := s.Write(make([]byte, InMemory+1)); err == nil {
		t.Error("no error")
	}
	if _, err := s.Open(); err == nil {
		t.Error("opened what is not complete")
	}
}

func TestMemoryDoesNotGrowWithTheMessage(t *testing.T) {
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	s := New(t.TempDir())
	defer s.Close()
	buf := make([]byte, 32<<10)
	for range 50 << 20 / len(buf) {
		if _, err := s.Write(buf); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Open()
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, r)
	if err != nil || n != 50<<20 {
		t.Fatal(n, err)
	}
	if grown := int64(heap()) - int64(before); grown > 1<<20 {
		t.Errorf("grown by %d bytes", grown)
	}
	runtime.KeepAlive(s)
}
