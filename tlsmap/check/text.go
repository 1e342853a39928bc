package check

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/check/scan"
	"github.com/postseal/postseal/tlsmap/probe"
)

// Style says how a report is written for a person.
type Style struct {
	Color bool // by ANSI escapes
}

// color is the number of an ANSI colour.
type color int

const (
	noColor color = 0
	red     color = 31
	green   color = 32
	yellow  color = 33
	bold    color = 1
	dim     color = 2
)

// part is a piece of a line.
type part struct {
	text  string
	color color
}

func plain(format string, args ...any) part { return part{fmt.Sprintf(format, args...), noColor} }

func in(c color, format string, args ...any) part { return part{fmt.Sprintf(format, args...), c} }

// writer writes lines. All that it writes is cleaned once more: nothing of a
// destination reaches a terminal as an escape sequence.
type writer struct {
	out   io.Writer
	style Style
	err   error
}

// labelWidth is the column of what stands behind a label.
const labelWidth = 12

func (w *writer) line(indent int, label string, parts ...part) {
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", indent))
	if label != "" {
		fmt.Fprintf(&b, "%-*s", labelWidth, label)
	}
	for _, p := range parts {
		s := strings.Map(printable, p.text)
		if w.style.Color && p.color != noColor && s != "" {
			s = fmt.Sprintf("\x1b[%dm%s\x1b[0m", p.color, s)
		}
		b.WriteString(s)
	}
	if w.err == nil {
		_, w.err = io.WriteString(w.out, strings.TrimRight(b.String(), " ")+"\n")
	}
}

func (c Class) color() color {
	switch c {
	case ClassNone, ClassBroken:
		return red
	case ClassTLS, ClassUnknown:
		return yellow
	case ClassVerified, ClassEnforced:
		return green
	}
	return noColor
}

// Mark is the style of the class on a page: good, warn or bad, "" for neither.
func (c Class) Mark() string { return marks[c.color()] }

// Mark is the style of the severity on a page, as [Class.Mark].
func (s Severity) Mark() string { return marks[s.color()] }

var marks = map[color]string{red: "bad", yellow: "warn", green: "good"}

func (s Severity) color() color {
	switch s {
	case Critical:
		return red
	case Warning:
		return yellow
	}
	return noColor
}

// WriteText writes the report for a person.
func (r *Report) WriteText(out io.Writer, s Style) error {
	w := &writer{out: out, style: s}
	w.line(0, "", in(bold, "%s", r.Dest), plain(": "), in(r.Class.color(), "%s", r.Class), plain(" (%s)", r.Reason))
	for i := range r.MX {
		w.host(r, i)
	}
	w.published(r)
	w.nist(r)
	if d := r.Decision; d != nil {
		w.line(2, "Postseal", in(bold, "%s", d.Line))
		for _, reason := range d.Reasons {
			w.line(2+labelWidth, "", plain("%s", reason))
		}
	}
	label := "To do"
	for _, a := range r.Advice {
		w.line(2, label, in(a.Severity.color(), "%s", a.Severity), plain(": %s: %s", a.About, a.Text))
		label = " "
	}
	return w.err
}

func (w *writer) host(r *Report, i int) {
	h := &r.MX[i]
	var what string
	switch {
	case h.Host == "":
		what = "address"
	case r.ImplicitMX:
		what = h.Host + " (no MX record)"
	case strings.HasPrefix(r.Dest, "["):
		what = h.Host
	default:
		what = fmt.Sprintf("MX %d %s", h.Preference, h.Host)
	}
	parts := []part{in(bold, "%s", what)}
	if h.Canonical != "" {
		parts = append(parts, plain(", an alias of %s", h.Canonical))
	}
	if h.Authentic {
		parts = append(parts, plain(", DNSSEC"))
	}
	if h.Error != "" {
		parts = append(parts, in(red, ": %s", h.Error))
	}
	w.line(2, "", parts...)
	w.tlsa(h)
	for j := range h.Addresses {
		w.address(r, i, j)
	}
}

// tlsa names the TLSA records of a host; how a certificate stands to each is said at
// its address.
func (w *writer) tlsa(h *Host) {
	if h.TLSA == nil || len(h.TLSA.Records) > 0 || h.TLSA.Error == "" {
		return
	}
	c := noColor
	if h.TLSA.State == policy.DANEFailed {
		c = red
	}
	w.line(4, "DANE", in(c, "%s", h.TLSA.Error))
}

