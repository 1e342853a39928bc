package policy

import (
	"fmt"
	"strings"
	"time"
)

// Explain returns the steps that led from in to v, one sentence each, for a
// person to read. v must be what Decide returned for in.
func Explain(in Input, v Verdict) []string {
	var why []string
	say := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	if in.Floor != None {
		say("the way the message came carries the requirement %s", in.Floor)
	}
	for r := range in.rules {
		s := fmt.Sprintf("%s allows %s", r, r.Requirement.Channels())
		if r == in.Returns && r != in.Sender {
			s += " (it covers the recipient, since bounces return there)"
		}
		if r.Weaken {
			s += ", weaker than a broader rule on purpose"
		}
		if r.Note != "" {
			s += fmt.Sprintf(" (note: %s)", r.Note)
		}
		if !r.Until.IsZero() {
			s += fmt.Sprintf(", until %s", r.Until.UTC().Format(time.RFC3339))
		}
		say("%s", s)
	}
	switch v.Reason {
	case NothingRequired:
		say("nothing is required: Postfix delivers as always")
	case OwnDomain:
		say("the recipient's domain is one of this server's own: the message does not leave")
	case TLSOnly:
		say("only TLS is allowed: over TLS or not at all (destination: %s)", describe(in.Posture))
	case EscrowOnlyLeft:
		say("only the escrow is allowed")
	case TLSWorks:
		say("the destination's TLS works (%s)", describe(in.Posture))
	case TLSUntried:
		say("the destination's TLS is not known: mandatory TLS, with the escrow as fallback")
	case TLSUnreachable:
		say("the destination does not answer: mandatory TLS, it waits in the queue")
	case TLSInGrace:
		say("the destination had TLS until %s: within the grace of %s that counts as a disturbance, and the message waits", in.Posture.Lost.UTC().Format(time.RFC3339), in.Grace)
	case TLSDoubted:
		say("our probe finds the destination's TLS broken: Postfix tries it, with the escrow as fallback")
	case NoTLS:
		say("the destination answers and offers no TLS (%s): escrow", describe(in.Posture))
	case BrokenTLS:
		say("the destination's TLS fails for our probe and for Postfix: escrow")
	case NoMailHost:
		say("DNS says that the domain takes no mail: Postfix returns the message")
	case Conflict:
		say("nothing is left: %s", ConflictText(in))
	}
	if s := in.Posture.lostText(); s != "" && v.Reason != OwnDomain {
		say("%s", s)
	}
	return why
}

// lostText tells of TLS that a destination had and has not any more; "" where it is
// not so.
func (p Posture) lostText() string {
	if p.Lost.IsZero() || p.Since.IsZero() {
		return ""
	}
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	s := fmt.Sprintf("the destination had TLS from %s to %s, and was found without since %s: it may have been removed, or stripped on the way", at(p.Since), at(p.Worked), at(p.Lost))
	if p.Alarmed.IsZero() {
		return s
	}
	return s + fmt.Sprintf("; an alarm was raised on %s (it weakens nothing)", at(p.Alarmed))
}

func describe(p Posture) string {
	if p.Checked.IsZero() {
		return p.State.String()
	}
	return fmt.Sprintf("%s, seen %s", p.State, p.Checked.UTC().Format(time.RFC3339))
}

// ConflictText names the rules (and the floor) whose intersection is empty, for
// a 5.7.x reply. It names the smallest pair that explains it, where one does.
func ConflictText(in Input) string {
	type part struct {
		name string
		set  Channels
	}
	var parts []part
	if in.Floor != None {
		parts = append(parts, part{fmt.Sprintf("the message's requirement (%s)", in.Floor), in.Floor.Channels()})
	}
	for r := range in.rules {
		if r.Requirement != None {
			parts = append(parts, part{r.String(), r.Requirement.Channels()})
		}
	}
	for i, a := range parts {
		for _, b := range parts[i+1:] {
			if a.set&b.set == 0 {
				return a.name + " and " + b.name + " exclude each other"
			}
		}
	}
	names := make([]string, len(parts))
	for i, p := range parts {
		names[i] = p.name
	}
	return strings.Join(names, ", ") + " leave no way"
}

// ExplainFired returns a sentence for each trigger that a message sets off.
func ExplainFired(fired []Fired) []string {
	var why []string
	for _, f := range fired {
		text := fmt.Sprintf("%s requires %s", f.What(), f.Requirement)
		switch {
		case f.Rule == nil:
			text = fmt.Sprintf("%s does nothing: the sender may not use it, it is for %s", f.What(), f.Who())
		case f.Remove && f.Kind == OnHeader:
			text += "; the field is left out before the message goes on"
		case f.Remove:
			text += "; it is taken out of the subject before the message goes on"
		}
		why = append(why, text)
	}
	return why
}

// ExplainTLS returns sentences that say how the demand on a destination's TLS came
// about. d must be what DemandTLS returned for in, or what was made of it.
func ExplainTLS(in TLSInput, d TLSDemand) []string {
	var why []string
	say := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	dest, p := in.Domain, in.Published
	switch p.DANE {
	case DANEFull:
		say("every mail host of %s has TLSA records (DANE)", dest)
	case DANEPartial:
		say("some mail hosts of %s have TLSA records (DANE), others none", dest)
	case DANEUnusable:
		say("%s has TLSA records (DANE), and none that can be used: they ask for TLS, and authenticate nobody", dest)
	case DANEFailed:
		say("the TLSA records of %s (DANE) are bogus or can't be had", dest)
	case DANEUnknown:
		say("it is not known whether %s has TLSA records (DANE)", dest)
	}
	switch p.STS {
	case STSEnforce:
		s := fmt.Sprintf("the MTA-STS policy of %s is enforced, for %s", dest, few(p.STSMatch))
		if authenticated := p.DANE == DANEFull || p.DANE == DANEPartial || p.DANE == DANEFailed; authenticated {
			s += "; DANE goes before it"
		}
		say("%s", s)
	case STSTesting:
		say("the MTA-STS policy of %s is in testing: failures are reported, nothing is demanded", dest)
	case STSFailed:
		s := fmt.Sprintf("%s may have an MTA-STS policy, and it can't be had", dest)
		if !in.Required {
			s += ": for mail of which nothing is required that counts as none"
		}
		say("%s", s)
	case STSUnknown:
		say("it is not known whether %s has an MTA-STS policy", dest)
	}
	switch {
	case in.Override && in.Required:
		say("the rule's override has no effect: it is for mail of which nothing is required, and this must be encrypted")
	case in.Override:
		say("the rule passes by what %s publishes (override); each use is logged", dest)
	}
	switch {
	case d.Wait != "":
		say("so the mail waits: %s", d.Wait)
	case d.By == FromDANE && d.Level == LevelDANEOnly:
		say("so Postfix delivers only to hosts whose certificate matches their TLSA records")
	case d.By == FromDANE && d.Level == LevelDANE:
		say("so Postfix goes by the TLSA records of each host (RFC 7672)")
	case d.By == FromDANE:
		say("so TLS is mandatory")
	case d.By == FromSTS:
		say("so Postfix delivers only to hosts with a trusted certificate for %s", few(d.Match))
	case d.By == FromAdmin:
		say("your own TLS policy table settles it")
	}
	return why
}
