package tlsrpt

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postseal/postseal/tlsmap/probe"
)

// postbox takes mails.
type postbox struct {
	mu   sync.Mutex
	ail  error
	got  []string // "when to"
	text []byte   // of the last
}

func (p *postbox) take(ctx context.Context, from, to string, text []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got = append(p.got, time.Now().UTC().Format("02 15:04 ")+to)
	p.text = text
	return p.ail
}

func (p *postbox) all() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

func (p *postbox) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ail = err
}

// days runs a counter and a reporter in a bubble whose clock stands at the first
// second of 2000-01-01, with the records of a.example and b.example.
type days struct {
	store   *memory
	box     *postbox
	counter *Counter
	r       *Reporter
	dns     fakeDNS
	clock   time.Duration // by which our clock is off
	cancel  func()
	ended   sync.WaitGroup
}

func newDays(t *testing.T) *days {
	d := &days{store: newMemory(), box: &postbox{}, dns: fakeDNS{
		"_smtp._tls.a.example": {`"v=TLSRPTv1;rua=mailto:r@a.example,mailto:s@a.example"`},
		"_smtp._tls.b.example": {`"v=TLSRPTv1;rua=mailto:r@b.example"`},
	}}
	d.start(t)
	return d
}

func (d *days) now() time.Time { return time.Now().Add(d.clock) }

func (d *days) start(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	d.cancel = cancel
	d.counter = &Counter{Store: d.store, Now: d.now}
	d.r = &Reporter{Store: d.store, Resolver: d.dns, From: "tls@us.example", Mail: d.box.take, Now: d.now}
	d.ended.Go(func() { d.counter.Run(ctx) })
	d.ended.Go(func() { d.r.Run(ctx) })
}

func (d *days) stop() {
	d.cancel()
	d.ended.Wait()
}

func (d *days) count(domain string, failed bool) {
	var f *Failure
	if failed {
		f = &Failure{Type: STARTTLSNotSupported}
	}
	d.counter.Add(Policy{Type: NoPolicy, Domain: domain}, f)
}

// until sleeps until a second past an hour of this month, when no timer is due, and lets
// all that was due come to its end.
func until(day, hour int) {
	time.Sleep(time.Until(time.Date(2000, 1, day, hour, 0, 1, 0, time.UTC)))
	synctest.Wait()
}

func TestDays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDays(t)
		defer d.stop()
		d.count("a.example", true)
		d.count("none.example", true)
		until(1, 23)
		d.count("a.example", false)
		if got := d.box.all(); len(got) != 0 {
			t.Fatalf("reported before the day was over: %v", got)
		}
		until(2, 5)
		d.count("b.example", true) // the next day's
		got := d.box.all()
		if len(got) != 2 || !strings.HasPrefix(got[0], "02 0") {
			t.Fatalf("reports %v", got)
		}
		for _, when := range got {
			if at := when[3:8]; at < "00:05" || at > "04:06" {
				t.Errorf("reported at %s", at)
			}
		}
		doc, err := ReadDocument(d.store.report(0).JSON)
		if err != nil || doc.Total() != (Summary{1, 1}) || doc.Range.Start.Day() != 1 || doc.Range.End.Day() != 1 {
			t.Errorf("report %+v, %v", doc, err)
		}
		if list, _ := d.store.TLSCounted(t.Context(), ""); len(list) != 0 {
			t.Errorf("left %v", list)
		}
		until(2, 23)
		d.stop() // what is counted outlives a restart
		d.start(t)
		until(3, 5)
		if got := d.box.all()[2:]; len(got) != 1 || !strings.HasSuffix(got[0], "r@b.example") {
			t.Errorf("the second day %v", got)
		}
		until(31, 0)
		time.Sleep(10 * 24 * time.Hour)
		if list, _ := d.store.TLSReports(t.Context(), ""); len(list) != 0 || len(d.box.all()) != 3 {
			t.Errorf("after weeks %v, sent %v", list, d.box.all())
		}
	})
}

// TestNight: a program that is down over midnight reports the day when it is back,
// and what was not flushed at the end of the day is not lost to the report.
func TestNight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDays(t)
		time.Sleep(24*time.Hour - 3*time.Second)
		d.count("a.example", true)
		d.stop()
		time.Sleep(30 * time.Hour)
		d.start(t)
		defer d.stop()
		time.Sleep(2 * time.Minute)
		if got := d.box.all(); len(got) != 2 {
			t.Errorf("reports %v", got)
		}
	})
}