func (w *writer) address(r *Report, i, j int) {
	h := &r.MX[i]
	a := &h.Addresses[j]
	parts := []part{plain("%s: ", a.Addr), in(a.Class.color(), "%s", a.Class)}
	if a.Version != "" {
		parts = append(parts, plain(", %s %s", a.Version, a.Cipher))
	}
	if a.Error != "" {
		parts = append(parts, in(a.Class.color(), ", %s", a.Error))
	}
	w.line(4, "", parts...)
	if a.Banner != "" {
		w.line(6, "banner", plain("%s", a.Banner))
	}
	if len(a.EHLO) > 0 {
		w.line(6, "EHLO", plain("%s", strings.Join(a.EHLO, ", ")))
	}
	if a.Cert != nil {
		w.certificate(a.Cert, a.NameMatch, a.DaysLeft)
	}
	w.matches(h, a.TLSA)
	for k := range a.Others {
		o := &a.Others[k]
		w.certificate(o.Certificate, o.NameMatch, &o.DaysLeft)
		w.matches(h, o.TLSA)
	}
	if a.Scan == nil {
		return
	}
	if same := sameScan(r, i, j); same != "" {
		w.line(6, "offers", plain("the same as %s", same))
		return
	}
	w.scan(a.Scan)
}

func (w *writer) certificate(c *probe.Certificate, nameMatch bool, days *int) {
	w.line(6, "certificate", plain("%s", some(c.Names)))
	until := part{fmt.Sprintf("until %s", c.NotAfter.UTC().Format(time.DateOnly)), noColor}
	if days != nil {
		switch {
		case *days < 0:
			until = in(red, "ended on %s", c.NotAfter.UTC().Format(time.DateOnly))
		case *days < expiresSoon:
			until = in(yellow, "%s (%d days)", until.text, *days)
		default:
			until = plain("%s (%d days)", until.text, *days)
		}
	}
	key := fmt.Sprintf("%s %d bits", c.KeyType, c.KeyBits)
	if c.Signature != "" {
		key += ", signed by " + c.Signature
	}
	w.line(6, " ", plain("%s, ", key), until)
	chain := fmt.Sprintf("issued by %s", c.Issuer)
	if n := len(c.Chain); n > 0 {
		chain += fmt.Sprintf(", %d more sent", n)
	}
	if !chainOrdered(c) {
		chain += ", out of order"
	}
	w.line(6, " ", plain("%s", chain))
	trust := in(green, "trusted")
	if !c.Verified {
		trust = in(yellow, "not trusted: %s", c.VerifyError)
	}
	name := in(green, "the host's name")
	if !nameMatch {
		name = in(yellow, "not the host's name")
	}
	w.line(6, " ", trust, plain("; "), name)
}

// matches says how a certificate stands to each TLSA record.
func (w *writer) matches(h *Host, all []probe.TLSAMatch) {
	for k, m := range all {
		if h.TLSA == nil || k >= len(h.TLSA.Records) {
			return
		}
		rec := h.TLSA.Records[k]
		result := in(yellow, "no match: %s", m.Why)
		if m.Match {
			result = in(green, "match: %s", m.Why)
		}
		data := rec.Data
		if len(data) > 16 {
			data = data[:16] + "…"
		}
		w.line(6, "TLSA", plain("%d %d %d %s  ", rec.Usage, rec.Selector, rec.Matching, data), result)
	}
}

// sameScan names an earlier address that offers the same.
func sameScan(r *Report, i, j int) string {
	me := summary(r.MX[i].Addresses[j].Scan)
	for k := range r.MX[:i+1] {
		for l := range r.MX[k].Addresses {
			if k == i && l >= j {
				return ""
			}
			a := &r.MX[k].Addresses[l]
			if a.Scan != nil && summary(a.Scan) == me {
				return at(&r.MX[k], a)
			}
		}
	}
	return ""
}

func summary(s *scan.Result) string {
	return fmt.Sprint(s.Versions, s.Groups, s.Error)
}

func (w *writer) scan(s *scan.Result) {
	for _, v := range s.Versions {
		if !v.Offered {
			continue
		}
		c := noColor
		if v.Version == "SSLv3" {
			c = red
		}
		parts := []part{plain("%d cipher suites", len(v.Suites))}
		if len(v.Suites) == 1 {
			parts[0] = plain("1 cipher suite")
		}
		if v.Order != "" {
			parts = append(parts, plain(", in the %s's order", v.Order))
		}
		if !v.Complete {
			parts = append(parts, in(yellow, ", not asked for all"))
		}
		w.line(6, v.Version, append([]part{in(c, "offered: ")}, parts...)...)
		for _, u := range v.Suites {
			line := []part{plain("%s", u.Name)}
			if u.KeyExchange != "" {
				line = append(line, plain(", %s", u.KeyExchange))
			}
			if u.Why != "" {
				line = append(line, in(strengthColor(u.Strength), " (%s: %s)", u.Strength, u.Why))
			}
			w.line(6+labelWidth, "", line...)
		}
	}
	if len(s.Groups) > 0 {
		w.line(6, "groups", plain("%s", strings.Join(s.Groups, ", ")))
	}
	if s.Error != "" {
		w.line(6, "scan", in(yellow, "not complete: %s, after %d connections", s.Error, s.Connections))
	}
}

