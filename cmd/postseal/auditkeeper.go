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

// auditSkew is how far ahead a checkpoint may be: clocks are corrected.
const auditSkew = time.Minute

// auditJump is more than the time between two checkpoints, and than a weekend without power.
const auditJump = 14 * 24 * time.Hour

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
	now := time.Now()
	today := now.UTC().Truncate(24 * time.Hour)
	// One of the future is of a clock that was wrong: it must not keep others from being made.
	if n := len(daily); n == 0 || daily[n-1].At.Before(today) || daily[n-1].At.After(now.Add(auditSkew)) {
		before := now.Add(-k.keep)
		// A clock that is far ahead of the day that was known last may be wrong, and what is
		// pruned is gone. Tomorrow that day is today.
		if n > 0 && now.Sub(daily[n-1].At) > auditJump {
			before = daily[n-1].At.Add(-k.keep)
			k.log.Warn("the clock is far ahead of the last checkpoint of the audit log: as long as that is so nothing that is younger is pruned", "last", daily[n-1].At, "now", now)
		}
		// What is pruned is so before the checkpoint, which then tells of that too.
		n, err := k.store.PruneAudit(ctx, before, k.key)
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

// appendCheckpoints appends those that stand behind the last one in the file, one a
// line, so that none is missing there after trouble. Where the file can't be read, those of
// the last two days. It is on the disk when it returns.
func appendCheckpoints(path string, list []audit.Checkpoint) (err error) {
	have := make(map[string]bool)
	since := time.Time{}
	if f, err := os.Open(path); err == nil {
		there, err := audit.ReadCheckpoints(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, c := range there {
			have[string(c.Signature)] = true
		}
	} else if errors.Is(err, fs.ErrPermission) {
		since = time.Now().Add(-48 * time.Hour) // may be appended to, not read
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var text []byte
	for i, c := range list {
		if have[string(c.Signature)] || !c.At.After(since) && i < len(list)-1 {
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
