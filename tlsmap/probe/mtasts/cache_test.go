package mtasts

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/internal/lab/logtext"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/probe"
)

// fakeSource answers as it is told.
type fakeSource struct {
	mu       sync.Mutex
	id       map[string]string // by domain; "": no record
	ttl      time.Duration
	dns      error             // of every lookup
	text     map[string]string // by domain
	down     error             // of every fetch
	takes    time.Duration     // a fetch
	lookups  int
	fetches  int
	fetching int
	most     int // fetches at a time
}

func newSource() *fakeSource {
	return &fakeSource{id: make(map[string]string), text: make(map[string]string), ttl: time.Hour}
}

func (s *fakeSource) set(domain, id, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.id[domain], s.text[domain] = id, text
}

func (s *fakeSource) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// counts returns the lookups and fetches since the last call.
func (s *fakeSource) counts() [2]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := [2]int{s.lookups, s.fetches}
	s.lookups, s.fetches = 0, 0
	return n
}

func (s *fakeSource) Record(ctx context.Context, domain string) (string, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lookups++
	switch {
	case s.dns != nil:
		return "", 0, s.dns
	case s.id[domain] == "":
		return "", s.ttl, ErrNoRecord
	}
	return s.id[domain], s.ttl, nil
}

func (s *fakeSource) Policy(ctx context.Context, domain string) (*Policy, []byte, error) {
	s.mu.Lock()
	s.fetches++
	s.fetching++
	s.most = max(s.most, s.fetching)
	takes := s.takes
	s.mu.Unlock()
	defer s.change(func() { s.fetching-- })
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil, nil, s.down
	}
	text := []byte(s.text[domain])
	p, err := ParsePolicy(text)
	return p, text, err
}

// fakeStore keeps records in memory.
type fakeStore struct {
	mu    sync.Mutex
	rows  map[string]Record
	saves int
	notes int
	err   error
}

func newStore() *fakeStore { return &fakeStore{rows: make(map[string]Record)} }

func (s *fakeStore) LoadPolicies(_ context.Context, each func(Record) error) error {
	s.mu.Lock()
	rows := slices.SortedFunc(maps.Values(s.rows), func(a, b Record) int { return strings.Compare(a.Domain, b.Domain) })
	s.mu.Unlock()
	for _, r := range rows {
		if err := each(r); err != nil {
			return err
		}
	}
	return s.err
}

func (s *fakeStore) LoadPolicy(_ context.Context, domain string) (Record, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.rows[domain]
	return r, ok, s.err
}

func (s *fakeStore) SavePolicy(_ context.Context, r Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.saves++
	if s.err == nil {
		s.rows[r.Domain] = r
	}
	return s.err
}

func (s *fakeStore) NotePolicy(_ context.Context, domain string, failed time.Time, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notes++
	if r, ok := s.rows[domain]; ok && s.err == nil {
		r.Failed, r.Error = failed, reason
		s.rows[domain] = r
	}
	return s.err
}

func (s *fakeStore) CountPolicies(context.Context) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.rows), s.err
}

func (s *fakeStore) DeletePolicies(_ context.Context, before time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.rows, func(_ string, r Record) bool { return r.Expires.Before(before) })
	return s.err
}

func (s *fakeStore) row(domain string) (Record, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.rows[domain]
	return r, ok
}

// bed is a cache in a bubble, where time is fake.
type bed struct {
	*Cache
	t      *testing.T
	source *fakeSource
	store  *fakeStore
	log    *logged
}

// logged is a log that is read while it is written.
type logged = logtext.Log

// inBubble runs f with a cache that knows nothing; Run does not run.
func inBubble(t *testing.T, f func(t *testing.T, b *bed), change ...func(*Options)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newBed(t, newSource(), newStore(), change...)) })
}

