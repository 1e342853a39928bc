package policy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func triggers(t testing.TB, list ...*Trigger) *Triggers {
	t.Helper()
	s, err := NewTriggers(nil, list, "+")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTriggersFire(t *testing.T) {
	s := triggers(t,
		&Trigger{ID: 1, Kind: OnSubject, Pattern: "[secure]", Sender: "clinic.example", Requirement: Encryption},
		&Trigger{ID: 2, Kind: OnSubject, Pattern: "/^Secret:/", Sender: "*", Requirement: EscrowOnly},
		&Trigger{ID: 3, Kind: OnHeader, Header: "x-secure", Pattern: "yes", Sender: "doc@clinic.example", Requirement: ForcedTLS},
		&Trigger{ID: 4, Kind: OnSensitivity, Pattern: "company-confidential", Sender: ".clinic.example", Requirement: Encryption},
		&Trigger{ID: 5, Kind: OnSensitivity, Pattern: "any", Sender: "<>", Requirement: Encryption},
		&Trigger{ID: 6, Kind: OnSubject, Pattern: "[over]", Sender: "*", Requirement: Encryption, Until: now},
		&Trigger{ID: 7, Kind: OnSubject, Pattern: "[still]", Sender: "*", Requirement: Encryption, Until: now.Add(1)},
	)
	tests := []struct{ name, value, sender, want string }{
		{"Subject", "a [Secure] b", "a@clinic.example", "1"},
		{"SUBJECT", b64("utf-8", "ä [secure]"), "a@CLINIC.example", "1"},
		{"Subject", "[secure]", "a@other.example", "-1"},
		{"Subject", "[secure]", "a@sub.clinic.example", "-1"},
		{"Subject", "Secret: [secure]", "a@other.example", "-1 2"},
		{"Subject", "Secret: [secure]", "", "-1 2"},
		{"Subject", "[over] [still]", "a@b.example", "7"},
		{"X-Secure", " YES\r\n", "DOC@clinic.example", "3"},
		{"X-Secure", "yes", "doc+x@clinic.example", "3"},
		{"X-Secure", "=?utf-8?B?eWVz?=", "a@clinic.example", "-3"},
		{"X-Secure", "no", "doc@clinic.example", ""},
		{"X-Secured", "yes", "doc@clinic.example", ""},
		{"Sensitivity", "Company-Confidential", "a@x.clinic.example", "4 -5"},
		{"Sensitivity", " company confidential (says the boss)\r\n", "a@x.clinic.example", "4 -5"},
		{"Sensitivity", "CompanyConfidential", "", "-4 5"},
		{"Sensitivity", "private", "", "5"},
		{"Sensitivity", "Private", "a@x.clinic.example", "-5"},
		{"Sensitivity", "normal", "", ""},
		{"Sensitivity", " ", "", ""},
		{"Sensitivity", "(", "", "5"},
	}
	for _, tt := range tests {
		sender, err := ParseAddress(tt.sender)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		fired := s.Match(tt.name, tt.value, sender, now)
		for _, f := range fired {
			id := fmt.Sprint(f.ID)
			if f.Rule == nil {
				id = "-" + id
			} else if f.Rule.Requirement != f.Requirement || f.Rule.Scope != ByContent {
				t.Errorf("rule %+v of trigger %+v", f.Rule, f.Trigger)
			}
			got = append(got, id)
		}
		if g := strings.Join(got, " "); g != tt.want {
			t.Errorf("%s: %s by <%s> sets off %q, want %q", tt.name, tt.value, tt.sender, g, tt.want)
		}
		if len(ExplainFired(fired)) != len(fired) {
			t.Errorf("%s: %s is not explained", tt.name, tt.value)
		}
	}
}

func TestTriggersThatAreRefused(t *testing.T) {
	for name, tr := range map[string]*Trigger{
		"requires nothing":           {Pattern: "x", Sender: "*"},
		"no sender":                  {Pattern: "x", Requirement: Encryption},
		"sender not canonical":       {Pattern: "x", Sender: "Clinic.example", Requirement: Encryption},
		"matches everything":         {Pattern: "/x*/", Sender: "*", Requirement: Encryption},
		"two lines":                  {Pattern: "x\ny", Sender: "*", Requirement: Encryption},
		"subject with a field":       {Pattern: "x", Header: "x", Sender: "*", Requirement: Encryption},
		"field without a name":       {Kind: OnHeader, Pattern: "x", Sender: "*", Requirement: Encryption},
		"field in capitals":          {Kind: OnHeader, Header: "X-A", Pattern: "x", Sender: "*", Requirement: Encryption},
		"a field of MIME":            {Kind: OnHeader, Header: "content-type", Pattern: "x", Sender: "*", Requirement: Encryption},
		"a field that Postfix drops": {Kind: OnHeader, Header: "bcc", Pattern: "x", Sender: "*", Requirement: Encryption},
		"our own field":              {Kind: OnHeader, Header: "x-postseal-requirement", Pattern: "x", Sender: "*", Requirement: Encryption},
		"a name with a colon":        {Kind: OnHeader, Header: "x:y", Pattern: "x", Sender: "*", Requirement: Encryption},
		"unknown sensitivity":        {Kind: OnSensitivity, Pattern: "loud", Sender: "*", Requirement: Encryption},
		"sensitivity removed":        {Kind: OnSensitivity, Pattern: "private", Sender: "*", Requirement: Encryption, Remove: true},
		"unknown kind":               {Kind: 9, Pattern: "x", Sender: "*", Requirement: Encryption},
		"note of two lines":          {Pattern: "x", Sender: "*", Requirement: Encryption, Note: "a\nb"},
	} {
		if err := tr.Validate(); err == nil {
			t.Errorf("%s: took %+v", name, tr)
		}
		if _, err := NewTriggers(nil, []*Trigger{tr}, ""); err == nil {
			t.Errorf("%s: made a set with it", name)
		}
	}
}

// TestSendersAreCoveredAsByRules holds that a trigger's sender pattern covers the
// addresses that a sender rule's does.
func TestSendersAreCoveredAsByRules(t *testing.T) {
	addresses := []string{"", "a@b.example", "A@B.example", "a+x@b.example", "+x@b.example", "a@c.b.example", "a@b.example.", "a@[192.0.2.1]", "a@[IPv6:2001:DB8::1]", "a", "owner-l@b.example", "é@bücher.example", "É@xn--bcher-kva.example", "x@ab.example"}
	patterns := []string{"*", "<>", "a@b.example", "a+x@b.example", "@b.example", "@.b.example", "@.example", "@[192.0.2.1]", "@[IPv6:2001:db8::1]", "é@bücher.example", "@bücher.example"}
	for _, typed := range patterns {
		p, err := CanonicalPattern(BySender, typed)
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewSnapshot(1, []*Rule{{Scope: BySender, Pattern: p, Requirement: Encryption}}, "+")
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			addr, err := ParseAddress(a)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := coversSender(p, addr, "+"), !s.Lookup(BySender, addr, now).None(); got != want {
				t.Errorf("%s covers <%s>: %v, by a rule: %v", typed, a, got, want)
			}
		}
	}
}

