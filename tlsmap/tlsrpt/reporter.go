package tlsrpt

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/policyd/policy"
)

// How reports are made and sent.
const (
	earliest = 5 * time.Minute // after the end of the day: what was counted last is stored then
	latest   = 4 * time.Hour   // RFC 8460, section 4.1
	staleDay = 3               // days after which one is given up whose record cannot be looked up

	tick         = time.Minute      // between looks at what is to be done
	lookups      = 8                // at a time
	lookupAgain  = 10 * time.Minute // after a failed one
	parallel     = 4                // reports sent at a time
	batch        = 64
	lease        = 10 * time.Minute // how long one who sends a report has it for himself
	firstRetry   = 5 * time.Minute
	lastRetry    = 2 * time.Hour
	giveUp       = 24 * time.Hour // after the first try (section 5.5)
	keepReports  = 30 * 24 * time.Hour
	sendDeadline = 3 * time.Minute // for one try
)

// Reporter makes reports of what a [Counter] counted and sends them. Its fields
// are set before its first use.
type Reporter struct {
	Store    Store
	Resolver Resolver
	From     string // address of reports: From and contact-info
	Name     string // organization-name; "": the domain of From
	// Mail hands a message to the mail server. nil means that it has it.
	Mail func(ctx context.Context, from, to string, message []byte) error
	// Poster sends reports by HTTPS.
	Poster *Poster

	Now        func() time.Time      // nil: time.Now
	Log        *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: no metrics

	once    sync.Once
	domain  string // of From, the submitter
	reports *prometheus.CounterVec

	again map[string]time.Time // by day and domain: when to look its record up again
}

func (r *Reporter) init() {
	r.once.Do(func() {
		r.again = make(map[string]time.Time)
		if r.Now == nil {
			r.Now = time.Now
		}
		if r.Log == nil {
			r.Log = slog.New(slog.DiscardHandler)
		}
		if a, err := policy.ParseAddress(r.From); err == nil {
			r.domain = a.Domain
		}
		r.reports = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_tlsrpt_reports_total", Help: "Tries to send a TLS report, by way (mailto, https) and result: sent, deferred, given-up.",
		}, []string{"way", "result"})
		r.reports.WithLabelValues("mailto", "sent") // there before the first try
		if r.Registerer != nil {
			r.Registerer.MustRegister(r.reports)
		}
	})
}

// Run makes and sends reports until ctx is done. It returns nil. Trouble is
// logged and tried again.
func (r *Reporter) Run(ctx context.Context) error {
	r.init()
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for round := 0; ; round++ {
		if err := r.round(ctx, round%60 == 0); err != nil && ctx.Err() == nil {
			r.Log.Warn("TLS reports are stuck, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
	}
}

func (r *Reporter) round(ctx context.Context, purge bool) error {
	now := r.Now()
	counted, err := r.Store.TLSCounted(ctx, DayOf(now))
	if err != nil {
		return err
	}
	var due []Counted
	for _, c := range counted {
		if _, end, err := bounds(c.Day); err == nil && !now.Before(end.Add(r.delay(c))) && !now.Before(r.again[c.Day+c.Domain]) {
			due = append(due, c)
		}
	}
	_, err = r.make(ctx, due)
	_, sent := r.Send(ctx)
	if !purge {
		return errors.Join(err, sent)
	}
	clear(r.again)
	return errors.Join(err, sent, r.Store.PurgeTLS(ctx, DayOf(now.AddDate(0, 0, -staleDay)), now.Add(-keepReports)))
}

// delay is how long after the end of its day a report is made: spread so that
// neither we nor those who get reports from everybody have all to do at once. It is
// the same after a restart.
func (r *Reporter) delay(c Counted) time.Duration {
	h := fnv.New64a()
	fmt.Fprint(h, r.From, "\x00", c.Day, "\x00", c.Domain)
	return earliest + time.Duration(h.Sum64()%uint64(latest-earliest))
}

// make makes the reports of what was counted, for the domains that want any, and
// returns how many.
func (r *Reporter) make(ctx context.Context, due []Counted) (made int, err error) {
	type found struct {
		Counted
		record *Record
		err    error
	}
	var errs []error
	for len(due) > 0 && ctx.Err() == nil {
		part := due[:min(len(due), batch)]
		due = due[len(part):]
		results := make([]found, len(part))
		var wg sync.WaitGroup
		slots := make(chan struct{}, lookups)
		for i, c := range part {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				rec, err := Lookup(ctx, r.Resolver, c.Domain)
				results[i] = found{c, rec, err}
			})
		}
		wg.Wait()
		none := make(map[string][]string) // domains that want no reports, by day
		for _, f := range results {
			switch {
			case errors.Is(f.err, ErrNoRecord):
				none[f.Day] = append(none[f.Day], f.Domain)
			case f.err != nil:
				r.again[f.Day+f.Domain] = r.Now().Add(lookupAgain)
				r.Log.Debug("nobody knows whether a domain wants TLS reports, asking again", "domain", f.Domain, "error", f.err)
			default:
				n, err := r.makeOne(ctx, f.Counted, f.record)
				made += n
				errs = append(errs, err)
			}
		}
		for day, domains := range none {
			errs = append(errs, r.Store.DropTLSCounts(ctx, day, domains))
		}
	}
	return made, errors.Join(errs...)
}