func newBed(t *testing.T, source *fakeSource, store *fakeStore, change ...func(*Options)) *bed {
	t.Helper()
	b := &bed{t: t, source: source, store: store, log: new(logged)}
	o := Options{Source: source, Store: store, Log: slog.New(slog.NewTextHandler(b.log, nil))}
	for _, f := range change {
		f(&o)
	}
	c, err := NewCache(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	b.Cache = c
	return b
}

// want asks for a domain, waits for what goes on beside, and compares.
func (b *bed) want(domain string, state policy.STS, mx ...string) *probe.STSResult {
	b.t.Helper()
	r := b.Policy(b.t.Context(), domain)
	synctest.Wait()
	if r.State != state || !slices.Equal(r.MX, mx) {
		b.t.Errorf("%s: %s %v, want %s %v (error %q, stale %q)", domain, r.State, r.MX, state, mx, r.Error, r.Stale)
	}
	return r
}

// cost compares what was asked of DNS and policy hosts since the last call.
func (b *bed) cost(lookups, fetches int) {
	b.t.Helper()
	synctest.Wait()
	if got := b.source.counts(); got != [2]int{lookups, fetches} {
		b.t.Errorf("%d lookups and %d fetches, want %d and %d", got[0], got[1], lookups, fetches)
	}
}

// counted returns how many policies of a mode the metrics tell of.
func (b *bed) counted(mode string) float64 {
	b.t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(b.metrics.policies)
	return gather(b.t, reg)["postseal_mta_sts_policies "+mode]
}

// gather returns all metrics by name and label.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			all[f.GetName()+" "+m.Label[0].GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return all
}

// text makes a policy.
func text(mode Mode, maxAge int, mx ...string) string {
	s := fmt.Sprintf("version: STSv1\nmode: %s\nmax_age: %d\n", mode, maxAge)
	for _, m := range mx {
		s += "mx: " + m + "\n"
	}
	return s
}

const (
	week = 7 * 24 * 3600
	a    = "a.example"
	mx   = "mx.a.example"
)

var errDown = errors.New("connection refused")

func TestStates(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*fakeSource)
		want probe.STSResult
	}{
		{"enforce", func(s *fakeSource) { s.set(a, "1", text(Enforce, week, mx, "*.b.example")) },
			probe.STSResult{State: policy.STSEnforce, ID: "1", Mode: "enforce", MX: []string{mx, "*.b.example"}, MaxAge: week}},
		{"testing", func(s *fakeSource) { s.set(a, "1", text(Testing, week, mx)) },
			probe.STSResult{State: policy.STSTesting, ID: "1", Mode: "testing", MX: []string{mx}, MaxAge: week}},
		{"none", func(s *fakeSource) { s.set(a, "1", text(None, week)) },
			probe.STSResult{State: policy.STSNone, ID: "1", Mode: "none", MaxAge: week}},
		{"no record", func(*fakeSource) {}, probe.STSResult{State: policy.STSNone, Error: ErrNoRecord.Error()}},
		{"DNS fails", func(s *fakeSource) { s.dns = probe.ErrDNS }, probe.STSResult{State: policy.STSFailed, Error: probe.ErrDNS.Error()}},
		{"policy host is down", func(s *fakeSource) { s.set(a, "1", ""); s.down = errDown }, probe.STSResult{State: policy.STSFailed, Error: errDown.Error(), Failure: "sts-policy-fetch-error"}},
		{"invalid", func(s *fakeSource) { s.set(a, "1", text(Enforce, week, "*")) },
			probe.STSResult{State: policy.STSFailed, Error: `not a valid policy: line 4: mx "*": not a full host name`, Failure: "sts-policy-invalid"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bed) {
				tt.set(b.source)
				got := b.Policy(t.Context(), "A.example.")
				if tt.want.MaxAge > 0 {
					tt.want.Fetched = time.Now().UTC()
					tt.want.Expires = tt.want.Fetched.Add(week * time.Second)
				}
				if fmt.Sprint(*got) != fmt.Sprint(tt.want) {
					t.Errorf("got  %+v\nwant %+v", *got, tt.want)
				}
			})
		})
	}
}

