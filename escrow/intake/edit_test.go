package intake

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow/intake/spool"
	"github.com/postseal/postseal/policyd/policy"
)

// TestTagsAreTakenOut holds what goes on of a message whose trigger says so, and that
// nothing else of it changes.
func TestTagsAreTakenOut(t *testing.T) {
	triggers, err := policy.NewTriggers(nil, []*policy.Trigger{
		{Kind: policy.OnSubject, Pattern: "[secure]", Sender: "s.example", Requirement: policy.Encryption, Remove: true},
		{Kind: policy.OnSubject, Pattern: "[theirs]", Sender: "other.example", Requirement: policy.EscrowOnly, Remove: true},
		{Kind: policy.OnHeader, Header: "x-secure", Pattern: "yes", Sender: "*", Requirement: policy.EscrowOnly, Remove: true},
		{Kind: policy.OnSensitivity, Pattern: "private", Sender: "*", Requirement: policy.ForcedTLS},
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	body := "\r\nSubject: [secure] is text\r\n" + strings.Repeat("x", 70<<10) + "\r\n.\x00\xff"
	mark := func(r string) string { return MarkHeader + ": " + r + " genuine-sender@s.example\r\n" }
	head := receivedLine + "To: [secure] <a@b.example>\r\nSubject:"
	tests := []struct{ name, text, rcpt, way, want string }{
		{"nothing to do", head + " x\r\n" + body, "plain@x.example", "plain", head + " x\r\n" + body},
		{"over TLS", head + " [secure] x\r\n" + body, "plain@x.example", "secure", mark("encryption") + head + " x\r\n" + body},
		{"into the escrow", head + " [secure] x\r\n" + body, "sealed@x.example", "sealed", head + " x\r\n" + body},
		{"to an own recipient", head + " [secure] x\r\n" + body, "own@own.example", "plain", mark("encryption") + head + " x\r\n" + body},
		{"who may not use it", head + " [theirs] x\r\n" + body, "plain@x.example", "plain", head + " [theirs] x\r\n" + body},
		{"a field", "X-Secure: yes\r\n\tfolded\r\n" + head + " x\r\n" + body, "plain@x.example", "sealed", head + " x\r\n" + body},
		{"several", "X-Secure: yes\r\n" + head + " [secure] x\r\nX-Secure: no\r\nx-secure : YES\r\nsubject: Re: [secure]\r\n" + body, "own@own.example", "plain",
			mark("escrow") + mark("encryption") + head + " x\r\nX-Secure: no\r\nsubject: Re:\r\n" + body},
		{"at TLS alone", head + " x\r\nSensitivity: Private\r\n" + body, "plain@x.example", "forced", head + " x\r\nSensitivity: Private\r\n" + body},
		{"behind a line that is no field nothing is changed", "no field\r\nSubject: [secure] x\r\n" + body, "plain@x.example", "secure", "no field\r\nSubject: [secure] x\r\n" + body},
		{"nor in a field that is too long", receivedLine + "Subject: [secure] " + strings.Repeat("x", maxField) + "\r\n" + body, "plain@x.example", "secure",
			receivedLine + "Subject: [secure] " + strings.Repeat("x", maxField) + "\r\n" + body},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBed(t, true)
			b.cfg.Triggers = func() *policy.Triggers { return triggers }
			b.splitter(policy.None)
			for range 2 { // a retry is the same message
				wantCodes(t, b.deliver(tt.text, tt.rcpt), "250 2.0.0")
			}
			got := map[string][]string{}
			for way, p := range map[string]*fakePostfix{"plain": b.plain, "secure": b.secure, "forced": b.forced} {
				for _, m := range p.messages() {
					got[way] = append(got[way], m.text)
				}
			}
			for i, text := range b.vault.texts {
				if size := b.vault.sealed[i].Size; int64(len(text)) != size {
					t.Errorf("%d bytes were sealed, announced were %d", len(text), size)
				}
				got["sealed"] = append(got["sealed"], text)
			}
			want := strings.TrimSuffix(tt.want, "\r\n")
			if len(got) != 1 || len(got[tt.way]) != 1 || strings.TrimSuffix(got[tt.way][0], "\r\n") != want {
				t.Errorf("went %.300q, want %s once with %.300q", got, tt.way, want)
			}
		})
	}
}

// FuzzEdited holds that the fields that are edited are changed, and nothing else is.
func FuzzEdited(f *testing.F) {
	f.Add("Subject: [secure] x\r\nX-Secure: yes\r\n\r\nSubject: [secure]\r\n", 3)
	f.Add("X-Secure: yes\r\n\t\r\nSubject: =?utf-8?Q?[secure]?=\r\n y", 1)
	f.Add("\r\nX-Secure: yes\r\n", 7)
	triggers, err := policy.NewTriggers(nil, []*policy.Trigger{
		{Kind: policy.OnSubject, Pattern: "[secure]", Sender: "*", Requirement: policy.Encryption, Remove: true},
		{Kind: policy.OnHeader, Header: "x-secure", Pattern: "yes", Sender: "*", Requirement: policy.EscrowOnly, Remove: true},
	}, "")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string, step int) {
		m := &message{spool: spool.New("")}
		defer m.spool.Close()
		m.spool.Write([]byte(text))
		want, at := "", int64(0)
		h := header{concerns: triggers.Concerns, mark: func(string) {}, field: func(f field) {
			if text[f.from:f.from+int64(len(f.text))] != f.text {
				t.Fatalf("the field %q is said to stand at %d", f.text, f.from)
			}
			if fresh, changed := triggers.Rewrite(f.text, policy.Address{}, time.Time{}); changed && f.whole {
				m.edits = append(m.edits, edit{f.from, int64(len(f.text)), fresh})
				want, at = want+text[at:f.from]+fresh, f.from+int64(len(f.text))
			}
		}}
		if err := h.read(strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		want += text[at:]
		r, err := m.openBehind("Mark: x\r\n")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(stepReader{r, 1 + max(step, -step)%9})
		if err != nil || string(got) != "Mark: x\r\n"+want || m.size() != int64(len(want)) {
			t.Fatalf("%q became %q (%d), want %q: %v", text, got, m.size(), want, err)
		}
	})
}

// stepReader reads a few bytes at a time.
type stepReader struct {
	io.Reader
	n int
}

func (s stepReader) Read(p []byte) (int, error) { return s.Reader.Read(p[:min(s.n, len(p))]) }
