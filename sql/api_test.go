package sql

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postseal/postseal/escrow/submit"
)

var apiDay = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)

func addKey(t *testing.T, db *DB, until time.Time, senders ...string) (submit.Key, string) {
	t.Helper()
	k, secret, err := submit.NewKey(senders, "'; DROP TABLE api_key --", until, apiDay)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.AddAPIKey(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	return k, secret
}

func TestAPIKeysComeBackAsTheyWere(t *testing.T) {
	db := openTest(t)
	one, secret := addKey(t, db, time.Time{}, "lab@own.example", "@ward.own.example")
	two, ending := addKey(t, db, apiDay.Add(time.Hour), "*")
	got, err := db.APIKey(t.Context(), submit.HashKey(secret), apiDay)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(one, *got); diff != "" {
		t.Error(diff)
	}
	for _, tt := range []struct {
		name   string
		secret string
		now    time.Time
		want   error
	}{
		{"another key", secret + "x", apiDay, submit.ErrNoKey},
		{"no key", "", apiDay, submit.ErrNoKey},
		{"before its end", ending, apiDay.Add(time.Hour - 1000), nil},
		{"at its end", ending, apiDay.Add(time.Hour), submit.ErrNoKey},
	} {
		if _, err := db.APIKey(t.Context(), submit.HashKey(tt.secret), tt.now); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	all, err := db.APIKeys(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("%d keys: %v", len(all), err)
	}
	for _, k := range all {
		if k.Used.IsZero() {
			t.Errorf("that %s was used is not noted", k.ID)
		}
	}
	used := all[0].Used
	if _, err := db.APIKey(t.Context(), submit.HashKey(secret), used.Add(keyUsed)); err != nil {
		t.Fatal(err)
	}
	if all, _ = db.APIKeys(t.Context()); !all[0].Used.Equal(used) {
		t.Error("each request writes")
	}
	for _, want := range []bool{true, false} {
		if removed, err := db.RemoveAPIKey(t.Context(), two.ID); err != nil || removed != want {
			t.Errorf("removed %v: %v", removed, err)
		}
	}
	if _, err := db.APIKey(t.Context(), submit.HashKey(ending), apiDay); !errors.Is(err, submit.ErrNoKey) {
		t.Errorf("a key that was removed: %v", err)
	}
}

func TestRequestsAreKnownAgain(t *testing.T) {
	db := openTest(t)
	key, _ := addKey(t, db, time.Time{}, "*")
	other, _ := addKey(t, db, time.Time{}, "*")
	const keep = 24 * time.Hour
	begin := func(key, name, digest string, at time.Time) submit.Answered {
		t.Helper()
		got, err := db.BeginRequest(t.Context(), submit.Answered{Key: key, Idempotency: name, Digest: []byte(digest), Created: at}, keep)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := begin(key.ID, "order 66", "d1", apiDay)
	if first.Answer != nil || !first.Created.Equal(apiDay) || string(first.Digest) != "d1" {
		t.Errorf("the first: %+v", first)
	}
	again := begin(key.ID, "order 66", "d2", apiDay.Add(time.Minute))
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("again: %s", diff)
	}
	if got := begin(other.ID, "order 66", "d3", apiDay); string(got.Digest) != "d3" {
		t.Errorf("another key's: %+v", got)
	}
	first.Answer = []byte(`{"a":1}`)
	if err := db.EndRequest(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	if got := begin(key.ID, "order 66", "d1", apiDay.Add(keep)); !bytes.Equal(got.Answer, first.Answer) {
		t.Errorf("its answer: %+v", got)
	}
	if got := begin(other.ID, "order 66", "d3", apiDay); got.Answer != nil {
		t.Error("another key got the answer")
	}
	late := apiDay.Add(keep + time.Second)
	if got := begin(key.ID, "order 66", "d4", late); got.Answer != nil || !got.Created.Equal(late) {
		t.Errorf("one that is forgotten: %+v", got)
	}
	if _, err := db.RemoveAPIKey(t.Context(), key.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := db.BeginRequest(t.Context(), submit.Answered{Key: key.ID, Idempotency: "x", Digest: []byte("d"), Created: late}, keep); err == nil {
		t.Error("a request under a key that is gone")
	}
}

// Of requests of one name that come at once, all learn of the same one.
func TestOneRequestComesFirst(t *testing.T) {
	db := openTest(t)
	key, _ := addKey(t, db, time.Time{}, "*")
	var all sync.WaitGroup
	got := make([]time.Time, 8)
	for i := range got {
		all.Go(func() {
			a, err := db.BeginRequest(context.Background(), submit.Answered{Key: key.ID, Idempotency: "x", Digest: []byte{1}, Created: apiDay.Add(time.Duration(i) * time.Second)}, time.Hour)
			if err != nil {
				t.Error(err)
			}
			got[i] = a.Created
		})
	}
	all.Wait()
	for _, at := range got {
		if !at.Equal(got[0]) {
			t.Errorf("two were first: %v", got)
		}
	}
}
