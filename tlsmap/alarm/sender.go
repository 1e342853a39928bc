package alarm

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/tlsmap/probe"
)

// When alarms are told.
const (
	settle     = 5 * time.Second // after the first: what happens at once is told together
	idle       = time.Minute     // between looks into the store: another process may write
	batch      = 200             // alarms told together
	firstRetry = 5 * time.Second
	lastRetry  = 15 * time.Minute
	storeLimit = 10 * time.Second // for one call

	// From one mail to the next, doubling while there is more to tell: what a broken
	// network strips within an hour is a few mails.
	firstPause = 30 * time.Second
	lastPause  = 30 * time.Minute

	// So many destinations that lose their TLS in so short a time are hardly to blame.
	atOnceLeast = 5
	atOnceIn    = time.Hour
)

// Sender tells of alarms, each as often as it takes until every way that is set has
// taken it. Its fields are set before Run.
type Sender struct {
	Store Store

	// Mail, where To is set, goes out by Deliver, which hands it to Postfix.
	From, To string // addresses
	Deliver  func(ctx context.Context, from, to string, text []byte) error
	// URL, where set, gets alarms by POST, see [CheckURL]. It may hold a secret and is
	// in no log.
	URL    string
	Client *http.Client // nil: one of our own

	Host       string // this server's name, for the texts
	Now        func() time.Time
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: no metrics

	once  sync.Once
	wakes map[Way]chan struct{}
	tries *prometheus.CounterVec
}

func (s *Sender) init() {
	s.once.Do(func() {
		if s.Now == nil {
			s.Now = time.Now
		}
		if s.Log == nil {
			s.Log = slog.New(slog.DiscardHandler)
		}
		s.Client = cmp.Or(s.Client, newClient())
		s.wakes = map[Way]chan struct{}{}
		for _, w := range s.ways() {
			s.wakes[w] = make(chan struct{}, 1)
		}
		if len(s.wakes) == 0 {
			s.wakes[""] = make(chan struct{}, 1) // nobody: only the store is kept tidy
		}
		s.tries = prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postseal_alarm_tries_total", Help: "Tries to tell of alarms, by way (mail, webhook) and result: told, failed.",
		}, []string{"way", "result"})
		for _, w := range s.ways() {
			s.tries.WithLabelValues(string(w), "failed") // there before the first try
		}
		if s.Registerer != nil {
			s.Registerer.MustRegister(s.tries)
		}
	})
}

// ways returns those that are set.
func (s *Sender) ways() (ways []Way) {
	if s.To != "" {
		ways = append(ways, Mail)
	}
	if s.URL != "" {
		ways = append(ways, Webhook)
	}
	return ways
}

// Wake makes Run look for alarms soon. It never blocks.
func (s *Sender) Wake() {
	s.init()
	for _, c := range s.wakes {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// Run tells of alarms until ctx is done, and returns nil. Trouble is logged, and what
// it kept back is tried again.
func (s *Sender) Run(ctx context.Context) error {
	s.init()
	var wg sync.WaitGroup
	for w, wake := range s.wakes {
		wg.Go(func() { s.tell(ctx, w, wake) })
	}
	wg.Wait()
	return nil
}

// tell is the life of one way.
func (s *Sender) tell(ctx context.Context, way Way, wake <-chan struct{}) {
	sleep := func(d time.Duration) bool {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(d):
			return true
		}
	}
	failures, pause := 0, firstPause
	again := func() time.Duration {
		failures++
		return backoff(failures - 1)
	}
	for {
		events, err := s.untold(ctx, way)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.Log.Warn("alarms can't be read, trying again", "error", err)
			if !sleep(again()) {
				return
			}
			continue
		case len(events) == 0:
			failures, pause = 0, firstPause
			select {
			case <-ctx.Done():
				return
			case <-time.After(idle):
				continue
			case <-wake:
			}
			if !sleep(settle) {
				return
			}
			continue
		}
		if err := s.send(ctx, way, events); err != nil {
			if ctx.Err() != nil {
				return
			}
			wait := again()
			s.tries.WithLabelValues(string(way), "failed").Inc()
			s.Log.Warn("alarms were not told, trying again", "way", way, "alarms", len(events), "again_in", wait.Round(time.Second), "error", err)
			if !sleep(wait) {
				return
			}
			continue
		}
		s.tries.WithLabelValues(string(way), "told").Inc()
		s.Log.Info("alarms told", "way", way, "alarms", len(events))
		failures = 0
		for { // what was told must be noted, or it is told again
			if err = s.note(ctx, way, events); err == nil || ctx.Err() != nil {
				break
			}
			s.Log.Error("alarms that were told can't be noted as such, trying again", "way", way, "error", err)
			if !sleep(again()) {
				return
			}
		}
		if way != Mail {
			pause = settle
		}
		if !sleep(pause) {
			return
		}
		pause = min(2*pause, lastPause)
	}
}

// untold closes what all have taken, and returns what the way has not.
func (s *Sender) untold(ctx context.Context, way Way) ([]probe.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	if err := s.Store.SettleAlarms(ctx, s.ways(), s.Now()); err != nil || way == "" {
		return nil, err
	}
	return s.Store.UntoldAlarms(ctx, way, batch)
}

// send tells of events. They are at least one.
func (s *Sender) send(ctx context.Context, way Way, events []probe.Event) error {
	counting, cancel := context.WithTimeout(ctx, storeLimit)
	defer cancel()
	lost, err := s.Store.LostSince(counting, s.Now().Add(-atOnceIn))
	if err != nil {
		return err
	}
	if lost < atOnceLeast || !slices.ContainsFunc(events, func(e probe.Event) bool { return e.Kind == probe.TLSLost }) {
		lost = 0
	}
	n := news{host: s.Host, at: s.Now(), events: events, atOnce: lost}
	if way == Mail {
		return s.Deliver(ctx, s.From, s.To, n.mail(s.From, s.To))
	}
	return s.post(ctx, n)
}

// note records that the way has taken events, shutdown or not.
func (s *Sender) note(ctx context.Context, way Way, events []probe.Event) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeLimit)
	defer cancel()
	ids := make([]int64, len(events))
	for i := range events {
		ids[i] = events[i].ID
	}
	if err := s.Store.AlarmsTaken(ctx, way, ids, s.Now()); err != nil {
		return err
	}
	return s.Store.SettleAlarms(ctx, s.ways(), s.Now())
}

// backoff is how long to wait after a number of failures: from 5 seconds doubling to a
// quarter of an hour, less up to a quarter at random.
func backoff(failures int) time.Duration {
	d := lastRetry
	if failures < 12 {
		d = min(firstRetry<<failures, lastRetry)
	}
	return d - rand.N(d/4)
}
