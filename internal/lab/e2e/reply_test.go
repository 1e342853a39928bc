package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// patient is who replies. Mail to that domain is sealed.
const patient = "pat@plain.example"

func replyScene(t *testing.T, o lab.Options) *scene {
	o.Hosts = map[string]lab.Kind{"nosec.example": lab.NoTLS, "refuses.example": lab.GoodTLS}
	o.Rules = append(o.Rules, "domain add plain.example --require encryption")
	return newScene(t, o)
}

// sealedFor sends a message to the patient, picks it up, and returns the browser that
// may reply, and the link.
func (s *scene) sealedFor(from, to, id string) (*lab.Browser, string) {
	s.t.Helper()
	s.marks++
	mark := fmt.Sprintf("mark-%d", s.marks)
	data := strings.ReplaceAll(`From: Dr. Who <`+from+`>
To: `+to+`, nurse@own.example, stranger@tls.example
Subject: =?utf-8?q?Ihr_R=C3=B6ntgenbild?=
Message-ID: <`+id+`@mua.example>
References: <first@mua.example>
In-Reply-To: <first@mua.example>

Come in on Monday. `+mark+`
`, "\n", "\r\n")
	s.must = append(s.must, mark)
	before := len(s.links(to))
	s.accepted(s.submit(lab.Message{From: from, To: []string{to}, Data: []byte(data)}))
	return s.opens(to, before)
}

func (s *scene) links(to string) []string {
	_, links := s.Notices(to)
	return links
}

// opens waits for the notice after so many others, and picks the message up.
func (s *scene) opens(to string, before int) (*lab.Browser, string) {
	s.t.Helper()
	if !s.Wait(patience, func() bool { return len(s.links(to)) > before }) {
		s.t.Fatalf("no notice arrived for %s", to)
	}
	link := s.links(to)[before]
	b, err := s.Open(to, link)
	s.check(err)
	return b, link
}

// secretReply makes a reply that must never be seen in plaintext, nor its file.
func (s *scene) secretReply() (m mail, text string, file lab.Attachment) {
	s.marks++
	mark := fmt.Sprintf("reply-mark-%d", s.marks)
	data := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{byte(s.marks)}).Read(data)
	line := base64.StdEncoding.EncodeToString(data[:57]) // as it stands in the message
	s.must = append(s.must, mark, line)
	return mail{mark: mark}, "Thank you. " + mark + "\n.\nFrom Monday on.\n", lab.Attachment{Name: "Über mich.pdf", Data: data}
}

// isReply checks a reply as it arrived.
func (s *scene) isReply(got []byte, id, text string, file lab.Attachment, header map[string]string) {
	s.t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(got))
	s.check(err)
	header["In-Reply-To"] = "<" + id + "@mua.example>"
	header["References"] = "<first@mua.example> <" + id + "@mua.example>"
	header["Subject"] = "Re: Ihr Röntgenbild"
	header["Auto-Submitted"] = ""
	for name, want := range header {
		value, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get(name))
		if err != nil || strings.ReplaceAll(value, `"`, "") != want {
			s.t.Errorf("%s: %q, want %q", name, value, want)
		}
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	s.check(err)
	parts := multipart.NewReader(m.Body, params["boundary"])
	p, err := parts.NextPart()
	s.check(err)
	body, err := io.ReadAll(p)
	s.check(err)
	if string(bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n"))) != text {
		s.t.Errorf("the text is %q, want %q", body, text)
	}
	p, err = parts.NextPart()
	s.check(err)
	data, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, p))
	if err != nil || !bytes.Equal(data, file.Data) || p.FileName() != file.Name {
		s.t.Errorf("the file came as %q of %d bytes: %v", p.FileName(), len(data), err)
	}
}

// TestReplies is that what a recipient answers at the portal arrives as a mail of the
// thread: plainly here, over TLS outside, sealed again where there is no TLS; and in
// plaintext nowhere.
func TestReplies(t *testing.T) {
	s := replyScene(t, lab.Options{Prepare: mainCF("virtual_alias_maps", texthash("virtual", "desk@own.example joe@own.example\n"))})
	s.run("to a mailbox here", func(t *testing.T) {
		b, link := s.sealedFor("doc@own.example", patient, "m1")
		m, text, file := s.secretReply()
		s.check(b.Reply(link, "save", "not this", false, file))
		s.check(b.Reply(link, "send", text, true))
		header := map[string]string{
			"From": "<" + patient + ">", "Sender": "<" + lab.NoticeFrom + ">", "To": "Dr. Who <doc@own.example>", "Cc": "<nurse@own.example>", "Reply-To": "",
		}
		s.isReply(s.mailbox(m, "doc@own.example"), "m1", text, file, header)
		s.isReply(s.mailbox(m, "nurse@own.example"), "m1", text, file, header)
		if n := s.count(m.mark, "stranger@tls.example"); n != 0 {
			t.Error("it went to who is not on the sender's side")
		}
	})
	s.run("to an alias here", func(t *testing.T) {
		b, link := s.sealedFor("desk@own.example", patient, "m0")
		m, text, file := s.secretReply()
		s.check(b.Reply(link, "send", text, false, file))
		s.isReply(s.mailbox(m, "joe@own.example"), "m0", text, file, map[string]string{"To": "Dr. Who <desk@own.example>"})
	})
	outside := map[string]string{
		"From": patient + " <" + lab.NoticeFrom + ">", "Sender": "", "To": "Dr. Who <doc@tls.example>", "Cc": "", "Reply-To": "<" + patient + ">",
	}
	s.run("to a sender elsewhere, over TLS", func(t *testing.T) {
		b, link := s.sealedFor("doc@tls.example", patient, "m2")
		m, text, file := s.secretReply()
		s.check(b.Reply(link, "send", text, false, file))
		got := s.arrivesByTLS(m, "doc@tls.example")
		s.isReply(got.Data, "m2", text, file, outside)
		if !strings.HasPrefix(got.From, "postseal-bounce+r") {
			t.Errorf("its envelope sender is %s", got.From)
		}
	})
	s.run("to a sender elsewhere without TLS: sealed again, and again", func(t *testing.T) {
		for i, id := range []string{"m3", "m4"} { // by the fallback, then by the splitter
			b, link := s.sealedFor("doc@nosec.example", patient, id)
			_, text, file := s.secretReply()
			s.check(b.Reply(link, "send", text, false, file))
			doc, back := s.opens("doc@nosec.example", i)
			outside["To"] = "Dr. Who <doc@nosec.example>"
			s.isReply(doc.Page, id, text, file, outside)
			items, err := s.Escrowed("doc@nosec.example")
			s.check(err)
			if len(items) != i+1 || items[0].Sender != patient {
				t.Errorf("sealed: %+v", items)
			}
			if i == 0 {
				continue
			}
			// And back: the patient is the sender now.
			_, text, file = s.secretReply()
			n := len(s.links(patient))
			s.check(doc.Reply(back, "send", text, false, file))
			_, link = s.opens(patient, n)
			if link == "" {
				t.Error("no way back")
			}
		}
	})
	s.drained(patient)
	s.drained("doc@nosec.example")
}