func strengthColor(s scan.Strength) color {
	switch s {
	case scan.Insecure:
		return red
	case scan.Weak:
		return yellow
	}
	return dim
}

// published writes what DNS and the web say of the domain.
func (w *writer) published(r *Report) {
	if !r.named() || r.State == policy.NoMail {
		return
	}
	dnssec := "the MX answer is not authenticated"
	if r.Authentic {
		dnssec = "the MX answer is authenticated"
	}
	if r.DANE == policy.DANEOff {
		dnssec = "not looked at: the resolver is not trusted to validate"
	}
	w.line(2, "DNSSEC", plain("%s", dnssec))
	w.line(2, "DANE", in(map[policy.DANE]color{policy.DANEFull: green, policy.DANEPartial: yellow, policy.DANEUnusable: yellow, policy.DANEFailed: red}[r.DANE], "%s", daneText(r.DANE)))
	if s := r.STS; s != nil && s.State != policy.STSOff {
		w.sts(r, s)
	}
	if t := r.TLSRPT; t != nil {
		switch {
		case t.Error != "":
			w.line(2, "TLSRPT", in(yellow, "%s", t.Error))
		case t.Record == "":
			w.line(2, "TLSRPT", plain("none"))
		default:
			w.line(2, "TLSRPT", plain("%s", strings.Join(t.RUA, ", ")))
		}
	}
}

func daneText(d policy.DANE) string {
	switch d {
	case policy.DANEFull:
		return "every MX host has TLSA records that can be used"
	case policy.DANEPartial:
		return "some MX hosts have TLSA records that can be used, others have none"
	case policy.DANEUnusable:
		return "there are TLSA records, and none can be used"
	case policy.DANEFailed:
		return "the lookup of TLSA records fails: senders with DANE wait"
	case policy.DANENone:
		return "none"
	}
	return d.String()
}

func (w *writer) sts(r *Report, s *probe.STSResult) {
	c := map[policy.STS]color{policy.STSEnforce: green, policy.STSTesting: yellow, policy.STSFailed: red}[s.State]
	parts := []part{in(c, "%s", s.State)}
	if len(s.MX) > 0 {
		parts = append(parts, plain(": %s", strings.Join(s.MX, ", ")))
	}
	if s.MaxAge > 0 {
		parts = append(parts, plain("; max_age %d s", s.MaxAge))
	}
	if s.ID != "" {
		parts = append(parts, plain("; id %s", s.ID))
	}
	if why := cmp.Or(s.Error, s.Stale); why != "" {
		parts = append(parts, in(yellow, "; %s", why))
	}
	w.line(2, "MTA-STS", parts...)
	var out []string
	for _, h := range r.MX {
		if h.STSMatch != nil && !*h.STSMatch {
			out = append(out, h.Host)
		}
	}
	if len(out) > 0 {
		w.line(2, " ", in(red, "not named by the policy: %s", strings.Join(out, ", ")))
	}
}

// maxReasons is how many reasons of the NIST verdict are written; JSON has all.
const maxReasons = 8

func (w *writer) nist(r *Report) {
	n := r.NIST
	if n == nil {
		return
	}
	var verdict part
	switch {
	case !n.Meets:
		verdict = in(yellow, "does not meet SP 800-52r2:")
	case n.Partial:
		verdict = plain("nothing against SP 800-52r2 in one handshake")
	default:
		verdict = in(green, "meets SP 800-52r2")
	}
	w.line(2, "NIST", verdict)
	var texts []string // of all hosts, each once
	for _, reason := range n.Reasons {
		if t := fmt.Sprintf("section %s: %s", reason.Section, reason.Text); !slices.Contains(texts, t) {
			texts = append(texts, t)
		}
	}
	for k, t := range texts {
		if k == maxReasons {
			w.line(2+labelWidth, "", plain("and %d more", len(texts)-k))
			break
		}
		w.line(2+labelWidth, "", plain("%s", t))
	}
}

// Sentence says in one line what the decision comes to.
func (d *Decision) Sentence() string {
	var what string
	switch d.Channel {
	case "plain":
		what = "nothing is required: Postfix delivers as always"
		if d.TLSPolicy != "" {
			what = "nothing is required, but what the destination publishes counts"
		}
	case "tls":
		what = "over TLS or not at all"
		if strings.HasPrefix(d.Transport, "securesmtp:") {
			what = "over TLS; sealed where TLS fails"
		}
	case "escrow":
		what = "sealed: the recipient gets a link"
	case "conflict":
		what = "refused: rules contradict each other"
	default:
		what = d.Channel
	}
	if d.Transport != "" {
		what += ", by " + d.Transport
	}
	if d.TLSPolicy != "" {
		what += ", TLS policy " + d.TLSPolicy
	}
	return what
}