// TestClockJumps: a clock that is set may split a day over two reports; it never
// reports anything twice nor loses it.
func TestClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{-36 * time.Hour, -time.Hour, 20 * time.Hour, 40 * 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			d := newDays(t)
			until(3, 12)
			d.count("b.example", true)
			time.Sleep(time.Minute)
			d.stop()
			d.clock = jump
			d.start(t)
			d.count("b.example", true)
			time.Sleep(96 * time.Hour)
			d.stop()
			var sum Summary
			for _, r := range d.store.reports {
				doc, err := ReadDocument(r.JSON)
				if err != nil {
					t.Fatal(err)
				}
				sum.Failed += doc.Total().Failed
			}
			if want := int64(2); sum.Failed != want && jump < 24*time.Hour {
				t.Errorf("a jump of %s: %d reported", jump, sum.Failed)
			}
			if len(d.box.all()) != len(d.store.reports) || len(d.store.reports) > 2 {
				t.Errorf("a jump of %s: mails %v", jump, d.box.all())
			}
		})
	}
}

func TestRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDays(t)
		defer d.stop()
		d.box.fail(errors.New("451 \x1b[31mbusy"))
		d.count("b.example", true)
		until(2, 6)
		if n := len(d.box.all()); n < 3 {
			t.Errorf("%d tries", n)
		}
		r := d.store.report(0)
		if r.Error != "451 ?[31mbusy" || r.Next.IsZero() {
			t.Errorf("report %+v", r)
		}
		d.box.fail(nil)
		until(2, 9)
		r = d.store.report(0)
		if r.Error != "" || !r.Next.IsZero() || r.Tries != len(d.box.all()) {
			t.Errorf("report %+v", r)
		}

		d.box.fail(errors.New("550 no"))
		d.count("b.example", true)
		until(5, 0)
		r = d.store.report(1)
		if r.Error != "550 no" || !r.Next.IsZero() || r.Tries < 10 || r.Tries > 40 {
			t.Errorf("given up: %+v", r)
		}
		n := len(d.box.all())
		until(7, 0)
		if len(d.box.all()) != n {
			t.Error("tried on")
		}
	})
}

// TestLookupFails: a domain whose record cannot be looked up is asked for again,
// for days; then its counts go.
func TestLookupFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDays(t)
		defer d.stop()
		d.dns["_smtp._tls.x.example"] = nil
		d.count("x.example", true)
		until(2, 12)
		if list, _ := d.store.TLSCounted(t.Context(), ""); len(list) != 1 {
			t.Errorf("counted %v", list)
		}
		d.stop()
		d.dns["_smtp._tls.x.example"] = []string{`"v=TLSRPTv1;rua=mailto:r@x.example"`}
		d.start(t)
		until(2, 13)
		if got := d.box.all(); len(got) != 1 {
			t.Errorf("reports %v", got)
		}
		d.stop()
		d.dns["_smtp._tls.x.example"] = nil
		d.start(t)
		d.count("x.example", true)
		until(7, 0)
		if list, _ := d.store.TLSCounted(t.Context(), ""); len(list) != 0 {
			t.Errorf("after days %v", list)
		}
	})
}

// TestStoreFails: nothing is lost by a store that fails for a while.
func TestStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDays(t)
		defer d.stop()
		set := func(err error) {
			d.store.mu.Lock()
			defer d.store.mu.Unlock()
			d.store.ail = err
		}
		set(errors.New("full"))
		d.count("b.example", true)
		until(2, 10)
		set(nil)
		until(2, 11)
		if got := d.box.all(); len(got) != 1 {
			t.Errorf("reports %v", got)
		}
	})
}

func TestDelay(t *testing.T) {
	r := &Reporter{From: "tls@us.example"}
	seen := make(map[time.Duration]bool)
	for i := range 500 {
		c := Counted{Day: "2026-11-27", Domain: fmt.Sprintf("d%d.example", i)}
		d := r.delay(c)
		if d < earliest || d >= latest || d != r.delay(c) {
			t.Fatalf("%s: %s", c.Domain, d)
		}
		seen[d.Truncate(10*time.Minute)] = true
	}
	if len(seen) < 20 {
		t.Errorf("not spread: %d", len(seen))
	}
}