// TestKeptPolicyStays is the heart of MTA-STS: whatever is done to DNS and the policy
// host, a policy that is kept stays in force until it expires.
func TestKeptPolicyStays(t *testing.T) {
	for name, harm := range map[string]func(*fakeSource){
		"DNS fails":                        func(s *fakeSource) { s.dns = probe.ErrDNS },
		"the record vanishes":              func(s *fakeSource) { s.id[a] = "" },
		"the policy host is down":          func(s *fakeSource) { s.down = errDown },
		"it is down, with a new id":        func(s *fakeSource) { s.down, s.id[a] = errDown, "2" },
		"it sends nonsense":                func(s *fakeSource) { s.id[a], s.text[a] = "2", "<html>" },
		"it sends enforce without mx":      func(s *fakeSource) { s.id[a], s.text[a] = "2", text(Enforce, week) },
		"it sends an invalid mode none":    func(s *fakeSource) { s.id[a], s.text[a] = "2", "version: STSv1\nmode: none\n" },
		"the policy host does not answer":  func(s *fakeSource) { s.id[a], s.takes = "2", time.Hour },
		"an id comes and goes, never good": func(s *fakeSource) { s.down, s.id[a] = errDown, "3" },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBed(t, newSource(), newStore())
				ctx, cancel := context.WithCancel(t.Context())
				go b.Run(ctx)
				defer func() { cancel(); synctest.Wait() }()
				b.source.set(a, "1", text(Enforce, week, mx))
				b.want(a, policy.STSEnforce, mx)
				b.source.change(func() { harm(b.source) })
				start := time.Now()
				for time.Since(start) < week*time.Second-time.Hour {
					time.Sleep(time.Hour)
					b.want(a, policy.STSEnforce, mx)
				}
				if r := b.want(a, policy.STSEnforce, mx); r.Stale == "" {
					t.Error("nothing says that the policy is stale")
				}
				if r, _ := b.store.row(a); r.Error == "" || r.Failed.IsZero() {
					t.Error("nor in the store")
				}
				if n := strings.Count(b.log.String(), "level=WARN"); n != 1 {
					t.Errorf("%d warnings, want 1:\n%s", n, b.log)
				}
				time.Sleep(time.Hour + 2*time.Minute)
				if r := b.Policy(t.Context(), a); r.State == policy.STSEnforce {
					t.Errorf("in force beyond max_age: %+v", r)
				}
			})
		})
	}
}

func TestNewPolicies(t *testing.T) {
	for _, tt := range []struct {
		name  string
		text  string
		state policy.STS
		mx    []string
	}{
		{"other hosts", text(Enforce, week, "mx.new.example"), policy.STSEnforce, []string{"mx.new.example"}},
		{"mode none ends it", text(None, 3600), policy.STSNone, nil},
		{"mode none that is not to be kept", text(None, 0), policy.STSNone, nil},
		{"mode testing", text(Testing, week, mx), policy.STSTesting, []string{mx}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, b *bed) {
				b.source.set(a, "1", text(Enforce, week, mx))
				b.want(a, policy.STSEnforce, mx)
				b.cost(1, 1)
				b.source.set(a, "2", tt.text)
				time.Sleep(time.Hour - time.Second) // the TTL of the record
				b.want(a, policy.STSEnforce, mx)
				b.cost(0, 0)
				time.Sleep(time.Second)
				b.want(a, policy.STSEnforce, mx) // nobody waits for the lookup
				b.cost(1, 1)
				b.want(a, tt.state, tt.mx...)
				if r, ok := b.store.row(a); !ok || string(r.Text) != tt.text || r.ID != "2" {
					t.Errorf("the store has %+v", r)
				}
				if !strings.Contains(b.log.String(), "MTA-STS policy changed") {
					t.Errorf("nothing is logged: %s", b.log)
				}
			})
		})
	}
}

func TestHowOftenIsAsked(t *testing.T) {
	t.Run("a record by its TTL, in bounds", func(t *testing.T) {
		for ttl, every := range map[time.Duration]time.Duration{
			0: recheckLeast, time.Second: recheckLeast, 10 * time.Minute: 10 * time.Minute, 48 * time.Hour: recheckMost,
		} {
			for _, id := range []string{"1", ""} {
				inBubble(t, func(t *testing.T, b *bed) {
					b.source.ttl = ttl
					b.source.set(a, id, text(Enforce, week, mx))
					b.Policy(t.Context(), a)
					b.source.counts()
					time.Sleep(every - time.Second)
					b.Policy(t.Context(), a)
					b.cost(0, 0)
					time.Sleep(time.Second)
					b.Policy(t.Context(), a)
					b.cost(1, 0)
				})
			}
		}
	})
	t.Run("a policy host that fails, after 5 minutes at the earliest", func(t *testing.T) {
		inBubble(t, func(t *testing.T, b *bed) {
			b.source.set(a, "1", "")
			b.source.down, b.source.ttl = errDown, time.Minute
			b.want(a, policy.STSFailed)
			b.cost(1, 1)
			fetches := 0
			for range 24 * 60 {
				time.Sleep(time.Minute)
				b.want(a, policy.STSFailed)
				n := b.source.counts()
				if n[0] != 1 {
					t.Fatalf("%d lookups a minute", n[0])
				}
				fetches += n[1]
			}
			if fetches < 20 || fetches > 30 {
				t.Errorf("%d fetches a day, want about one an hour", fetches)
			}
			// A new id is tried at once.
			b.source.set(a, "2", text(Enforce, week, mx))
			b.source.change(func() { b.source.down = nil })
			time.Sleep(time.Minute)
			b.want(a, policy.STSEnforce, mx)
		})
	})
	t.Run("the same id, not before 5 minutes", func(t *testing.T) {
		inBubble(t, func(t *testing.T, b *bed) {
			b.source.set(a, "1", text(Enforce, week, mx))
			b.source.down = errDown
			b.want(a, policy.STSFailed)
			b.source.change(func() { b.source.down = nil })
			time.Sleep(fetchRetry - time.Second)
			b.want(a, policy.STSFailed)
			time.Sleep(time.Second)
			b.want(a, policy.STSEnforce, mx)
		})
	})
	t.Run("DNS that fails, less and less", func(t *testing.T) {
		inBubble(t, func(t *testing.T, b *bed) {
			b.source.dns = probe.ErrDNS
			lookups := 0
			for range 24 * 60 {
				b.want(a, policy.STSFailed)
				lookups += b.source.counts()[0]
				time.Sleep(time.Minute)
			}
			if lookups < 20 || lookups > 35 {
				t.Errorf("%d lookups a day", lookups)
			}
		})
	})
}

