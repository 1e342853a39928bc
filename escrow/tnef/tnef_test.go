package tnef

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// read reads a stream with the contents of its files.
func read(t testing.TB, in []byte) (*Message, []string) {
	t.Helper()
	var contents []string
	m, err := Read(bytes.NewReader(in), func(n int, body io.Reader) error {
		for len(contents) < n {
			contents = append(contents, "")
		}
		b, err := io.ReadAll(body)
		contents[n-1] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, contents
}

const encapsulated = `{\rtf1\ansi\ansicpg1252\fromhtml1 \deff0{\fonttbl{\f0\fswiss Arial;}{\f1\fcharset178 Arial;}}
{\*\htmltag19 <html>}{\*\htmltag64 <p class="a">}\htmlrtf {\htmlrtf0 5 < 6 \{\'fc\} {\*\mhtmltag84 x}{\*\htmltag84 <b>}\htmlrtf\b\htmlrtf0 Gr\u252 ?n{\*\htmltag84 &nbsp;}\htmlrtf \'a0\htmlrtf0{\f1 \'e3\'d1}
{\*\htmltag92 </b>}\htmlrtf }\htmlrtf0 \htmlrtf\par\htmlrtf0
{\*\htmltag72 </p>}}`

func TestRead(t *testing.T) {
	pdf := "%PDF-1.4"
	tests := []struct {
		name  string
		in    []byte
		text  string
		html  string
		files []string // "name: content"
	}{
		{name: "nothing", in: stream()},
		{name: "a short name", in: stream(file("BEFUND~1.PDF", []byte(pdf))), files: []string{"BEFUND~1.PDF: " + pdf}},
		{name: "a long name", in: stream(file("BEFUND~1.PDF", []byte(pdf), longProp(propInternetCPID, 1), unicodeProp(propLongFilename, "Befund für Jane 結果.pdf"))), files: []string{"Befund für Jane 結果.pdf: " + pdf}},
		{name: "a name of 8-bit characters", in: stream(file("x", []byte("a"), stringProp(propLongFilename, "Gr\xfc\xdfe.txt"))), files: []string{"Grüße.txt: a"}},
		{name: "a name in Arabic", in: stream(attr(1, attOEMCodepage, join(le32(1256), le32(0))), file("\xe3\xd1.txt", []byte("a"))), files: []string{"مر.txt: a"}},
		{name: "a name of a code page that nobody knows", in: stream(attr(1, attOEMCodepage, join(le32(4711), le32(0))), file("\xe3.txt", []byte("a"))), files: []string{"ã.txt: a"}},
		{name: "files", in: stream(file("a", []byte("1")), file("b", nil), file("c", []byte("3"))), files: []string{"a: 1", "b: ", "c: 3"}},
		{name: "content among the properties", in: stream(attr(2, attRendData, make([]byte, 14)), attr(2, attAttachment, props(unicodeProp(propLongFilename, "a.bin"), binaryProp(propData, []byte("12345"))))), files: []string{"a.bin: 12345"}},
		{name: "text", in: stream(attr(1, attMsgProps, props(namedProp(), unicodeProp(propBody, "Grüße 結果")))), text: "Grüße 結果"},
		{name: "an old text", in: stream(attr(1, attBody, []byte("Gr\xfc\xdfe\x00"))), text: "Grüße"},
		{name: "HTML", in: stream(attr(1, attMsgProps, props(longProp(propInternetCPID, 65001), binaryProp(propHTML, []byte("<p>Grüße"))))), html: "<p>Grüße"},
		{name: "HTML, its code page after it", in: stream(attr(1, attMsgProps, props(binaryProp(propHTML, []byte("<p>\xe3\xd1")), longProp(propInternetCPID, 1256)))), html: "<p>مر"},
		{name: "RTF", in: stream(attr(1, attMsgProps, props(binaryProp(propRTF, compress(`{\rtf1\ansi{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset128 x;}}{\*\generator Riched20;}{\info{\title no}}\pard Liebe Jane,\par\par Gr\'fc\'dfe\tab\b fett\b0  \{x\}\u8364?{\f1 \'8c\'8b}\line ende}`))))), text: "Liebe Jane,\n\nGrüße\tfett {x}€結\nende"},
		{name: "RTF that holds HTML", in: stream(attr(1, attMsgProps, props(binaryProp(propRTF, compress(encapsulated))))), html: `<html><p class="a">5 &lt; 6 {ü} <b>Grün&nbsp;مر</b></p>`},
		{name: "RTF not compressed", in: stream(attr(1, attMsgProps, props(binaryProp(propRTF, join(le32(28), le32(16), []byte("MELA"), le32(0), []byte(`{\rtf1\ansi hey}`)))))), text: "hey"},
		{name: "a message within", in: stream(file("a", []byte("1")), within("Re: x", stream(attr(1, attMsgProps, props(unicodeProp(propSubject, "Re: x"), unicodeProp(propBody, "inner"))), file("b", []byte("2"))))), text: "[Re: x: inner]", files: []string{"a: 1", "b: 2"}},
		{name: "a wrong checksum", in: func() []byte { b := stream(file("a", []byte("1"))); b[len(b)-1]++; return b }(), files: []string{"a: 1"}},
		{name: "an unknown attribute", in: stream(attr(1, 0x00064711, []byte("zzz")), file("a", []byte("1"))), files: []string{"a: 1"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, contents := read(t, tt.in)
			text := m.Text
			for _, w := range m.Within {
				text += fmt.Sprintf("[%s: %s]", w.Subject, w.Text)
			}
			var files []string
			for i, f := range m.Files {
				content := ""
				if i < len(contents) {
					content = contents[i]
				}
				if f.N != i+1 || f.Size != int64(len(content)) {
					t.Errorf("file %d: %+v", i+1, f)
				}
				files = append(files, f.Name+": "+content)
			}
			if text != tt.text || m.HTML != tt.html || strings.Join(files, "|") != strings.Join(tt.files, "|") || m.Truncated {
				t.Errorf("got %q, %q, %q, %v\nwant %q, %q, %q", text, m.HTML, files, m.Truncated, tt.text, tt.html, tt.files)
			}
		})
	}
}

func TestReadWhatIsCutOff(t *testing.T) {
	in := stream(attr(1, attMsgProps, props(unicodeProp(propBody, "text"))), file("a.txt", []byte("content"), unicodeProp(propLongFilename, "long.txt")))
	for n := range in {
		m, err := Read(bytes.NewReader(in[:n]), nil)
		if n < 6 {
			if !errors.Is(err, ErrFormat) {
				t.Errorf("%d bytes: %v", n, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if n > len(in)-40 && (m.Text != "text" || len(m.Files) != 1 || m.Files[0].Size != 7 || !m.Truncated) {
			t.Errorf("%d bytes of %d: %+v", n, len(in), m)
		}
	}
	broken := errors.New("disk")
	for n := range in {
		if _, err := Read(io.MultiReader(bytes.NewReader(in[:n]), iotest.ErrReader(broken)), nil); !errors.Is(err, broken) {
			t.Errorf("%d bytes, then an error: %v", n, err)
		}
	}
	if _, err := Read(bytes.NewReader(in), func(int, io.Reader) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("an error of who reads: %v", err)
	}
	for _, no := range []string{"", "MZ", "%PDF-1.4 and more"} {
		if _, err := Read(strings.NewReader(no), nil); !errors.Is(err, ErrFormat) {
			t.Errorf("%q: %v", no, err)
		}
	}
}

func TestReadLimits(t *testing.T) {
	in := stream()
	for range MaxFiles + 1 {
		in = append(in, file("a", []byte("x"))...)
	}
	if m, _ := read(t, in); len(m.Files) != MaxFiles || !m.Truncated {
		t.Errorf("%d files", len(m.Files))
	}
	in = stream(file("deep", []byte("x")))
	for range maxDepth + 2 {
		in = stream(within("w", in))
	}
	if m, _ := read(t, in); len(m.Files) != 0 || !m.Truncated {
		t.Errorf("%d files of deep within", len(m.Files))
	}
	in = stream(attr(1, attMsgProps, props(unicodeProp(propBody, strings.Repeat("x", maxText)))), attr(1, attMsgProps, props(binaryProp(propHTML, bytes.Repeat([]byte("y"), maxText+1)))))
	if m, _ := read(t, in); len(m.Text) != maxText/2 || len(m.HTML) != maxText || !m.Truncated {
		t.Errorf("%d of text, %d of HTML, %v", len(m.Text), len(m.HTML), m.Truncated)
	}
	// A text that grows by its compression.
	long := join(le32(0), le32(1<<31), []byte("LZFu"), le32(0), bytes.Repeat(append([]byte{0xff}, bytes.Repeat([]byte{0x00, 0x0f}, 8)...), 60_000))
	if m, _ := read(t, stream(attr(1, attMsgProps, props(binaryProp(propRTF, long))))); len(m.Text) > maxText || !m.Truncated {
		t.Errorf("%d of text", len(m.Text))
	}
}

type endless struct{ n int64 }

func (e *endless) Read(p []byte) (int, error) {
	n := int(min(e.n, int64(len(p))))
	e.n -= int64(n)
	clear(p[:n])
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// A large file needs no more memory than a small one.
func TestReadNeedsConstantMemory(t *testing.T) {
	const size = 200 << 20
	head := join(stream(), attr(2, attRendData, make([]byte, 14)), []byte{2}, le32(attData), le32(size))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	m, err := Read(io.MultiReader(bytes.NewReader(head), &endless{size}, bytes.NewReader([]byte{0, 0})), nil)
	runtime.ReadMemStats(&after)
	if err != nil || m.Files[0].Size != size || m.Truncated || after.TotalAlloc-before.TotalAlloc > 1<<20 {
		t.Errorf("%+v %v, %d bytes", m, err, after.TotalAlloc-before.TotalAlloc)
	}
}

// The examples of [MS-OXRTFCP], section 3.
func TestDecompress(t *testing.T) {
	for in, want := range map[string]string{
		"2d0000002b0000004c5a4675f1c5c7a703000a007263706731323542320af32068656c0900206277 05b06c647d0a800fa0": "{\\rtf1\\ansi\\ansicpg1252\\pard hello world}\r\n",
		"1a0000001c0000004c5a4675e2d44b514100042057 58595a0d6e7d010eb0":                                       "{\\rtf1 WXYZWXYZWXYZWXYZWXYZ}",
	} {
		b, err := hex.DecodeString(strings.ReplaceAll(in, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		if got, whole := decompress(b, maxRTF); string(got) != want || !whole {
			t.Errorf("%q, %v; want %q", got, whole, want)
		}
		if got, whole := decompress(b[:len(b)-4], maxRTF); whole || !strings.HasPrefix(want, string(got)) {
			t.Errorf("cut off: %q, %v", got, whole)
		}
	}
	long := strings.Repeat("what comes again, and again; ", 500)
	if got, whole := decompress(compress(long), maxRTF); string(got) != long || !whole {
		t.Errorf("%d of %d bytes, %v", len(got), len(long), whole)
	}
	if got, whole := decompress(compress(long), 100); string(got) != long[:100] || whole {
		t.Errorf("%q, %v", got, whole)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(stream(file("BEFUND~1.PDF", []byte("%PDF-1.4"), unicodeProp(propLongFilename, "Befund.pdf"), stringProp(propContentID, "<x@y>"))))
	f.Add(stream(attr(1, attMsgProps, props(namedProp(), unicodeProp(propBody, "text"), binaryProp(propRTF, compress(encapsulated))))))
	f.Add(stream(within("w", stream(attr(1, attSubject, []byte("x\x00")), file("b", []byte("2"))))))
	f.Fuzz(func(t *testing.T, in []byte) {
		total := int64(0)
		m, err := Read(bytes.NewReader(in), func(_ int, body io.Reader) error {
			n, err := io.Copy(io.Discard, body)
			total += n
			return err
		})
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatal(err)
			}
			return
		}
		if total > int64(len(in)) || len(m.Files) > MaxFiles || !utf8.ValidString(m.Text) || !utf8.ValidString(m.HTML) || !utf8.ValidString(m.Subject) {
			t.Errorf("%d bytes of %d; %+v", total, len(in), m)
		}
		for i, f := range m.Files {
			if f.N != i+1 || !utf8.ValidString(f.Name) {
				t.Errorf("%+v", f)
			}
		}
	})
}

func FuzzRTF(f *testing.F) {
	f.Add([]byte(encapsulated))
	f.Add([]byte(`{\rtf1\ansi{\fonttbl{\f1\fcharset128 x;}}\u8364?\'8c{\f1 \'8c\'8b}\bin3 abc\~\_}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		text, html := fromRTF(in, 1252)
		if len(text) > 8*len(in) || len(html) > 8*len(in) || !utf8.ValidString(text) {
			t.Errorf("%d and %d bytes of %d", len(text), len(html), len(in))
		}
		decompress(in, 1<<16)
	})
}
