package notify

import (
	"bytes"
	"fmt"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postseal/postseal/escrow/words"
)

// letter is a mail that is being written: paragraphs, in the words of its reader.
type letter struct {
	*words.Words
	id        string // of the mail
	from, to  string // of the envelope
	name      string // displayed as the sender; "": that of the server
	subject   string
	at        time.Time
	replyTo   string
	auto      string   // Auto-Submitted (RFC 3834)
	author    string   // address in From, "": that of the server, which is Sender else
	about     string   // Message-ID of the message that the mail is about, without brackets
	report    *report  // what programs are told beside the text; nil: nothing
	text      []string // paragraphs
	untouched []bool   // lines that stand alone and are never wrapped
}

// say adds a paragraph from the catalogue.
func (l *letter) say(key string, args ...any) { l.add(l.T(key, args...), false) }

// link adds a line that stands alone and is never wrapped.
func (l *letter) link(s string) { l.add(visible(s), true) }

func (l *letter) add(s string, untouched bool) {
	l.text, l.untouched = append(l.text, s), append(l.untouched, untouched)
}

// person names an address within a text. In a text that runs from right to left it
// is kept from pulling its neighbours along.
func (l *letter) person(address string) string {
	const longest = 320 // characters, what an address has at most (RFC 3696)
	if len(address) > longest {
		address = strings.ToValidUTF8(address[:longest], "") + "..."
	}
	if address = visible(address); l.Dir == "rtl" {
		return "\u2068" + address + "\u2069" // first strong isolate, and its end
	}
	return address
}

// visible writes what is not seen (controls, marks of direction, all kinds of line
// breaks) as \u escapes: an address may hold it and must not change what is around.
func visible(s string) string {
	hidden := func(r rune) bool {
		return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp) || r == utf8.RuneError
	}
	if strings.IndexFunc(s, hidden) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		switch {
		case !hidden(r):
			b.WriteRune(r)
		case r > 0xffff:
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

// mail writes the mail. English is plain 7-bit text; what else has letters beyond
// ASCII is UTF-8, as quoted-printable (RFC 2045, section 6.7).
func (w *Writer) mail(l *letter) Mail {
	var b bytes.Buffer
	header := func(name, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\r\n", name, value)
		}
	}
	header("Date", l.at.Format("Mon, 02 Jan 2006 15:04:05 -0700"))
	name := l.name
	if name == "" {
		name = w.Name
	}
	if name == "" {
		name = l.T("notice.from", w.ServerName)
	}
	if l.author != "" {
		header("From", "<"+visible(l.author)+">")
		header("Sender", phrase(name)+" <"+w.From.String()+">")
	} else {
		header("From", phrase(name)+" <"+w.From.String()+">")
	}
	header("To", "<"+visible(l.to)+">")
	if l.replyTo != "" {
		header("Reply-To", "<"+visible(l.replyTo)+">")
	}
	header("Subject", encodeWords(l.subject))
	header("Message-ID", "<"+l.id+"@"+w.From.Domain+">")
	if l.about != "" {
		header("References", "<"+l.about+">")
	}
	header("Auto-Submitted", l.auto)
	header("X-Auto-Response-Suppress", "All")
	header("Content-Language", l.Tag)
	header("MIME-Version", "1.0")
	if l.report != nil {
		l.writeReport(&b)
	} else {
		l.writeText(&b)
	}
	return Mail{From: l.from, To: l.to, Text: b.Bytes()}
}

// writeText writes the text as a MIME entity.
func (l *letter) writeText(b *bytes.Buffer) {
	text := l.body()
	if ascii(text) {
		b.WriteString("Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\n" + text)
		return
	}
	b.WriteString("Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n")
	qp := quotedprintable.NewWriter(b)
	qp.Write([]byte(text)) // into memory: it can't fail
	qp.Close()
}

// width is how long a line gets, in characters, before it is wrapped.
const width = 72

// body is the text, its lines ended by CR LF.
func (l *letter) body() string {
	var b strings.Builder
	for i, p := range l.text {
		if l.untouched[i] || l.Tag == "ja" { // which has no spaces to wrap at
			b.WriteString(p)
		} else {
			line := 0
			for word := range strings.FieldsSeq(p) {
				n := utf8.RuneCountInString(word)
				switch {
				case line == 0:
				case line+1+n > width:
					b.WriteString("\r\n")
					line = 0
				default:
					b.WriteByte(' ')
					line++
				}
				b.WriteString(word)
				line += n
			}
		}
		b.WriteString("\r\n\r\n")
	}
	return b.String()
}

// encodeWords writes text for a header field (RFC 2047), each encoded word on a
// line of its own.
func encodeWords(s string) string {
	coding := mime.QEncoding
	if n := len(s); utf8.RuneCountInString(s) < n*2/3 { // mostly letters of three bytes
		coding = mime.BEncoding
	}
	return fold(coding.Encode("utf-8", s))
}

func fold(encoded string) string { return strings.ReplaceAll(encoded, "?= =?", "?=\r\n =?") }

// phrase writes a display name (RFC 5322, section 3.2.5).
func phrase(name string) string {
	return fold(strings.TrimSuffix((&mail.Address{Name: name, Address: "a@b"}).String(), " <a@b>"))
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
