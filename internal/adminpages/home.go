package adminpages

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/internal/listing"
)

// When something is told of on the overview.
const (
	late        = 15 * time.Minute // a mail in the outbox
	soon        = 3 * 24 * time.Hour
	oldAfter    = 25 * time.Hour // a checkpoint, which is made once a day
	quotaNear   = 80             // percent
	pageAlarms  = 10
	recentAdmin = 10
)

// finding is something that an administrator should look at.
type finding struct {
	Class      string // bad, warn
	Text       string
	Link, Name string
}

// tile is a figure of the overview.
type tile struct {
	Name, Value, Link, Note string
	Class                   string
}

// shownCheck is a condition of readiness.
type shownCheck struct{ Name, Error string }

// adminCount writes a number with its thousands apart.
func adminCount(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func count(c listing.Count) string {
	if c.More {
		return adminCount(int64(c.N)) + "+"
	}
	return adminCount(int64(c.N))
}

// some says how many of something there are.
func some(c listing.Count, one, more string) string {
	if c.N == 1 && !c.More {
		return "1 " + one
	}
	return count(c) + " " + more
}

type shownUsage struct {
	Domain, Items string
	Bytes         int64
	Percent       int // of the quota of a domain; -1: there is none
}

func percent(used, of int64) int {
	if of <= 0 {
		return -1
	}
	return int(min(float64(used)/float64(of)*100, 999))
}

func (p *Pages) home(w http.ResponseWriter, r *http.Request) error {
	ctx, now := r.Context(), p.o.Now()
	s, err := p.o.Store.Summary(ctx, now.Add(soon))
	if err != nil {
		return err
	}
	data := struct {
		Findings   []finding
		Tiles      []tile
		Alarms     []Alarm
		MoreAlarms bool
		Checks     []shownCheck
		Bytes      int64
		Quota      int64
		Percent    int
		PerDomain  int64
		Usage      []shownUsage
		Checkpoint *listing.Checkpoint
		Entries    string
		Recent     []shownEntry
		Now        time.Time
	}{Bytes: s.Bytes, Quota: p.o.Quota.Total, Percent: percent(s.Bytes, p.o.Quota.Total), PerDomain: p.o.Quota.Domain, Checkpoint: s.Checkpoint, Entries: adminCount(s.Entries), Now: now}

	for _, c := range p.o.Checks {
		shown := shownCheck{Name: c.Name}
		if err := checked(ctx, c); err != nil {
			shown.Error = err.Error()
			data.Findings = append(data.Findings, finding{"bad", "Not ready: " + c.Name + ": " + err.Error(), "", ""})
		}
		data.Checks = append(data.Checks, shown)
	}
	if p.o.Alarms != nil {
		alarms, err := p.o.Alarms(ctx, pageAlarms+1)
		if err != nil {
			return err
		}
		if data.MoreAlarms = len(alarms) > pageAlarms; data.MoreAlarms {
			alarms = alarms[:pageAlarms]
		}
		for _, a := range alarms {
			data.Findings = append(data.Findings, finding{"bad", a.Dest + " " + a.Text, destPath(a.Dest), "Look at the destination"})
		}
		if data.MoreAlarms {
			data.Findings = append(data.Findings, finding{"bad", "More destinations have an alarm", "/destinations?alarm=1", "All alarms"})
		}
	}
	data.Findings = append(data.Findings, p.findings(&s, now)...)
	slices.SortStableFunc(data.Findings, func(a, b finding) int { return strings.Compare(a.Class, b.Class) }) // bad, warn
	for _, d := range s.Domains {
		u := shownUsage{d.Domain, adminCount(d.Items), d.Bytes, percent(d.Bytes, p.o.Quota.Domain)}
		if u.Domain == "" {
			u.Domain = "(null sender)"
		}
		data.Usage = append(data.Usage, u)
	}
	rules := p.o.Rules()
	triggers := 0
	if t := rules.Triggers(); t != nil {
		triggers = len(t.All())
	}
	held := s.States[escrow.StateHeld]
	data.Tiles = []tile{
		{"Held", count(held), "/items?show=held", "waiting for their recipients", "info"},
		{"Read", count(s.States[escrow.StateRead]), "/items?show=read", "can still be read", "good"},
		{"Expired", count(s.States[escrow.StateExpired]), "/items?show=expired", "keys deleted", ""},
		{"Taken back", count(s.States[escrow.StateRetracted]), "/items?show=retracted", "keys deleted", ""},
		{"Legal hold", count(s.OnHold), "/items?show=hold", "kept until released", ""},
		{"Outbox", count(s.Mails), "/outbox", some(s.Replies, "reply", "replies") + " on the way", ""},
		{"Rules", adminCount(int64(rules.Len())), "/rules", some(listing.Count{N: triggers}, "trigger", "triggers"), ""},
	}
	recent, err := p.o.Store.ListAudit(ctx, listing.AuditQuery{Page: listing.Page{Limit: recentAdmin}, Kinds: adminKinds()})
	if err != nil {
		return err
	}
	data.Recent = showEntries(recent.All)
	homePage.Render(w, r, http.StatusOK, "Overview", data)
	return nil
}

// checked gives a check its time.
func checked(ctx context.Context, c Check) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return c.OK(ctx)
}

// findings are what the figures say.
func (p *Pages) findings(s *listing.Summary, now time.Time) (list []finding) {
	add := func(class, text, link, name string) { list = append(list, finding{class, text, link, name}) }
	if p.o.Trouble != nil {
		if n := p.o.Trouble(); n > 0 {
			add("bad", fmt.Sprintf("Since the start, mail met something %s that an administrator must look at: the log of postseal serve says what", times(n)), "", "")
		}
	}
	if !s.Oldest.IsZero() && now.Sub(s.Oldest) > late {
		add("bad", "The oldest mail in the outbox waits since "+s.Oldest.UTC().Format("2006-01-02 15:04 UTC")+": recipients don't know of their messages yet", "/outbox", "Look at the outbox")
	}
	if s.Retried.N > 0 {
		add("warn", some(s.Retried, "mail was", "mails were")+" not taken by Postfix at a first try", "/outbox?failed=1", "Look at them")
	}
	if s.Bounced.N > 0 {
		add("bad", some(s.Bounced, "unread message has a notice", "unread messages have notices")+" that came back: nobody knows of them", "/items?show=bounced", "Look at them")
	}
	if s.Ending.N > 0 {
		add("warn", some(s.Ending, "unread message ends", "unread messages end")+" within three days", "/items?show=held", "Messages that wait")
	}
	near := func(of string, used, quota int64) {
		if n := percent(used, quota); n >= 100 {
			add("bad", "The quota of "+of+" is used up: mail waits in Postfix's queue", "", "")
		} else if n >= quotaNear {
			add("warn", fmt.Sprintf("The quota of %s is used by %d %%", of, n), "", "")
		}
	}
	near("the escrow", s.Bytes, p.o.Quota.Total)
	for _, d := range s.Domains {
		near(strings.TrimSpace("sender domain "+d.Domain), d.Bytes, p.o.Quota.Domain)
	}
	switch {
	case s.Checkpoint == nil:
		add("warn", "The audit log has no signed checkpoint yet", "/audit", "Audit log")
	case now.Sub(s.Checkpoint.At) > oldAfter:
		add("bad", "The last signed checkpoint of the audit log is of "+s.Checkpoint.At.UTC().Format("2006-01-02 15:04 UTC")+": there should be one a day", "/audit", "Audit log")
	}
	return list
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return adminCount(int64(n)) + " times"
}
