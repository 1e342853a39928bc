package sql

import (
	"context"
	dbsql "database/sql"
	"time"
)

// Watch calls onChange with the version of the rules, once at the start, so that
// nothing is missed between loading them and watching, and then whenever the
// version changed, by this process or another: interval is how late it may be
// noticed (zero: 200 ms). It returns when ctx is done. Trouble with the database
// is logged and tried again.
//
// It asks PRAGMA data_version, which costs no more than reading a counter in
// memory, on one connection that never writes: each connection has a counter of
// its own, which its own writes don't move.
func (db *DB) Watch(ctx context.Context, interval time.Duration, onChange func(version int64)) {
	if interval <= 0 {
		interval = 200 * time.Millisecond
	}
	w := watcher{db: db, onChange: onChange}
	defer w.close()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	ailing := false
	for {
		err := w.poll(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			w.close() // the next poll connects anew, and reads the version whatever the counter says
			if !ailing {
				db.log.Error("rules can't be watched, the last known ones stay in force", "error", db.explain(err))
			}
		case ailing:
			db.log.Info("rules are watched again")
		}
		ailing = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

type watcher struct {
	db       *DB
	onChange func(int64)
	pool     *dbsql.DB
	conn     *dbsql.Conn
	counter  int64 // data_version of conn
	told     bool
	version  int64 // last told
}

func (w *watcher) poll(ctx context.Context) error {
	fresh := w.conn == nil
	if fresh {
		if err := w.connect(ctx); err != nil {
			return err
		}
	}
	var counter int64
	if err := w.conn.QueryRowContext(ctx, `PRAGMA data_version`).Scan(&counter); err != nil {
		return err
	}
	if !fresh && counter == w.counter {
		return nil
	}
	version, err := rulesVersion(ctx, w.conn)
	if err != nil {
		return err
	}
	// The counter is kept only now: a failed read is tried again. It may be older
	// than the version, which costs one more read, and never the other way round.
	w.counter = counter
	if !w.told || version != w.version {
		w.told, w.version = true, version
		w.onChange(version)
	}
	return nil
}

func (w *watcher) connect(ctx context.Context) (err error) {
	if w.pool, err = dbsql.Open("sqlite3", w.db.dsn("_query_only=on")); err != nil {
		return err
	}
	w.conn, err = w.pool.Conn(ctx)
	return err
}

func (w *watcher) close() {
	if w.conn != nil {
		w.conn.Close()
	}
	if w.pool != nil {
		w.pool.Close()
	}
	w.conn, w.pool = nil, nil
}
