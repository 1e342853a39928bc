package check

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Bulk checks a list of any length, in bounded memory: of the list it holds what is
// being looked at and what waits for a slower one before it, at most Window lines.
type Bulk struct {
	// Look makes the row of what was asked. It ends with ctx.
	Look     func(ctx context.Context, asked string) *Row
	Parallel int // looks at a time; default 64
	Window   int // default 10,000

	looked atomic.Int64
}

// Looked is how many items have been looked at so far, those among them whose rows
// wait to be written.
func (b *Bulk) Looked() int64 { return b.looked.Load() }

// Rows takes the rows, in the order of the list.
type Rows interface {
	Write(*Row) error
	// Flush is called where the next row is not there yet.
	Flush() error
}

// pending is one item on its way.
type pending struct {
	item Item
	row  *Row          // nil: not looked at to the end
	done chan struct{} // closed when row is set
}

// Run looks at all items of in and writes their rows to out in the order of the
// list, each as soon as those before it are there. It returns the error of in or out,
// or that of ctx: then every row up to the first that was not finished has been
// written. What goes wrong with one item is in its row.
//
// A reader that blocks does not hold Run up after ctx is done.
func (b *Bulk) Run(ctx context.Context, in *Lines, out Rows) error {
	parallel, window := b.Parallel, b.Window
	if parallel <= 0 {
		parallel = 64
	}
	if window <= 0 {
		window = 10_000
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	order, work := make(chan *pending, window), make(chan *pending)
	go b.read(ctx, cancel, in, order, work)
	var workers sync.WaitGroup
	for range parallel {
		workers.Go(func() {
			for {
				select {
				case p, ok := <-work:
					if !ok {
						return
					}
					b.look(ctx, p)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	w := rowWriter{order: order, out: out}
	if err := w.follow(ctx); err != nil {
		cancel(err)
		workers.Wait()
		return err
	}
	if ctx.Err() != nil {
		workers.Wait()
		if err := w.finished(); err != nil {
			return err
		}
	}
	workers.Wait()
	if err := out.Flush(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// read hands the items out, first to the writer, then to the workers.
func (b *Bulk) read(ctx context.Context, cancel context.CancelCauseFunc, in *Lines, order, work chan *pending) {
	for {
		item, err := in.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				cancel(fmt.Errorf("read the list: %w", err))
			}
			close(order)
			close(work)
			return
		}
		p := &pending{item: item, done: make(chan struct{})}
		for _, to := range []chan *pending{order, work} {
			select {
			case to <- p:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (b *Bulk) look(ctx context.Context, p *pending) {
	defer func() {
		if fault := recover(); fault != nil { // foreign input must not end the run
			p.row = ErrorRow(p.item.Asked, fmt.Errorf("internal fault, please report this: %v, %s", fault, debug.Stack()))
		}
		b.looked.Add(1)
		close(p.done)
	}()
	if p.item.Err != nil {
		p.row = ErrorRow(p.item.Asked, p.item.Err)
		return
	}
	row := b.Look(ctx, p.item.Asked)
	if ctx.Err() == nil { // else it may be half of a look
		p.row = row
	}
}

// rowWriter writes rows in the order of the list.
type rowWriter struct {
	order <-chan *pending
	head  *pending // the next; nil: still in order
	out   Rows
}

// follow writes rows until the end of the list, or until ctx is done.
func (w *rowWriter) follow(ctx context.Context) error {
	for {
		if w.head == nil {
			p, err := wait(ctx, w.out, w.order)
			if p == nil || err != nil {
				return err
			}
			w.head = p
		}
		if _, err := wait(ctx, w.out, w.head.done); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if err := w.out.Write(w.head.row); err != nil {
			return err
		}
		w.head = nil
	}
}

// wait receives from c. Where it has to wait it flushes out first. It returns the zero
// value where ctx is done before, or c is closed.
func wait[T any](ctx context.Context, out Rows, c <-chan T) (v T, err error) {
	select {
	case v = <-c:
		return v, nil
	default:
	}
	if err := out.Flush(); err != nil {
		return v, err
	}
	select {
	case v = <-c:
	case <-ctx.Done():
	}
	return v, nil
}

// finished writes the rows that are there after the workers have ended, up to the
// first that is not.
func (w *rowWriter) finished() error {
	for {
		if w.head == nil {
			select {
			case w.head = <-w.order:
			default:
			}
		}
		if w.head == nil {
			return nil
		}
		select {
		case <-w.head.done:
		default:
			return nil // nobody has begun with it
		}
		if w.head.row == nil {
			return nil
		}
		if err := w.out.Write(w.head.row); err != nil {
			return err
		}
		w.head = nil
	}
}
