package tlsmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// KeeperConfig is what a [Keeper] needs. Server and Dir are required.
type KeeperConfig struct {
	Server *Server
	Dir    string
	// Options are asked for at each write, since own domains and postures change.
	Options func(ctx context.Context) (Options, error)
	// Reload makes Postfix read the files anew (postfix reload). nil: nobody has to.
	Reload func(ctx context.Context) error
	// Debounce is how long a burst of changes must have been quiet (default 500 ms); it
	// is written after ten times that even if it goes on.
	Debounce time.Duration
	// Retry is how long after a failure the files are written again (default 10 s).
	Retry time.Duration
	Log   *slog.Logger // nil: none
}

// Keeper keeps the map files current while the server runs.
type Keeper struct {
	cfg     KeeperConfig
	changed chan struct{}
	pending bool // files were written that Postfix has not reloaded
}

// NewKeeper checks cfg.
func NewKeeper(cfg KeeperConfig) (*Keeper, error) {
	if cfg.Server == nil || cfg.Dir == "" {
		return nil, errors.New("tlsmap: keeper without server or directory")
	}
	if cfg.Options == nil {
		cfg.Options = func(context.Context) (Options, error) { return Options{}, nil }
	}
	if cfg.Debounce == 0 {
		cfg.Debounce = 500 * time.Millisecond
	}
	if cfg.Retry == 0 {
		cfg.Retry = 10 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{cfg: cfg, changed: make(chan struct{}, 1)}, nil
}

// Notify says that rules or postures have changed. It never blocks.
func (k *Keeper) Notify() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// Run writes the files, and again after each change and when a rule ends, until ctx is
// done; it then returns nil. What fails is logged and tried again: until then Postfix
// has the old files.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		next := k.write(ctx)
		var due <-chan time.Time
		if next > 0 {
			due = time.After(next)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-due:
		case <-k.changed:
			if !k.settle(ctx) {
				return nil
			}
		}
	}
}

// settle waits for the end of a burst of changes; false where ctx ended.
func (k *Keeper) settle(ctx context.Context) bool {
	latest := time.After(10 * k.cfg.Debounce)
	for {
		select {
		case <-ctx.Done():
			return false
		case <-latest:
			return true
		case <-k.changed:
		case <-time.After(k.cfg.Debounce):
			return true
		}
	}
}

// write brings the files up to date and reloads Postfix if any has changed. It returns
// when to write again of its own accord; 0 for never.
func (k *Keeper) write(ctx context.Context) time.Duration {
	next := k.untilNextEnd()
	changed, err := k.update(ctx)
	if len(changed) > 0 {
		k.pending = true
	}
	if err == nil && k.pending && k.cfg.Reload != nil {
		if err = k.cfg.Reload(ctx); err != nil {
			err = fmt.Errorf("reload postfix: %w", err)
		}
	}
	if err == nil {
		if k.pending {
			k.cfg.Log.Info("map files written", "maps", changed, "dir", k.cfg.Dir)
		}
		k.pending = false
		return next
	}
	if ctx.Err() == nil {
		k.cfg.Log.Error("map files are not up to date, trying again", "dir", k.cfg.Dir, "error", err)
	}
	if next == 0 || next > k.cfg.Retry {
		next = k.cfg.Retry
	}
	return next
}

func (k *Keeper) update(ctx context.Context) ([]string, error) {
	o, err := k.cfg.Options(ctx)
	if err != nil {
		return nil, fmt.Errorf("options of the map files: %w", err)
	}
	return k.cfg.Server.Write(ctx, k.cfg.Dir, o)
}

// untilNextEnd returns how long it is until the next rule ends; 0 for never.
func (k *Keeper) untilNextEnd() time.Duration {
	e := k.cfg.Server.cfg.Engine
	now := e.Now()
	var ends []time.Duration
	for r := range e.Rules().All {
		if !r.Until.IsZero() && r.Active(now) {
			ends = append(ends, r.Until.Sub(now)+time.Second)
		}
	}
	if ends == nil {
		return 0
	}
	return slices.Min(ends)
}
