package check

import (
	"fmt"
	"io"
	"strings"
)

// Style says how a report is written for a person.
type Style struct {
	Color bool // by ANSI escapes
}

// WriteText writes the report for a person.
func (r *Report) WriteText(out io.Writer, s Style) error {
	_, err := fmt.Fprintf(out, "%s: %s (%s)\n", r.Dest, r.Class, r.Reason)
	return err
}

// Sentence says in one line what the decision comes to.
func (d *Decision) Sentence() string {
	var what string
	switch d.Channel {
	case "plain":
		what = "nothing is required: Postfix delivers as always"
		if d.TLSPolicy != "" {
			what = "nothing is required; what the destination publishes counts"
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