func TestMaxAge(t *testing.T) {
	for _, age := range []int{1, 59, 600, 3600, week, MaxAge} {
		inBubble(t, func(t *testing.T, b *bed) {
			b.want(a, policy.STSNone)
			time.Sleep(time.Hour)
			b.source.set(a, "1", text(Enforce, age, mx))
			b.want(a, policy.STSEnforce, mx)
			b.source.change(func() { b.source.id[a] = "" })
			time.Sleep(time.Duration(age)*time.Second - time.Millisecond)
			b.want(a, policy.STSEnforce, mx)
			time.Sleep(time.Millisecond)
			b.want(a, policy.STSNone)
			if n := b.counted("enforce"); n != 0 {
				t.Errorf("max_age %d: %v policies are counted", age, n)
			}
		})
	}
	t.Run("0 counts for those who waited for it", func(t *testing.T) {
		inBubble(t, func(t *testing.T, b *bed) {
			b.source.set(a, "1", text(Enforce, 0, mx))
			b.want(a, policy.STSEnforce, mx)
			b.want(a, policy.STSEnforce, mx)
			b.cost(2, 2)
			b.source.change(func() { b.source.down = errDown })
			b.want(a, policy.STSFailed)
		})
	})
}

func TestRefreshAheadOfExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, newSource(), newStore())
		ctx, cancel := context.WithCancel(t.Context())
		go b.Run(ctx)
		defer func() { cancel(); synctest.Wait() }()
		b.source.set(a, "1", text(Enforce, week, mx))
		b.source.set("short.example", "1", text(Enforce, 2*3600, mx))
		b.want(a, policy.STSEnforce, mx)
		b.want("short.example", policy.STSEnforce, mx)
		b.cost(2, 2)
		time.Sleep(24 * time.Hour)
		synctest.Wait()
		n := b.source.counts()
		if n[1] < 1+20 || n[1] > 1+32 {
			t.Errorf("%d fetches in a day, want one of a week's policy and about 24 of a two hours'", n[1])
		}
		// Nobody asked meanwhile, and both are in force still.
		b.source.change(func() { b.source.dns = probe.ErrDNS })
		b.want(a, policy.STSEnforce, mx)
		b.want("short.example", policy.STSEnforce, mx)

		// Nobody asks for a month: it is left to expire.
		b.source.change(func() { b.source.dns = nil })
		time.Sleep(idle + week*time.Second)
		b.source.counts()
		time.Sleep(24 * time.Hour)
		b.cost(0, 0)
		if n := b.counted("enforce"); n != 0 {
			t.Errorf("%v policies are left in memory", n)
		}
		time.Sleep(purgeEvery)
		synctest.Wait()
		if _, ok := b.store.row(a); ok {
			t.Error("the expired policy is left in the store")
		}
	})
}

