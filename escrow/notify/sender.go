package notify

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/internal/relaymail"
)

// Outbox holds mails until they are sent.
type Outbox interface {
	// Due returns mails whose time to send has come, the oldest first, and when
	// the next of the others is due, zero if there are none.
	Due(ctx context.Context, limit int) (entries []Entry, next time.Time, err error)
	// Sent deletes a mail.
	Sent(ctx context.Context, id string) error
	// Failed puts a mail off until due.
	Failed(ctx context.Context, id string, due time.Time) error
	// OldestMail returns when the oldest mail was queued, zero if there is none.
	OldestMail(ctx context.Context) (time.Time, error)
}

// How mails are sent.
const (
	parallel   = 4                // connections to Postfix at a time
	batch      = 64               // mails read from the outbox at a time
	idle       = 30 * time.Second // between looks into the outbox: another process may queue
	firstRetry = 2 * time.Second
	lastRetry  = 10 * time.Minute
)

// Sender hands mails from the outbox to Postfix. Its fields are set before Run.
type Sender struct {
	Outbox     Outbox
	Relay      string // HOST:PORT of the smtpd that takes notices
	ServerName string // for EHLO; "": localhost
	Now        func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics

	// Crash, where set, is called at named points, for tests that kill the
	// process there: before-send, after-send, after-sent.
	Crash func(point string)

	timeout time.Duration // for tests
	once    sync.Once
	wake    chan struct{}
	oldest  atomic.Int64 // Unix microseconds, 0: none
	results *prometheus.CounterVec
}

func (s *Sender) init() {
	s.once.Do(func() {
		s.wake = make(chan struct{}, 1)
		if s.Now == nil {
			s.Now = time.Now
		}
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
		s.results = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_notices_total", Help: "Tries to hand a mail of the escrow to Postfix, by result: sent, deferred, refused.",
		}, []string{"kind", "result"})
		if s.Registerer != nil {
			age := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "postseal_outbox_age_seconds", Help: "Age of the oldest mail of the escrow that Postfix has not taken yet.",
			}, func() float64 { return s.age().Seconds() })
			s.Registerer.MustRegister(s.results, age)
		}
	})
}

// Wake makes Run look into the outbox at once. It never blocks.
func (s *Sender) Wake() {
	s.init()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Sender) age() time.Duration {
	if at := s.oldest.Load(); at != 0 {
		return max(0, s.Now().Sub(time.UnixMicro(at)))
	}
	return 0
}

// Oldest returns the age of the oldest mail in the outbox, 0 if it is empty.
func (s *Sender) Oldest(ctx context.Context) (time.Duration, error) {
	s.init()
	at, err := s.Outbox.OldestMail(ctx)
	if err != nil {
		return 0, err
	}
	if at.IsZero() {
		s.oldest.Store(0)
	} else {
		s.oldest.Store(at.UnixMicro())
	}
	return s.age(), nil
}

// Run sends mails until ctx is done; one that is being sent then is finished, or
// stays in the outbox. It returns nil after such a shutdown. Trouble with the
// outbox or with Postfix is logged and tried again.
func (s *Sender) Run(ctx context.Context) error {
	s.init()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.wake:
		}
		timer.Reset(s.round(ctx))
	}
}

// round sends what is due and returns when to look again.
func (s *Sender) round(ctx context.Context) time.Duration {
	for {
		entries, next, err := s.Outbox.Due(ctx, batch)
		if err != nil {
			if ctx.Err() == nil {
				s.Log.Error("outbox can't be read, trying again", "error", err)
			}
			return firstRetry
		}
		stuck := s.sendAll(ctx, entries)
		if _, err := s.Oldest(ctx); err != nil && ctx.Err() == nil {
			s.Log.Error("outbox can't be read, trying again", "error", err)
			return firstRetry
		}
		if stuck {
			return firstRetry
		}
		if ctx.Err() != nil || len(entries) < batch {
			wait := idle
			if len(entries) > 0 {
				wait = firstRetry // those that failed are due before the next that was told
			}
			if !next.IsZero() {
				wait = min(wait, next.Sub(s.Now()))
			}
			return max(wait, 10*time.Millisecond)
		}
	}
}

// sendAll sends entries. stuck reports that the outbox did not take the result
// of one: it would be due again at once.
func (s *Sender) sendAll(ctx context.Context, entries []Entry) (stuck bool) {
	var wg sync.WaitGroup
	var failed atomic.Bool
	slots := make(chan struct{}, parallel)
	for _, e := range entries {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if !s.one(ctx, e) {
				failed.Store(true)
			}
		})
	}
	wg.Wait()
	return failed.Load()
}

// one sends an entry and records what came of it; false if that failed.
func (s *Sender) one(ctx context.Context, e Entry) (recorded bool) {
	s.point("before-send")
	err := s.send(ctx, e.Mail)
	// What Postfix has taken must be recorded, shutdown or not.
	record, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	if err == nil {
		s.point("after-send")
		s.results.WithLabelValues(e.Kind, "sent").Inc()
		if err := s.Outbox.Sent(record, e.ID); err != nil {
			s.Log.Error("a sent mail stays in the outbox and will be sent twice", "mail", e.ID, "kind", e.Kind, "error", err)
			return false
		}
		s.point("after-sent")
		s.Log.Info("mail handed to Postfix", "mail", e.ID, "kind", e.Kind)
		return true
	}
	var reply *smtp.SMTPError
	level, result := slog.LevelWarn, "deferred"
	if errors.As(err, &reply) && reply.Code >= 500 {
		// Our own Postfix refuses what it should take: its configuration is wrong.
		level, result = slog.LevelError, "refused"
	}
	if ctx.Err() != nil {
		return true // shutdown; the mail is still due
	}
	s.results.WithLabelValues(e.Kind, result).Inc()
	wait := Backoff(e.Attempts)
	s.Log.Log(ctx, level, "Postfix did not take a mail, it stays in the outbox", "mail", e.ID, "kind", e.Kind,
		"relay", s.Relay, "attempt", e.Attempts+1, "again_in", wait, "error", err)
	if err := s.Outbox.Failed(record, e.ID, s.Now().Add(wait)); err != nil {
		s.Log.Error("outbox can't be written", "mail", e.ID, "error", err)
		return false
	}
	return true
}

// Backoff returns how long to wait after a number of failures: from 2 seconds
// doubling to 10 minutes, less up to a quarter at random.
func Backoff(failures int) time.Duration {
	d := lastRetry
	if failures < 16 {
		d = min(firstRetry<<failures, lastRetry)
	}
	return d - time.Duration(rand.Int64N(int64(d)/4))
}

func (s *Sender) point(name string) {
	if s.Crash != nil {
		s.Crash(name)
	}
}

// send hands one mail to Postfix. nil means that Postfix has it on its disk.
func (s *Sender) send(ctx context.Context, m Mail) error {
	relay := relaymail.Relay{Addr: s.Relay, ServerName: s.ServerName, Timeout: s.timeout}
	return relay.Send(ctx, m.From, m.To, m.Text)
}
