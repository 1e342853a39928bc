package compose_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-message/textproto"

	"github.com/postseal/postseal/escrow/compose"
)

func write(t testing.TB, m *compose.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	n, err := m.WriteTo(&b)
	if err != nil || n != int64(b.Len()) {
		t.Fatalf("%d of %d bytes, %v", n, b.Len(), err)
	}
	return b.Bytes()
}

func data(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}

var when = time.Date(2026, 11, 27, 9, 30, 0, 0, time.FixedZone("", 3600))

func TestAMessageAsItIsWritten(t *testing.T) {
	m := &compose.Message{
		Date: when, From: compose.Address{Name: "Pat Müller", Address: "pat@old.example"}, Sender: compose.Address{Address: "seal@clinic.example"},
		To: []compose.Address{{Name: "Dr. Who", Address: "doc@clinic.example"}}, Subject: "Re: Röntgen", MessageID: "2@clinic.example",
		InReplyTo: []string{"1@clinic.example"}, References: []string{"0@clinic.example", "1@clinic.example"},
		Text: "Guten Tag", Boundary: "b0",
		Attachments: []compose.File{{Name: "Größe.txt", MediaType: "text/plain", Open: data([]byte("hello"))}},
	}
	want := strings.ReplaceAll(`Date: Fri, 27 Nov 2026 09:30:00 +0100
From: =?utf-8?q?Pat_M=C3=BCller?= <pat@old.example>
Sender: <seal@clinic.example>
To: "Dr. Who" <doc@clinic.example>
Subject: =?utf-8?q?Re:_R=C3=B6ntgen?=
Message-ID: <2@clinic.example>
In-Reply-To: <1@clinic.example>
References: <0@clinic.example> <1@clinic.example>
MIME-Version: 1.0
Content-Type: multipart/mixed;
 boundary="=_1_b0"

--=_1_b0
Content-Type: text/plain; charset=us-ascii
Content-Transfer-Encoding: 7bit

Guten Tag

--=_1_b0
Content-Type: text/plain
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="Gr__e.txt";
 filename*=utf-8''Gr%C3%B6%C3%9Fe.txt

aGVsbG8=

--=_1_b0--
`, "\n", "\r\n")
	if got := string(write(t, m)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if !bytes.Equal(write(t, m), write(t, m)) {
		t.Error("twice, it is another message")
	}
}

// leaf is a part that holds no others.
type leaf struct {
	kind, name, id string
	body           []byte
}

// leaves reads a message back by other code than that which wrote it.
func leaves(t testing.TB, kind, encoding, disposition, id string, body io.Reader) []leaf {
	t.Helper()
	media, params, err := mime.ParseMediaType(kind)
	if err != nil {
		t.Fatalf("Content-Type %q: %v", kind, err)
	}
	if strings.HasPrefix(media, "multipart/") {
		var all []leaf
		r := multipart.NewReader(body, params["boundary"])
		for {
			p, err := r.NextRawPart()
			if err == io.EOF {
				return all
			} else if err != nil {
				t.Fatal(err)
			}
			all = append(all, leaves(t, p.Header.Get("Content-Type"), p.Header.Get("Content-Transfer-Encoding"), p.Header.Get("Content-Disposition"), p.Header.Get("Content-ID"), p)...)
		}
	}
	switch encoding {
	case "base64":
		body = base64.NewDecoder(base64.StdEncoding, body)
	case "quoted-printable":
		body = quotedprintable.NewReader(body)
	}
	l := leaf{kind: media, id: strings.Trim(id, "<>")}
	if disposition != "" {
		_, params, err := mime.ParseMediaType(disposition)
		if err != nil {
			t.Fatalf("Content-Disposition %q: %v", disposition, err)
		}
		l.name = params["filename"]
	}
	if l.body, err = io.ReadAll(body); err != nil {
		t.Fatal(err)
	}
	return []leaf{l}
}

func readBack(t testing.TB, raw []byte) (*mail.Message, []leaf) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	return m, leaves(t, m.Header.Get("Content-Type"), m.Header.Get("Content-Transfer-Encoding"), "", "", m.Body)
}