// TestReplyComesBack is that a reply which can't be delivered is told to who wrote it,
// by a mail that holds nothing of it, wherever it fails.
func TestReplyComesBack(t *testing.T) {
	s := replyScene(t, lab.Options{Prepare: func(b *lab.Bed) error {
		return b.Postfix.AddMainCF("virtual_mailbox_maps", table(t, b, "mailboxes", "a@own.example all/\n"))
	}})
	s.refuse("refuses.example")
	for i, from := range []string{"gone@own.example", "doc@refuses.example"} {
		s.run(from, func(t *testing.T) {
			b, link := s.sealedFor(from, patient, fmt.Sprint("m", i))
			m, text, file := s.secretReply()
			s.check(b.Reply(link, "send", text, false, file))
			told := func() (told []string) {
				for _, got := range s.Received() {
					if got.HasTo(patient) && got.Accepted && bytes.Contains(got.Data, []byte("NOT reached")) && bytes.Contains(got.Data, []byte(from)) {
						told = append(told, string(got.Data))
					}
				}
				return told
			}
			if !s.Wait(patience, func() bool { return len(told()) > 0 }) {
				t.Fatal("the patient was not told")
			}
			s.drained(patient)
			if mails := told(); len(mails) != 1 || strings.Contains(mails[0], m.mark) || strings.Contains(mails[0], "Röntgen") || strings.Contains(mails[0], "R=C3") || strings.Contains(mails[0], "/m/") {
				t.Errorf("%d mails, the first is\n%s", len(mails), mails[0])
			}
			for _, domain := range []string{"nosec.example", "plain.example", "tls.example"} {
				for _, got := range s.host(domain).Server.Received() {
					if bytes.Contains(got.Data, []byte(m.mark)) {
						t.Errorf("the reply was seen at %s", domain)
					}
				}
			}
		})
	}
}

// replyPoints are where the program is killed while a reply is on its way; twice says
// that Postfix had taken it, and we had not noted that yet.
var replyPoints = []struct {
	name  string
	twice bool
}{
	{name: "reply-after-commit"},
	{name: "reply-before-send"},
	{name: "before-reinject"},
	{name: "before-settle", twice: true},
	{name: "after-settle"},
	{name: "before-reply"},
	{name: "reply-after-send"},
	{name: "reply-after-record"},
}

// TestReplySurvivesKill kills the program at each point on the way of a reply, and
// finds it delivered to each of its recipients, once.
func TestReplySurvivesKill(t *testing.T) {
	s := replyScene(t, lab.Options{})
	for i, p := range replyPoints {
		s.run(p.name, func(t *testing.T) {
			b, link := s.sealedFor("doc@own.example", patient, fmt.Sprint("m", i))
			m, text, file := s.secretReply()
			s.check(b.Reply(link, "save", text, true, file))
			s.Postseal.Kill()
			s.check(s.Postseal.Start("POSTSEAL_CRASH_AT=" + p.name))
			err := b.Reply(link, "send", text, true)
			if !s.Postseal.WaitExit(patience) {
				t.Fatalf("the program never came to this point: %v", err)
			}
			s.check(s.Postseal.Start())
			s.check(s.Postfix.Reload())
			for _, to := range []string{"doc@own.example", "nurse@own.example"} {
				if p.twice {
					if !s.Wait(patience, func() bool { return s.inMailbox(m.mark, to) > 0 }) {
						t.Errorf("nothing in the mailbox of %s", to)
					}
				} else {
					s.isReply(s.mailbox(m, to), fmt.Sprint("m", i), text, file, map[string]string{})
				}
			}
			s.drained("doc@own.example")
			if !p.twice {
				if n := s.inMailbox(m.mark, "doc@own.example"); n != 1 {
					t.Errorf("it came %d times", n)
				}
			}
		})
	}
}

func (s *scene) inMailbox(mark, address string) (n int) {
	for _, m := range s.Postfix.Mailbox(address) {
		if bytes.Contains(m, []byte(mark)) {
			n++
		}
	}
	return n
}