// TestTriggersDoNotWeaken holds that what a message requires only grows with the
// triggers, that their order does not matter, and that it is the same whoever else may
// use them.
func TestTriggersDoNotWeaken(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	pick := func(from ...string) string { return from[rnd.IntN(len(from))] }
	allowed := func(list []*Trigger, fields [][2]string, sender Address) Channels {
		s := triggers(t, list...)
		var fired []Fired
		for _, f := range fields {
			fired = append(fired, s.Match(f[0], f[1], sender, now)...)
		}
		v := Decide(Input{Content: Rules(fired), Now: now})
		return v.Allowed
	}
	for range 3000 {
		var list []*Trigger
		for range rnd.IntN(6) {
			tr := &Trigger{Kind: TriggerKind(rnd.IntN(3)), Sender: pick("*", "<>", "b.example", "a@b.example", ".example"), Requirement: Requirement(1 + rnd.IntN(3))}
			switch tr.Kind {
			case OnSubject:
				tr.Pattern = pick("x", "y", "/^x$/", "x y")
			case OnHeader:
				tr.Header, tr.Pattern = pick("x-a", "x-b"), pick("x", "y")
			case OnSensitivity:
				tr.Pattern = pick("private", "any")
			}
			tr.Remove = tr.Kind != OnSensitivity && rnd.IntN(2) == 0
			list = append(list, tr)
		}
		var fields [][2]string
		for range rnd.IntN(4) {
			fields = append(fields, [2]string{pick("Subject", "X-A", "x-b", "Sensitivity"), pick("x", "y", "x y", "private", "personal")})
		}
		sender, _ := ParseAddress(pick("", "a@b.example", "c@b.example", "a@d.example"))
		all := allowed(list, fields, sender)
		shuffled := slices.Clone(list)
		rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if got := allowed(shuffled, fields, sender); got != all {
			t.Fatalf("%v in another order: %s, else %s", list, got, all)
		}
		var theirs []*Trigger
		for i, tr := range list {
			if without := allowed(slices.Delete(slices.Clone(list), i, i+1), fields, sender); !all.In(without) {
				t.Fatalf("%s added %s to %s", tr, all&^without, without)
			}
			if coversSender(tr.Sender, sender, "+") {
				theirs = append(theirs, tr)
			}
		}
		if got := allowed(theirs, fields, sender); got != all {
			t.Fatalf("without the triggers of others: %s, else %s", got, all)
		}
	}
}

