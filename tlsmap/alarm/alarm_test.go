package alarm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"mime/quotedprintable"
	"net/http"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postseal/postseal/tlsmap/probe"
)

// memStore is a Store in memory.
type memStore struct {
	mu     sync.Mutex
	events []probe.Event
	taken  map[Way]map[int64]bool
	failed error
	lost   int
}

func (s *memStore) add(events ...probe.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range events {
		e.ID, e.Alarm = int64(len(s.events)+1), true
		s.events = append(s.events, e)
	}
}

func (s *memStore) UntoldAlarms(_ context.Context, way Way, limit int) (all []probe.Event, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.Told.IsZero() && !s.taken[way][e.ID] && len(all) < limit {
			all = append(all, e)
		}
	}
	return all, nil
}

func (s *memStore) AlarmsTaken(_ context.Context, way Way, ids []int64, _ time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	if s.taken == nil {
		s.taken = map[Way]map[int64]bool{Mail: {}, Webhook: {}}
	}
	for _, id := range ids {
		s.taken[way][id] = true
	}
	return nil
}

func (s *memStore) SettleAlarms(_ context.Context, ways []Way, at time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.events {
		e := &s.events[i]
		if e.Told.IsZero() && !slices.ContainsFunc(ways, func(w Way) bool { return !s.taken[w][e.ID] }) {
			e.Told = at
		}
	}
	return nil
}

func (s *memStore) LostSince(context.Context, time.Time) (int, error) { return s.lost, nil }

func (s *memStore) told() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if !e.Told.IsZero() {
			n++
		}
	}
	return n
}

func (s *memStore) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed = err
}

// world is a Postfix and a webhook.
type world struct {
	mu     sync.Mutex
	mails  []string
	posts  []Post
	times  []time.Time // of mails
	refuse int         // so many mails are refused
	status []int       // of the next posts; none: 204

	strayed []string // requests that are no posts to the webhook
}

func (w *world) deliver(_ context.Context, from, to string, text []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if from != "postseal@own.example" || to != "admin@own.example" {
		return fmt.Errorf("from %s to %s", from, to)
	}
	if w.refuse > 0 {
		w.refuse--
		return errors.New("451 later")
	}
	w.mails, w.times = append(w.mails, string(text)), append(w.times, time.Now())
	return nil
}

func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if r.URL.Host != "hook.example" || r.Method != http.MethodPost {
		w.strayed = append(w.strayed, r.Method+" "+r.URL.String())
	}
	if len(w.status) > 0 {
		s := w.status[0]
		w.status = w.status[1:]
		if s == 0 {
			return nil, errors.New("connection refused")
		}
		return &http.Response{StatusCode: s, Header: http.Header{"Location": {"http://elsewhere.example/"}}, Body: io.NopCloser(strings.NewReader("no"))}, nil
	}
	var p Post
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		return nil, err
	}
	w.posts = append(w.posts, p)
	return &http.Response{StatusCode: 204, Body: http.NoBody}, nil
}

func (w *world) counts() (mails, posts int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.mails), len(w.posts)
}

func (w *world) sender(s *memStore, log io.Writer) *Sender {
	c := newClient()
	c.Transport = w
	return &Sender{
		Store: s, From: "postseal@own.example", To: "admin@own.example", Deliver: w.deliver,
		URL: "https://hook.example/SECRET?k=SECRET", Client: c, Host: "mx.own.example", Log: slog.New(slog.NewTextHandler(log, nil)),
	}
}

func run(t *testing.T, s *Sender) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		if err := s.Run(ctx); err != nil {
			t.Error(err)
		}
		close(done)
	}()
	return func() { cancel(); <-done }
}

func lostAt(dest string, since time.Time) probe.Event {
	return probe.Event{Dest: dest, At: since, Kind: probe.TLSLost, Detail: probe.Detail{Reason: "mx[192.0.2.1]: no STARTTLS", Since: since, Until: since}}
}

func TestAlarmsAreToldOnceByEachWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		w, store := &world{refuse: 3, status: []int{500, 302, 0, 404}}, &memStore{}
		s := w.sender(store, &log)
		stop := run(t, s)
		store.add(lostAt("a.example", time.Now()), lostAt("b.example", time.Now()))
		s.Wake()
		time.Sleep(10 * time.Minute)
		if m, p := w.counts(); m != 1 || p != 1 || store.told() != 2 {
			t.Errorf("%d mails, %d posts, %d told", m, p, store.told())
		}
		store.add(probe.Event{Dest: "a.example", Kind: probe.TLSBack})
		time.Sleep(10 * time.Minute) // nobody woke it: another process wrote
		if m, p := w.counts(); m != 2 || p != 2 || store.told() != 3 {
			t.Errorf("%d mails, %d posts, %d told", m, p, store.told())
		}
		stop()
		if strings.Contains(log.String(), "SECRET") || !strings.Contains(log.String(), "hook.example") {
			t.Errorf("log: %s", log.String())
		}
		if len(w.strayed) > 0 {
			t.Errorf("a redirect was followed: %q", w.strayed)
		}
		if p := w.posts[0]; p.Version != 1 || p.Host != "mx.own.example" || len(p.Alarms) != 2 || p.Alarms[0].ID != 1 ||
			p.Alarms[0].Dest != "a.example" || p.Alarms[0].Ends || !strings.Contains(p.Text, "b.example has lost its TLS") || p.AtOnce != 0 {
			t.Errorf("post %+v", p)
		}
		if p := w.posts[1]; len(p.Alarms) != 1 || !p.Alarms[0].Ends || p.Text != "a.example has TLS again" {
			t.Errorf("post %+v", p)
		}
	})
}

func TestOneWayDoesNotWaitForTheOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, store := &world{refuse: 1 << 30}, &memStore{}
		s := w.sender(store, io.Discard)
		stop := run(t, s)
		store.add(lostAt("a.example", time.Now()))
		s.Wake()
		time.Sleep(time.Hour)
		if m, p := w.counts(); m != 0 || p != 1 || store.told() != 0 {
			t.Errorf("%d mails, %d posts, %d told", m, p, store.told())
		}
		stop()
		// A restart: the mail is told, the webhook not again.
		w.refuse = 0
		s = w.sender(store, io.Discard)
		stop = run(t, s)
		time.Sleep(time.Hour)
		stop()
		if m, p := w.counts(); m != 1 || p != 1 || store.told() != 1 {
			t.Errorf("%d mails, %d posts, %d told", m, p, store.told())
		}
	})
}

func TestWhatCannotBeNotedIsNotToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, store := &world{}, &memStore{}
		s := w.sender(store, io.Discard)
		stop := run(t, s)
		store.fail(errors.New("disk full"))
		store.add(lostAt("a.example", time.Now()))
		s.Wake()
		time.Sleep(time.Hour)
		store.fail(nil)
		time.Sleep(time.Hour)
		stop()
		if m, p := w.counts(); m != 1 || p != 1 || store.told() != 1 {
			t.Errorf("%d mails, %d posts, %d told", m, p, store.told())
		}
	})
}

func TestWhereNobodyIsToBeToldNothingPilesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memStore{}
		s := &Sender{Store: store}
		stop := run(t, s)
		store.add(lostAt("a.example", time.Now()))
		s.Wake()
		time.Sleep(10 * time.Minute)
		stop()
		if store.told() != 1 {
			t.Error("the alarm waits for a way that may be set one day")
		}
	})
}

// A firewall that strips STARTTLS strips it everywhere: that is a few mails, and they
// say so.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, store := &world{}, &memStore{lost: 180}
		s := w.sender(store, io.Discard)
		stop := run(t, s)
		for i := range 180 { // as they are looked at again
			store.add(lostAt(fmt.Sprintf("d%d.example", i), time.Now()))
			s.Wake()
			time.Sleep(20 * time.Second)
		}
		time.Sleep(time.Hour)
		stop()
		if store.told() != 180 {
			t.Errorf("%d told", store.told())
		}
		if m, _ := w.counts(); m < 2 || m > 10 {
			t.Errorf("%d mails", m)
		}
		first, err := mail.ReadMessage(strings.NewReader(w.mails[0]))
		if err != nil {
			t.Fatal(err)
		}
		if got := first.Header.Get("Subject"); got != "[Postseal] TLS vanished at 180 destinations at once: look at your own network first" {
			t.Errorf("subject %q", got)
		}
		if p := w.posts[0]; p.AtOnce != 180 {
			t.Errorf("post %+v", p)
		}
	})
}

func TestMail(t *testing.T) {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	n := news{host: "mx.own.example", at: at, events: []probe.Event{lostAt("a.example", at)}}
	n.events[0].ID = 7
	n.events[0].Detail.Reason = "mx[192.0.2.1]: 550 größer = .\u200b"
	raw := n.mail("postseal@own.example", "admin@own.example")
	for line := range bytes.Lines(raw) {
		if !bytes.HasSuffix(line, []byte("\r\n")) || len(line) > 78 {
			t.Errorf("line %q", line)
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"From": "Postseal <postseal@own.example>", "To": "<admin@own.example>", "Auto-Submitted": "auto-generated",
		"Message-Id": "<alarm.7.1.1772366400@own.example>", "Subject": "[Postseal] a.example has lost its TLS: possible strip",
		"Date": "Sun, 01 Mar 2026 12:00:00 +0000", "Content-Type": "text/plain; charset=utf-8",
	} {
		got, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get(name))
		if err != nil || got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	text, err := io.ReadAll(quotedprintable.NewReader(m.Body))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"2026-03-01 12:00:00 UTC  a.example\r\n", "has lost its TLS, seen from 2026-03-01T12:00:00Z to 2026-03-01T12:00:00Z: possible strip",
		"größer", "never leaves in plaintext", "postseal posture show a.example", "-- \r\nPostseal at mx.own.example",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}

	n.events = nil
	for range 250 {
		n.events = append(n.events, lostAt("x.example", at))
	}
	if text := n.text(); strings.Count(text, "possible strip") != listed || !strings.Contains(text, "and 150 more") {
		t.Errorf("%d listed", strings.Count(text, "possible strip"))
	}
}

func TestCheckURL(t *testing.T) {
	tests := []struct {
		url string
		ok  bool
	}{
		{"https://hooks.example/services/T0/B0?x=y", true},
		{"https://192.0.2.1:8443/x", true},
		{"http://127.0.0.1:9000/x", true},
		{"http://[::1]/x", true},
		{"http://localhost:9000", true},
		{"http://hooks.example/x", false},
		{"http://192.0.2.1/x", false},
		{"http://localhost.example/x", false},
		{"http://127.0.0.1.example/x", false},
		{"https:///x", false},
		{"https:hooks.example", false},
		{"https://user:SECRET@hooks.example/", false},
		{"ftp://hooks.example/SECRET", false},
		{"hooks.example/SECRET", false},
		{"", false},
		{"https://hooks.example/#x", false},
		{"https://[SECRET", false},
	}
	for _, tt := range tests {
		err := CheckURL(tt.url)
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.url, err)
		}
		if err != nil && strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: the error tells all: %v", tt.url, err)
		}
	}
}
