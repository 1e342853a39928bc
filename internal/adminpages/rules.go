package adminpages

import (
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/postseal/postseal/internal/listing"
	"github.com/postseal/postseal/policyd/policy"
)

func (form) with(name, value string) string { return url.Values{name: {value}}.Encode() }

// scopeContent is the scope of triggers in the address of the page.
const scopeContent = "content"

var (
	ruleScopes = []choice{{"recipient", "recipients"}, {"sender", "senders"}, {"login", "logins"}, {scopeContent, "content (triggers)"}}
	ruleNeeds  = []choice{{"none", "none"}, {"tls", "tls"}, {"encryption", "encryption"}, {"escrow", "escrow"}}
	ruleShows  = []choice{{listing.Weaker, "weaker than a broader rule"}, {listing.Overrides, "overriding DANE or MTA-STS"}, {listing.Ending, "with an end"}}
)

// shownRule is a rule in a list.
type shownRule struct {
	*policy.Rule
	Look   look
	Over   bool // its end has come
	Counts bool // of those that cover an address: it is the one that counts
	More   []pair
}

// needLooks are those of requirements.
var needLooks = map[string]look{"none": {"warn", "none"}, "tls": {"good", "tls"}, "encryption": {"good", "encryption"}, "escrow": {"info", "escrow"}}

func showRule(r *policy.Rule, now time.Time) shownRule {
	s := shownRule{Rule: r, Look: lookOf(needLooks, r.Requirement.String()), Over: !r.Active(now)}
	add := func(name, value string) {
		if value != "" {
			s.More = append(s.More, pair{name, value})
		}
	}
	add("TLS level", r.TLS.Level.String())
	add("names", strings.Join(r.TLS.Match, ", "))
	add("protocols", r.TLS.Protocols)
	add("ciphers", r.TLS.Ciphers)
	add("server name", r.TLS.Servername)
	add("next hop", r.Nexthop)
	add("verification", r.Verify)
	add("mode", r.Mode)
	add("language", r.Language)
	life := func(name string, d time.Duration) {
		if d != 0 {
			add(name, span(d))
		}
	}
	life("lifetime", r.Life.Usual)
	life("at least", r.Life.Min)
	life("at most", r.Life.Max)
	return s
}

// span writes a duration in days where it is whole ones.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	if d%day == 0 {
		if d == day {
			return "1 day"
		}
		return adminCount(int64(d/day)) + " days"
	}
	return d.String()
}

// counting returns the rules of a scope that cover an address, the one that counts first.
func (p *Pages) counting(scope policy.Scope, a policy.Address, now time.Time) (list []shownRule) {
	rules := p.o.Rules()
	return broader(rules, rules.Lookup(scope, a, now), now)
}

// broader returns a rule that counts, and those that it falls under.
func broader(rules *policy.Snapshot, f policy.Found, now time.Time) (list []shownRule) {
	for counts := true; !f.None() && len(list) < 20; f, counts = rules.Broader(f), false {
		s := showRule(f.Rule(), now)
		s.Counts = counts
		list = append(list, s)
	}
	return list
}

// shownTrigger is a trigger in a list.
type shownTrigger struct {
	*policy.Trigger
	Look look
	Over bool
}

// pageTriggers is how many triggers a page has: there are few.
const pageTriggers = 500

func (p *Pages) rules(w http.ResponseWriter, r *http.Request) error {
	f, now := formOf(r), p.o.Now()
	var q listing.RuleQuery
	var err error
	if q.Page, err = f.page(); err != nil {
		return err
	}
	if q.Scope, err = f.choice("scope", "scope of rules", ruleScopes); err != nil {
		return err
	}
	if q.Requirement, err = f.choice("requirement", "requirement", ruleNeeds); err != nil {
		return err
	}
	if q.Show, err = f.choice("show", "kind of rule", ruleShows); err != nil {
		return err
	}
	if q.Contains = strings.ToLower(f.get("q")); len(q.Contains) > 512 {
		return f.bad("No pattern is that long.")
	}
	snapshot := p.o.Rules()
	data := struct {
		Q, Scope, Requirement, Show string
		Scopes, Needs, Shows        []choice
		Filtered, First             bool
		Total, Triggers             string
		Address                     string
		Recipient, Sender, Login    []shownRule // that count for what is looked for
		Asked                       bool
		All                         []shownRule
		Content                     bool
		AllTriggers                 []shownTrigger
		MoreTriggers                bool
		Pager                       pager
	}{
		Q: f.get("q"), Scope: q.Scope, Requirement: q.Requirement, Show: q.Show, Scopes: ruleScopes, Needs: ruleNeeds, Shows: ruleShows,
		Filtered: f.filtered("q", "scope", "requirement", "show"), First: q.After == nil, Content: q.Scope == scopeContent,
		Total: adminCount(int64(snapshot.Len())),
	}
	var triggers []*policy.Trigger
	if t := snapshot.Triggers(); t != nil {
		triggers = t.All()
	}
	data.Triggers = adminCount(int64(len(triggers)))
	if data.Content {
		for _, t := range triggers {
			switch {
			case q.Contains != "" && !strings.Contains(strings.ToLower(t.What()+" "+t.Who()+" "+t.Note), q.Contains),
				q.Requirement != "" && t.Requirement.String() != q.Requirement,
				q.Show == listing.Ending && t.Until.IsZero(), q.Show == listing.Weaker, q.Show == listing.Overrides:
				continue
			case len(data.AllTriggers) == pageTriggers:
				data.MoreTriggers = true
				continue
			}
			data.AllTriggers = append(data.AllTriggers, shownTrigger{t, lookOf(needLooks, t.Requirement.String()), !t.Active(now)})
		}
		rulesPage.Render(w, r, http.StatusOK, "Rules", data)
		return nil
	}
	if data.First && data.Q != "" {
		data.Asked = p.answer(&data.Address, &data.Recipient, &data.Sender, &data.Login, data.Q, now)
	}
	found, err := p.o.Store.ListRules(r.Context(), q)
	if err != nil {
		return err
	}
	for i := range found.All {
		data.All = append(data.All, showRule(&found.All[i], now))
	}
	data.Pager = f.pager(found.Next, found.Partial, len(found.All))
	rulesPage.Render(w, r, http.StatusOK, "Rules", data)
	return nil
}

// answer finds the rules that count for an address or a domain. ok is false where asked is
// neither.
func (p *Pages) answer(address *string, recipient, sender, login *[]shownRule, asked string, now time.Time) (ok bool) {
	asked = strings.TrimPrefix(asked, "@")
	a, err := policy.ParseAddress(asked)
	if err != nil || a.IsNull() {
		return false
	}
	if a.Domain == "" {
		if !strings.Contains(a.Local, ".") || strings.HasPrefix(a.Local, ".") {
			return false
		}
		// Somebody there, of whom no rule speaks.
		a = policy.Address{Domain: policy.CanonicalDomain(a.Local)}
	}
	*address = a.Domain
	if a.Local != "" {
		*address = a.Folded().String()
		rules := p.o.Rules()
		*login = broader(rules, rules.LookupLogin(*address, now), now)
	}
	*recipient, *sender = p.counting(policy.ByRecipient, a, now), p.counting(policy.BySender, a, now)
	return true
}