// TestVeryShortLived sees that a policy that expires at once does not keep the
// background busy.
func TestVeryShortLived(t *testing.T) {
	for _, age := range []int{0, 1, 30} {
		synctest.Test(t, func(t *testing.T) {
			b := newBed(t, newSource(), newStore())
			ctx, cancel := context.WithCancel(t.Context())
			go b.Run(ctx)
			defer func() { cancel(); synctest.Wait() }()
			b.source.set(a, "1", text(Enforce, age, mx))
			b.want(a, policy.STSEnforce, mx)
			time.Sleep(time.Hour)
			b.cost(1, 1)
		})
	}
}

func TestRefreshIsUrged(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		b.source.set(a, "1", text(Enforce, week, "old.a.example"))
		b.want(a, policy.STSEnforce, "old.a.example")
		b.cost(1, 1)
		// The domain moved, and its owner forgot to change the id.
		b.source.set(a, "1", text(Enforce, week, mx))
		time.Sleep(time.Second)
		if r := b.Refresh(t.Context(), a); r.State != policy.STSEnforce || !slices.Equal(r.MX, []string{mx}) {
			t.Errorf("got %+v", r)
		}
		b.cost(1, 1)
		// Again and again it is not asked.
		for range 10 {
			b.Refresh(t.Context(), a)
		}
		b.cost(0, 0)
		time.Sleep(recheckLeast)
		b.Refresh(t.Context(), a)
		b.cost(1, 0) // the record alone
		b.source.set(a, "2", text(None, 3600))
		time.Sleep(recheckLeast)
		if r := b.Refresh(t.Context(), a); r.State != policy.STSNone {
			t.Errorf("a new id is not seen: %+v", r)
		}
		b.cost(1, 1)
	})
	inBubble(t, func(t *testing.T, b *bed) {
		b.source.set(a, "1", text(Enforce, week, mx))
		b.want(a, policy.STSEnforce, mx)
		b.source.change(func() { b.source.down = errDown })
		for range 24 * 60 {
			if r := b.Refresh(t.Context(), a); r.State != policy.STSEnforce {
				t.Fatalf("a refresh that fails took the policy away: %+v", r)
			}
			time.Sleep(time.Minute)
		}
		if n := b.source.counts(); n[1] > 1+30 {
			t.Errorf("%d fetches in a day of urging", n[1])
		}
	})
}

func TestWhoCantWait(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		b.source.set(a, "1", text(Enforce, week, mx))
		b.source.takes = 30 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		if r := b.Policy(ctx, a); r.State != policy.STSUnknown {
			t.Errorf("got %+v", r)
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("waited for %s", took)
		}
		// Those who can share the fetch that goes on.
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if r := b.Policy(t.Context(), a); r.State != policy.STSEnforce {
					t.Errorf("got %+v", r)
				}
			})
		}
		all.Wait()
		if took := time.Since(start); took != 30*time.Second {
			t.Errorf("took %s", took)
		}
		b.cost(1, 1)
	})
	// Nobody waits at all: it is found by the next.
	inBubble(t, func(t *testing.T, b *bed) {
		b.source.set(a, "1", text(Enforce, week, mx))
		b.source.takes = 10 * time.Second
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if r := b.Policy(ctx, a); r.State != policy.STSUnknown {
			t.Errorf("got %+v", r)
		}
		time.Sleep(11 * time.Second)
		if r := b.Policy(ctx, a); r.State != policy.STSEnforce {
			t.Errorf("got %+v", r)
		}
	})
	// A fetch ends by itself.
	inBubble(t, func(t *testing.T, b *bed) {
		b.source.set(a, "1", "")
		b.source.takes = 24 * time.Hour
		start := time.Now()
		b.want(a, policy.STSFailed)
		if took := time.Since(start); took > 2*time.Minute {
			t.Errorf("took %s", took)
		}
	})
}

func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, store := newSource(), newStore()
		b := newBed(t, source, store)
		source.set(a, "1", text(Enforce, week, mx))
		source.set("none.example", "1", text(None, week))
		source.set("short.example", "1", text(Enforce, 3600, mx))
		for _, d := range []string{a, "none.example", "short.example", "nothing.example"} {
			b.Policy(t.Context(), d)
		}
		b.close()
		source.counts()
		time.Sleep(2 * time.Hour)

		// Everything is down, and the policy counts.
		source.change(func() { source.dns = probe.ErrDNS })
		b = newBed(t, source, store)
		if err := b.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := b.Kept(a); r.State != policy.STSEnforce {
			t.Errorf("kept: %+v", r)
		}
		if r := b.Kept("short.example"); r.State != policy.STSUnknown {
			t.Errorf("kept beyond its expiry: %+v", r)
		}
		b.want(a, policy.STSEnforce, mx)
		b.cost(1, 0) // beside
		b.want("none.example", policy.STSNone)
		b.want("short.example", policy.STSFailed)
		r := b.want(a, policy.STSEnforce, mx)
		if left := time.Until(r.Expires); left != week*time.Second-2*time.Hour {
			t.Errorf("expires in %s: a restart must not prolong it", left)
		}
		b.close()
		time.Sleep(week * time.Second)
		b = newBed(t, source, store)
		if err := b.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.want(a, policy.STSFailed)
	})
}

