package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	netmail "net/mail"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// composed is a message that a system gives to Postseal to send.
type composed struct {
	mail
	file    []byte
	tls     string // recipients, one of each kind
	sealed  string
	mailbox string
}

// compose makes one with recipients of its own.
func (s *scene) compose() composed {
	s.marks++
	c := composed{
		mail: mail{mark: fmt.Sprintf("mark-%d-of-a-system", s.marks)}, file: make([]byte, 200<<10),
		tls: fmt.Sprintf("t%d@tls.example", s.marks), sealed: fmt.Sprintf("p%d@plain.example", s.marks), mailbox: "nurse@own.example",
	}
	rand.NewChaCha8([32]byte{byte(s.marks)}).Read(c.file)
	s.must = append(s.must, c.mark, base64.StdEncoding.EncodeToString(c.file[:57]), "a private subject")
	return c
}

func (c *composed) text() string { return "Your value. " + c.mark + "\n.\nFrom Monday on.\n" }

// arrived checks that it came to each of its recipients, once, as it should.
func (s *scene) arrived(c composed) {
	s.t.Helper()
	s.isComposed(c, s.arrivesByTLS(c.mail, c.tls).Data)
	s.isComposed(c, s.mailbox(c.mail, c.mailbox))
	link := s.sealed(c.mail, c.sealed)
	got, err := s.Pickup(c.sealed, link, "")
	s.check(err)
	s.isComposed(c, got)
}

// isComposed looks at it as a mail program does.
func (s *scene) isComposed(c composed, raw []byte) {
	s.t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(raw))
	s.check(err)
	for name, want := range map[string]string{
		"From": `"Dr. Who" <doc@own.example>`, "To": "<" + c.tls + ">", "Cc": "<" + c.sealed + ">", "Bcc": "", "Subject": "a private subject",
	} {
		if got := m.Header.Get(name); got != want {
			s.t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	s.check(err)
	parts := multipart.NewReader(m.Body, params["boundary"])
	p, err := parts.NextPart()
	s.check(err)
	text, err := io.ReadAll(p)
	s.check(err)
	if got := strings.ReplaceAll(string(text), "\r\n", "\n"); got != c.text() {
		s.t.Errorf("the text is %q, want %q", got, c.text())
	}
	p, err = parts.NextPart()
	s.check(err)
	file, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, p))
	if err != nil || !bytes.Equal(file, c.file) || p.FileName() != "Befund ä.pdf" {
		s.t.Errorf("the file came as %q of %d bytes: %v", p.FileName(), len(file), err)
	}
}

const apiURL = "http://127.0.0.1:8646/api/v1/messages"

// post gives it to the API; status is 0 where there was no answer.
func (s *scene) post(c composed, key, idempotency, from string) (status int, body string) {
	s.t.Helper()
	text, err := json.Marshal(map[string]any{
		"from": from, "to": []string{c.tls}, "cc": []string{c.sealed}, "bcc": []string{c.mailbox},
		"subject": "a private subject", "text": c.text(),
		"attachments": []map[string]any{{"name": "Befund ä.pdf", "type": "application/pdf", "content": base64.StdEncoding.EncodeToString(c.file)}},
	})
	s.check(err)
	r, err := http.NewRequest(http.MethodPost, apiURL, bytes.NewReader(text))
	s.check(err)
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	r.Header.Set("Idempotency-Key", idempotency)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, ""
	}
	return res.StatusCode, string(b)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

const fromDoctor = "Dr. Who <doc@own.example>"

// TestEscrowSend is a message from the command line, its text from standard input: to a
// destination with TLS, to one without, and to a mailbox here.
func TestEscrowSend(t *testing.T) {
	s := newScene(t, lab.Options{})
	c := s.compose()
	name := filepath.Join(t.TempDir(), "Befund ä.pdf")
	s.check(os.WriteFile(name, c.file, 0o600))
	out, err := s.Postseal.CLIWith("Subject: a private subject\n\n"+c.text(), "escrow", "send", "--from", fromDoctor,
		"--to", c.tls, "--cc", c.sealed, "--bcc", c.mailbox, "--attach", name)
	s.check(err)
	// Nobody knows yet whether plain.example has TLS: Postfix tries it, as for all mail.
	for _, want := range []string{c.tls + " +handed-over", c.sealed + " +handed-over", c.mailbox + " +handed-over"} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	s.arrived(c)

	always := s.compose()
	out, err = s.Postseal.CLIWith(always.text(), "escrow", "send", "--from", fromDoctor, "--to", always.tls, "--require", "escrow", "--json")
	s.check(err)
	if !strings.Contains(out, `"outcome": "sealed"`) {
		t.Errorf("with --require escrow:\n%s", out)
	}
	s.sealed(always.mail, always.tls)

	s.check(s.Postseal.Stop())
	if out, err := s.Postseal.CLIWith(always.text(), "escrow", "send", "--from", fromDoctor, "--to", always.tls); err == nil || !strings.Contains(err.Error()+out, "is postseal serve running?") {
		t.Errorf("without a server: %v\n%s", err, out)
	}
}