func (r *Reporter) makeOne(ctx context.Context, c Counted, rec *Record) (made int, err error) {
	now := r.Now().UTC()
	err = r.Store.MakeTLSReports(ctx, c.Day, c.Domain, func(counts []Count) ([]Report, error) {
		d, err := r.document(c.Day, c.Domain, counts, now)
		if err != nil {
			return nil, err
		}
		sealed, err := d.compressed()
		if err != nil {
			return nil, err
		}
		var list []Report
		for _, u := range rec.RUA {
			list = append(list, Report{ID: d.ID, Day: c.Day, Domain: c.Domain, URI: u.Raw, JSON: sealed, Next: now, Created: now})
		}
		made = len(list)
		return list, nil
	})
	if err != nil {
		return 0, fmt.Errorf("TLS report of %s for %s: %w", c.Day, c.Domain, err)
	}
	return made, nil
}

// document makes the report of counts. A day that is not over is reported as far as
// it has come.
func (r *Reporter) document(day, domain string, counts []Count, now time.Time) (*Document, error) {
	start, end, err := bounds(day)
	if err != nil {
		return nil, err
	}
	if now.Before(end) {
		end = now.UTC().Truncate(time.Second)
	}
	d := &Document{
		Organization: cmp.Or(r.Name, r.domain), Contact: r.From, ID: newID() + "@" + r.domain,
		Range: DateRange{start, end}, Policies: []PolicyResults{},
	}
	return d, d.fill(counts)
}

func newID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// Preview returns what would be reported of a domain and day now, nil where
// nothing is counted; reports already made are not in it.
func (r *Reporter) Preview(ctx context.Context, day, domain string) (*Document, error) {
	r.init()
	counts, err := r.Store.TLSCounts(ctx, day, domain)
	if err != nil || len(counts) == 0 {
		return nil, err
	}
	return r.document(day, domain, counts, r.Now())
}

// Make makes the reports of a day now, whatever the time: of domains, or of all.
// It returns how many there are to send.
func (r *Reporter) Make(ctx context.Context, day string, domains ...string) (int, error) {
	r.init()
	counted, err := r.Store.TLSCounted(ctx, "")
	if err != nil {
		return 0, err
	}
	wanted := make(map[string]bool)
	for _, d := range domains {
		wanted[policy.CanonicalDomain(d)] = true
	}
	var due []Counted
	for _, c := range counted {
		if c.Day == day && (len(wanted) == 0 || wanted[c.Domain]) {
			due = append(due, c)
		}
	}
	return r.make(ctx, due)
}

// Send sends what is due, once, and returns it as it is then.
func (r *Reporter) Send(ctx context.Context) (done []Report, err error) {
	r.init()
	for {
		due, err := r.Store.DueTLSReports(ctx, r.Now(), batch)
		if err != nil || len(due) == 0 || ctx.Err() != nil {
			return done, err
		}
		claimed := 0
		var mu sync.Mutex
		var wg sync.WaitGroup
		var errs []error
		slots := make(chan struct{}, parallel)
		for _, rep := range due {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				ours, err := r.one(ctx, &rep)
				mu.Lock()
				defer mu.Unlock()
				if ours {
					claimed++
					done = append(done, rep)
				}
				if err != nil {
					errs = append(errs, err)
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil || claimed == 0 {
			return done, err
		}
	}
}

// one sends a report that nobody else sends, and records what came of it. The error
// is that of the store.
func (r *Reporter) one(ctx context.Context, rep *Report) (ours bool, err error) {
	if ours, err = r.Store.ClaimTLSReport(ctx, *rep, r.Now().Add(lease)); err != nil || !ours {
		return false, err
	}
	way, _, _ := strings.Cut(strings.ToLower(rep.URI), ":")
	try, cancel := context.WithTimeout(ctx, sendDeadline)
	failed := r.deliver(try, rep)
	cancel()
	now := r.Now()
	log := r.Log.With("domain", rep.Domain, "day", rep.Day, "report", rep.ID, "to", printable(rep.URI))
	switch {
	case failed == nil:
		rep.Tries, rep.Next, rep.Error = rep.Tries+1, time.Time{}, ""
		log.Info("TLS report sent")
		r.reports.WithLabelValues(way, "sent").Inc()
	case ctx.Err() != nil: // a shutdown says nothing
		rep.Next = now
	default:
		wait := backoff(rep.Tries)
		rep.Tries, rep.Error = rep.Tries+1, printable(failed.Error())
		if rep.Next = now.Add(wait); rep.Next.After(rep.Created.Add(giveUp)) {
			rep.Next = time.Time{}
			log.Warn("TLS report given up", "tries", rep.Tries, "error", failed)
			r.reports.WithLabelValues(way, "given-up").Inc()
		} else {
			log.Info("TLS report not taken, trying again", "tries", rep.Tries, "again_in", wait, "error", failed)
			r.reports.WithLabelValues(way, "deferred").Inc()
		}
	}
	record, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	return true, r.Store.SaveTLSReport(record, *rep)
}

// backoff is from 5 minutes doubling to 2 hours, less up to a quarter at random.
func backoff(failures int) time.Duration {
	d := lastRetry
	if failures < 8 {
		d = min(firstRetry<<failures, lastRetry)
	}
	return d - time.Duration(mathrand.Int64N(int64(d)/4))
}

func (r *Reporter) deliver(ctx context.Context, rep *Report) error {
	u, err := parseURI(rep.URI)
	if err != nil {
		return err
	}
	if u.Post != "" {
		return r.Poster.Post(ctx, u.Post, rep.JSON)
	}
	m, err := r.message(rep, u.Mail)
	if err != nil {
		return err
	}
	return r.Mail(ctx, r.From, u.Mail, m)
}
