package probe

import (
	"hash/maphash"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const shards = 64

// memory is a bounded table of destinations, in shards. What is there is found without a
// lock and without an allocation: the way of a question goes by a group of the table to
// the entry, which holds its own name, and nowhere else. Where a hundred thousand
// destinations are asked for at random each of these steps is one into memory that no
// processor has at hand, and costs more than all computing.
type memory struct {
	seed  maphash.Seed
	most  int // entries of one shard
	count atomic.Int64
	shard [shards]table
}

// table is an open hash table. It is changed under its lock and read at any time: an entry
// never moves, but into a copy of all groups that takes their place whole.
type table struct {
	sync.Mutex // of who changes it
	groups     atomic.Pointer[[]group]
	n, dead    int // slots taken, and slots that were; under the lock
}

// group is a few slots and seven bits of the hash for each, by which nearly all that is
// not asked for is told without looking at it.
type group struct {
	tags  atomic.Uint64 // a byte for each slot: full and seven bits, or empty, or dead
	slots [perGroup]atomic.Pointer[entry]
}

const (
	perGroup = 8
	empty    = 0x00 // a search ends at a group that has one
	dead     = 0x01 // one was there, and a search goes on
	full     = 0x80

	eachByte = 0x0101010101010101
	highBits = eachByte * full
)

// match returns the high bit of each byte of tags that is tag. A byte above one that is
// may be taken for it wrongly, never the lowest.
func match(tags uint64, tag byte) uint64 {
	x := tags ^ eachByte*uint64(tag)
	return (x - eachByte) &^ x & highBits
}

// nth is the slot that the lowest bit of a match says.
func nth(match uint64) int { return bits.TrailingZeros64(match) / 8 }

// tagOf and home say where an entry with a hash is searched for. The lowest bits are the
// shard's.
func tagOf(h uint64) byte { return byte(h>>6) | full }

func home(h uint64, groups int) int {
	hi, _ := bits.Mul64(h, uint64(groups))
	return int(hi)
}

// nameRoom is for the names of most destinations. With it an entry is 48 bytes.
const nameRoom = 23

// entry is one destination.
type entry struct {
	known atomic.Pointer[known] // never nil
	facts atomic.Pointer[facts] // nil: never looked up, and the name is in the entry
	until atomic.Uint32         // stamp up to which facts count
	asked atomic.Uint32         // minutes since 1970 when last asked for, and the bits below

	size uint8 // of the name; longName: it is in the facts
	name [nameRoom]byte
}

const longName = nameRoom + 1

func newEntry(dest string) *entry {
	e := new(entry)
	if len(dest) <= nameRoom {
		e.size = uint8(copy(e.name[:], dest))
	} else {
		e.size = longName
		e.facts.Store(&facts{dest: dest, none: true})
	}
	e.known.Store(&known{ev: never})
	return e
}

// is reports whether e is the entry of dest. It does not allocate.
func (e *entry) is(dest string) bool {
	if e.size == longName {
		return e.facts.Load().dest == dest
	}
	return string(e.name[:e.size]) == dest
}

// dest is the name of the destination. It may allocate.
func (e *entry) dest() string {
	if e.size == longName {
		return e.facts.Load().dest
	}
	return string(e.name[:e.size])
}

// The highest bits of asked.
const (
	queuedBit  = 1 << 31 // it waits for a look
	plannedBit = 1 << 30 // the schedule has it
	minutes    = plannedBit - 1
)

// used is when it was last asked for, Unix seconds; touch writes at most once a
// minute, so that busy destinations do not bounce between processors.
func (e *entry) used() int64 { return int64(e.asked.Load()&minutes) * 60 }

// touch notes that somebody asked.
func (e *entry) touch(now time.Time) {
	at := uint32(now.Unix() / 60)
	for {
		old := e.asked.Load()
		if at <= old&minutes || e.asked.CompareAndSwap(old, at|old&^minutes) {
			return
		}
	}
}

// setUsed sets when it was last asked for, also to earlier.
func (e *entry) setUsed(s stamp) {
	for {
		old := e.asked.Load()
		if e.asked.CompareAndSwap(old, uint32(s/60)|old&^minutes) {
			return
		}
	}
}

// queue notes that it waits for a look, and reports false if it did already.
func (e *entry) queue() bool { return e.asked.Or(queuedBit)&queuedBit == 0 }

func (e *entry) unqueue() { e.asked.And(^uint32(queuedBit)) }

func (e *entry) queued() bool { return e.asked.Load()&queuedBit != 0 }

func newMemory(most int) *memory {
	return &memory{seed: maphash.MakeSeed(), most: max(1, most/shards)}
}

func (m *memory) hash(dest string) (t *table, h uint64) {
	h = maphash.String(m.seed, dest)
	return &m.shard[h%shards], h
}

func (m *memory) get(dest string) *entry {
	t, h := m.hash(dest)
	return t.find(dest, h)
}

// all returns the groups.
func (t *table) all() []group {
	if all := t.groups.Load(); all != nil {
		return *all
	}
	return nil
}

// find returns the entry of dest. It needs no lock: a group that was full when an entry went
// by it never gets an empty slot again, so that a search does not end before the entry.
func (t *table) find(dest string, h uint64) *entry {
	all := t.all()
	if len(all) == 0 {
		return nil
	}
	tag := tagOf(h)
	for i := home(h, len(all)); ; {
		g := &all[i]
		tags := g.tags.Load()
		for found := match(tags, tag); found != 0; found &= found - 1 {
			if e := g.slots[nth(found)].Load(); e != nil && e.is(dest) { // nil: just removed
				return e
			}
		}
		if match(tags, empty) != 0 {
			return nil
		}
		if i++; i == len(all) {
			i = 0
		}
	}
}

// add returns the entry of dest, made if need be, and the one that had to go for
// it: of a few picked at random the one not asked for longest, those first that were never
// looked at. What a look found is a history, which the grace period needs, while what a
// destination publishes, asked for by all mail, can be looked up again.
func (m *memory) add(dest string, now time.Time) (e, evicted *entry, made bool) {
	t, h := m.hash(dest)
	t.Lock()
	defer t.Unlock()
	if e := t.find(dest, h); e != nil {
		return e, nil, false
	}
	if t.n >= m.most {
		evicted = t.worst()
		m.remove(t, evicted)
	}
	all := t.all()
	if taken := t.n + t.dead + 1; taken > len(all)*perGroup*7/8 {
		all = m.copied(t)
		t.groups.Store(&all)
		t.dead = 0
	}
	e = newEntry(dest)
	e.setUsed(stampOf(now))
	if insert(all, e, h) == dead {
		t.dead--
	}
	t.n++
	m.count.Add(1)
	return e, evicted, true
}

// worst picks the entry that is to go.
func (t *table) worst() (worst *entry) {
	all := t.all()
	n := 0
	for i, start := 0, rand.IntN(len(all)); i < len(all) && n < 16; i++ {
		g := &all[(start+i)%len(all)]
		for j := range g.slots {
			e := g.slots[j].Load()
			if e == nil {
				continue
			}
			if n++; worst == nil || e.goesBefore(worst) {
				worst = e
			}
		}
	}
	return worst
}

// goesBefore reports whether e is to be evicted rather than f.
func (e *entry) goesBefore(f *entry) bool {
	if fresh := e.known.Load().checked == 0; fresh != (f.known.Load().checked == 0) {
		return fresh
	}
	return e.used() < f.used()
}

// insert puts e, which is not there, into the first slot that is free, and returns what
// that was: empty or dead. The entry stands before its tag, since others read.
func insert(all []group, e *entry, h uint64) byte {
	for i := home(h, len(all)); ; {
		g := &all[i]
		tags := g.tags.Load()
		if free := ^tags & highBits; free != 0 {
			at := nth(free)
			was := byte(tags >> (8 * at))
			g.slots[at].Store(e)
			g.tags.Store(tags&^(0xff<<(8*at)) | uint64(tagOf(h))<<(8*at))
			return was
		}
		if i++; i == len(all) {
			i = 0
		}
	}
}

// copied returns new groups with all entries of t and room for more, without the dead.
func (m *memory) copied(t *table) []group {
	// A third more than are taken, and what the allocator would give away anyway.
	want := (t.n+1)*4/3/perGroup + 1
	all := slices.Grow([]group(nil), want)
	all = all[:cap(all)]
	t.each(func(e *entry) { insert(all, e, m.hashOf(e)) })
	return all
}

func (m *memory) hashOf(e *entry) uint64 {
	if e.size == longName {
		return maphash.String(m.seed, e.dest())
	}
	return maphash.Bytes(m.seed, e.name[:e.size])
}

// shardOf returns the number of e's shard.
func (m *memory) shardOf(e *entry) int { return int(m.hashOf(e) % shards) }

// remove takes e out.
func (m *memory) remove(t *table, e *entry) {
	all, h := t.all(), m.hashOf(e)
	for i := home(h, len(all)); ; {
		g := &all[i]
		tags := g.tags.Load()
		for found := match(tags, tagOf(h)); found != 0; found &= found - 1 {
			at := nth(found)
			if g.slots[at].Load() != e {
				continue
			}
			tag := uint64(empty)
			if match(tags, empty) == 0 { // a search may have gone by
				tag = dead
				t.dead++
			}
			g.tags.Store(tags&^(0xff<<(8*at)) | tag<<(8*at))
			g.slots[at].Store(nil)
			t.n--
			m.count.Add(-1)
			return
		}
		if i++; i == len(all) {
			i = 0
		}
	}
}

// each calls f with every entry of t.
func (t *table) each(f func(*entry)) {
	all := t.all()
	for i := range all {
		for j := range all[i].slots {
			if e := all[i].slots[j].Load(); e != nil {
				f(e)
			}
		}
	}
}

// each calls f with every entry; what is added or removed meanwhile may be among them or
// not.
func (m *memory) each(f func(*entry)) {
	for i := range m.shard {
		m.shard[i].each(f)
	}
}

// sweep drops what nobody asked for since.
func (m *memory) sweep(since time.Time) {
	for i := range m.shard {
		t := &m.shard[i]
		t.Lock()
		t.each(func(e *entry) {
			if e.used() < since.Unix() {
				m.remove(t, e)
			}
		})
		t.Unlock()
	}
}

func (m *memory) len() int { return int(m.count.Load()) }
