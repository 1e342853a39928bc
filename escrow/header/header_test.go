package header

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"
)

func TestRead(t *testing.T) {
	h, err := Read(strings.NewReader("Received: by a\r\nno field at all\r\n goes on\r\nSUBJECT : Bef=und\r\n\t of Jane\r\n" +
		"X-Long: " + strings.Repeat("x", 40<<10) + "\r\n y\r\nsubject: second\r\nTo: a@b.example\r\n\r\nSubject: of the body\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := h.Get("Subject"); got != "Bef=und\t of Jane" {
		t.Errorf("subject %q", got)
	}
	if got := h.Values("subject"); len(got) != 2 || got[1] != "second" {
		t.Errorf("subjects %q", got)
	}
	if got := h.Get("x-long"); len(got) != 40<<10+2 || !strings.HasSuffix(got, "x y") {
		t.Errorf("a long field has %d bytes", len(got))
	}
	if got := h.Get("To"); got != "a@b.example" {
		t.Errorf("after a long field: %q", got)
	}
}

func TestReadIsBounded(t *testing.T) {
	endless := iotest.DataErrReader(io.MultiReader(strings.NewReader("Subject: s\r\nX: "), repeat('x')))
	h, err := Read(endless)
	if err != nil || h.Get("Subject") != "s" || len(h.Get("X")) > Max {
		t.Errorf("%v, %q, %d", err, h.Get("Subject"), len(h.Get("X")))
	}
}

type repeat byte

func (r repeat) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r)
	}
	return len(p), nil
}

func TestAReaderThatFailsGivesWhatCame(t *testing.T) {
	broken := errors.New("broken")
	h, err := Read(io.MultiReader(strings.NewReader("Subject: s\r\nFrom: a"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) || h.Get("Subject") != "s" {
		t.Errorf("%v, %q", err, h.Get("Subject"))
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                       "plain",
		"=?utf-8?q?Gr=C3=BC=C3=9Fe?=": "Grüße",
		"=?iso-2022-jp?B?GyRCJDMkcyRLJEEkTxsoQg==?=": "こんにちは",
		"=?x-none?q?Gr=FC?=":                         "=?x-none?q?Gr=FC?=",
		"Gr\xfc\xdfe":                                "Grüße",
		"Grüße":                                      "Grüße",
		"a\x00b\u202ec":                              "abc",
		"=?utf-8?b?YQ0KQmNjOiBi?=":                   "a  Bcc: b",
		strings.Repeat("ü", 30):                      strings.Repeat("ü", 20) + "…",
		strings.Repeat("ü", 20):                      strings.Repeat("ü", 20),
	} {
		h, _ := Read(strings.NewReader("Subject: " + in + "\r\n\r\n"))
		if got := h.Text("Subject", 20); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestMessageID(t *testing.T) {
	for in, want := range map[string]string{
		"<a.b@c.example>":                      "a.b@c.example",
		" <a@b> (a comment)":                   "a@b",
		"a@b":                                  "a@b",
		"<a@b\r\n":                             "",
		"<a b@c>":                              "",
		"<ü@c>":                                "",
		"":                                     "",
		"<" + strings.Repeat("a", 901) + "@b>": "",
	} {
		h, _ := Read(strings.NewReader("Message-Id: " + in + "\r\n\r\n"))
		if got := h.MessageID(); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestDate(t *testing.T) {
	want := time.Date(2026, 11, 24, 13, 5, 0, 0, time.UTC)
	for in, ok := range map[string]bool{
		"Tue, 24 Nov 2026 14:05:00 +0100":       true,
		"Tue, 24 Nov 2026 14:05:00 +0100 (CET)": true,
		"yesterday":                             false,
		"":                                      false,
		"Tue, 24 Nov 1026 14:05:00 +0100":       false,
		strings.Repeat("(", 5000):               false,
	} {
		h, _ := Read(strings.NewReader("Date: " + in + "\r\n\r\n"))
		if got := h.Date(); ok != got.Equal(want) || !ok && !got.IsZero() {
			t.Errorf("%q: %v", in, got)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n more\r\nDate: Tue, 24 Nov 2026 14:05:00 +0100\r\nMessage-ID: <a@b>\r\n\r\nbody"))
	f.Add([]byte("Subject: =?iso-2022-jp?B?GyRCJDMkcyRLJEEkTxsoQg==?=\n\n"))
	f.Add([]byte(":\r\n : \r\nSubject\r\n\x00:\x00\r\n"))
	f.Add([]byte(strings.Repeat("\r", 9000) + "\nSubject: s\r\n\r\n"))
	f.Add([]byte("Subject:" + strings.Repeat("=?utf-8?b?ww==?=", 100)))
	f.Fuzz(func(t *testing.T, in []byte) {
		h, err := Read(strings.NewReader(string(in)))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"Subject", "From"} {
			s := h.Text(name, 100)
			if !utf8.ValidString(s) || utf8.RuneCountInString(s) > 101 || strings.ContainsAny(s, "\r\n\x00") {
				t.Fatalf("%q", s)
			}
		}
		if id := h.MessageID(); strings.ContainsAny(id, " \r\n<>") {
			t.Fatalf("%q", id)
		}
		h.Date()
	})
}
