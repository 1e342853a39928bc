package notify

import (
	"bytes"
	"io"
	"mime"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow/words"
	"github.com/postseal/postseal/policyd/policy"
)

func testWriter(t testing.TB) *Writer {
	t.Helper()
	_, from, err := ParseFrom("postseal@clinic.example")
	if err != nil {
		t.Fatal(err)
	}
	return &Writer{From: from, ServerName: "mail.clinic.example", PortalURL: "https://portal.clinic.example"}
}

var (
	testAt   = time.Date(2026, 11, 24, 13, 5, 0, 0, time.UTC)
	testLink = "https://portal.clinic.example/m/aaaabbbbccccddddeeee2222/" + strings.Repeat("abcd2345", 7) + "="
)

// every mail that goes to a reader in a language, by name.
func every(w *Writer, language, sender, recipient string) map[string]Mail {
	w.Language = language
	notice := func(verify string, anew bool) Mail {
		return w.Notice(Notice{ID: "id", Bounces: "postseal-bounce+n@clinic.example", To: recipient, Sender: sender, Link: testLink, ItemID: "aaaabbbbccccddddeeee2222",
			Verify: verify, Language: language, Created: testAt, Expires: testAt.Add(30 * 24 * time.Hour), SentAnew: anew})
	}
	mails := map[string]Mail{
		"code notice": notice("code", false), "passphrase notice": notice("passphrase", true), "account notice": notice("account", false),
		"code":   w.Code(Code{ID: "id", Bounces: "postseal-bounce+c@clinic.example", To: recipient, Code: "3141 5926", Sender: sender, Language: language, Created: testAt, Expires: testAt.Add(15 * time.Minute)}),
		"answer": w.Answer(Answer{ID: "id", To: recipient, Sender: sender, Language: language, Created: testAt}),
	}
	for _, what := range []string{"sealed", "enrolled", "read", "reply", "expiring", "expired", "retracted", "failure", "lock", "forgot", "reset"} {
		mails["told "+what] = w.Tell(Told{
			ID: "id", To: sender, What: what, Language: language, Recipients: []string{recipient}, ItemID: "aaaabbbbccccddddeeee2222",
			MessageID: "x@clinic.example", How: "code", Sealed: testAt, Created: testAt, Expires: testAt.Add(time.Hour),
		})
	}
	return mails
}

// read parses a mail as a mail program does, and returns its subject and the lines
// of its text.
func read(t *testing.T, m Mail) (h mail.Header, subject string, lines []string) {
	t.Helper()
	for line := range strings.SplitSeq(strings.TrimSuffix(string(m.Text), "\r\n"), "\r\n") {
		if len(line) > 998 || strings.ContainsAny(line, "\r\n") {
			t.Errorf("a line that SMTP does not carry: %.80q", line)
		}
	}
	got, err := mail.ReadMessage(bytes.NewReader(m.Text))
	if err != nil {
		t.Fatal(err)
	}
	var body io.Reader = got.Body
	switch cte := got.Header.Get("Content-Transfer-Encoding"); cte {
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	case "7bit":
	default:
		t.Errorf("encoding %q", cte)
	}
	text, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	if subject, err = new(mime.WordDecoder).DecodeHeader(got.Header.Get("Subject")); err != nil {
		t.Error(err)
	}
	return got.Header, subject, strings.Split(string(text), "\r\n")
}

