package escrow_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
)

// A database of the version before there were shorter chunks and segments: both had 1 MiB.
// Its outbox has the notice.
func TestLongChunksOpen(t *testing.T) {
	const dir = "testdata/chunks-1mib/"
	b := newBench(t)
	b.must(b.db.Close())
	keys, err := os.ReadFile(dir + "keys")
	b.must(err)
	b.must(os.WriteFile(b.keys, keys, 0o600))
	packed, err := os.Open(dir + "escrow.db.gz")
	b.must(err)
	defer packed.Close()
	z, err := gzip.NewReader(packed)
	b.must(err)
	db, err := io.ReadAll(z)
	b.must(err)
	b.must(os.WriteFile(b.path(), db, 0o600))
	b.db = nil
	b.start()

	want := make([]byte, 1<<20+5000)
	rand.NewChaCha8([32]byte{2}).Read(want)
	item, secret := b.link(recipient)
	first, err := b.db.Chunk(t.Context(), item, 0, nil)
	b.must(err)
	if len(first) != 1<<20 {
		t.Fatalf("its first chunk has %d bytes", len(first))
	}
	p := b.pickup(item, secret)
	if got := b.open(p, b.code(p)); !bytes.Equal(got, want) {
		t.Errorf("%d bytes came back as %d others", len(want), len(got))
	}
}

// A message that is being read needs little memory, however large it is: many may be, and
// who reads may be slow.
func TestOpenMessagesNeedLittleMemory(t *testing.T) {
	const size, readers, most = 6 << 20, 8, 768 << 10 // bytes, of a message and for each reader
	b := newBench(t)
	body := make([]byte, size)
	rand.NewChaCha8([32]byte{4}).Read(body)
	b.seal(message(body))
	p := b.pickup(b.link(recipient))
	token, err := b.Verify(t.Context(), p, b.code(p), stranger)
	b.must(err)
	s, err := b.CheckToken(t.Context(), p, token)
	b.must(err)
	open := make([]io.ReadCloser, readers)
	before := heapInUse()
	for i := range open {
		open[i], err = b.Open(t.Context(), p, s)
		b.must(err)
		_, err = io.CopyN(io.Discard, open[i], size/2)
		b.must(err)
	}
	each := (int64(heapInUse()) - int64(before)) / readers
	t.Logf("%d kB for each", each>>10)
	if each > most {
		t.Errorf("%d kB for each message that is read, want %d at most", each>>10, most>>10)
	}
	for _, r := range open {
		rest, err := io.ReadAll(r)
		if b.must(err); !bytes.Equal(rest, body[size/2:]) {
			t.Error("the rest is not what was sealed")
		}
	}
}

// heapInUse is what lives on the heap, in bytes.
func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what they hold over one
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
