package policyd

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/postseal/postseal/policyd/policy"
)

// step is one question and the start of its answer.
type step struct {
	state, recipient string
	want             string
}

func rcpt(recipient, want string) step { return step{"RCPT", recipient, want} }

func TestTransactions(t *testing.T) {
	const (
		secure = "FILTER securesmtp:"
		forced = "FILTER forcedsmtp:"
		eom    = "END-OF-MESSAGE"
	)
	tests := []struct {
		name          string
		sender, login string
		steps         []step
		change        func(*Config)
	}{
		{name: "nothing is required", sender: "a@plain.example", steps: []step{
			rcpt("b@plain.example", "DUNNO"), rcpt("c@tls.example", "DUNNO"), {"DATA", "", "DUNNO"}, {eom, "", "DUNNO"}}},
		{name: "a recipient rule is the table's business", sender: "a@plain.example", steps: []step{
			rcpt("b@bank.example", "DUNNO"), rcpt("b@hop.example", "DUNNO"), {"DATA", "", "DUNNO"}}},
		{name: "other states", sender: "a@clinic.example", steps: []step{
			{"MAIL", "", "DUNNO"}, {"VRFY", "b@tls.example", "DUNNO"}, {"ETRN", "", "DUNNO"}, {"CONNECT", "", "DUNNO"}, {"EHLO", "", "DUNNO"}}},
		{name: "all by TLS, no extra hop", sender: "a@clinic.example", steps: []step{
			rcpt("b@tls.example", secure), rcpt("c@other.example", secure), {"DATA", "", secure}, {eom, "", secure}}},
		{name: "case and a trailing dot do not hide a sender", sender: "A@CLINIC.example.", steps: []step{rcpt("b@tls.example", secure)}},
		{name: "a bare sender is of $myorigin", sender: "root", steps: []step{rcpt("b@tls.example", secure)}},
		{name: "a sender with the percent hack", sender: "a%clinic.example", change: func(c *Config) { c.Origin = "plain.example" }, steps: []step{rcpt("b@tls.example", secure)}},
		{name: "a sender with the percent hack, quoted", sender: "a%plain.example", steps: []step{rcpt("b@tls.example", secure)}},
		{name: "a sender by bang path", sender: "clinic.example!a", change: func(c *Config) { c.Origin = "plain.example" }, steps: []step{rcpt("b@tls.example", secure)}},
		{name: "the null sender", sender: "", steps: []step{rcpt("b@tls.example", "DUNNO")}},
		{name: "the null sender of a login", sender: "", login: "drsmith", steps: []step{rcpt("b@tls.example", secure)}},
		{name: "no TLS: splitter, which stays", sender: "a@clinic.example", steps: []step{
			rcpt("b@tls.example", secure), rcpt("c@notls.example", toEncryption), rcpt("d@tls.example", toEncryption), {"DATA", "", toEncryption}, {eom, "", toEncryption}}},
		{name: "TLS lost just now waits for it", sender: "a@clinic.example", steps: []step{rcpt("b@lost.example", secure)}},
		{name: "TLS broken by our probe alone is tried", sender: "a@clinic.example", steps: []step{rcpt("b@broken.example", secure)}},
		{name: "an own recipient may be an alias", sender: "a@clinic.example", steps: []step{
			rcpt("b@tls.example", secure), rcpt("joe@own.example", toEncryption), {eom, "", toEncryption}}},
		{name: "a bare recipient is own", sender: "a@clinic.example", steps: []step{rcpt("postmaster", toEncryption)}},
		{name: "a bare recipient that may be routed", sender: "a@clinic.example", steps: []step{rcpt("b%tls.example", toEncryption)}},
		{name: "routing through an own domain", sender: "a@clinic.example", steps: []step{
			rcpt("b@tls.example", secure), rcpt("b%plain.example@own.example", "REJECT 5.7.1 sender-specified"), rcpt("plain.example!b@own.example", "REJECT 5.7.1"),
			rcpt("b@plain.example@own.example", "REJECT 5.7.1"), rcpt("d@tls.example", secure)}},
		{name: "signs in a remote local part route nothing", sender: "a@clinic.example", steps: []step{rcpt("b%c@tls.example", secure)}},
		{name: "forced sender", sender: "a@forced.example", steps: []step{
			rcpt("b@tls.example", forced), rcpt("c@own.example", toForced), rcpt("b@tls.example", toForced), {"DATA", "", toForced}}},
		{name: "forced sender, no TLS: waits", sender: "a@forced.example", steps: []step{rcpt("b@notls.example", forced)}},
		{name: "escrow sender", sender: "a@vault.example", steps: []step{rcpt("b@tls.example", toEscrow), {"DATA", "", toEscrow}}},
		{name: "a recipient rule narrows the road", sender: "a@clinic.example", steps: []step{
			rcpt("b@bank.example", forced), rcpt("c@bank.example", forced), rcpt("d@tls.example", toEncryption)}},
		{name: "a rule for the escrow", sender: "a@clinic.example", steps: []step{rcpt("secret@mixed.example", toEncryption)}},
		{name: "next-hops differ", sender: "a@clinic.example", steps: []step{
			rcpt("b@hop.example", "FILTER securesmtp:[10.0.0.5]:25"), rcpt("c@hop.example", "FILTER securesmtp:[10.0.0.5]:25"), rcpt("b@tls.example", toEncryption), rcpt("c@hop.example", toEncryption)}},
		{name: "the administrator's road", sender: "a@clinic.example", steps: []step{
			rcpt("b@relayed.example", "FILTER securesmtp:[relay.example]:587"), {eom, "", "FILTER securesmtp:[relay.example]:587"}}},
		{name: "a road that is not SMTP", sender: "a@clinic.example", steps: []step{
			rcpt("b@tls.example", secure), rcpt("b@uucp.example", "DEFER_IF_PERMIT 4.7.1"), rcpt("c@tls.example", secure)}},
		{name: "conflict: that recipient alone", sender: "a@forced.example", steps: []step{
			rcpt("b@tls.example", forced), rcpt("b@vault.example", "REJECT 5.7.1 recipient rule vault.example (escrow) and sender rule forced.example (tls) exclude each other"),
			rcpt("c@tls.example", forced), {"DATA", "", forced}}},
		{name: "conflict first", sender: "a@forced.example", steps: []step{
			rcpt("b@vault.example", "REJECT 5.7.1"), rcpt("b@tls.example", forced)}},
		{name: "login adds to sender", sender: "a@clinic.example", login: "forced", steps: []step{rcpt("b@tls.example", forced)}},
		{name: "login and sender conflict", sender: "a@forced.example", login: "vault", steps: []step{
			rcpt("b@tls.example", "REJECT 5.7.1"), rcpt("c@own.example", toEscrow), {"DATA", "", toEscrow}}},
		{name: "own alias with a rule", sender: "a@plain.example", steps: []step{
			rcpt("b@plain.example", "DUNNO"), rcpt("alias@own.example", toEncryption), rcpt("c@plain.example", "DUNNO"), {"DATA", "", toEncryption}, {eom, "", toEncryption}}},
		{name: "own alias with an extension", sender: "a@plain.example", steps: []step{rcpt("alias+x@own.example", toEncryption)}},
		{name: "own domain under a parent rule is no alias", sender: "a@plain.example", steps: []step{rcpt("b@own.corp.example", "DUNNO")}},
		{name: "own aliases meet", sender: "a@plain.example", steps: []step{
			rcpt("alias@own.example", toEncryption), rcpt("aliastls@own.example", toForced), rcpt("alias@own.example", toForced), {eom, "", toForced}}},
		{name: "own aliases exclude each other", sender: "a@plain.example", steps: []step{
			rcpt("aliastls@own.example", toForced), rcpt("aliasescrow@own.example", "DEFER_IF_PERMIT 4.5.3"), {"DATA", "", toForced}}},
		{name: "own alias after a recipient it would harm", sender: "a@plain.example", steps: []step{
			rcpt("b@bank.example", "DUNNO"), rcpt("aliasescrow@own.example", "DEFER_IF_PERMIT 4.5.3"), {"DATA", "", "DUNNO"}}},
		{name: "a recipient that an own alias would harm", sender: "a@plain.example", steps: []step{
			rcpt("aliasescrow@own.example", toEscrow), rcpt("b@bank.example", "DEFER_IF_PERMIT 4.5.3"), {"DATA", "", toEscrow}}},
		{name: "where Postfix adds recipients", sender: "a@clinic.example", change: func(c *Config) { c.AddsRecipients = true }, steps: []step{
			rcpt("b@tls.example", toEncryption), {"DATA", "", toEncryption}}},
		{name: "forced and unreachable: reject", sender: "a@plain.example", change: func(c *Config) { c.ForcedUnreachable = UnreachableReject }, steps: []step{
			rcpt("b@bank.example", "REJECT 5.7.4"), rcpt("b@plain.example", "DUNNO")}},
		{name: "forced and unreachable: defer", sender: "a@clinic.example", change: func(c *Config) { c.ForcedUnreachable = UnreachableDefer }, steps: []step{
			rcpt("b@bank.example", "DEFER_IF_PERMIT 4.7.4"), rcpt("b@notls.example", toEncryption)}},
		{name: "forced, lost just now: not yet", sender: "a@forced.example", change: func(c *Config) { c.ForcedUnreachable = UnreachableReject }, steps: []step{
			rcpt("b@lost.example", forced), rcpt("b@notls.example", "REJECT 5.7.4")}},
		{name: "control characters", sender: "a@clinic.example", steps: []step{rcpt("b\x01@tls.example", "REJECT 5.1.3"), rcpt("b@tls.example", secure)}},
		{name: "a long sender", sender: strings.Repeat("x", 1100) + "@clinic.example", steps: []step{rcpt("b@tls.example", "REJECT 5.1.7")}},
		{name: "bounces return to a required sender", sender: "", steps: []step{rcpt("a@forced.example", "DUNNO")}},
		{name: "canonical sender", sender: "a@inside.example", change: canonical, steps: []step{rcpt("b@tls.example", secure), {"DATA", "", secure}}},
		{name: "a rule for the typed sender counts too", sender: "a@vault.example", change: canonical, steps: []step{rcpt("b@tls.example", toEscrow), {"DATA", "", toEscrow}}},
		{name: "the sender's two forms conflict", sender: "x@forced.example", change: canonical, steps: []step{rcpt("b@tls.example", "REJECT 5.7.1")}},
		{name: "canonical recipient", sender: "a@plain.example", change: canonical, steps: []step{rcpt("own@rewritten.example", toEncryption)}},
		{name: "a rule for the typed recipient counts too", sender: "a@clinic.example", change: canonical, steps: []step{rcpt("b@bank.example", forced)}},
		{name: "the typed recipient's rule, where nothing else requires", sender: "a@plain.example", change: canonical, steps: []step{
			rcpt("b@bank.example", toForced), rcpt("b@plain.example", "DUNNO"), {eom, "", toForced}}},
		{name: "a foreign recipient with a rule, aliased", sender: "a@plain.example", change: aliased, steps: []step{
			rcpt("b@hop.example", "DUNNO"), rcpt("aliased@hop.example", toEncryption), {eom, "", toEncryption}}},
		{name: "a foreign recipient aliased", sender: "a@clinic.example", change: aliased, steps: []step{
			rcpt("b@tls.example", secure), rcpt("aliased@tls.example", toEncryption)}},
		{name: "aliases can't be told", sender: "a@clinic.example", change: aliased, steps: []step{rcpt("fail@tls.example", "ERROR")}},
		{name: "canonical maps fail", sender: "fail@plain.example", change: canonical, steps: []step{rcpt("b@tls.example", "ERROR")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, _ := newServer(t, standardWorld(), tt.change)
			c := newSession(t, s, tt.sender, tt.login)
			for i, st := range tt.steps {
				var got string
				if st.state == "RCPT" {
					got = c.rcpt(st.recipient)
				} else {
					got = c.ask(st.state, st.recipient)
				}
				if got != st.want && !(strings.HasPrefix(got, st.want) && !strings.HasPrefix(st.want, "FILTER")) {
					t.Errorf("step %d: %s %s: got %q, want %q", i, st.state, st.recipient, got, st.want)
				}
			}
		})
	}
}

