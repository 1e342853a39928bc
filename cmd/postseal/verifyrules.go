package main

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
)

// verifySoon is when the rules of the start are compared with their rows; verifyEvery,
// how often it is looked whether they should be packed anew.
const (
	verifySoon  = 10 * time.Second
	verifyEvery = time.Minute
)

// verifyRules reads the rules once more, row by row, soon after the start and whenever
// many have changed, and compares them with those in force, which come from a pack and
// from differences. They are never to differ; where they do, the rows count. With what it
// read it packs many rules, so that the next start takes a moment. It ends with ctx.
func verifyRules(ctx context.Context, cfg *config, db *sql.DB, rules *atomic.Pointer[policy.Snapshot], d policy.Delimiters, lock *sync.Mutex, log *slog.Logger, changed func()) {
	wait, first := verifySoon, true
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = verifyEvery
		due, err := db.PackDue(ctx, rules.Load().Len())
		if err == nil && (due || first) {
			err = verifyOnce(ctx, cfg, db, rules, d, lock, due, log, changed)
		}
		if err == nil {
			first = false
		} else if ctx.Err() == nil {
			log.Warn("the rules in force could not be compared with their rows, trying again", "error", err)
		}
	}
}

func verifyOnce(ctx context.Context, cfg *config, db *sql.DB, rules *atomic.Pointer[policy.Snapshot], d policy.Delimiters, lock *sync.Mutex, pack bool, log *slog.Logger, changed func()) error {
	rows, same, err := db.VerifyRules(ctx, d, rules.Load())
	if err != nil {
		return err
	}
	if !same {
		log.Error("the rules in force were not those in the database, which count from now on: please report this")
		lock.Lock()
		defer lock.Unlock()
		fresh, err := loadRules(ctx, cfg, db, d, nil) // by the rows, since there is no pack any more
		if err != nil {
			return err
		}
		rules.Store(fresh)
		changed()
	}
	if pack || !same {
		return db.PackRules(ctx, rows)
	}
	return nil
}
