package policy

import (
	"testing"
	"time"
)

func TestLifetimesOfSeveralRules(t *testing.T) {
	const day, setting = 24 * time.Hour, 30 * 24 * time.Hour
	for _, c := range []struct {
		name  string
		rules []Lifetimes
		want  time.Duration
	}{
		{"none", nil, setting},
		{"one", []Lifetimes{{Usual: 7 * day}}, 7 * day},
		{"the shorter", []Lifetimes{{Usual: 7 * day}, {Usual: 3 * day}, {}}, 3 * day},
		{"a longer one than the setting", []Lifetimes{{Usual: 90 * day}}, 90 * day},
		{"a maximum bounds the setting", []Lifetimes{{Max: 5 * day}}, 5 * day},
		{"a maximum bounds another's", []Lifetimes{{Usual: 90 * day}, {Max: 60 * day}, {Max: 80 * day}}, 60 * day},
		{"a minimum lifts the setting", []Lifetimes{{Min: 40 * day}}, 40 * day},
		{"a minimum lifts another's", []Lifetimes{{Usual: day}, {Min: 4 * day}, {Min: 2 * day}}, 4 * day},
		{"a contradiction", []Lifetimes{{Min: 40 * day}, {Max: 10 * day}}, 10 * day},
	} {
		var forth, back Lifetimes
		for i := range c.rules {
			forth = forth.With(c.rules[i])
			back = back.With(c.rules[len(c.rules)-1-i])
		}
		if forth != back {
			t.Errorf("%s: depends on the order: %v, %v", c.name, forth, back)
		}
		if got := forth.Of(setting); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}

func TestDecideTakesTheStrictestLifetime(t *testing.T) {
	v := Decide(Input{
		Recipient: (&Rule{Scope: ByRecipient, Pattern: "b.example", Requirement: EscrowOnly, Life: Lifetimes{Usual: 48 * time.Hour, Max: 96 * time.Hour}}).Found(),
		Sender:    (&Rule{Scope: BySender, Pattern: "a.example", Requirement: Encryption, Life: Lifetimes{Usual: 24 * time.Hour, Max: 72 * time.Hour, Min: time.Hour}}).Found(),
	})
	if want := (Lifetimes{Usual: 24 * time.Hour, Min: time.Hour, Max: 72 * time.Hour}); v.Life != want {
		t.Errorf("%v, want %v", v.Life, want)
	}
}

func TestLifetimesOfARuleAreChecked(t *testing.T) {
	const h = time.Hour
	for _, c := range []struct {
		l  Lifetimes
		ok bool
	}{
		{Lifetimes{}, true},
		{Lifetimes{Usual: h, Min: h, Max: h}, true},
		{Lifetimes{Min: 2 * h, Max: h}, false},
		{Lifetimes{Usual: h, Min: 2 * h}, false},
		{Lifetimes{Usual: 2 * h, Max: h}, false},
		{Lifetimes{Usual: -h}, false},
		{Lifetimes{Max: time.Millisecond}, false},
		{Lifetimes{Usual: 11 * 366 * 24 * h}, false},
	} {
		if err := c.l.Validate(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.l, err)
		}
	}
}