// canonical plays canonical maps.
func canonical(c *Config) {
	c.Canonical = func(_ context.Context, a policy.Address, sender bool) (policy.Address, error) {
		switch {
		case a.Local == "fail":
			return a, errors.New("table is down")
		case sender && a.Domain == "inside.example":
			a.Domain = "clinic.example"
		case sender && a.Domain == "vault.example":
			a.Domain = "plain.example"
		case sender && a.Local == "x" && a.Domain == "forced.example":
			a.Domain = "vault.example"
		case !sender && a.Domain == "rewritten.example":
			a.Local, a.Domain = "alias", "own.example"
		case !sender && a.Domain == "bank.example":
			a.Domain = "tls.example"
		}
		return a, nil
	}
}

// aliased plays virtual_alias_maps.
func aliased(c *Config) {
	c.Aliased = func(_ context.Context, a policy.Address) (bool, error) {
		if a.Local == "fail" {
			return false, errors.New("table is down")
		}
		return a.Local == "aliased", nil
	}
}

func TestForgottenTransactions(t *testing.T) {
	s, _ := newServer(t, standardWorld(), nil)
	c := newSession(t, s, "a@clinic.example", "")
	c.queueID = "4Vq" // an earlier recipient went who knows where
	for _, state := range []string{"RCPT", "DATA", "END-OF-MESSAGE"} {
		c.instance = "other." + state
		if got := c.ask(state, "b@tls.example"); got != toEncryption {
			t.Errorf("%s of an unknown transaction: %q, want the splitter", state, got)
		}
	}

	s, _ = newServer(t, standardWorld(), func(c *Config) { c.Transactions = 2 })
	old := newSession(t, s, "a@clinic.example", "")
	if got := old.rcpt("b@tls.example"); got != "FILTER securesmtp:" {
		t.Fatal(got)
	}
	for range 2 {
		newSession(t, s, "a@clinic.example", "").rcpt("b@tls.example")
	}
	if got := old.rcpt("b@tls.example"); got != toEncryption {
		t.Errorf("an evicted transaction: %q, want the splitter", got)
	}
	if n := s.memory.len(); n != 2 {
		t.Errorf("%v transactions remembered, want 2", n)
	}
}

