package escrow_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/escrow"
)

func (b *bench) held() (total int64) {
	b.t.Helper()
	usage, err := b.db.Usage(b.t.Context())
	b.must(err)
	for _, n := range usage {
		total += n
	}
	return total
}

// from seals a message of 1000 bytes.
func (b *bench) from(sender string, i int) error {
	m := message(append(bytes.Repeat([]byte("x"), 990), fmt.Sprintf("%010d", i)...))
	m.Sender = sender
	_, err := b.Seal(b.t.Context(), m)
	return err
}

func TestQuotas(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	b.Vault = b.vault(b.keys, func(o *escrow.Options) { o.Quota = escrow.Quota{Total: 6000, Domain: 3000} })
	for i := range 3 {
		b.must(b.from("doc@clinic.example", i))
	}
	var full *escrow.QuotaError
	if err := b.from("Other@Clinic.Example", 3); !errors.As(err, &full) || full.Total || full.Domain != "clinic.example" || full.Used != 3000 || full.Needs != 1000 {
		t.Fatalf("beyond the domain's quota: %v", err)
	}
	if n := b.held(); n != 3000 {
		t.Errorf("%d bytes are held after a refusal", n)
	}
	if list, _ := b.List(ctx, escrow.Filter{}); len(list) != 3 {
		t.Errorf("%d messages after a refusal", len(list))
	}
	b.must(b.from("a@law.example", 4), "another domain")
	b.must(b.from("", 5), "the null sender")
	b.must(b.from("", 6))
	if err := b.from("a@third.example", 7); !errors.As(err, &full) || !full.Total {
		t.Fatalf("beyond the total: %v", err)
	}
	// Room is made by what ends, but not by what is on hold.
	list, err := b.List(ctx, escrow.Filter{Sender: "a@law.example"})
	b.must(err)
	b.must(b.Hold(ctx, list[0].ID, "case"))
	b.must(b.Retract(ctx, list[0].ID, ""))
	if err := b.from("a@third.example", 7); !errors.As(err, &full) {
		t.Errorf("what is on hold takes no room: %v", err)
	}
	b.must(b.Release(ctx, list[0].ID, "closed"))
	b.must(b.from("a@third.example", 7), "the refused message, tried again:")
	b.pass(escrow.DefaultLifetime)
	_, err = b.Expire(ctx)
	b.must(err)
	if n := b.held(); n != 0 {
		t.Errorf("%d bytes are held after all has expired", n)
	}
	b.pass(100 * 24 * time.Hour)
	_, err = b.Expire(ctx)
	b.must(err)
	if n := b.held(); n != 0 {
		t.Errorf("%d bytes are held after all is forgotten", n)
	}
}

func TestParallelSealingDoesNotExceedAQuota(t *testing.T) {
	b := newBench(t)
	b.Vault = b.vault(b.keys, func(o *escrow.Options) { o.Quota = escrow.Quota{Domain: 5000} })
	var wg sync.WaitGroup
	var mu sync.Mutex
	sealed := 0
	for i := range 20 {
		wg.Go(func() {
			err := b.from("doc@clinic.example", i)
			var full *escrow.QuotaError
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				sealed++
			} else if !errors.As(err, &full) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := b.held(); sealed != 5 || n != 5000 {
		t.Errorf("%d messages, %d bytes: want 5 and 5000", sealed, n)
	}
}

func TestTheAdministratorIsWarnedOfAQuota(t *testing.T) {
	b := newBench(t)
	reg := prometheus.NewRegistry()
	b.Vault = b.vault(b.keys, func(o *escrow.Options) { o.Quota, o.Registerer = escrow.Quota{Total: 100_000, Domain: 5000}, reg })
	warned := func() int { return strings.Count(b.logs.String(), "a quota of sealed messages is used by") }
	for i, want := range []int{0, 0, 0, 1, 2} { // of 5: the fourth makes 80 %, the fifth 100 %
		b.must(b.from("doc@clinic.example", i))
		for range 2 {
			b.must(b.WatchQuotas(t.Context()))
		}
		if n := warned(); n != want {
			t.Errorf("after %d messages: warned %d times, want %d", i+1, n, want)
		}
	}
	if err := b.from("doc@clinic.example", 9); err == nil {
		t.Fatal("not refused")
	}
	for metric, want := range map[string]float64{
		"postseal_escrow_held_bytes": 5000, "postseal_escrow_quota_refusals_total": 1, "postseal_escrow_quota_used_ratio": 1,
	} {
		sum := 0.0
		got := metricOf(t, reg, metric)
		for _, v := range got {
			sum += v
		}
		if len(got) == 0 || sum != want {
			t.Errorf("%s is %v, want %v", metric, got, want)
		}
	}
	list, err := b.List(t.Context(), escrow.Filter{})
	b.must(err)
	for _, l := range list[:3] {
		b.must(b.Retract(t.Context(), l.ID, ""))
	}
	b.must(b.WatchQuotas(t.Context()))
	if got := metricOf(t, reg, "postseal_escrow_quota_used_ratio"); len(got) != 0 {
		t.Errorf("still near its quota: %v", got)
	}
}

// metricOf returns the values of a metric.
func metricOf(t *testing.T, reg *prometheus.Registry, name string) (values []float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			values = append(values, m.GetGauge().GetValue()+m.GetCounter().GetValue())
		}
	}
	return values
}

// TestReplyFilesTakeWhatMessagesLeave: a recipient can't fill the disk with drafts and replies,
// nor keep messages from being sealed by them.
func TestReplyFilesTakeWhatMessagesLeave(t *testing.T) {
	b, p, s := answering(t, nil)
	ctx := t.Context()
	b.Vault = b.vault(b.keys, func(o *escrow.Options) {
		o.Quota = escrow.Quota{Total: b.held() + 5000}
		o.Replies = escrow.ReplyOptions{Size: 1 << 20, SpoolDir: b.dir}
	})
	add := func(n int) (*escrow.Reply, error) {
		return b.AddFile(ctx, p, s, "f", "", strings.NewReader(strings.Repeat("x", n)))
	}
	r, err := add(4000)
	b.must(err)
	var full *escrow.QuotaError
	if _, err := add(2000); !errors.As(err, &full) || !full.Total {
		t.Fatalf("beyond the total: %v", err)
	}
	if r.Size != 4000 || b.count(`SELECT count(*) FROM escrow_reply_chunk`) != 1 || b.count(`SELECT sum(size) FROM escrow_reply`) != 4000 {
		t.Error("something of the file is left")
	}
	for i := range 4 { // they are not held up
		b.must(b.from("doc@clinic.example", i))
	}
	if _, err := add(500); !errors.As(err, &full) {
		t.Errorf("where messages have taken the rest: %v", err)
	}
	_, err = b.RemoveFile(ctx, p, s, r.Files[0].N)
	b.must(err)
	if _, err := add(900); err != nil {
		t.Errorf("what was removed counts: %v", err)
	}
	_, err = b.SendReply(ctx, p, s)
	b.must(err)
	if _, err := add(500); !errors.As(err, &full) {
		t.Errorf("a reply that waits does not count: %v", err)
	}
}
