package escrow_test

import (
	"bytes"
	"io"
	"mime/quotedprintable"
	"net/mail"
	"strings"
	"testing"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/notify"
)

// textOf reads the text of a mail as a mail program does.
func textOf(t *testing.T, e notify.Entry) (language, text string) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(e.Text))
	if err != nil {
		t.Fatal(err)
	}
	var body io.Reader = m.Body
	if m.Header.Get("Content-Transfer-Encoding") == "quoted-printable" {
		body = quotedprintable.NewReader(body)
	}
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return m.Header.Get("Content-Language"), string(b)
}

// TestLanguages: the language that a rule names is that of the notice, of a notice
// sent anew, of codes and of automatic answers, and is told to the portal; where it
// names none, that of the server is.
func TestLanguages(t *testing.T) {
	b := newBench(t)
	b.Vault = b.vault(b.keys, func(o *escrow.Options) {
		o.Language = "fr"
		o.Brand = func(from, language string) (string, string) {
			if from != sender {
				t.Errorf("brand of %q", from)
			}
			return "Clinic in " + language, "Telephone 555-0100"
		}
	})
	for _, tt := range []struct{ rule, want, word string }{{"ja", "ja", "メッセージ"}, {"", "fr", "message protégé"}, {"ar", "ar", "الرسالة"}} {
		m := message([]byte("Subject: private\r\n\r\nbody in "+tt.want), escrow.Recipient{Address: recipient, Language: tt.rule, Verify: escrow.VerifyCode})
		id := b.seal(m)[0]
		notice := b.mails()[0]
		language, text := textOf(t, notice)
		link := linkLine.FindString(text)
		if language != tt.want || link == "" || !strings.Contains(text, "Telephone 555-0100") || !strings.Contains(string(notice.Text), `"Clinic in `+tt.want+`" <notice@clinic.example>`) {
			t.Fatalf("notice in %s: %s", language, notice.Text)
		}
		_, secret, _ := strings.Cut(strings.TrimSpace(link), id+"/")
		p, err := b.Pickup(t.Context(), id, secret)
		b.must(err)
		if p.Language != tt.rule {
			t.Errorf("the portal is told %q", p.Language)
		}
		b.must(b.SendCode(t.Context(), p, escrow.Client{}))
		if language, text := textOf(t, b.mails()[0]); language != tt.want || !strings.Contains(text, tt.word) {
			t.Errorf("code in %s: %s", language, text)
		}
		b.must(b.Resend(t.Context(), id, ""))
		if language, _ := textOf(t, b.mails()[0]); language != tt.want {
			t.Errorf("sent anew in %s", language)
		}
		token, _ := b.IsBounceAddress(notice.From)
		b.must(b.Bounced(t.Context(), token, recipient, strings.NewReader("From: "+recipient+"\r\nSubject: Re:\r\n\r\nthanks\r\n")))
		if language, _ := textOf(t, b.mails()[0]); language != tt.want {
			t.Errorf("answer in %s", language)
		}
	}
}