func TestLoadOfBadRecords(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		now := time.Now()
		for _, r := range []Record{
			{Domain: "bad.example", ID: "1", Text: []byte("nonsense"), Fetched: now, Expires: now.Add(time.Hour)},
			{Domain: "UPPER.example", ID: "1", Text: []byte(text(Enforce, week, mx)), Fetched: now, Expires: now.Add(time.Hour)},
			// Fetched when the clock was wrong, by a year.
			{Domain: "future.example", ID: "1", Text: []byte(text(Enforce, week, mx)), Fetched: now.AddDate(1, 0, 0), Expires: now.AddDate(1, 0, 7)},
			{Domain: "longer.example", ID: "1", Text: []byte(text(Enforce, 3600, mx)), Fetched: now, Expires: now.AddDate(1, 0, 0)},
		} {
			b.store.rows[r.Domain] = r
		}
		if err := b.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r := b.Kept("bad.example"); r.State != policy.STSUnknown {
			t.Errorf("%+v", r)
		}
		if r := b.Kept("upper.example"); r.State != policy.STSUnknown {
			t.Errorf("%+v", r)
		}
		if r := b.Kept("future.example"); r.State != policy.STSEnforce || r.Expires.Sub(now) != week*time.Second {
			t.Errorf("%+v", r)
		}
		if r := b.Kept("longer.example"); r.State != policy.STSEnforce || r.Expires.Sub(now) != time.Hour {
			t.Errorf("%+v", r)
		}
		b.store.err = errors.New("disk")
		if err := b.Load(t.Context()); err == nil {
			t.Error("no error")
		}
	})
}

// TestClockSetBack sees that what was learned by a clock that ran ahead is neither
// lost nor believed for ever.
func TestClockSetBack(t *testing.T) {
	var ahead time.Duration
	inBubble(t, func(t *testing.T, b *bed) {
		ahead = 365 * 24 * time.Hour
		b.source.set(a, "1", text(Enforce, week, mx))
		b.want(a, policy.STSEnforce, mx)
		b.want("none.example", policy.STSNone)
		b.source.set("none.example", "1", text(Enforce, week, mx))
		b.cost(2, 1)
		ahead = 0
		b.want(a, policy.STSEnforce, mx) // and is fetched anew beside
		b.cost(1, 1)
		r := b.want(a, policy.STSEnforce, mx)
		if left := time.Until(r.Expires); left > week*time.Second {
			t.Errorf("expires in %s", left)
		}
		b.want("none.example", policy.STSEnforce, mx)
	}, func(o *Options) { o.Now = func() time.Time { return time.Now().Add(ahead) } })
}

func TestStoreThatFails(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		b.store.err = errors.New("disk full")
		b.source.set(a, "1", text(Enforce, week, mx))
		b.want(a, policy.STSEnforce, mx)
		b.want(a, policy.STSEnforce, mx)
		if !strings.Contains(b.log.String(), "not saved") {
			t.Errorf("nothing is logged: %s", b.log)
		}
	})
}