func TestReusedInstance(t *testing.T) {
	s, _ := newServer(t, standardWorld(), nil)
	c := newSession(t, s, "a@clinic.example", "")
	c.rcpt("b@notls.example")
	// RSET, and a new transaction under the same instance.
	c.sender, c.queueID = "a@plain.example", ""
	if got := c.rcpt("b@plain.example"); got != "DUNNO" {
		t.Errorf("another sender: %q", got)
	}
	c.sender, c.queueID = "a@clinic.example", ""
	if got := c.rcpt("b@tls.example"); got != "FILTER securesmtp:" {
		t.Errorf("back again: %q", got)
	}
	c.rcpt("b@notls.example")
	c.queueID = ""
	if got := c.rcpt("b@tls.example"); got != "FILTER securesmtp:" {
		t.Errorf("the same sender, another queue file: %q", got)
	}
}

func TestRecipientRefusedAfterwards(t *testing.T) {
	s, _ := newServer(t, standardWorld(), nil)
	c := newSession(t, s, "a@clinic.example", "")
	c.ask("RCPT", "b@own.example") // refused by a later restriction: no queue file
	if got := c.rcpt("b@tls.example"); got != toEncryption {
		t.Errorf("got %q: the FILTER of a refused recipient stands, so the splitter it is", got)
	}
}

