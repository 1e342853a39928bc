package policy

import "strings"

// reasonWords are the reasons by the words of the audit log.
var reasonWords = [...]string{
	NothingRequired: "nothing-required", OwnDomain: "own-domain", TLSOnly: "tls-only", EscrowOnlyLeft: "escrow-only",
	TLSWorks: "tls-works", TLSUntried: "tls-untried", TLSUnreachable: "unreachable", TLSInGrace: "in-grace", TLSDoubted: "tls-doubted",
	NoTLS: "no-tls", BrokenTLS: "broken-tls", NoMailHost: "no-mail-host", Conflict: "conflict",
}

// String returns the word for r.
func (r Reason) String() string {
	if int(r) < len(reasonWords) {
		return reasonWords[r]
	}
	return "unknown"
}

// Words says of an answer, for the audit log, what was required, what was chosen and why,
// and which rules said so. Nothing of it is of the message.
func (a *Answer) Words() map[string]string {
	words := map[string]string{"channel": a.Channel.String(), "reason": a.Reason.String(), "requires": "conflict"}
	if r, ok := a.Allowed.Requirement(); ok {
		words["requires"] = r.String()
	}
	var rules []string
	for r := range a.Input.rules {
		if r.Requirement != None {
			rules = append(rules, r.String())
		}
	}
	words["rules"] = strings.Join(rules, "; ")
	if a.Input.Floor != None {
		words["floor"] = a.Input.Floor.String() // of the port that it came to
	}
	words["nexthop"] = a.Nexthop
	return words
}
