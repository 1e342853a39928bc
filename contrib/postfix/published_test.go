package postfix

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

// TestYieldingEntries: entries of the administrator's own that were the last word before
// Postseal verified by what is published are named, with what takes their place.
func TestYieldingEntries(t *testing.T) {
	const tables = "broken.example may\n.broken.example none\nexpired.example encrypt protocols=>=TLSv1.2\n" +
		"kept.example secure match=mx.example\ndane.example dane\n[host.example]:25 may\n"
	p := config(t, "", "")
	lmdb := table(t, p, "theirs", tables)
	override(t, p, "main.cf", "smtp_tls_policy_maps = proxy:"+lmdb+", pcre:/nonexistent\n")
	age(t, p)
	o := options(t)
	var out bytes.Buffer
	o.Out = &out
	setup(t, p, o)
	all := func(pattern string) string { return "postseal domain add " + pattern + " --require none" }
	if s := out.String(); !strings.Contains(s, "broken.example may") || !strings.Contains(s, "--override --until DATE --note REASON") {
		t.Errorf("setup: %s", s)
	}
	now := time.Now()
	rule := func(pattern string, until time.Time) *policy.Rule {
		return &policy.Rule{Scope: policy.ByRecipient, Pattern: pattern, Override: true, Note: "x", Created: now.Add(-48 * time.Hour), Until: until}
	}
	check := func(o CheckOptions, rules ...*policy.Rule) string {
		t.Helper()
		snapshot, err := policy.NewSnapshot(1, rules, "+")
		if err != nil {
			t.Fatal(err)
		}
		o.Rules = snapshot
		found, err := p.Check(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(found, func(f Finding) bool { return f.ID == "own-entry" })
		if i < 0 {
			return ""
		}
		if found[i].Severity != Warn {
			t.Errorf("%+v", found[i])
		}
		return found[i].What + " " + found[i].Fix
	}
	s := check(CheckOptions{Options: o})
	for _, want := range []string{"broken.example may", ".broken.example none", "expired.example encrypt"} {
		if !strings.Contains(s, want) {
			t.Errorf("%s is not in %q", want, s)
		}
	}
	for _, not := range []string{"kept.example", "dane.example", "host.example"} {
		if strings.Contains(s, not) {
			t.Errorf("%s is in %q", not, s)
		}
	}
	later := now.Add(24 * time.Hour)
	s = check(CheckOptions{Options: o}, rule("broken.example", later), rule(".broken.example", later), rule("expired.example", now.Add(-time.Hour)))
	if strings.Contains(s, "broken.example may") || !strings.Contains(s, all("expired.example")+" --level encrypt") {
		t.Errorf("with overrides: %q", s)
	}
	if s := check(CheckOptions{Options: o}, rule("broken.example", later), rule(".broken.example", later), rule("expired.example", later)); s != "" {
		t.Errorf("with all overrides: %q", s)
	}
	o.DANE, o.STS = false, false
	if s := check(CheckOptions{Options: o}); s != "" {
		t.Errorf("verifies nothing: %q", s)
	}
}