// TestPostfixSeesEveryTrigger holds that no header field that sets off a trigger is
// passed over by Postfix's table, and that what does not require encryption of everybody
// for good is left to the splitter to decide.
func TestPostfixSeesEveryTrigger(t *testing.T) {
	list := []*Trigger{
		{Kind: OnSubject, Pattern: "[all]", Sender: "*", Requirement: Encryption, Remove: true},
		{Kind: OnSubject, Pattern: "[clinic]", Sender: "clinic.example", Requirement: Encryption},
		{Kind: OnSubject, Pattern: "[escrow]", Sender: "*", Requirement: EscrowOnly},
		{Kind: OnSubject, Pattern: "[until]", Sender: "*", Requirement: Encryption, Until: now.Add(time.Hour)},
		{Kind: OnHeader, Header: "x-se.cure/a", Pattern: "yes", Sender: "*", Requirement: Encryption},
		{Kind: OnHeader, Header: "msip_labels", Pattern: "secret", Sender: "*", Requirement: Encryption},
		{Kind: OnSensitivity, Pattern: "private", Sender: "*", Requirement: Encryption},
	}
	s := triggers(t, list...)
	want := map[string]string{
		"Subject: [all] x": "FILTER escrow:e", "Subject: [clinic] x": "FILTER escrow:d", "Subject: [escrow]": "FILTER escrow:d", "subject: [until]": "FILTER escrow:d",
		"Subject: " + b64("utf-8", "[all]"): "FILTER escrow:d", "Subject: x": "", "X-Se.cure/A: no": "FILTER escrow:d", "X-Seccure/A: yes": "", "MSIP_Labels: a=secret": "FILTER escrow:d",
		"Sensitivity: Private": "FILTER escrow:d", "Insensitivity: private": "", "X: Sensitivity: private": "",
	}
	var fields []string
	for f := range want {
		fields = append(fields, f)
	}
	for i, got := range postmap(t, s, fields) {
		if got != want[fields[i]] {
			t.Errorf("%q: Postfix says %q, want %q", fields[i], got, want[fields[i]])
		}
		name, value, _ := strings.Cut(fields[i], ":")
		if fired := s.Match(name, value, Address{}, now); len(fired) > 0 && got == "" {
			t.Errorf("%q sets off %s, and Postfix passes it over", fields[i], fired[0].What())
		}
	}
}