func TestRulesChangeWithinATransaction(t *testing.T) {
	w := standardWorld()
	s, book := newServer(t, w, nil, "sender @clinic.example encryption")
	c := newSession(t, s, "a@clinic.example", "")
	c.rcpt("b@tls.example")
	book.set(t)
	if got := c.rcpt("c@own.example"); got != toEncryption {
		t.Errorf("the rule went: %q: what was required stays required", got)
	}
	if got := c.ask("END-OF-MESSAGE", ""); got != toEncryption {
		t.Errorf("at the end: %q", got)
	}

	c = newSession(t, s, "a@clinic.example", "")
	c.rcpt("b@plain.example")
	book.set(t, "sender @clinic.example tls")
	if got := c.rcpt("c@tls.example"); got != toForced {
		t.Errorf("the rule came: %q: the first recipient was not looked at, so the splitter", got)
	}

	c = newSession(t, s, "a@clinic.example", "")
	c.rcpt("b@tls.example")
	book.set(t, "sender @clinic.example escrow")
	if got := c.ask("DATA", ""); !strings.HasPrefix(got, "DEFER_IF_PERMIT") {
		t.Errorf("tls became escrow: %q", got)
	}

	book.set(t, "sender @clinic.example encryption")
	c = newSession(t, s, "a@clinic.example", "")
	c.rcpt("b@tls.example")
	book.set(t, "sender @clinic.example escrow")
	if got := c.ask("DATA", ""); got != toEscrow {
		t.Errorf("encryption became escrow: %q", got)
	}
}

