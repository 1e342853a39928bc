package e2e

import (
	"bytes"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// content is a message with a subject and more header fields, of which its text must be
// encrypted or not. want is what is to be read of it at its end: without what a trigger
// takes out.
type content struct {
	subject, fields string
	tag, left       string // what goes from the header, and what comes in its place
}

func (s *scene) content(c content, must bool, from string, to ...string) mail {
	s.t.Helper()
	mark, data := s.text(c.subject)
	data = append([]byte(c.fields), data...)
	if must {
		s.must = append(s.must, mark)
	}
	m := s.accepted(s.submit(lab.Message{From: from, To: to, Data: data}))
	m.mark, m.data = mark, bytes.Replace(data, []byte(c.tag), []byte(c.left), 1)
	return m
}

// TestTriggers is each kind of trigger, for who may use it and for who may not, with
// and without removal of the tag.
func TestTriggers(t *testing.T) {
	s := newScene(t, lab.Options{Rules: []string{
		"trigger add --subject [sealed] --require escrow --sender @own.example --remove",
		"trigger add --subject [secure] --require encryption --remove",
		"trigger add --header X-Secure:yes --require encryption --sender doc@own.example --remove",
		"trigger add --sensitivity private --require tls --sender @own.example",
	}})
	tests := []struct {
		name, from, stranger string
		content
	}{
		{"a subject", "a@own.example", "a@else.example", content{subject: "results [sealed] for you", tag: "[sealed] "}},
		{"a subject in encoded words", "a@own.example", "a@else.example",
			content{subject: "=?utf-8?B?W3NlYWxlZF0gZ3LDvMOfZQ==?=", tag: "=?utf-8?B?W3NlYWxlZF0gZ3LDvMOfZQ==?=", left: "=?utf-8?b?Z3LDvMOfZQ==?="}},
		{"a header field", "doc@own.example", "a@own.example", content{subject: "x", fields: "X-Secure: Yes\r\n", tag: "X-Secure: Yes\r\n"}},
	}
	for i, tt := range tests {
		u := string(rune('b'+i)) + "@"
		s.run(tt.name+" of who may use it is sealed, and the tag is gone", func(t *testing.T) {
			m := s.content(tt.content, true, tt.from, u+"plain.example", u+"own.example")
			s.sealedAs(m, u+"plain.example")
			if got := s.mailbox(m, u+"own.example"); tt.tag != "" && bytes.Contains(got, []byte(tt.tag)) {
				t.Errorf("the tag is still there: %q", got)
			}
		})
		s.run(tt.name+" of who may not does nothing", func(t *testing.T) {
			got := s.arrives(s.content(tt.content, false, tt.stranger, "x"+u+"plain.example"), "x"+u+"plain.example")
			if got.TLS || !bytes.Contains(got.Data, []byte(tt.tag)) {
				t.Errorf("TLS %v: %q", got.TLS, got.Data)
			}
		})
	}
	s.run("what everybody may use goes over TLS without its tag", func(t *testing.T) {
		m := s.content(content{subject: "[secure] x", tag: "[secure] "}, true, "a@else.example", "s@tls.example", "s@plain.example")
		if got := s.arrivesByTLS(m, "s@tls.example"); !bytes.HasSuffix(got.Data, m.data) {
			t.Errorf("arrived %q\nwant the end to be %q", got.Data, m.data)
		}
		s.sealedAs(m, "s@plain.example")
	})
	s.run("Sensitivity", func(t *testing.T) {
		c := content{subject: "x", fields: "Sensitivity: Private\r\n"}
		m := s.content(c, true, "a@own.example", "v@tls.example", "v@plain.example")
		s.arrivesByTLS(m, "v@tls.example")
		s.waits(m, "v@plain.example", "TLS")
		s.arrives(s.content(c, false, "a@else.example", "w@plain.example"), "w@plain.example")
		c.fields = "Sensitivity: Personal\r\n"
		s.arrives(s.content(c, false, "a@own.example", "x@plain.example"), "x@plain.example")
	})
	s.run("a NUL does not hide it", func(t *testing.T) {
		m := s.content(content{subject: "a\x00 [sealed] b", tag: "\x00 [sealed]"}, true, "a@own.example", "n@plain.example")
		s.sealedAs(m, "n@plain.example")
	})
	s.run("sendmail", func(t *testing.T) {
		mark, data := s.text("[sealed] x")
		s.must = append(s.must, mark)
		s.check(s.Postfix.Sendmail("a@own.example", []string{"m@plain.example"}, bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))))
		s.sealedAs(mail{mark: mark, data: bytes.Replace(data, []byte("[sealed] "), nil, 1)}, "m@plain.example")
	})
}

// TestTriggerSurvivesARequeue is that a message whose tag was taken out is still one
// that must be encrypted when postsuper -r sends it round again.
func TestTriggerSurvivesARequeue(t *testing.T) {
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"late.example": lab.GoodTLS},
		Rules: []string{"trigger add --subject [secure] --require encryption --sender @own.example --remove"},
	})
	s.check(s.Down("late.example"))
	m := s.content(content{subject: "[secure] words", tag: "[secure] "}, true, "a@own.example", "b@late.example")
	s.waits(m, "b@late.example", "")
	s.check(s.Postfix.Postsuper("-r", "ALL"))
	if !s.Postfix.WaitLog(0, "uid=", patience) {
		t.Error("the message was not requeued")
	}
	s.check(s.Up("late.example"))
	s.strip("late.example")
	s.sealedAs(m, "b@late.example")
}

// TestTriggerIsInForceWhenAdded is that trigger add makes Postfix know it, and that
// what it can't is said.
func TestTriggerIsInForceWhenAdded(t *testing.T) {
	s := newScene(t, lab.Options{Env: []string{"POSTSEAL_SECURE_SUBJECT=[secure]"}})
	c := content{subject: "x", fields: "X-Class: red\r\n"}
	s.arrives(s.content(c, false, "a@own.example", "b@plain.example"), "b@plain.example")
	s.rule("trigger add --header X-Class:red --require encryption --sender @own.example")
	s.sealedAs(s.content(c, true, "a@own.example", "c@plain.example"), "c@plain.example")
	out, err := s.CLI("trigger", "list")
	s.check(err)
	if strings.Contains(out, "NO:") || !strings.Contains(out, "X-Class: red") {
		t.Errorf("listed as\n%s", out)
	}
	s.rule("trigger remove --header X-Class:red --sender @own.example")
	s.arrives(s.content(c, false, "a@own.example", "d@plain.example"), "d@plain.example")
}