func TestMakeNow(t *testing.T) {
	box := &postbox{}
	store := newMemory()
	c := &Counter{Store: store}
	r := &Reporter{Store: store, From: "tls@us.example", Mail: box.take, Resolver: fakeDNS{
		"_smtp._tls.a.example": {`"v=TLSRPTv1;rua=mailto:r@a.example"`}, "_smtp._tls.b.example": {`"v=TLSRPTv1;rua=mailto:r@b.example"`},
	}}
	for _, domain := range []string{"a.example", "b.example"} {
		c.Add(Policy{Type: NoPolicy, Domain: domain}, nil)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	today := DayOf(time.Now())
	if n, err := r.Make(t.Context(), "2020-01-01"); n != 0 || err != nil {
		t.Errorf("another day: %d, %v", n, err)
	}
	if n, err := r.Make(t.Context(), today, "A.example."); n != 1 || err != nil {
		t.Errorf("one domain: %d, %v", n, err)
	}
	if done, err := r.Send(t.Context()); len(done) != 1 || err != nil || done[0].Domain != "a.example" || done[0].Tries != 1 {
		t.Errorf("sent %+v, %v", done, err)
	}
	if n, err := r.Make(t.Context(), today); n != 1 || err != nil {
		t.Errorf("the others: %d, %v", n, err)
	}
	if done, err := r.Send(t.Context()); len(done) != 1 || err != nil || len(box.all()) != 2 {
		t.Errorf("sent %+v, %v", done, err)
	}
}

// TestShutdownSaysNothing: a report whose sending a shutdown cuts is due again.
func TestShutdownSaysNothing(t *testing.T) {
	store := newMemory()
	store.reports = []Report{{ID: "1@us.example", Day: "2026-11-27", Domain: "a.example", URI: "mailto:r@a.example", Next: noon, Created: noon}}
	store.reports[0].JSON, _ = new(Document).compressed()
	ctx, cancel := context.WithCancel(t.Context())
	r := &Reporter{Store: store, From: "tls@us.example", Now: func() time.Time { return noon }, Mail: func(ctx context.Context, _, _ string, _ []byte) error {
		cancel()
		return ctx.Err()
	}}
	if _, err := r.Send(ctx); err != nil {
		t.Fatal(err)
	}
	if got := store.reports[0]; got.Tries != 0 || got.Error != "" || !got.Next.Equal(noon) {
		t.Errorf("%+v", got)
	}
}

// TestMessage takes a mail apart as RFC 8460, section 5.3 has it.
func TestMessage(t *testing.T) {
	r := &Reporter{From: "tls@us.example", Name: "Praxis Müller", Now: func() time.Time { return noon }}
	r.init()
	d, err := r.document("2016-04-01", "company-y.example", exampleCounts(), noon)
	if err != nil {
		t.Fatal(err)
	}
	z, _ := d.compressed()
	text, err := r.message(&Report{ID: d.ID, Day: "2016-04-01", Domain: "company-y.example", JSON: z}, "reports@company-y.example")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(string(text), "\r\n"), "\r\n") {
		if len(line) > 998 || !ascii(line) {
			t.Errorf("line %q", line)
		}
	}
	m, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{
		"Subject":              "Report Domain: company-y.example Submitter: us.example Report-ID: <" + d.ID + ">",
		"TLS-Report-Domain":    "company-y.example",
		"TLS-Report-Submitter": "us.example",
		"To":                   "reports@company-y.example",
		"From":                 "=?utf-8?q?Praxis_M=C3=BCller?= <tls@us.example>",
		"Auto-Submitted":       "auto-generated",
		"Mime-Version":         "1.0",
		"Date":                 "Fri, 27 Nov 2026 12:00:00 UTC",
	} {
		if got := m.Header.Get(field); got != want && field != "Date" {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	if at, err := m.Header.Date(); err != nil || !at.Equal(noon) {
		t.Errorf("Date %v, %v", at, err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "tlsrpt" {
		t.Fatalf("%s %v, %v", kind, params, err)
	}
	parts := multipart.NewReader(m.Body, params["boundary"])
	p, err := parts.NextPart()
	if err != nil || !strings.HasPrefix(p.Header.Get("Content-Type"), "text/plain") {
		t.Fatalf("first part %v, %v", p, err)
	}
	if said, _ := io.ReadAll(p); !strings.Contains(string(said), "5326 succeeded, 303 failed") {
		t.Errorf("said %q", said)
	}
	p, err = parts.NextPart()
	if err != nil || p.Header.Get("Content-Type") != "application/tlsrpt+gzip" {
		t.Fatalf("second part %v, %v", p, err)
	}
	if name := p.FileName(); name != "us.example!company-y.example!1459468800!1459555199!"+strings.TrimSuffix(d.ID, "@us.example")+".json.gz" {
		t.Errorf("file name %s", name)
	}
	got, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, p))
	if err != nil || !bytes.Equal(got, z) {
		t.Errorf("the attachment differs, %v", err)
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("a third part, %v", err)
	}
	if back, err := ReadDocument(got); err != nil || cmp.Diff(d, back) != "" {
		t.Errorf("read: %v", err)
	}
}

var _ Resolver = (*probe.Resolver)(nil)