type mark struct{}

func (mark) Mark(r policy.Requirement, sender string) string {
	return r.String() + " mac-of-" + sender
}

func TestMark(t *testing.T) {
	s, _ := newServer(t, standardWorld(), func(c *Config) { c.Marker = mark{} })
	c := newSession(t, s, "a@Clinic.example", "forced")
	c.rcpt("b@tls.example")
	if got, want := c.ask("DATA", "b@tls.example"), "PREPEND X-Postseal-Requirement: tls mac-of-a@clinic.example"; got != want {
		t.Errorf("DATA: %q, want %q", got, want)
	}
	if got := c.ask("END-OF-MESSAGE", "b@tls.example"); got != "FILTER forcedsmtp:" {
		t.Errorf("END-OF-MESSAGE: %q", got)
	}
	c = newSession(t, s, "a@clinic.example", "") // the envelope survives a requeue by itself
	c.rcpt("b@tls.example")
	if got := c.ask("DATA", ""); got != "FILTER securesmtp:" {
		t.Errorf("DATA without login: %q", got)
	}
	// What the queue's own envelope does not tell is marked.
	for _, tt := range []struct{ name, sender, recipient, want string }{
		{"the rule of a rewritten sender", "a@vault.example", "b@tls.example", "escrow mac-of-a@plain.example"},
		{"an alias's rule", "a@plain.example", "aliastls@own.example", "tls mac-of-a@plain.example"},
		{"a rewritten recipient's rule", "a@plain.example", "b@bank.example", "tls mac-of-a@plain.example"},
		{"an alias's rule beyond the sender's", "a@clinic.example", "aliastls@own.example", ""},
	} {
		s, _ := newServer(t, standardWorld(), func(c *Config) { canonical(c); c.Marker = mark{} })
		c := newSession(t, s, tt.sender, "")
		filter := c.rcpt(tt.recipient)
		if tt.want != "" {
			tt.want = "PREPEND X-Postseal-Requirement: " + tt.want
		} else {
			tt.want = filter
		}
		if got := c.ask("DATA", ""); got != tt.want {
			t.Errorf("%s: DATA: %q, want %q", tt.name, got, tt.want)
		}
		if got := c.ask("END-OF-MESSAGE", ""); got != filter {
			t.Errorf("%s: END-OF-MESSAGE: %q, want %q", tt.name, got, filter)
		}
	}
}

