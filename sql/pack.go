package sql

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	dbsql "database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/postseal/postseal/policyd/policy"
)

// The pack is all rules as they were at one change of them, in parts that are read in a
// tenth of the time that the rows take. It stands in the database itself, so that it goes
// with its rules wherever they go; what has changed since is listed in rule_change.
//
// Nothing is believed for being in it: each rule is checked as one from a row is, a
// checksum finds damage, and [DB.VerifyRules] compares all with the rows. Where anything
// is in doubt the rows are read.

// packHead says what a pack is of.
type packHead struct {
	// Format changes with anything that rows or packs consist of, so that a pack is
	// never read by a program that expects something else, nor beside columns that it
	// does not know of.
	Format string `json:"format"`
	ID     string `json:"id"` // random
	Seq    int64  `json:"seq"`
	Rules  int    `json:"rules"`
	Parts  int    `json:"parts"`
}

const packVersion = "1"

// partRules is how many rules a part has.
const partRules = 20_000

// errNoPack reports that there is no pack.
var errNoPack = errors.New("there is no pack of the rules")

// packFormat returns the Format of packs of the rules as they are kept now.
func packFormat(ctx context.Context, tx *dbsql.Tx) (string, error) {
	var table string
	if err := tx.QueryRowContext(ctx, `SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = 'rule'`).Scan(&table); err != nil {
		return "", fmt.Errorf("read the pack of the rules: %w", err)
	}
	sum := sha256.Sum256([]byte(packVersion + "\x00" + selectPacked + "\x00" + table))
	return hex.EncodeToString(sum[:]), nil
}

// readHead returns the head, also as it stands there.
func readHead(ctx context.Context, tx *dbsql.Tx) (head packHead, text string, err error) {
	err = tx.QueryRowContext(ctx, `SELECT data FROM rule_pack WHERE part = 0`).Scan(&text)
	if errors.Is(err, dbsql.ErrNoRows) {
		return head, "", errNoPack
	}
	if err != nil {
		return head, "", fmt.Errorf("read the pack of the rules: %w", err)
	}
	if err := json.Unmarshal([]byte(text), &head); err != nil {
		return head, "", fmt.Errorf("read the pack of the rules: %w", err)
	}
	format, err := packFormat(ctx, tx)
	if err != nil {
		return head, "", err
	}
	if head.Format != format {
		return head, "", errors.New("the pack of the rules is of another version")
	}
	return head, text, nil
}

