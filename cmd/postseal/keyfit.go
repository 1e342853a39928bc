package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/audit"
	"github.com/postseal/postseal/sql"
)

// keyFit is how the key file and the database go together. A backup of either that is
// older than the other may not.
type keyFit struct {
	Foreign bool           // the audit log was signed by another server's keys
	Retired string         // the key that would encrypt was retired in this database; "": it was not
	Missing map[string]int // things under keys that the file does not have, by key
}

// lookAtKeys compares them. Without thorough it does not look at each thing that there is.
func lookAtKeys(ctx context.Context, keys *escrow.Keys, db *sql.DB, thorough bool) (f keyFit, err error) {
	retired, err := db.RetiredKeys(ctx)
	if err != nil {
		return f, err
	}
	if retired[keys.Primary()] {
		f.Retired = keys.Primary()
	}
	points, err := db.AuditCheckpoints(ctx)
	if err != nil {
		return f, err
	}
	if n := len(points); n > 0 {
		f.Foreign = !points[n-1].Valid(keys.AuditKey().Public().(ed25519.PublicKey))
	}
	if !thorough {
		return f, nil
	}
	if f.Missing, err = db.BoxKeys(ctx); err != nil {
		return f, err
	}
	for _, k := range keys.List() {
		delete(f.Missing, k.ID)
	}
	return f, nil
}

// unusable says why nothing can be sealed, nil where it can.
func (f keyFit) unusable() error {
	switch {
	case f.Foreign:
		return errors.New("the key file is of another server than the database: its audit log was signed with other keys")
	case f.Retired != "":
		return fmt.Errorf("the key file is older than the database: key %s encrypts in it, and was retired here, so that nothing can be sealed: put the newer key file back", f.Retired)
	}
	return nil
}

// missing says what can't be opened, "" where everything can.
func (f keyFit) missing() string {
	if len(f.Missing) == 0 {
		return ""
	}
	var parts []string
	for _, id := range slices.Sorted(maps.Keys(f.Missing)) {
		parts = append(parts, fmt.Sprintf("%d under key %s", f.Missing[id], id))
	}
	return "the key file lacks keys of things in the database, which can't be opened with it: " + strings.Join(parts, ", ")
}

// keyHealth knows whether a server's key file can be used, as it is on the disk, and with
// its database.
type keyHealth struct {
	keys *escrow.Keys
	db   *sql.DB
	log  *slog.Logger

	ok      prometheus.Gauge
	missing prometheus.Gauge

	mu        sync.Mutex
	file, fit error
}

func newKeyHealth(keys *escrow.Keys, db *sql.DB, log *slog.Logger, reg prometheus.Registerer) *keyHealth {
	h := &keyHealth{keys: keys, db: db, log: log}
	h.ok = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "postseal_key_file_ok", Help: "1 if the key file can be used as it is on the disk now; 0: a restart would fail.",
	})
	h.missing = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "postseal_key_missing_things", Help: "Things in the database that can't be opened, since the key file lacks their keys.",
	})
	reg.MustRegister(h.ok, h.missing)
	h.ok.Set(1)
	return h
}

// ready says why the keys can't be used.
func (h *keyHealth) ready(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return errors.Join(h.file, h.fit)
}

// fileFailed is told of a key file that can't be read any more, and by nil that it can.
func (h *keyHealth) fileFailed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file = err; err != nil {
		h.ok.Set(0)
	} else {
		h.ok.Set(1)
	}
}

// look says, and logs, whether the key file goes with the database.
func (h *keyHealth) look(ctx context.Context) {
	f, err := lookAtKeys(ctx, h.keys, h.db, false)
	if err != nil {
		h.failed(ctx, err)
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fit = f.unusable(); h.fit != nil {
		h.log.Error("the keys do not go with the database", "error", h.fit)
	}
}

// count looks at each thing in the database, and logs what the key file does not open.
func (h *keyHealth) count(ctx context.Context) {
	f, err := lookAtKeys(ctx, h.keys, h.db, true)
	if err != nil {
		h.failed(ctx, err)
		return
	}
	total := 0
	for _, n := range f.Missing {
		total += n
	}
	h.missing.Set(float64(total))
	if text := f.missing(); text != "" {
		h.log.Error(text + "; see postseal key list")
	}
}

func (h *keyHealth) failed(ctx context.Context, err error) {
	if ctx.Err() == nil {
		h.log.Warn("key file and database could not be compared", "error", err)
	}
}

// changed is told that the key file was read anew.
func (h *keyHealth) changed(ctx context.Context) {
	d := keyDetails(h.keys)
	d["what"] = "key file read anew"
	if err := h.db.Audit(ctx, audit.Entry{Kind: audit.KeyChanged, Details: d}); err != nil && ctx.Err() == nil {
		h.log.Error("it is not in the audit log that the key file has changed", "error", err)
	}
	h.look(ctx)
	h.count(ctx)
}

// keyDetails names the server's keys for the audit log: their ids, which are no secret.
func keyDetails(keys *escrow.Keys) audit.Details {
	var ids []string
	for _, k := range keys.List() {
		ids = append(ids, k.ID)
	}
	return audit.Details{"keys": strings.Join(ids, ", "), "primary": keys.Primary()}
}

// watch follows the key file, so that keys are rotated without a restart.
func (h *keyHealth) watch(ctx context.Context, host string) error {
	h.count(ctx)
	w := &escrow.KeyWatch{
		Keys: h.keys, Store: h.db, Holder: escrow.NewKeyHolder(host, os.Getpid()), Log: h.log,
		Failed: h.fileFailed, Changed: h.changed,
	}
	return w.Run(ctx)
}