func TestReinjection(t *testing.T) {
	w := standardWorld()
	s, _ := newServer(t, w, nil)
	tests := []struct {
		name, context, sender string
		recipients            []string
		want                  []string
	}{
		{"by MX", ContextSecure, "a@clinic.example", []string{"b@tls.example", "c@notls.example"}, []string{"FILTER securesmtp:", "FILTER securesmtp:"}},
		{"without a rule", ContextSecure, "a@plain.example", []string{"b@plain.example"}, []string{"FILTER securesmtp:"}},
		{"forced", ContextForced, "a@clinic.example", []string{"b@tls.example"}, []string{"FILTER forcedsmtp:"}},
		{"the administrator's road", ContextSecure, "", []string{"b@relayed.example"}, []string{"FILTER securesmtp:[relay.example]:587"}},
		{"the rule's road", ContextForced, "", []string{"b@hop.example"}, []string{"FILTER forcedsmtp:[10.0.0.5]:25"}},
		{"roads differ", ContextSecure, "", []string{"b@tls.example", "b@hop.example", "c@tls.example"}, []string{"FILTER securesmtp:", "DEFER_IF_PERMIT 4.5.3", "FILTER securesmtp:"}},
		{"own", ContextSecure, "a@clinic.example", []string{"b@own.example"}, []string{"DEFER_IF_PERMIT 4.7.1"}},
		{"became escrow", ContextSecure, "a@vault.example", []string{"b@tls.example"}, []string{"DEFER_IF_PERMIT 4.7.1"}},
		{"blocked", ContextSecure, "a@clinic.example", []string{"b@uucp.example"}, []string{"DEFER_IF_PERMIT 4.7.1"}},
		{"unknown", "postseal-oops", "a@clinic.example", []string{"b@tls.example"}, []string{"ERROR"}},
		{"somebody else's", "other", "a@clinic.example", []string{"b@notls.example"}, []string{toEncryption}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newSession(t, s, tt.sender, "")
			c.context = tt.context
			last := ""
			for i, r := range tt.recipients {
				got := c.rcpt(r)
				if !strings.HasPrefix(got, tt.want[i]) || strings.HasPrefix(got, "FILTER") && got != tt.want[i] {
					t.Errorf("%s: %q, want %q", r, got, tt.want[i])
				}
				if strings.HasPrefix(got, "FILTER") {
					last = got
				}
			}
			if last != "" {
				for _, state := range []string{"DATA", "END-OF-MESSAGE"} {
					if got := c.ask(state, ""); got != last {
						t.Errorf("%s: %q, want %q", state, got, last)
					}
				}
			}
		})
	}
	c := newSession(t, s, "a@clinic.example", "")
	c.context, c.queueID = ContextSecure, "4Vq"
	for _, state := range []string{"RCPT", "DATA", "END-OF-MESSAGE"} {
		if got := c.ask(state, "b@tls.example"); !strings.HasPrefix(got, "DEFER") {
			t.Errorf("%s of a forgotten transaction: %q", state, got)
		}
	}
}

// Notices take the administrator's road, and no other.
func TestNoticeRoad(t *testing.T) {
	w := standardWorld()
	s, _ := newServer(t, w, nil)
	for recipient, want := range map[string]string{
		"b@notls.example": "DUNNO", "b@bank.example": "DUNNO", "b@own.example": "DUNNO", "b@uucp.example": "DUNNO",
		"b@relayed.example": "FILTER noticesmtp:[relay.example]:587",
	} {
		c := newSession(t, s, "postseal-bounce+n@clinic.example", "")
		c.context = ContextNotice
		for _, state := range []string{"RCPT", "DATA", "END-OF-MESSAGE"} {
			got := c.ask(state, recipient)
			if w := want; got != w && (state == "RCPT" || got != "DUNNO") {
				t.Errorf("%s of %s: %q, want %q", state, recipient, got, w)
			}
		}
	}
	w.routeErr = errors.New("table is down")
	c := newSession(t, s, "", "")
	c.context = ContextNotice
	if got := c.rcpt("b@relayed.example"); !strings.HasPrefix(got, "ERROR") {
		t.Errorf("a road that is not known: %q", got)
	}
}

// Nothing that is not known may become an answer.
func TestTroubleGivesNoAnswer(t *testing.T) {
	for name, w := range map[string]*world{
		"own domains": {ownErr: errors.New("table is down")},
		"routes":      {routeErr: errors.New("table is down")},
	} {
		s, _ := newServer(t, w, nil)
		for _, sender := range []string{"a@clinic.example", "a@plain.example"} {
			if got := newSession(t, s, sender, "").rcpt("b@bank.example"); !strings.HasPrefix(got, "ERROR") {
				t.Errorf("%s, %s: %q", name, sender, got)
			}
		}
	}
}

