package notify

import (
	"bytes"
	"fmt"
	"mime"
	"net/mail"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postseal/postseal/policyd/policy"
)

// Writer writes the mails of one server.
type Writer struct {
	From       policy.Address // of every mail
	Name       string         // displayed with it
	ServerName string         // how the texts name this server
	PortalURL  string
}

// ParseFrom reads "Name <addr>" or addr.
func ParseFrom(s string) (name string, from policy.Address, err error) {
	a, err := mail.ParseAddress(s)
	if err != nil {
		return "", policy.Address{}, fmt.Errorf("address of notices %q: want NAME <ADDRESS> or ADDRESS", s)
	}
	from, err = policy.ParseAddress(a.Address)
	if err != nil || from.Domain == "" || from.Local == "" || !ascii(from.String()) {
		return "", policy.Address{}, fmt.Errorf("address of notices %q: want an ASCII address with a domain", s)
	}
	return a.Name, from, nil
}

// Notice tells a recipient of a sealed message.
type Notice struct {
	ID       string // of the mail
	Bounces  string // envelope sender, and where replies go
	To       string
	Sender   string // of the sealed message, "" for the null sender
	Link     string
	ItemID   string
	Verify   string // code or passphrase
	Created  time.Time
	Expires  time.Time
	SentAnew bool // a new link for an old message
}

// Notice writes the mail with the link.
func (w *Writer) Notice(n Notice) Mail {
	who := person(n.Sender)
	var b body
	b.say("%s has sent you a message that must not travel as ordinary mail. It is kept for you here:", who)
	b.link(n.Link)
	switch n.Verify {
	case "passphrase":
		b.say("Open the page and enter the passphrase that you have agreed on with the sender. It is never sent by mail.")
	default:
		b.say("Open the page and ask for a code. The code comes to this mailbox; enter it on the page to read the message. No account and no program is needed.")
	}
	b.say("The message can be read, as often as you like, until %s.", date(n.Expires))
	if n.SentAnew {
		b.say("This link replaces the one of an earlier mail, which no longer works.")
	}
	b.say("HOW TO CHECK THAT THIS MAIL IS GENUINE")
	b.say("Do not rely on this mail alone. Ask the sender by telephone, at a number that you know already, whether a message for you is waiting under this number:")
	b.link(n.ItemID)
	b.say("The sender's administrator can look it up. A genuine link starts with")
	b.link(w.PortalURL + "/")
	b.say("and the page never asks for the password of your mailbox or of any other account.")
	b.say("Anyone who has this mail has the link: please do not forward it. Do not reply with anything confidential: a reply to this mail travels without this protection and reaches nobody; write to the sender.")
	return w.mail(n.ID, n.Bounces, n.To, "Protected message from "+who, n.Created, n.Bounces, "auto-generated", &b)
}

// Code is a one-time code.
type Code struct {
	ID      string
	Bounces string
	To      string
	Code    string
	Sender  string // of the sealed message
	Created time.Time
	Expires time.Time
}

// Code writes the mail with a one-time code.
func (w *Writer) Code(c Code) Mail {
	var b body
	b.say("Your code for reading the protected message from %s:", person(c.Sender))
	b.link(c.Code)
	b.say("It is valid until %s. Enter it on the page where you asked for it, and nowhere else; nobody will ask you for it by telephone or mail.", clock(c.Expires))
	b.say("If you did not ask for a code, somebody else has the link to your message. Without the code they cannot read it. Please tell the sender.")
	return w.mail(c.ID, c.Bounces, c.To, "Your code for a protected message", c.Created, "", "auto-generated", &b)
}

// Report is a mail to the sender of a sealed message.
type Report struct {
	ID        string
	To        string
	Recipient string
	ItemID    string
	Sealed    time.Time // when the message was
	Created   time.Time
	Until     time.Time // of a lock
}

// Failure tells the sender that the notice bounced.
func (w *Writer) Failure(r Report) Mail {
	var b body
	b.say("Your message of %s to", date(r.Sealed))
	b.link(asciiOnly(r.Recipient))
	b.say("has NOT reached its recipient.")
	b.say("It must not travel as ordinary mail, so it was kept at %s and the recipient was to be told. The mail that told of it came back as undeliverable: the address may be wrong or closed.", w.ServerName)
	b.say("Please check the address and send the message again, or reach the recipient by other means. If the address is right, your administrator can tell the recipient anew; the message is kept under this number:")
	b.link(r.ItemID)
	return w.mail(r.ID, "", r.To, "Not delivered: your protected message", r.Created, "", "auto-generated", &b)
}

