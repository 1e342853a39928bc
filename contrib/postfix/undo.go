package postfix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// UndoOptions say how Postseal is taken out.
type UndoOptions struct {
	// Required reports whether a queued message requires something; nil takes
	// every queued message for one that does.
	Required func(ctx context.Context, sender, recipient string) (bool, error)
	Hold     bool // put such messages on hold instead of refusing
	DryRun   bool
	Out      io.Writer
}

// QueuedError reports mail in the queue that would leave in clear once the maps are
// gone.
type QueuedError struct{ IDs []string }

func (e *QueuedError) Error() string {
	shown := e.IDs
	more := ""
	if len(shown) > 10 {
		shown, more = shown[:10], ", …"
	}
	return fmt.Sprintf("%d queued messages need Postseal (%s%s) and would leave in plaintext without it: deliver them first, or take --hold to put them on hold", len(e.IDs), strings.Join(shown, ", "), more)
}

// Undo takes Postseal out of main.cf and master.cf. Where nobody has changed the
// files since Setup they become what they were, byte for byte; else our lines are taken
// out and the administrator's changes stay. It refuses with a [QueuedError] while the
// queue has required mail that is not on hold. It does not reload Postfix.
func (p *Instance) Undo(ctx context.Context, o UndoOptions) error {
	if o.Out == nil {
		o.Out = io.Discard
	}
	dir, err := p.dir(ctx)
	if err != nil {
		return err
	}
	pl, err := p.before(dir)
	if err != nil {
		return err
	}
	pl.main, pl.master = pl.mainBefore, pl.masterBefore
	if pl.main == pl.mainNow && pl.master == pl.masterNow {
		fmt.Fprintln(o.Out, "nothing to undo")
		if o.DryRun {
			return nil
		}
		return p.clear(dir)
	}
	queue, err := p.Param(ctx, "queue_directory")
	if err != nil {
		return err
	}
	ids, err := p.queued(ctx, queue, o)
	if err != nil {
		return fmt.Errorf("look at the queue: %w", err)
	}
	if len(ids) > 0 && !o.Hold {
		return &QueuedError{ids}
	}
	pl.show(o.Out)
	if len(ids) > 0 {
		fmt.Fprintf(o.Out, "on hold: %s\n", strings.Join(ids, " "))
	}
	if o.DryRun {
		return nil
	}
	if err := p.hold(ctx, ids); err != nil {
		return err
	}
	// master.cf last: without its transports mail waits.
	if err := replaceFile(filepath.Join(dir, "main.cf"), pl.main, 0o644); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, "master.cf"), pl.master, 0o644); err != nil {
		return err
	}
	p.Forget()
	// What came in between the look and the change.
	late, err := p.queued(ctx, queue, o)
	if err != nil {
		return fmt.Errorf("look at the queue: %w", err)
	}
	if len(late) > 0 {
		if err := p.hold(ctx, late); err != nil {
			return err
		}
		fmt.Fprintf(o.Out, "on hold: %s\n", strings.Join(late, " "))
	}
	return p.clear(dir)
}

// clear removes the files that Setup added.
func (p *Instance) clear(dir string) error {
	for _, name := range []string{headerChecksFile, noticeFile, stateFile} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

type queueEntry struct {
	Queue      string `json:"queue_name"`
	ID         string `json:"queue_id"`
	Sender     string `json:"sender"`
	Recipients []struct {
		Address string `json:"address"`
	} `json:"recipients"`
}

// queued returns the ids of required messages that are not on hold (postqueue -j, one
// JSON object a message).
func (p *Instance) queued(ctx context.Context, queue string, o UndoOptions) ([]string, error) {
	if _, err := os.Stat(filepath.Join(queue, "deferred")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil // this Postfix was never started: postqueue would fail
	}
	out, errs, code, err := p.run(ctx, "", "postqueue", p.Postqueue, "-j")
	if err != nil {
		return nil, err
	}
	if code != 0 {
		return nil, fmt.Errorf("postqueue: %s", complaint(errs))
	}
	var ids []string
	d := json.NewDecoder(strings.NewReader(out))
	for {
		var q queueEntry
		if err := d.Decode(&q); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("postqueue: %w", err)
		}
		if q.Queue == "hold" || slices.Contains(ids, q.ID) {
			continue
		}
		if q.Sender == "MAILER-DAEMON" {
			q.Sender = ""
		}
		needs := o.Required == nil
		for _, r := range q.Recipients {
			if needs {
				break
			}
			if needs, err = o.Required(ctx, q.Sender, r.Address); err != nil {
				return nil, err
			}
		}
		if needs {
			ids = append(ids, q.ID)
		}
	}
	return ids, nil
}

// hold puts messages on hold; they are named by standard input.
func (p *Instance) hold(ctx context.Context, ids []string) error {
	if len(ids) == 0 {
		return nil
	}
	_, errs, code, err := p.run(ctx, strings.Join(ids, "\n")+"\n", "postsuper", p.Postsuper, "-h", "-")
	if err == nil && code != 0 {
		err = fmt.Errorf("postsuper -h: %s", complaint(errs))
	}
	return err
}
