package intake

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"regexp"

	"github.com/postseal/postseal/escrow"
)

// maxRequeue is the longest field that is taken for one that a requeue has added,
// in bytes.
const maxRequeue = 4 << 10

var (
	requeued = regexp.MustCompile(`(?is)^received:[ \t]+by[ \t]+\S+[ \t]+\([^()]*, from userid (\d+)\)\s`)
	received = []byte("received:")
)

// digester takes the digest of a message as it is written. It is SHA-256 of the
// bytes as Postfix hands them over, but for the Received fields at the very top that
// postsuper -r has put there (from the user id of Postfix itself), so that a requeued
// message is still the same one. One of them that has no Received field below is the
// message's first: it stays, since the queue id in it is what tells two submissions of
// the same text apart.
type digester struct {
	uid     string
	leading bool
	pending []byte // while leading: what is not sorted out yet
	last    []byte // the last requeue field

	without hash.Hash // over what follows the requeue fields
	with    hash.Hash // over last and what follows; nil where there is no last, or it is settled which counts

	header   bool // still in the header
	line     [9]byte
	lineLen  int
	received bool // a Received field was seen, not counting requeue fields
}

func newDigester(requeueUID string) *digester {
	return &digester{uid: requeueUID, leading: true, without: sha256.New(), header: true}
}

// Write never fails.
func (d *digester) Write(p []byte) (int, error) {
	n := len(p)
	if d.leading {
		d.pending = append(d.pending, p...)
		d.sortOut(false)
		return n, nil
	}
	d.add(p)
	return n, nil
}

// sortOut cuts requeue fields off the front of pending. final says that nothing
// more comes.
func (d *digester) sortOut(final bool) {
	for d.uid != "" {
		end := fieldEnd(d.pending, final)
		if end < 0 && couldBeReceived(d.pending) && len(d.pending) <= maxRequeue && !final {
			return // wait for more
		}
		if end < 0 || end > maxRequeue {
			break
		}
		m := requeued.FindSubmatch(d.pending[:end])
		if m == nil || string(m[1]) != d.uid {
			break
		}
		d.last = append(d.last[:0], d.pending[:end]...)
		d.pending = d.pending[end:]
	}
	d.leading = false
	if d.last != nil {
		d.with = sha256.New()
		d.with.Write(d.last)
	}
	rest := d.pending
	d.pending = nil
	d.add(rest)
}

func couldBeReceived(p []byte) bool {
	n := min(len(p), len(received))
	return bytes.EqualFold(p[:n], received[:n])
}

// fieldEnd returns the length of the header field at the front of p, with its
// folded lines; -1 where its end is not known.
func fieldEnd(p []byte, final bool) int {
	for i := 0; ; {
		n := bytes.IndexByte(p[i:], '\n')
		if n < 0 {
			if final && len(p) > 0 {
				return len(p)
			}
			return -1
		}
		i += n + 1
		if i == len(p) {
			if final {
				return i
			}
			return -1
		}
		if p[i] != ' ' && p[i] != '\t' {
			return i
		}
	}
}

func (d *digester) add(p []byte) {
	if d.header {
		d.scan(p)
	}
	if d.with != nil {
		d.with.Write(p)
	}
	d.without.Write(p)
}

// scan looks for a Received field in what is left of the header. The bytes of p are
// added to both hashes by the caller; once it is known which counts, the other is
// dropped.
func (d *digester) scan(p []byte) {
	for _, c := range p {
		if c != '\n' {
			if d.lineLen < len(d.line) {
				d.line[d.lineLen] = c
			}
			if d.lineLen++; d.lineLen == len(d.line) && bytes.EqualFold(d.line[:], received) {
				d.received, d.header = true, false
				d.with = nil
				return
			}
			continue
		}
		if d.lineLen == 0 || d.lineLen == 1 && d.line[0] == '\r' {
			d.header = false
			d.settle()
			return
		}
		d.lineLen = 0
	}
}

// settle decides at the end of a header without a Received field.
func (d *digester) settle() {
	if d.with != nil {
		d.without, d.with = d.with, nil
	}
}

// sum ends the message. queueID tells submissions apart that have no Received field
// at all, where an administrator removes them; "" where it is not known.
func (d *digester) sum(queueID string) escrow.Digest {
	if d.leading {
		d.sortOut(true)
	}
	if d.header {
		d.settle()
	}
	if !d.received && d.last == nil && queueID != "" {
		d.without.Write([]byte("\x00queue id " + queueID))
	}
	return escrow.Digest(d.without.Sum(nil))
}