// Locked tells the sender that somebody guessed too often.
func (w *Writer) Locked(r Report) Mail {
	var b body
	b.say("Somebody who has the link to your message of %s to", date(r.Sealed))
	b.link(asciiOnly(r.Recipient))
	b.say("has entered a wrong code or passphrase too often. The message was not shown and nothing is lost; no further try is accepted until %s.", clock(r.Until))
	b.say("If it was the recipient, a mistyped or forgotten passphrase is the likely cause. If the recipient knows nothing of it, somebody else has the link: tell your administrator, who can retract the message, kept under this number:")
	b.link(r.ItemID)
	return w.mail(r.ID, "", r.To, "Wrong codes for your protected message", r.Created, "", "auto-generated", &b)
}

// Answer is the automatic answer to who replied to a notice.
type Answer struct {
	ID      string
	To      string
	Sender  string // of the sealed message
	Created time.Time
}

// Answer writes it (RFC 3834).
func (w *Writer) Answer(a Answer) Mail {
	var b body
	b.say("You have replied to an automatic mail of %s. Your reply was NOT passed on to %s, and was not kept.", w.ServerName, person(a.Sender))
	b.say("To read the protected message, open the link in the mail that you replied to; it starts with")
	b.link(w.PortalURL + "/")
	b.say("To answer the sender, write to the sender's own address. Such a mail travels as safely as your mail server sends it.")
	return w.mail(a.ID, "", a.To, "Your reply was not passed on", a.Created, "", "auto-replied", &b)
}

func (w *Writer) mail(id, from, to, subject string, at time.Time, replyTo, auto string, text *body) Mail {
	var b bytes.Buffer
	header := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", name, value)
		}
	}
	header("Date", at.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	name := w.Name
	if name == "" {
		name = "Protected mail, " + w.ServerName
	}
	header("From", phrase(name)+" <"+w.From.String()+">")
	header("To", "<"+to+">")
	if replyTo != "" {
		header("Reply-To", "<"+replyTo+">")
	}
	header("Subject", mime.QEncoding.Encode("utf-8", subject))
	header("Message-ID", "<"+id+"@"+w.From.Domain+">")
	header("Auto-Submitted", auto)
	header("X-Auto-Response-Suppress", "All")
	header("MIME-Version", "1.0")
	header("Content-Type", "text/plain; charset=us-ascii")
	header("Content-Transfer-Encoding", "7bit")
	b.WriteString("\r\n")
	b.Write(text.Bytes())
	return Mail{From: from, To: to, Text: b.Bytes()}
}

// phrase writes a display name (RFC 5322, section 3.2.5).
func phrase(name string) string {
	return strings.TrimSuffix((&mail.Address{Name: name, Address: "a@b"}).String(), " <a@b>")
}

// body is 7-bit text, its paragraphs wrapped.
type body struct{ bytes.Buffer }

const width = 72

func (b *body) say(format string, args ...any) {
	line := 0
	for word := range strings.FieldsSeq(asciiOnly(fmt.Sprintf(format, args...))) {
		switch {
		case line == 0:
		case line+1+len(word) > width:
			b.WriteString("\r\n")
			line = 0
		default:
			b.WriteByte(' ')
			line++
		}
		b.WriteString(word)
		line += len(word)
	}
	b.WriteString("\r\n\r\n")
}

// link writes a line that stands alone and is never wrapped.
func (b *body) link(s string) { b.WriteString(s + "\r\n\r\n") }

// person names a sender in a text: its address, or the mail system.
func person(sender string) string {
	if sender == "" {
		return "The mail system"
	}
	const longest = 320 // characters, what an address has at most (RFC 3696)
	if len(sender) > longest {
		return strings.ToValidUTF8(sender[:longest], "") + "..."
	}
	return sender
}

// asciiOnly writes what is not ASCII as \u escapes: the texts are 7-bit, and
// only an internationalised address can hold anything else.
func asciiOnly(s string) string {
	if ascii(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if r < utf8.RuneSelf {
			b.WriteRune(r)
		} else if r > 0xffff {
			fmt.Fprintf(&b, `\U%08x`, r)
		} else {
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

func date(t time.Time) string  { return t.UTC().Format("2 January 2006, 15:04 UTC") }
func clock(t time.Time) string { return t.UTC().Format("15:04 UTC, 2 January") }