func TestPartsComeBack(t *testing.T) {
	big := make([]byte, 1<<20+1)
	rand.NewChaCha8([32]byte{}).Read(big)
	text, html := "text\r\n", "<b>hällo</b><img src=\"cid:i@x\">\r\n"
	file := compose.File{Name: "big.bin", Open: data(big)}
	image := compose.File{Name: "i.png", MediaType: "image/png", ContentID: "i@x", Open: data([]byte{1, 2})}
	for _, tt := range []struct {
		name string
		m    compose.Message
		want string
	}{
		{"text", compose.Message{Text: text}, "text/plain"},
		{"nothing", compose.Message{}, "text/plain"},
		{"HTML", compose.Message{HTML: html}, "text/html"},
		{"both", compose.Message{Text: text, HTML: html}, "text/plain text/html"},
		{"a file", compose.Message{Text: text, Attachments: []compose.File{file}}, "text/plain application/octet-stream"},
		{"all", compose.Message{Text: text, HTML: html, Inline: []compose.File{image}, Attachments: []compose.File{file, file}},
			"text/plain text/html image/png application/octet-stream application/octet-stream"},
		{"HTML with an image", compose.Message{HTML: html, Inline: []compose.File{image}}, "text/html image/png"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.m.Boundary = compose.NewBoundary()
			_, parts := readBack(t, write(t, &tt.m))
			var kinds []string
			for _, p := range parts {
				kinds = append(kinds, p.kind)
				want := map[string][]byte{"text/plain": []byte(tt.m.Text), "text/html": []byte(html), "image/png": {1, 2}, "application/octet-stream": big}[p.kind]
				// A line end before a boundary is the boundary's.
				if !bytes.Equal(p.body, want) && !bytes.Equal(append(p.body, "\r\n"...), want) {
					t.Errorf("%s came back as %d bytes, want %d", p.kind, len(p.body), len(want))
				}
				if p.kind == "image/png" && p.id != "i@x" {
					t.Errorf("Content-ID %q", p.id)
				}
			}
			if got := strings.Join(kinds, " "); got != tt.want {
				t.Errorf("parts %s, want %s", got, tt.want)
			}
		})
	}
}

