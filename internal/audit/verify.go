package audit

import (
	"cmp"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
	"time"
)

// Problem is something that is wrong with a log.
type Problem struct {
	Seq int64  `json:"seq"` // of the entry where it shows; 0: of none
	Why string `json:"why"`
}

// Report is what came of a verification.
type Report struct {
	Entries     int64     `json:"entries"`
	First       int64     `json:"first"` // number of the first entry, 0 where there is none
	Last        int64     `json:"last"`
	LastHash    string    `json:"last_hash"`
	Since       time.Time `json:"since"`       // of the first entry
	Until       time.Time `json:"until"`       // of the last
	Checkpoints int       `json:"checkpoints"` // that the log agrees with
	Pruned      int       `json:"pruned"`      // checkpoints of entries that were pruned since
	Problems    []Problem `json:"problems"`
	More        int       `json:"more_problems,omitempty"` // that are not listed
}

// OK reports whether nothing was found.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

// problemsKept is how many problems a report lists: one broken entry may make many.
const problemsKept = 50

// Verifier checks records, given to it in their order, against each other and against
// checkpoints.
type Verifier struct {
	key    ed25519.PublicKey
	marks  []Checkpoint // by number
	next   int          // of marks
	before Hash         // of the last record
	seq    int64        // number of the last record
	known  bool         // before is known
	cut    *Checkpoint  // where the log begins, if it was pruned
	begun  bool
	buf    []byte
	report Report
}

// NewVerifier returns a verifier that holds the log against checkpoints, which must be
// signed by key. Of several cuts among them the last counts. With a nil key no signature
// is checked, and a pruned log is one whose beginning is missing.
func NewVerifier(key ed25519.PublicKey, checkpoints []Checkpoint) *Verifier {
	v := &Verifier{key: key, known: true}
	v.report.Problems = []Problem{}
	seen := make(map[string]bool) // one kept in two places is one
	for _, c := range checkpoints {
		id := string(c.signed()) + string(c.Signature)
		if seen[id] {
			continue
		}
		seen[id] = true
		if key != nil && !c.Valid(key) {
			v.problem(c.Seq, "the %s checkpoint of %s at entry %d was not signed by this key, or was changed", c.Kind, c.At.UTC().Format(time.RFC3339), c.Seq)
			continue
		}
		if c.Kind == Cut && key != nil && (v.cut == nil || c.Seq > v.cut.Seq) {
			v.cut = &c
		}
		v.marks = append(v.marks, c)
	}
	slices.SortStableFunc(v.marks, func(a, b Checkpoint) int { return cmp.Compare(a.Seq, b.Seq) })
	return v
}

func (v *Verifier) problem(seq int64, format string, args ...any) {
	if len(v.report.Problems) == problemsKept {
		v.report.More++
		return
	}
	v.report.Problems = append(v.report.Problems, Problem{seq, fmt.Sprintf(format, args...)})
}

// Next takes the next record.
func (v *Verifier) Next(r *Record) {
	if !v.begun {
		v.begin(r)
	}
	switch {
	case r.Seq <= v.seq:
		v.problem(r.Seq, "entry %d stands behind entry %d: it was put in or moved", r.Seq, v.seq)
		return // the chain goes on behind the one before
	case r.Seq == v.seq+2:
		v.problem(v.seq+1, "entry %d is missing", v.seq+1)
		v.known = false
	case r.Seq > v.seq+1:
		v.problem(v.seq+1, "entries %d to %d are missing", v.seq+1, r.Seq-1)
		v.known = false
	}
	v.pass(r.Seq - 1)
	if v.known {
		v.buf = r.Encode(v.buf[:0], v.before)
		if sha256.Sum256(v.buf) != r.Hash {
			v.problem(r.Seq, "entry %d does not go with its hash: it was changed, or the one before it was, or it was put in", r.Seq)
		}
	}
	v.seq, v.before, v.known = r.Seq, r.Hash, true
	v.pass(r.Seq)
	v.report.Entries++
	v.report.Last, v.report.Until = r.Seq, r.At
}

// begin settles what stands before the first record.
func (v *Verifier) begin(r *Record) {
	v.begun = true
	v.report.First, v.report.Since = r.Seq, r.At
	if v.cut != nil {
		v.seq, v.before = v.cut.Seq, v.cut.Hash
	}
}

// pass holds the checkpoints up to seq against the hash there.
func (v *Verifier) pass(seq int64) {
	for ; v.next < len(v.marks) && v.marks[v.next].Seq <= seq; v.next++ {
		c := &v.marks[v.next]
		switch {
		case v.cut != nil && c.Seq < v.cut.Seq:
			v.report.Pruned++
		case c.Seq != v.seq || !v.known:
			v.problem(c.Seq, "entry %d, which the %s checkpoint of %s names, is missing", c.Seq, c.Kind, c.At.UTC().Format(time.RFC3339))
		case c.Hash != v.before:
			v.problem(c.Seq, "entry %d is not the one that the %s checkpoint of %s names: the log was written anew up to there", c.Seq, c.Kind, c.At.UTC().Format(time.RFC3339))
		default:
			v.report.Checkpoints++
		}
	}
}

// Close ends the log, and returns what was found.
func (v *Verifier) Close() Report {
	if !v.begun && v.cut != nil {
		v.seq, v.before = v.cut.Seq, v.cut.Hash
	}
	v.pass(v.seq)
	for ; v.next < len(v.marks); v.next++ {
		c := &v.marks[v.next]
		v.problem(c.Seq, "the log was cut at its end: it stops at entry %d, and at the %s checkpoint of %s it had %d", v.seq, c.Kind, c.At.UTC().Format(time.RFC3339), c.Seq)
	}
	v.report.LastHash = fmt.Sprintf("%x", v.before)
	return v.report
}
