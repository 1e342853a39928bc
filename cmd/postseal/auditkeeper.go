package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/internal/audit"
)

// auditStore is what the keeper needs of the database.
type auditStore interface {
	Audit(ctx context.Context, entries ...audit.Entry) error
	AuditCheckpoints(ctx context.Context) ([]audit.Checkpoint, error)
	AuditCheckpoint(ctx context.Context, kind string, key ed25519.PrivateKey) (audit.Checkpoint, error)
	PruneAudit(ctx context.Context, before time.Time, key ed25519.PrivateKey) (int64, error)
}

// auditKeeper makes a signed checkpoint of the audit log a day (UTC), writes it to the
// log and to a file, and prunes what is older than is kept.
type auditKeeper struct {
	store auditStore
	key   ed25519.PrivateKey
	keep  time.Duration
	file  string // "": none
	log   *slog.Logger
	last  prometheus.Gauge
}

func newAuditKeeper(cfg *config, store auditStore, key ed25519.PrivateKey, log *slog.Logger, reg prometheus.Registerer) *auditKeeper {
	k := &auditKeeper{store: store, key: key, keep: cfg.duration("audit-keep"), file: cfg.str("audit-checkpoint-file"), log: log}
	k.last = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "postseal_audit_checkpoint_timestamp_seconds", Help: "When the last signed checkpoint of the audit log was made; 0: none was.",
	})
	reg.MustRegister(k.last)
	return k
}

// auditRetry is how long after trouble the keeper tries again.
const auditRetry = time.Minute

// run works until ctx is done, and returns nil.
func (k *auditKeeper) run(ctx context.Context) error {
	for {
		wait := untilTomorrow(time.Now())
		if err := k.round(ctx); err != nil && ctx.Err() == nil {
			k.log.Error("the audit log has no checkpoint of today in all its places yet, trying again", "error", err)
			wait = auditRetry
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// untilTomorrow returns how long it is until the next day (UTC) has begun.
func untilTomorrow(now time.Time) time.Duration {
	day := now.UTC().Truncate(24 * time.Hour)
	return day.Add(24*time.Hour).Sub(now) + time.Second
}

// round does what today has to be done, and was not yet.
func (k *auditKeeper) round(ctx context.Context) error {
	list, err := k.store.AuditCheckpoints(ctx)
	if err != nil {
		return err
	}
	var daily []audit.Checkpoint
	for _, c := range list {
		if c.Kind == audit.Daily {
			daily = append(daily, c)
		}
	}
	today := time.Now().UTC().Truncate(24 * time.Hour)
	if len(daily) == 0 || daily[len(daily)-1].At.Before(today) {
		// What is pruned is so before the checkpoint, which then tells of that too.
		n, err := k.store.PruneAudit(ctx, time.Now().Add(-k.keep), k.key)
		if err != nil {
			return fmt.Errorf("prune: %w", err)
		}
		if n > 0 {
			k.log.Info("old entries of the audit log pruned", "entries", n)
		}
		c, err := k.store.AuditCheckpoint(ctx, audit.Daily, k.key)
		if err != nil {
			return err
		}
		daily = append(daily, c)
		k.log.Info("checkpoint of the audit log", c.Attrs()...)
	}
	k.last.Set(float64(daily[len(daily)-1].At.Unix()))
	if k.file == "" {
		return nil
	}
	if err := appendCheckpoints(k.file, daily); err != nil {
		return fmt.Errorf("audit-checkpoint-file: %w", err)
	}
	return nil
}

// appendCheckpoints appends those that are newer than the newest in the file, one a
// line, so that none is missing there after trouble. It is on the disk when it returns.
func appendCheckpoints(path string, list []audit.Checkpoint) (err error) {
	var newest time.Time
	if f, err := os.Open(path); err == nil {
		have, err := audit.ReadCheckpoints(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, c := range have {
			if c.At.After(newest) {
				newest = c.At
			}
		}
	} else if errors.Is(err, fs.ErrPermission) {
		newest = time.Now().Add(-48 * time.Hour) // may be appended to, not read
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var text []byte
	for _, c := range list {
		if !c.At.After(newest) {
			continue
		}
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		text = append(append(text, line...), '\n')
	}
	if text == nil {
		return nil
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}
