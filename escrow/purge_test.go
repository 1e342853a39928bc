package escrow_test

import (
	"bytes"
	"context"
	dbsql "database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
)

// traces are pieces of what must be gone from the files after a message has ended: of
// each of its keys and of its ciphertext, at the beginning, in the middle and at the end.
func (b *bench) traces(item string) map[string][]byte {
	b.t.Helper()
	db, err := dbsql.Open("sqlite3", "file:"+b.path()+"?mode=ro")
	b.must(err)
	defer db.Close()
	all := make(map[string][]byte)
	add := func(name string, blob []byte) {
		const n = 24
		for place, at := range map[string]int{"begin": 8, "middle": len(blob) / 2, "end": len(blob) - n} {
			if len(blob) >= 2*n {
				all[name+" "+place] = bytes.Clone(blob[at:][:n])
			}
		}
	}
	for name, query := range map[string]string{
		"wrap":    `SELECT wrap FROM escrow_pickup WHERE item_id = ?`,
		"recover": `SELECT recover FROM escrow_item WHERE id = ?`,
		"summary": `SELECT summary FROM escrow_item WHERE id = ?`,
		"chunk":   `SELECT data FROM escrow_chunk WHERE item_id = ?`,
		"mail":    `SELECT o.sealed FROM outbox o JOIN escrow_pickup p ON p.id = o.pickup_id WHERE p.item_id = ?`,
	} {
		rows, err := db.Query(query, item)
		b.must(err)
		for i := 0; rows.Next(); i++ {
			var blob []byte
			b.must(rows.Scan(&blob))
			add(fmt.Sprintf("%s %d", name, i), blob)
		}
		b.must(rows.Err())
	}
	return all
}

// found returns which traces the database, its journal or its index of the journal hold.
func (b *bench) found(traces map[string][]byte) (list []string) {
	b.t.Helper()
	names, err := filepath.Glob(b.path() + "*")
	b.must(err)
	for _, name := range names {
		data, err := os.ReadFile(name)
		b.must(err)
		for what, trace := range traces {
			if bytes.Contains(data, trace) {
				list = append(list, fmt.Sprintf("%s in %s", what, filepath.Base(name)))
			}
		}
	}
	return list
}

func TestNothingOfAnEndedMessageIsLeftInTheFiles(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	// Many messages, so that pages of the database are split, joined and used again.
	traces := make(map[string]map[string][]byte)
	var ids []string
	sealOne := func(i int) {
		body := bytes.Repeat([]byte{byte(i)}, 500+i*211%9000)
		if i%30 == 0 {
			body = bytes.Repeat([]byte{byte(i)}, 3<<20)
		}
		to := []escrow.Recipient{{Address: fmt.Sprintf("a%d@old.example", i%7)}, {Address: fmt.Sprintf("b%d@old.example", i), Mode: escrow.ModeSealed}}
		for _, id := range b.seal(message(append([]byte(fmt.Sprint(i, "\n")), body...), to...)) {
			ids = append(ids, id)
			traces[id] = b.traces(id)
		}
	}
	end := func(id string) {
		if len(traces[id]) == 0 || len(b.found(traces[id])) == 0 {
			t.Fatal("nothing to look for")
		}
		b.must(b.Retract(ctx, id, ""))
		for _, what := range b.found(traces[id]) {
			t.Errorf("after retraction: %s", what)
		}
	}
	for i := range 70 {
		sealOne(i)
		if i%3 == 2 {
			end(ids[0])
			ids = ids[1:]
		}
		if i%10 == 9 { // from the middle
			k := len(ids) / 2
			end(ids[k])
			ids = append(ids[:k], ids[k+1:]...)
		}
	}
	b.pass(escrow.DefaultLifetime)
	if n, err := b.Expire(ctx); err != nil || n == 0 {
		t.Fatal(n, err)
	}
	for _, id := range ids {
		for _, what := range b.found(traces[id]) {
			t.Errorf("after expiry: %s", what)
		}
	}
}

// What was deleted lies in the journal until it is cleared, which who reads puts off.
func TestAReaderOnlyPutsOffThatTheJournalIsCleared(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	ids := b.seal(message(bytes.Repeat([]byte("x"), 100_000)))
	traces := b.traces(ids[0])
	db, err := dbsql.Open("sqlite3", "file:"+b.path()+"?mode=ro")
	b.must(err)
	defer db.Close()
	reader, err := db.BeginTx(ctx, nil)
	b.must(err)
	var n int
	b.must(reader.QueryRowContext(ctx, `SELECT count(*) FROM escrow_item`).Scan(&n))
	b.must(b.Retract(ctx, ids[0], ""))
	if len(b.found(traces)) == 0 {
		t.Fatal("the reader put nothing off: the test shows nothing")
	}
	reader.Rollback()
	runCtx, stop := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- b.Run(runCtx) }()
	for end := time.Now().Add(time.Minute); len(b.found(traces)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still there: %v", b.found(traces))
		}
	}
	stop()
	<-done
}