// TestAPISendsOnce is the same by HTTP. A request that is repeated sends nothing again,
// also where the program was killed before it had answered.
func TestAPISendsOnce(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{"domain add plain.example --require encryption"}})
	s.sealed(s.send("doc@own.example", patient), patient) // now it is known that plain.example has no TLS
	key, err := s.CLI("api-key", "new", "--sender", "@own.example", "--note", "the laboratory")
	s.check(err)
	key = lastLine(key)
	c := s.compose()
	for name, bad := range map[string]struct {
		key, from string
		status    int
	}{
		"no key":             {"", fromDoctor, http.StatusUnauthorized},
		"not a key":          {key + "x", fromDoctor, http.StatusUnauthorized},
		"somebody else's":    {key, "doc@tls.example", http.StatusForbidden},
		"no sender":          {key, "", http.StatusForbidden},
		"a subdomain of his": {key, "doc@sub.own.example", http.StatusForbidden},
	} {
		if status, body := s.post(c, bad.key, name, bad.from); status != bad.status {
			t.Errorf("%s: %d %s, want %d", name, status, body, bad.status)
		}
	}
	status, first := s.post(c, key, "order 66", fromDoctor)
	if status != http.StatusAccepted || strings.Count(first, `"handed-over"`) != 2 || strings.Count(first, `"sealed"`) != 1 {
		t.Fatalf("%d %s", status, first)
	}
	if status, again := s.post(c, key, "order 66", fromDoctor); status != http.StatusAccepted || again != first {
		t.Errorf("again: %d %s", status, again)
	}
	s.arrived(c)
	other := s.compose()
	if status, body := s.post(other, key, "order 66", fromDoctor); status != http.StatusUnprocessableEntity {
		t.Errorf("another message under the same key: %d %s", status, body)
	}

	for _, point := range []string{"api-before-send", "seal-after-commit", "before-reinject", "after-settle", "before-reply", "api-after-send", "api-before-answer"} {
		s.run(point, func(t *testing.T) {
			c := s.compose()
			s.Postseal.Kill()
			s.check(s.Postseal.Start("POSTSEAL_CRASH_AT=" + point))
			if status, body := s.post(c, key, point, fromDoctor); status != 0 {
				t.Errorf("answered %d %s", status, body)
			}
			if !s.Postseal.WaitExit(patience) {
				t.Fatal("the program never came to this point")
			}
			s.check(s.Postseal.Start())
			s.check(s.Postfix.Reload())
			status, first := s.post(c, key, point, fromDoctor)
			if status != http.StatusAccepted || strings.Count(first, `"outcome"`) != 3 || strings.Contains(first, "deferred") {
				t.Fatalf("repeated: %d %s", status, first)
			}
			if status, again := s.post(c, key, point, fromDoctor); status != http.StatusAccepted || again != first {
				t.Errorf("and once more: %d %s", status, again)
			}
			s.arrived(c)
		})
	}
	if log := s.Postseal.Log(); strings.Contains(log, key) || strings.Contains(log, "private subject") {
		t.Error("a secret stands in the log")
	}
	out, err := s.CLI("api-key", "list")
	s.check(err)
	if strings.Contains(out, key) || !strings.Contains(out, "the laboratory") {
		t.Errorf("the list of keys:\n%s", out)
	}
	id := strings.Fields(lastLine(out))[0]
	_, err = s.CLI("api-key", "remove", id)
	s.check(err)
	if status, _ := s.post(s.compose(), key, "later", fromDoctor); status != http.StatusUnauthorized {
		t.Errorf("a key that is removed: %d", status)
	}
}
