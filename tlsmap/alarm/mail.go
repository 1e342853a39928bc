package alarm

import (
	"bytes"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"strings"
	"time"

	"github.com/postseal/postseal/tlsmap/probe"
)

// news is what is told at once.
type news struct {
	host   string
	at     time.Time
	events []probe.Event // at least one, the oldest first
	atOnce int           // destinations that lost their TLS at once; 0: not remarkably many
}

// subject is the news in one line.
func (n *news) subject() string {
	e := &n.events[0]
	switch {
	case n.atOnce > 0:
		return fmt.Sprintf("TLS vanished at %d destinations at once: look at your own network first", n.atOnce)
	case len(n.events) > 1:
		return fmt.Sprintf("%d alarms about the TLS of destinations", len(n.events))
	case e.Kind == probe.TLSLost:
		return e.Dest + " has lost its TLS: possible strip"
	}
	return e.Dest + " " + e.Kind.Headline()
}

// listed is how many alarms a mail lists.
const listed = 100

// text is the news for a person to read.
func (n *news) text() string {
	var b strings.Builder
	if n.atOnce > 0 {
		fmt.Fprintf(&b, "TLS vanished at %d destinations within an hour. So many at once hardly changed by\n"+
			"themselves: look at your own network first (a firewall that inspects SMTP, the\n"+
			"provider, the resolver).\n\n", n.atOnce)
	}
	lost := false
	for i := range n.events[:min(len(n.events), listed)] {
		e := &n.events[i]
		_, begins := e.Kind.Ends()
		lost = lost || begins
		fmt.Fprintf(&b, "%s  %s\n    %s\n\n", e.At.UTC().Format("2006-01-02 15:04:05 UTC"), e.Dest, e.String())
	}
	if more := len(n.events) - listed; more > 0 {
		fmt.Fprintf(&b, "… and %d more.\n\n", more)
	}
	if lost {
		b.WriteString("Nothing is weakened by this. Mail that must be encrypted waits for the grace\n" +
			"period, and then is sealed where its rules allow that, or goes on waiting; it\n" +
			"never leaves in plaintext. Other mail goes as before.\n\n")
	}
	fmt.Fprintf(&b, "More is told on the server by:\n\n    postseal posture show %s\n\n-- \nPostseal at %s\n", n.events[0].Dest, n.host)
	return b.String()
}

// mail is the news as a message, its lines ended by CR LF.
func (n *news) mail(from, to string) []byte {
	var b bytes.Buffer
	field := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	domain := from[strings.LastIndexByte(from, '@')+1:]
	field("Date", n.at.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	field("From", "Postseal <"+from+">")
	field("To", "<"+to+">")
	field("Subject", strings.ReplaceAll(mime.QEncoding.Encode("utf-8", "[Postseal] "+n.subject()), "?= =?", "?=\r\n =?"))
	// The same where it is sent twice.
	field("Message-ID", fmt.Sprintf("<alarm.%d.%d.%d@%s>", n.events[0].ID, len(n.events), n.events[0].At.Unix(), domain))
	field("Auto-Submitted", "auto-generated")
	field("X-Auto-Response-Suppress", "All")
	field("MIME-Version", "1.0")
	field("Content-Type", "text/plain; charset=utf-8")
	field("Content-Transfer-Encoding", "quoted-printable")
	b.WriteString("\r\n")
	qp := quotedprintable.NewWriter(&b) // makes line ends CR LF
	qp.Write([]byte(n.text()))          // into memory: it can't fail
	qp.Close()
	return b.Bytes()
}