func TestErrorsOfFilesAreReturned(t *testing.T) {
	broken := errors.New("broken")
	for name, open := range map[string]func() (io.ReadCloser, error){
		"that do not open": func() (io.ReadCloser, error) { return nil, broken },
		"that are cut": func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("x"), failing{broken})), nil
		},
	} {
		m := compose.Message{Boundary: "b", Attachments: []compose.File{{Open: open}}}
		if _, err := m.WriteTo(io.Discard); !errors.Is(err, broken) {
			t.Errorf("files %s: %v", name, err)
		}
	}
	m := compose.Message{Attachments: []compose.File{{Open: data(nil)}}}
	if _, err := m.WriteTo(io.Discard); err == nil {
		t.Error("parts without a boundary")
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestWhatCantStandInAHeader(t *testing.T) {
	for name, m := range map[string]compose.Message{
		"an address with a line end":     {From: compose.Address{Address: "a@b\r\nBcc: c@d"}},
		"an address that breaks out":     {To: []compose.Address{{Address: "a@b>, <c@d"}}},
		"two addresses in one":           {To: []compose.Address{{Address: "a@b, c@d"}}},
		"an address without a domain":    {To: []compose.Address{{Address: "a"}}},
		"an id with a bracket":           {MessageID: "a@b> <c@d"},
		"an id with a line end":          {InReplyTo: []string{"a@b\r\n"}},
		"a reference with a space":       {References: []string{"a b@c"}},
		"an extra field of another name": {Extra: []compose.Field{{Name: "Bcc", Value: "a@b"}}},
		"an extra field with a colon":    {Extra: []compose.Field{{Name: "X: y\r\nBcc", Value: "a@b"}}},
		"an extra Content-Type":          {Extra: []compose.Field{{Name: "content-type", Value: "x"}}},
	} {
		if _, err := m.WriteTo(io.Discard); !errors.Is(err, compose.ErrField) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFileNames(t *testing.T) {
	long := strings.Repeat("ü", 300)
	for in, want := range map[string]string{
		"a.pdf": "a.pdf", `C:\x\a.pdf`: "a.pdf", "/etc/passwd": "passwd", "../../x": "x", "": "file", "..": "file", ".htaccess": "htaccess",
		"a\r\nb": "a b", "a\u202egnp.exe": "a gnp.exe", "x\x00y": "x y", long + ".pdf": strings.Repeat("ü", 98) + ".pdf",
	} {
		if got := compose.FileName(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"Text/HTML; charset=x": "text/html", "": "application/octet-stream", "message/rfc822": "application/octet-stream",
		"multipart/mixed": "application/octet-stream", "a/b\r\nX: y": "application/octet-stream", "image/svg+xml": "image/svg+xml",
	} {
		if got := compose.MediaType(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// FuzzCompose is that no text, name or address can make a field, a part or a recipient
// of its own, and that everything comes back as it was.
func FuzzCompose(f *testing.F) {
	f.Add("Re: x\r\nBcc: a@b", "A \"b\" <c>", "a@b.example", "text\r\n.\r\n--=_1_0\r\n\r\nFrom me ", "f\r\n\r\n.txt", "text/plain", []byte("data"))
	f.Add("=?utf-8?q?x?=", "=?x", "\"a b\"@b.example", "ä\n\n=\n\t\n\x00", "ü"+strings.Repeat("x", 100)+".pdf", "a/b", []byte{})
	f.Add(strings.Repeat("x", 2000), strings.Repeat("y ", 500), "jürgen@bücher.example", strings.Repeat("日本", 800), "\u202e", "multipart/x", make([]byte, 200))
	f.Add(" ", ",;", "a@[192.0.2.1]", "\r\r\n\n", "a;b=\"c\\", "x", []byte("\r\n--=_1_0--\r\n"))
	f.Fuzz(func(t *testing.T, subject, name, address, text, file, media string, content []byte) {
		m := &compose.Message{
			Date: when, From: compose.Address{Name: name, Address: address}, To: []compose.Address{{Name: name, Address: "to@x.example"}, {Address: "b@x.example"}},
			Subject: subject, Text: text, Boundary: "0", Extra: []compose.Field{{Name: "X-Extra", Value: name}},
			Attachments: []compose.File{{Name: file, MediaType: media, Open: data(content)}},
		}
		var b bytes.Buffer
		if _, err := m.WriteTo(&b); err != nil {
			if errors.Is(err, compose.ErrField) {
				return
			}
			t.Fatal(err)
		}
		raw := b.Bytes()
		for line := range bytes.SplitSeq(raw, []byte("\r\n")) {
			if len(line) > 998 || bytes.ContainsAny(line, "\r\n\x00") {
				t.Fatalf("a line of %d bytes: %q", len(line), line)
			}
		}
		if !utf8.Valid(raw) {
			t.Error("not UTF-8")
		}
		got, parts := readBack(t, raw)
		var fields []string
		h, err := textproto.ReadHeader(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			t.Fatal(err)
		}
		for f := h.Fields(); f.Next(); {
			fields = append(fields, f.Key())
		}
		want := []string{"Date", "From", "To", "Subject", "X-Extra", "Mime-Version", "Content-Type"}
		if compose.Line(subject) == "" {
			want = slices.DeleteFunc(want, func(s string) bool { return s == "Subject" })
		}
		if compose.Line(name) == "" {
			want = slices.DeleteFunc(want, func(s string) bool { return s == "X-Extra" })
		}
		if address == "" {
			want = slices.DeleteFunc(want, func(s string) bool { return s == "From" })
		}
		if !slices.Equal(fields, want) {
			t.Fatalf("fields %q, want %q in\n%s", fields, want, raw)
		}
		dec := new(mime.WordDecoder)
		if s, err := dec.DecodeHeader(got.Header.Get("Subject")); err != nil || s != compose.Line(subject) {
			t.Errorf("Subject %q, want %q: %v", s, compose.Line(subject), err)
		}
		to, err := got.Header.AddressList("To")
		if err != nil || len(to) != 2 || to[0].Address != "to@x.example" || to[1].Address != "b@x.example" || to[0].Name != compose.Line(name) {
			t.Errorf("To %v, %v, want the name %q in %q", to, err, compose.Line(name), got.Header.Get("To"))
		}
		if len(parts) != 2 {
			t.Fatalf("%d parts in\n%s", len(parts), raw)
		}
		if !bytes.Equal(parts[1].body, content) || parts[1].name != compose.FileName(file) || parts[1].kind != compose.MediaType(media) {
			t.Errorf("the file is %q %q, want %q", parts[1].name, parts[1].body, compose.FileName(file))
		}
		if got, want := lines(string(parts[0].body)), lines(strings.ToValidUTF8(text, "\ufffd")); got != want {
			t.Errorf("the text is %q, want %q", got, want)
		}
		if strings.ContainsFunc(parts[1].name, unicode.IsControl) {
			t.Errorf("the name of the file is %q", parts[1].name)
		}
	})
}

// lines are a text whatever its line ends, and the last one.
func lines(s string) string {
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
	return strings.TrimSuffix(s, "\n")
}

func ExampleMessage_WriteTo() {
	m := compose.Message{From: compose.Address{Address: "a@x.example"}, Subject: "Hello", Text: "World"}
	var b bytes.Buffer
	m.WriteTo(&b)
	fmt.Print(strings.ReplaceAll(b.String(), "\r\n", "\n"))
	// Output:
	// From: <a@x.example>
	// Subject: Hello
	// MIME-Version: 1.0
	// Content-Type: text/plain; charset=us-ascii
	// Content-Transfer-Encoding: 7bit
	//
	// World
}
