package policy

import (
	"encoding/binary"
	"hash/maphash"
	"slices"
	"strings"
)

// records are rules one behind the other, each of recordHead bytes (number of its
// [Terms], lengths of pattern and note) and its pattern and note. There are no pointers
// in them, so a million rules are nothing to the garbage collector. A rule is known by
// where it stands; nothing stands at 0.
type records string

const (
	recordHead  = 8
	recordFirst = 1 // where the first one stands
)

func appendRecord(b []byte, terms uint32, pattern, note string) []byte {
	b = binary.LittleEndian.AppendUint32(b, terms)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(pattern)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(note)))
	return append(append(b, pattern...), note...)
}

// head is the first bytes of a record.
type head uint64

func (r records) head(at uint32) head {
	b := r[at : at+recordHead] // read at once
	return head(b[0]) | head(b[1])<<8 | head(b[2])<<16 | head(b[3])<<24 | head(b[4])<<32 | head(b[5])<<40 | head(b[6])<<48 | head(b[7])<<56
}

func (h head) terms() uint32 { return uint32(h) }

func (h head) pattern() int { return int(h >> 32 & 0xffff) } // its length

func (h head) note() int { return int(h >> 48) }

func (r records) terms(at uint32) uint32 { return r.head(at).terms() }

func (r records) pattern(at uint32) string {
	from := int(at) + recordHead
	return string(r[from : from+r.head(at).pattern()])
}

// next returns where the record behind the one at at stands.
func (r records) next(at uint32) uint32 {
	h := r.head(at)
	return at + recordHead + uint32(h.pattern()+h.note())
}

// domainOf returns the domain of an address pattern, and what has no @ as it is.
func domainOf(pattern string) string { return pattern[strings.LastIndexByte(pattern, '@')+1:] }

// seed is the same for all indexes of the process, so that one can be copied.
var seed = maphash.MakeSeed()

// index finds records by their pattern: a hash table with linear probing. A slot holds
// 32 bits of the hash beside the record's place, so a pattern that there is costs two
// cache misses (slot and record), and one that there is not one.
type index struct {
	byDomain bool   // keys are the domains of address patterns
	slots    []slot // a power of two, at most two thirds of them taken
	n        int
}

type slot struct {
	tag uint32
	at  uint32 // 0: empty
}

func (x *index) key(r records, at uint32) string {
	if p := r.pattern(at); !x.byDomain {
		return p
	} else {
		return domainOf(p)
	}
}

// find returns where the record with the key stands, 0: there is none. The slot is where
// it is, or where it would stand.
func (x *index) find(r records, key string) (at uint32, i int) {
	if x.n == 0 {
		return 0, 0
	}
	return x.probe(r, key, maphash.String(seed, key))
}

func (x *index) probe(r records, key string, h uint64) (at uint32, i int) {
	mask, tag := len(x.slots)-1, uint32(h>>32)
	for i = int(h) & mask; ; i = (i + 1) & mask {
		s := x.slots[i]
		if s.at == 0 || s.tag == tag && x.key(r, s.at) == key {
			return s.at, i
		}
	}
}

// reserve makes room for n entries, so that adding as many moves nothing.
func (x *index) reserve(r records, n int) {
	size := len(x.slots)
	for size*2 < n*3 {
		size = max(8, 2*size)
	}
	if size == len(x.slots) {
		return
	}
	old := x.slots
	x.slots = make([]slot, size)
	for _, s := range old {
		if s.at != 0 {
			key := x.key(r, s.at)
			_, i := x.probe(r, key, maphash.String(seed, key))
			x.slots[i] = s
		}
	}
}

// put adds the record at at, or puts it in the place of the one with the same key, whose
// place it returns.
func (x *index) put(r records, at uint32) (before uint32) {
	x.reserve(r, x.n+1)
	key := x.key(r, at)
	h := maphash.String(seed, key)
	before, i := x.probe(r, key, h)
	x.slots[i] = slot{uint32(h >> 32), at}
	if before == 0 {
		x.n++
	}
	return before
}

// remove takes the record with the key out, and moves up what was probed past it.
func (x *index) remove(r records, key string) (at uint32) {
	at, hole := x.find(r, key)
	if at == 0 {
		return 0
	}
	mask := len(x.slots) - 1
	for i := (hole + 1) & mask; x.slots[i].at != 0; i = (i + 1) & mask {
		home := int(maphash.String(seed, x.key(r, x.slots[i].at))) & mask
		if (i-home)&mask >= (i-hole)&mask {
			x.slots[hole], hole = x.slots[i], i
		}
	}
	x.slots[hole] = slot{}
	x.n--
	return at
}

// clone returns a copy that can be changed by itself.
func (x *index) clone() index {
	c := *x
	c.slots = slices.Clone(x.slots)
	return c
}