func TestMails(t *testing.T) {
	for _, l := range words.Languages() {
		for _, sender := range []string{"ann@clinic.example", "änn@clinic.example", ""} {
			for name, m := range every(testWriter(t), l.Tag, sender, "pat@old.example") {
				t.Run(l.Tag+"/"+name+"/"+sender, func(t *testing.T) {
					h, subject, lines := read(t, m)
					ofServer := strings.Contains(string(m.Text), "Content-Type: text/plain; charset=us-ascii\r\n")
					if l.Tag == "en" && ascii(sender) && !ofServer {
						t.Error("English is not 7-bit text")
					}
					if !ascii(string(m.Text)) && ascii(m.To) {
						t.Errorf("not all is ASCII: %s", m.Text)
					}
					if h.Get("Content-Language") != l.Tag {
						t.Errorf("Content-Language %q", h.Get("Content-Language"))
					}
					from, err := h.AddressList("From")
					if err != nil || from[0].Name == "" || from[0].Address != "postseal@clinic.example" {
						t.Errorf("From %v (%v)", from, err)
					}
					if strings.Contains(subject, "=?") || subject == "" {
						t.Errorf("subject %q", subject)
					}
					if strings.Contains(strings.Join(lines, "\n"), "%!") || strings.Contains(subject, "%!") {
						t.Errorf("arguments that don't fit: %s", strings.Join(lines, "\n"))
					}
					alone := map[string][]string{
						"code": {"3141 5926"}, "told failure": {"pat@old.example", "aaaabbbbccccddddeeee2222"}, "told lock": {"pat@old.example"},
						"answer": {"https://portal.clinic.example/"},
					}[name]
					if strings.HasSuffix(name, " notice") {
						alone = []string{testLink, "aaaabbbbccccddddeeee2222", "https://portal.clinic.example/"}
					}
					for _, want := range alone {
						i := slices.Index(lines, want)
						if i < 1 || lines[i-1] != "" || lines[i+1] != "" {
							t.Errorf("%q is not alone on its line: %q", want, lines)
						}
					}
					if sender != "" && !strings.HasPrefix(name, "told ") && !strings.Contains(strings.Join(lines, " "), sender) {
						t.Errorf("does not name its sender: %q", lines)
					}
				})
			}
		}
	}
}

// TestHostileAddresses: an address can't turn the text around or break out of its
// line.
func TestHostileAddresses(t *testing.T) {
	for _, bad := range []string{"\"a\r\nBcc: x\"@b.example", "a\u202egpj@b.example", "a\u2028b@c.example", "a\x00b@c.example", strings.Repeat("ü", 400) + "@c.example"} {
		for _, l := range words.Languages() {
			for name, m := range every(testWriter(t), l.Tag, bad, "pat@old.example") {
				h, subject, lines := read(t, m)
				all := subject + strings.Join(lines, "\n")
				if strings.ContainsAny(all, "\u202e\u2028\x00\r") || h.Get("Bcc") != "" {
					t.Errorf("%s, %s, %q: %q", l.Tag, name, bad, all)
				}
			}
		}
	}
}

func TestBrandInNotice(t *testing.T) {
	w := testWriter(t)
	w.Brand = func(sender, language string) (string, string) {
		if sender != "ann@clinic.example" || language != "ja" {
			t.Errorf("brand of %q in %q", sender, language)
		}
		return "クリニック, Example", "Telephone 555-0100"
	}
	mails := every(w, "ja", "ann@clinic.example", "pat@old.example")
	for _, name := range []string{"code notice", "code", "answer"} {
		h, _, _ := read(t, mails[name])
		from, err := h.AddressList("From")
		if err != nil || from[0].Name != "クリニック, Example" {
			t.Errorf("%s: From %v (%v)", name, from, err)
		}
	}
	_, _, lines := read(t, mails["code notice"])
	if !slices.Contains(lines, "ご質問は: Telephone 555-0100") {
		t.Errorf("no support in %q", lines)
	}
}

// TestWrapped holds the width of lines for readers that do not wrap.
func TestWrapped(t *testing.T) {
	for _, tag := range []string{"en", "de", "fr", "es", "ar"} {
		_, _, lines := read(t, every(testWriter(t), tag, "ann@clinic.example", "pat@old.example")["code notice"])
		for _, line := range lines {
			if n := len([]rune(line)); n > width && line != testLink {
				t.Errorf("%s: a line of %d characters: %q", tag, n, line)
			}
		}
	}
}

func FuzzLetter(f *testing.F) {
	f.Add("ann@clinic.example", "pat@old.example", "de")
	f.Add("\"a b\"@x", "\u202e@y", "ar")
	f.Fuzz(func(t *testing.T, sender, recipient, language string) {
		if _, err := policy.ParseAddress(recipient); err != nil || !ascii(recipient) {
			return
		}
		if _, err := policy.ParseAddress(sender); sender != "" && (err != nil || !ascii(sender)) {
			return
		}
		for _, m := range every(testWriter(t), language, sender, recipient) {
			read(t, m)
		}
	})
}