func TestBoundedMemory(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		b.source.set(a, "1", text(Enforce, week, mx))
		b.want(a, policy.STSEnforce, mx)
		for i := range 1000 {
			b.Policy(t.Context(), fmt.Sprintf("d%d.example", i))
			synctest.Wait()
		}
		if n := len(b.entries); n > 100 {
			t.Errorf("%d entries", n)
		}
		b.source.counts()
		b.want(a, policy.STSEnforce, mx)
		b.cost(0, 0) // the domains without a policy went first
		for i := range 1000 {
			d := fmt.Sprintf("p%d.example", i)
			b.source.set(d, "1", text(Enforce, week, mx))
			b.Policy(t.Context(), d)
			synctest.Wait()
		}
		if n := len(b.entries); n > 100 || b.recent.Len() != n || len(b.plan) > n {
			t.Errorf("%d entries, %d in the list, %d planned", n, b.recent.Len(), len(b.plan))
		}
		// What had to go is read from the store again, and so in force whatever happens.
		b.source.change(func() { b.source.dns = probe.ErrDNS })
		b.want(a, policy.STSEnforce, mx)
		b.want("p1.example", policy.STSEnforce, mx)
	}, func(o *Options) { o.MaxEntries = 100 })
	inBubble(t, func(t *testing.T, b *bed) {
		for i := range 100 {
			d := fmt.Sprintf("p%d.example", i)
			patterns := make([]string, 100)
			for j := range patterns {
				patterns[j] = fmt.Sprintf("mx%d.%s", j, d)
			}
			b.source.set(d, "1", text(Enforce, week, patterns...))
			b.Policy(t.Context(), d)
			synctest.Wait()
			if b.bytes > 10_000 {
				t.Fatalf("%d bytes of patterns", b.bytes)
			}
		}
		b.source.change(func() { b.source.dns = probe.ErrDNS })
		if r := b.Policy(t.Context(), "p1.example"); r.State != policy.STSEnforce || len(r.MX) != 100 {
			t.Errorf("%s with %d patterns", r.State, len(r.MX))
		}
	}, func(o *Options) { o.MaxBytes = 10_000 })
}

func TestBackgroundIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, newSource(), newStore(), func(o *Options) { o.MaxBackground = 3 })
		for i := range 100 {
			d := fmt.Sprintf("d%d.example", i)
			b.source.set(d, "1", text(Enforce, week, mx))
			b.Policy(t.Context(), d)
		}
		b.source.change(func() { b.source.most, b.source.takes = 0, time.Minute })
		ctx, cancel := context.WithCancel(t.Context())
		go b.Run(ctx)
		time.Sleep(24*time.Hour + time.Hour)
		cancel()
		synctest.Wait()
		if b.source.most != 3 {
			t.Errorf("%d fetches at a time", b.source.most)
		}
		if n := b.source.counts(); n[1] != 200 {
			t.Errorf("%d fetches, want each policy once more", n[1])
		}
	})
}

func TestFreshForAPerson(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source, store := newSource(), newStore()
		b := newBed(t, source, store)
		source.set(a, "1", text(Enforce, week, "old.a.example"))
		source.set("down.example", "1", text(Enforce, week, mx))
		b.Policy(t.Context(), a)
		b.Policy(t.Context(), "down.example")
		b.close()
		saves := store.saves
		source.set(a, "1", text(Enforce, week, mx))
		source.set("down.example", "", "")
		b = newBed(t, source, store, func(o *Options) { o.Fresh, o.Store = true, ReadOnly(store) })
		if err := b.Load(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.want(a, policy.STSEnforce, mx)
		if r := b.want("down.example", policy.STSEnforce, mx); r.Stale == "" {
			t.Errorf("not said to be stale: %+v", r)
		}
		source.counts()
		b.want(a, policy.STSEnforce, mx)
		b.cost(0, 0)
		if store.saves != saves || store.notes != 0 {
			t.Error("the store was written to")
		}
	})
}

func TestStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBed(t, newSource(), newStore())
		b.source.set(a, "1", text(Enforce, week, mx))
		b.source.set("slow.example", "1", text(Enforce, week, mx))
		b.want(a, policy.STSEnforce, mx)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- b.Run(ctx) }()
		b.source.change(func() { b.source.takes = 30 * time.Second })
		asked := make(chan *probe.STSResult)
		go func() { asked <- b.Policy(t.Context(), "slow.example") }()
		synctest.Wait()
		cancel()
		if r := <-asked; r.State != policy.STSUnknown {
			t.Errorf("of a lookup that was ended: %+v", r)
		}
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if r := b.Policy(t.Context(), a); r.State != policy.STSEnforce {
			t.Errorf("%+v", r)
		}
		if r := b.Policy(t.Context(), "b.example"); r.State != policy.STSUnknown {
			t.Errorf("%+v", r)
		}
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	inBubble(t, func(t *testing.T, b *bed) {
		b.source.set(a, "1", text(Enforce, week, mx))
		b.source.set("t.example", "1", text(Testing, week, mx))
		b.source.set("bad.example", "1", "nonsense")
		for _, d := range []string{a, "t.example", "bad.example", "nothing.example"} {
			b.Policy(t.Context(), d)
		}
		b.source.change(func() { b.source.dns = probe.ErrDNS })
		b.Policy(t.Context(), "dns.example")
		got := gather(t, reg)
		want := map[string]float64{
			"postseal_mta_sts_policies enforce": 1, "postseal_mta_sts_policies testing": 1, "postseal_mta_sts_policies none": 0,
			"postseal_mta_sts_lookups_total fetched": 2, "postseal_mta_sts_lookups_total unchanged": 0,
			"postseal_mta_sts_lookups_total none": 1, "postseal_mta_sts_lookups_total dns-failed": 1,
			"postseal_mta_sts_lookups_total fetch-failed": 1,
		}
		if !maps.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}, func(o *Options) { o.Registerer = reg })
	if _, err := NewCache(Options{Registerer: reg}); err == nil {
		t.Error("no error where the metrics are registered already")
	}
}