// A foreign text cannot add a line to the answer.
func TestAnswersAreOneLine(t *testing.T) {
	w := standardWorld()
	w.routes["evil.example"] = policy.Route{Blocked: "no\naction=OK\n\n"}
	w.routes["evilhop.example"] = policy.Route{Nexthop: "[x]\n\naction=OK"}
	s, _ := newServer(t, w, nil)
	dial, _ := start(t, s, "tcp")
	c := dial()
	c.Write([]byte(rcptText("a@clinic.example", "b@evil.example", "1")))
	if got, err := readAnswer(c); err != nil || got != "DEFER_IF_PERMIT 4.7.1 mail for evil.example must be encrypted, and cannot be for now: no?action=OK??" {
		t.Errorf("%q, %v", got, err)
	}
	c.Write([]byte(rcptText("a@clinic.example", "b@evilhop.example", "2")))
	if err := closedUnanswered(c); err != nil {
		t.Error(err)
	}
}

// Whatever comes in whatever order: the last FILTER of a transaction that accepted a
// recipient under a requirement never stands for less than what was required, and is
// direct only if each recipient may go that road.
func TestFilterHoldsForEveryRecipient(t *testing.T) {
	recipients := []string{"b@tls.example", "b@notls.example", "b@bank.example", "b@vault.example", "secret@mixed.example", "b@mixed.example",
		"b@hop.example", "b@own.example", "alias@own.example", "aliastls@own.example", "aliasescrow@own.example", "b@x.corp.example", "b@relayed.example", "b@uucp.example", "b%c@own.example", "bare", "x%tls.example"}
	senders := []string{"a@plain.example", "a@clinic.example", "a@forced.example", "a@vault.example", "", "root", "a%forced.example"}
	logins := []string{"", "", "drsmith", "forced", "vault"}
	stands := map[string]policy.Channels{
		toEncryption: policy.Encryption.Channels(), toForced: policy.ForcedTLS.Channels(), toEscrow: policy.EscrowOnly.Channels(),
	}
	w := standardWorld()
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(from []string) string { return from[rng.IntN(len(from))] }
	for range 2000 {
		s, _ := newServer(t, w, nil)
		c := newSession(t, s, pick(senders), pick(logins))
		if rng.IntN(5) == 0 {
			c.queueID = "lost"
		}
		last := ""
		var accepted []string
		for range 1 + rng.IntN(6) {
			r := pick(recipients)
			got := c.rcpt(r)
			if strings.HasPrefix(got, "FILTER") {
				if last != "" && strings.Contains(last, "escrow:") && !strings.Contains(got, "escrow:") {
					t.Fatalf("%+v: %q after the splitter", c, got)
				}
				last = got
			}
			if strings.HasPrefix(got, "FILTER") || got == "DUNNO" {
				accepted = append(accepted, r)
			}
		}
		if len(accepted) == 0 {
			continue
		}
		if got := c.ask("END-OF-MESSAGE", ""); got != last && !(last == "" && got == "DUNNO") {
			t.Fatalf("the end says %q, the last recipient %q", got, last)
		}
		addr := func(raw string) policy.Address { f, _ := s.parse(raw); return f[1] }
		for _, r := range accepted {
			q := policy.Question{Sender: addr(c.sender), Login: c.login, Recipient: addr(r)}
			a, err := s.cfg.Engine.Decide(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			required := s.cfg.Engine.Sender(q.Sender, c.login)
			switch {
			case !required.Required() && last == "":
				// the tables decide
			case strings.Contains(last, "escrow:"):
				if required != 0 && !stands[last].In(required) {
					t.Fatalf("%+v: %q stands for less than %s", c, last, required)
				}
			case required.Required() && last == "":
				t.Fatalf("%+v accepted %s without a FILTER", c, r)
			default:
				if a.Reason == policy.OwnDomain || a.Channel != policy.TLS || "FILTER "+a.Transport(a.Nexthop, splitter) != last {
					t.Fatalf("%+v: %s went by %q, the decision is %s %q %v", c, r, last, a.Channel, a.Nexthop, accepted)
				}
			}
		}
	}
}