// readPack returns the rules of the moment now, of which tx is, by the pack and what has
// changed since.
func (db *DB) readPack(ctx context.Context, tx *dbsql.Tx, d policy.Delimiters, now mark, beside bool) (*policy.Snapshot, error) {
	head, text, err := readHead(ctx, tx)
	if err != nil {
		return nil, err
	}
	if now.seq < head.Seq || now.seq-head.Seq > changesMost {
		return nil, errUnlisted
	}
	txs := []*dbsql.Tx{tx}
	if beside && head.Parts > 1 {
		for _, t := range db.beside(ctx, now, min(runtime.GOMAXPROCS(0), readers/2)-1) {
			defer t.Rollback()
			if _, other, err := readHead(ctx, t); err == nil && other == text { // else packed anew meanwhile
				txs = append(txs, t)
			}
		}
	}
	builders := []*policy.Builder{policy.NewBuilder(d)}
	for range txs[1:] {
		builders = append(builders, builders[0].Beside())
	}
	var next atomic.Int64
	g, reading := errgroup.WithContext(ctx)
	for i, t := range txs {
		g.Go(func() error {
			kinds := make(map[string]*policy.Kind)
			for {
				part := next.Add(1)
				if part > int64(head.Parts) {
					return nil
				}
				var data string
				if err := t.QueryRowContext(reading, `SELECT data FROM rule_pack WHERE part = ?`, part).Scan(&data); err != nil {
					return fmt.Errorf("read part %d of the pack: %w", part, err)
				}
				if err := readPart(data, builders[i], kinds); err != nil {
					return fmt.Errorf("read part %d of the pack: %w", part, err)
				}
			}
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	s, err := builders[0].Snapshot(0, builders[1:]...)
	if err != nil {
		return nil, err
	}
	if s.Len() != head.Rules {
		return nil, fmt.Errorf("the pack has %d rules, and should have %d", s.Len(), head.Rules)
	}
	s.Seq = head.Seq
	if s, err = since(ctx, tx, s, now); err != nil {
		return nil, err
	}
	return s, counted(ctx, tx, s)
}

// A part is the kinds of its rules as selectPacked writes them, then the rules: kind,
// pattern and note; each with its length before it, in the varints of encoding/binary;
// and at the end a CRC-32 (Castagnoli) of all that.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// partWriter writes one part.
type partWriter struct {
	kinds map[*policy.Terms]int
	texts []string
	rules []byte
	n     int
}

func (w *partWriter) add(f policy.Found) {
	if w.kinds == nil {
		w.kinds = make(map[*policy.Terms]int)
	}
	kind, ok := w.kinds[f.Terms]
	if !ok {
		kind = len(w.texts)
		w.kinds[f.Terms] = kind
		w.texts = append(w.texts, packedTerms(f.Terms))
	}
	w.rules = binary.AppendUvarint(w.rules, uint64(kind))
	for _, s := range [...]string{f.Pattern, f.Note} {
		w.rules = append(binary.AppendUvarint(w.rules, uint64(len(s))), s...)
	}
	w.n++
}

func (w *partWriter) bytes() []byte {
	b := binary.AppendUvarint(nil, uint64(len(w.texts)))
	for _, t := range w.texts {
		b = append(binary.AppendUvarint(b, uint64(len(t))), t...)
	}
	b = append(binary.AppendUvarint(b, uint64(w.n)), w.rules...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// packedTerms writes what parsePacked reads.
func packedTerms(t *policy.Terms) string {
	number := func(n dbsql.NullInt64) string {
		if !n.Valid {
			return ""
		}
		return strconv.FormatInt(n.Int64, 10)
	}
	yes := func(b bool) string {
		if b {
			return "1"
		}
		return "0"
	}
	return strings.Join([]string{
		t.Scope.String(), t.Requirement.String(), t.TLS.Level.String(), strings.Join(t.TLS.Match, ":"), t.TLS.Protocols, t.TLS.Ciphers,
		t.TLS.Servername, t.Nexthop, t.Verify, t.Mode, t.Language, number(duration(t.Life.Usual)), number(duration(t.Life.Min)),
		number(duration(t.Life.Max)), yes(t.Weaken), yes(t.Override), number(micros(t.Until)),
	}, "\x1f")
}

var errDamaged = errors.New("it is damaged")

// partReader reads the fields of a part.
type partReader struct {
	rest string
	err  error
}

func (r *partReader) number() uint64 {
	var n uint64
	for shift := 0; shift < 63 && shift/7 < len(r.rest); shift += 7 {
		b := r.rest[shift/7]
		n |= uint64(b&0x7f) << shift
		if b < 0x80 {
			r.rest = r.rest[shift/7+1:]
			return n
		}
	}
	r.err = errDamaged
	return 0
}

func (r *partReader) text() string {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.err = errDamaged
		return ""
	}
	s := r.rest[:n]
	r.rest = r.rest[n:]
	return s
}

// readPart gives the rules of a part to a builder. kinds are those that it has had before.
func readPart(data string, to *policy.Builder, kinds map[string]*policy.Kind) error {
	if len(data) < 4 {
		return errDamaged
	}
	data, sum := data[:len(data)-4], data[len(data)-4:]
	if crc32.Checksum([]byte(data), castagnoli) != binary.LittleEndian.Uint32([]byte(sum)) {
		return errDamaged
	}
	r := partReader{rest: data}
	n := r.number()
	if n > uint64(len(data)) {
		return errDamaged
	}
	own := make([]*policy.Kind, n)
	for i := range own {
		text := r.text()
		if r.err != nil {
			return r.err
		}
		if own[i] = kinds[text]; own[i] == nil {
			text = strings.Clone(text) // not to keep all of data
			rule, err := parsePacked(text)
			if err != nil {
				return err
			}
			own[i] = policy.NewKind(rule)
			if len(kinds) < kindsMost {
				kinds[text] = own[i]
			}
		}
	}
	for n = r.number(); n > 0 && r.err == nil; n-- {
		kind, pattern, note := r.number(), r.text(), r.text()
		if r.err != nil {
			break
		}
		if kind >= uint64(len(own)) {
			return errDamaged
		}
		if err := to.AddLike(own[kind], pattern, note); err != nil {
			return err
		}
	}
	if r.rest != "" {
		return errDamaged
	}
	return r.err
}

// packMany is from how many rules on they are packed: fewer are read quickly anyway.
const packMany = 10_000

// packOld is how many changes a pack may be behind.
const packOld = 2000

// PackDue reports whether [DB.PackRules] would make a start with n rules quicker, or take
// away a pack that is of no use.
func (db *DB) PackDue(ctx context.Context, n int) (bool, error) {
	tx, err := db.r.BeginTx(ctx, nil)
	if err != nil {
		return false, db.explain(err)
	}
	defer tx.Rollback()
	now, err := readMark(ctx, tx)
	if err != nil {
		return false, db.explain(err)
	}
	head, _, err := readHead(ctx, tx)
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.Is(err, errNoPack):
		return n >= packMany, nil
	case err != nil, db.packBroken.Load(), n < packMany, head.Seq > now.seq, now.seq-head.Seq > packOld:
		return true, nil
	}
	var listed int64
	err = tx.QueryRowContext(ctx, `SELECT count(*) FROM rule_change WHERE seq > ? AND scope <> ''`, head.Seq).Scan(&listed)
	return listed != now.seq-head.Seq, db.explain(err)
}

// PackRules puts a pack of s in the place of the one there is. With few rules it takes it
// away. s must have been read from the rows: see [DB.VerifyRules].
func (db *DB) PackRules(ctx context.Context, s *policy.Snapshot) error {
	var parts [][]byte
	head := packHead{ID: rand.Text(), Seq: s.Seq, Rules: s.Len()}
	if s.Len() >= packMany {
		var w partWriter
		for f := range s.All {
			if w.add(f); w.n == partRules {
				parts = append(parts, w.bytes())
				w = partWriter{}
			}
		}
		parts = append(parts, w.bytes())
		head.Parts = len(parts)
	}
	return db.write(ctx, func(tx *dbsql.Tx) error {
		db.packBroken.Store(false)
		if _, err := tx.ExecContext(ctx, `DELETE FROM rule_pack`); err != nil {
			return fmt.Errorf("pack the rules: %w", err)
		}
		if parts == nil {
			return nil
		}
		var err error
		if head.Format, err = packFormat(ctx, tx); err != nil {
			return err
		}
		first, err := json.Marshal(head)
		if err != nil {
			return fmt.Errorf("pack the rules: %w", err)
		}
		for i, data := range append([][]byte{first}, parts...) {
			if _, err := tx.ExecContext(ctx, `INSERT INTO rule_pack (part, data) VALUES (?, ?)`, i, data); err != nil {
				return fmt.Errorf("pack the rules: %w", err)
			}
		}
		return nil
	})
}

// VerifyRules reads all rules from their rows, without haste, and compares them with have,
// brought up to the same moment. It returns those of the rows. Where the two differ the
// pack is taken away, lest somebody starts with it.
func (db *DB) VerifyRules(ctx context.Context, d policy.Delimiters, have *policy.Snapshot) (rows *policy.Snapshot, same bool, err error) {
	tx, err := db.r.BeginTx(ctx, nil)
	if err != nil {
		return nil, false, db.explain(err)
	}
	defer tx.Rollback()
	now, err := readMark(ctx, tx)
	if err != nil {
		return nil, false, db.explain(err)
	}
	if rows, err = db.readWhole(ctx, tx, d, now, false); err != nil {
		return nil, false, db.explain(err)
	}
	s, err := since(ctx, tx, have, now)
	switch {
	case ctx.Err() != nil:
		return nil, false, ctx.Err()
	case err != nil: // have is behind, and will be read whole
		return rows, true, nil
	case s.Equal(rows):
		return rows, true, nil
	}
	return rows, false, db.write(ctx, func(tx *dbsql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM rule_pack`)
		return err
	})
}