func TestFaultOfASource(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		b.want(a, policy.STSFailed)
		if !strings.Contains(b.log.String(), "please report this") {
			t.Error("nothing is logged")
		}
	}, func(o *Options) { o.Source = faulty{} })
}

type faulty struct{}

func (faulty) Record(context.Context, string) (string, time.Duration, error) { panic("a bug") }
func (faulty) Policy(context.Context, string) (*Policy, []byte, error)       { panic("a bug") }

// TestARecordThatFailsCanBeSealed: where the TXT record can't be looked up and the mail hosts
// can, required mail waits, and may be sealed after the grace period: the notice can
// arrive. Where the MX lookup fails too it may not.
func TestARecordThatFailsCanBeSealed(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		b.source.dns = errors.New("SERVFAIL")
		r := b.want(a, policy.STSFailed)
		p := policy.Published{DANE: policy.DANENone, STS: r.State}
		if proof := policy.ProofTLS(a, policy.TLSParams{}, p); proof.Wait == "" || !proof.Hopeless {
			t.Errorf("only the TXT record fails: %+v", proof)
		}
		p.DANE = policy.DANEUnknown
		if proof := policy.ProofTLS(a, policy.TLSParams{}, p); proof.Wait == "" || proof.Hopeless {
			t.Errorf("the MX lookup fails too: %+v", proof)
		}
	})
}

// TestTheStoreIsBounded: a store that is full takes no new policies that demand nothing; what
// is to be enforced and what is kept already it takes always, and it drops nothing.
func TestTheStoreIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, b *bed) {
		publish := func(domain string, mode Mode, id string) {
			t.Helper()
			patterns := []string{"mx." + domain}
			if mode == None {
				patterns = nil
			}
			b.source.set(domain, id, text(mode, week, patterns...))
			b.want(domain, states[mode], patterns...)
		}
		for i := range 5 {
			publish(fmt.Sprintf("d%d.example", i), Enforce, "1")
		}
		publish("testing.example", Testing, "1")
		publish("none.example", None, "1")
		for _, d := range []string{"testing.example", "none.example"} {
			if _, ok := b.store.row(d); ok {
				t.Errorf("%s is kept", d)
			}
		}
		publish("enforce.example", Enforce, "1")
		for _, d := range []string{"d0.example", "d1.example", "d2.example", "d3.example", "d4.example", "enforce.example"} {
			if _, ok := b.store.row(d); !ok {
				t.Errorf("%s is not kept", d)
			}
		}
		if s := b.log.String(); !strings.Contains(s, "very many MTA-STS policies") || !strings.Contains(s, "most=5") {
			t.Errorf("log: %s", s)
		}
		b.source.set("d0.example", "2", text(None, week))
		time.Sleep(2 * time.Hour)
		b.Policy(t.Context(), "d0.example")
		synctest.Wait()
		b.want("d0.example", policy.STSNone)
		if r, _ := b.store.row("d0.example"); r.ID != "2" {
			t.Errorf("what is kept was not replaced: %+v", r)
		}
		// Room again: known without a restart.
		b.store.DeletePolicies(t.Context(), time.Now().Add(week*time.Second))
		time.Sleep(recount)
		publish("later.example", Testing, "1")
		if _, ok := b.store.row("later.example"); !ok {
			t.Error("not kept where there is room again")
		}
	}, func(o *Options) { o.MaxKept = 5 })
}
