package portal

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/textproto"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// parts lists the leaves of a message as "type: body".
func parts(t testing.TB, raw string) []string {
	t.Helper()
	var out []string
	_, _, err := walk(strings.NewReader(raw), func(l *leaf, body io.Reader) error {
		b, err := io.ReadAll(body)
		if l.n != len(out)+1 {
			t.Errorf("part %d comes as number %d", len(out)+1, l.n)
		}
		out = append(out, l.mediaType+": "+string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWalk(t *testing.T) {
	const mixed = "Content-Type: multipart/mixed; boundary=b\n\n"
	tests := []struct {
		name, raw string
		want      []string
	}{
		{"plain", "Subject: x\n\nhello\n", []string{"text/plain: hello\n"}},
		{"no final newline", "Subject: x\n\nhello", []string{"text/plain: hello"}},
		{"empty", "", []string{"text/plain: "}},
		{"only a header", "Subject: x", []string{"text/plain: "}},
		{"no header at all", "hello there\nthis is no header\n\nbody\n", []string{"text/plain: hello there\nthis is no header\n\nbody\n"}},
		{"an mbox line first", "From joe Mon\nSubject: x\n\nbody", []string{"text/plain: body"}},
		{"two parts", mixed + "pre\n--b\n\none\n--b\nContent-Type: text/html\n\n<p>\n--b--\nepilogue\n", []string{"text/plain: one", "text/html: <p>"}},
		{"empty lines belong to the part", mixed + "--b\n\none\n\n\n--b--\n", []string{"text/plain: one\n\n"}},
		{"no last boundary", mixed + "--b\n\none\n--b\n\ntwo\n", []string{"text/plain: one", "text/plain: two\n"}},
		{"cut within a header", mixed + "--b\n\none\n--b\nContent-Type: image/png", []string{"text/plain: one", "image/png: "}},
		{"a part without a header's end", mixed + "--b\nContent-Type: text/html\n--b\n\ntwo\n--b--\n", []string{"text/html: ", "text/plain: two"}},
		{"a part that begins without a header", mixed + "--b\nhello\n--b\nhey: you\nthere, this is text\n\nx\n--b--\n", []string{"text/plain: hello", "text/plain: x"}},
		{"empty parts", mixed + "--b\n--b\n--b\n\nx\n--b--\n", []string{"text/plain: x"}},
		{"an inner multipart that does not end", mixed + "--b\nContent-Type: multipart/alternative; boundary=c\n\n--c\n\none\n--b\n\ntwo\n--b--\n", []string{"text/plain: one", "text/plain: two"}},
		{"the same boundary within", mixed + "--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b--\n--b\n\ntwo\n--b--\n", []string{"text/plain: one", "text/plain: two"}},
		{"a boundary that begins another", "Content-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: multipart/mixed; boundary=ab\n\n--ab\n\none\n--ab--\n--a\n\ntwo\n--a--", []string{"text/plain: one", "text/plain: two"}},
		{"what looks like a boundary", mixed + "--b\n\n--bc\n -- b\n--\n--b--\n", []string{"text/plain: --bc\n -- b\n--"}},
		{"blanks after a boundary", mixed + "--b \t\n\none\n--b-- \n", []string{"text/plain: one"}},
		{"no boundary parameter", "Content-Type: multipart/mixed\n\n--b\n\none\n--b--\n", []string{"text/plain: --b\n\none\n--b--\n"}},
		{"a bad line in a part's header", mixed + "--b\nthis is no field\nContent-Type: text/html\n: x\n\none\n--b--\n", []string{"text/html: one"}},
		{"a folded type", "Content-Type: multipart/mixed;\n\tboundary=\"b\"\n\n--b\nContent-Type:\n text/html\n\none\n--b--\n", []string{"text/html: one"}},
		{"a type given twice", "Content-Type: multipart/mixed; boundary=b; boundary=c\n\n--b\n\none\n--b--\n", []string{"text/plain: one"}},
		{"base64", "Content-Transfer-Encoding: BASE64\n\naGVs\n bG8=\n", []string{"text/plain: hello"}},
		{"base64 with rubbish", "Content-Transfer-Encoding: base64\n\naG*V s-\nbG8\n", []string{"text/plain: hello"}},
		{"base64 pasted together", "Content-Transfer-Encoding: base64\n\naGVsbG8=IA==d29ybGQ=\n", []string{"text/plain: hello world"}},
		{"quoted-printable", "Content-Transfer-Encoding: quoted-printable\n\na=3Db =\nc =C3=BC  \nx=ZZ =", []string{"text/plain: a=b c ü\nx=ZZ "}},
		{"unknown encoding", "Content-Transfer-Encoding: x-rot13\n\nuryyb", []string{"text/plain: uryyb"}},
		{"digest", "Content-Type: multipart/digest; boundary=b\n\n--b\n\nSubject: in\n\nx\n--b--\n", []string{"message/rfc822: Subject: in\n\nx"}},
		{"a message within is one part", mixed + "--b\nContent-Type: message/rfc822\n\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\nx\n--c--\n--b--\n", []string{"message/rfc822: Content-Type: multipart/mixed; boundary=c\n\n--c\n\nx\n--c--"}},
		{"a long line", "Subject: x\n\n" + strings.Repeat("y", 200_000) + "\n", []string{"text/plain: " + strings.Repeat("y", 200_000) + "\n"}},
		{"a boundary in the middle of a long line", mixed + "--b\n\n" + strings.Repeat("y", 64<<10) + "--b\n--b--\n", []string{"text/plain: " + strings.Repeat("y", 64<<10) + "--b"}},
		{"a long header line", "X: " + strings.Repeat("y", 200_000) + "\nContent-Type: text/html\n\nz", []string{"text/html: z"}},
		{"bare CR and NUL", "Subject: x\n\na\rb\x00c\n", []string{"text/plain: a\rb\x00c\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for form, eol := range map[string]string{"LF": "\n", "CRLF": "\r\n"} {
				got := parts(t, strings.ReplaceAll(tt.raw, "\n", eol))
				for i := range got {
					got[i] = strings.ReplaceAll(got[i], eol, "\n")
				}
				if strings.Join(got, "|") != strings.Join(tt.want, "|") {
					t.Errorf("%s: %.300q, want %.300q", form, got, tt.want)
				}
			}
		})
	}
}

// What the standard library writes comes back, whatever it is and however it is
// read.
func TestWalkRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		var raw bytes.Buffer
		mw := multipart.NewWriter(&raw)
		fmt.Fprintf(&raw, "Content-Type: multipart/mixed; boundary=%s\r\n\r\n", mw.Boundary())
		var want [][]byte
		for range rnd.IntN(6) + 1 {
			body := make([]byte, rnd.IntN(1<<rnd.IntN(18)))
			for i := range body {
				body[i] = "\r\n-= ab\x00\xff"[rnd.IntN(9)]
			}
			want = append(want, body)
			h := textproto.MIMEHeader{"Content-Type": {"application/x-test"}}
			switch rnd.IntN(3) {
			case 0:
				h.Set("Content-Transfer-Encoding", "base64")
				w, _ := mw.CreatePart(h)
				s := base64.StdEncoding.EncodeToString(body)
				for len(s) > 76 {
					io.WriteString(w, s[:76]+"\r\n")
					s = s[76:]
				}
				io.WriteString(w, s)
			case 1:
				h.Set("Content-Transfer-Encoding", "quoted-printable")
				w, _ := mw.CreatePart(h)
				q := quotedprintable.NewWriter(w)
				q.Binary = true
				q.Write(body)
				q.Close()
			default:
				w, _ := mw.CreatePart(h)
				w.Write(body)
			}
		}
		mw.Close()
		i := 0
		_, truncated, err := walk(iotest.HalfReader(&raw), func(l *leaf, body io.Reader) error {
			got, err := io.ReadAll(body)
			if !bytes.Equal(got, want[i]) {
				t.Fatalf("part %d (%s): %d bytes, want %d", i, l.encoding, len(got), len(want[i]))
			}
			i++
			return err
		})
		if err != nil || truncated || i != len(want) {
			t.Fatalf("%d parts of %d, %v, %v", i, len(want), truncated, err)
		}
	}
}

func TestWalkLimits(t *testing.T) {
	many := "Content-Type: multipart/mixed; boundary=b\n\n" + strings.Repeat("--b\n\nx\n", 500)
	deep := ""
	for i := range 50 {
		deep += fmt.Sprintf("Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n", i, i)
	}
	head := strings.Repeat("X-Long: "+strings.Repeat("y", 1000)+"\n", 1000) + "\nbody"
	for name, tt := range map[string]struct {
		raw  string
		most int
	}{"parts": {many, maxParts}, "depth": {deep, 1}, "header": {head, 1}} {
		n := 0
		h, truncated, err := walk(strings.NewReader(tt.raw), func(*leaf, io.Reader) error { n++; return nil })
		if err != nil || !truncated || n != tt.most {
			t.Errorf("%s: %d leaves, truncated %v, %v", name, n, truncated, err)
		}
		if size := len(h.Get("X-Long")) * h.Len(); size > maxHeaderBlock {
			t.Errorf("%s: a header of %d bytes", name, size)
		}
	}
}

func TestWalkTellsReadErrors(t *testing.T) {
	for _, n := range []int{0, 5, 30, 60, 100} {
		raw := "Subject: x\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\n" + strings.Repeat("x", 200)
		_, _, err := walk(io.MultiReader(strings.NewReader(raw[:n]), iotest.ErrReader(io.ErrUnexpectedEOF)), func(_ *leaf, body io.Reader) error {
			_, err := io.Copy(io.Discard, body)
			return err
		})
		if err == nil {
			t.Errorf("damaged after %d bytes: no error", n)
		}
	}
}

// zeros is an endless attachment.
type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	const line = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n"
	n := 0
	for n+len(line) <= len(p) && z.left > 0 {
		n += copy(p[n:], line)
		z.left -= int64(len(line))
	}
	if n == 0 && z.left <= 0 {
		return 0, io.EOF
	}
	return n, nil
}

func TestScanNeedsConstantMemory(t *testing.T) {
	for _, head := range []string{
		"Content-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\n",
		"Content-Type: text/plain\r\n\r\n",
		"Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
		"Content-Type: image/png\r\nContent-ID: <x>\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgoAAAAN",
	} {
		var c *content
		allocated := func(size int64) int64 {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			var err error
			if c, err = scan(io.MultiReader(strings.NewReader(head), &zeros{size})); err != nil {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			return int64(after.TotalAlloc - before.TotalAlloc)
		}
		if small, large := allocated(3<<20), allocated(6<<20); large > small+1<<20 {
			t.Errorf("%.30q: 3 MB took %d kB, 6 MB %d kB", head, small>>10, large>>10)
		}
		if len(c.files) == 0 && !c.cut {
			t.Errorf("%.30q: not said that there is more", head)
		}
		if len(c.files) == 1 && c.files[0].Size < 4<<20 {
			t.Errorf("size %d", c.files[0].Size)
		}
	}
}

func TestCharsets(t *testing.T) {
	for _, tt := range []struct{ declared, in, want string }{
		{"utf-8", "Grüße", "Grüße"},
		{"UTF-8", "\xef\xbb\xbfx", "x"},
		{"iso-8859-1", "Gr\xfc\xdfe", "Grüße"},
		{"ISO-8859-15", "\xa4", "€"},
		{"windows-1252", "\x93a\x94", "“a”"},
		{"us-ascii", "Gr\xfc\xdfe", "Grüße"},
		{"us-ascii", "Grüße", "Grüße"},
		{"", "Gr\xfc\xdfe", "Grüße"},
		{"x-no-such-charset", "Grüße", "Grüße"},
		{"x-no-such-charset", "Gr\xfc\xdfe", "Grüße"},
		{"utf-8", "ü a\xffb", "ü a\uFFFDb"},
		{"iso-2022-jp", "\x1b$B%F%9%H\x1b(B", "テスト"},
		{"shift_jis", "\x83e\x83X\x83g", "テスト"},
		{"gb2312", "\xb2\xe2\xca\xd4", "测试"},
		{"gb2312", "\x81\x40", "丂"},
		{"gb18030", "\x82\x35\x8f\x33", "龦"},
		{"ks_c_5601-1987", "\xc7\xd1\xb1\xdb", "한글"},
		{"cp932", "\x87\x40", "①"},
		{"windows-31j", "\x87\x40", "①"},
		{"x-sjis", "\x83e", "テ"},
		{"iso-8859-8-i", "\xf9\xec\xe5\xed", "שלום"},
		{"iso-8859-1", "\x93a\x94", "“a”"},
		{"cp1252", "\xfc", "ü"},
		{"cp-850", "\xfc", "ü"},
		{"utf-8", "Gr\xfc\xdfe", "Grüße"},
		{"", "\x1b$B%F%9%H\x1b(B", "テスト"},
		{"us-ascii", "\x1b$B%F%9%H\x1b(B", "テスト"},
		{"koi8-r", "\xd4\xc5\xd3\xd4", "тест"},
		{`"utf-8"`, "ü", "ü"},
		{"utf-8", "cut of\xc3", "cut of"},
	} {
		if got := toUTF8([]byte(tt.in), tt.declared, "text/plain"); got != tt.want {
			t.Errorf("%s %q: %q, want %q", tt.declared, tt.in, got, tt.want)
		}
	}
	if got := toUTF8([]byte("<meta charset=koi8-r>\xd4 "), "", "text/html"); !strings.HasSuffix(got, "т ") {
		t.Errorf("%q", got)
	}
}

func TestHeaderText(t *testing.T) {
	for in, want := range map[string]string{
		"=?utf-8?q?Gr=C3=BC=C3=9Fe?= =?iso-8859-1?q?_=FC?=": "Grüße ü",
		"=?x-none?q?abc?=":             "=?x-none?q?abc?=",
		"=?utf-8?q?broken":             "=?utf-8?q?broken",
		"Gr\xfc\xdfe":                  "Grüße",
		"a\n folded\tsubject":          "a folded subject",
		"=?utf-8?b?4oCuZ3BqLmV4ZQ==?=": "gpj.exe",
		"=?utf-8?q?a=0D=0Ab=00c?=":     "a  bc",
	} {
		h, _, err := walk(strings.NewReader("Subject: "+in+"\n\n"), func(*leaf, io.Reader) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if got := headerText(h, "Subject"); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestWhatIsShown(t *testing.T) {
	alt := func(parts ...string) string {
		return "Content-Type: multipart/alternative; boundary=a\n\n--a\n" + strings.Join(parts, "\n--a\n") + "\n--a--\n"
	}
	mixed := func(parts ...string) string {
		return "Content-Type: multipart/mixed; boundary=m\n\n--m\n" + strings.Join(parts, "\n--m\n") + "\n--m--\n"
	}
	text := func(s string) string { return "Content-Type: text/plain\n\n" + s }
	html := func(s string) string { return "Content-Type: text/html\n\n" + s }
	for _, tt := range []struct {
		name, raw, text, html string
		files                 int
	}{
		{"plain", text("a"), "a", "", 0},
		{"html alone", html("<p>a<br>b</p><p>c</p>"), "a\nb\n\nc", "<p>a<br>b</p><p>c</p>", 0},
		{"alternatives", alt(text("a"), html("<b>a</b>")), "a", "<b>a</b>", 0},
		{"a footer below both", mixed(alt(text("a"), html("<b>a</b>")), text("foot")), "a\n\nfoot", "<b>a</b>foot", 0},
		{"html around a file", mixed(html("<b>x</b>"), "Content-Type: application/pdf\n\nPDF", html("<i>y</i>")), "x\n\ny", "<b>x</b><i>y</i>", 1},
		{"text with a name is a file", mixed(text("a"), "Content-Type: text/plain; name=n.txt\nContent-Disposition: inline\n\nb"), "a", "", 1},
		{"an invitation", alt(text("a"), html("<b>a</b>"), "Content-Type: text/calendar; method=REQUEST\n\nBEGIN:VCALENDAR"), "a", "<b>a</b>", 1},
		{"a third form", alt(text("a"), "Content-Type: text/x-amp-html\n\n<html amp>", html("<b>a</b>")), "a", "<b>a</b>", 0},
		{"nothing but a file", "Content-Type: application/pdf\n\nPDF", "", "", 1},
		{"flowed", "Content-Type: text/plain; format=flowed\n\na \nb\n> c \n> d\n-- \nsig", "a b\n> c d\n-- \nsig", "", 0},
		{"an empty text beside html", alt(text(""), html("<b>a</b>")), "a", "<b>a</b>", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := scan(strings.NewReader(crlf(tt.raw)))
			if err != nil {
				t.Fatal(err)
			}
			if got := c.text(); got != tt.text {
				t.Errorf("text %q, want %q", got, tt.text)
			}
			if c.hasHTML() != (tt.html != "") || len(c.attachments()) != tt.files {
				t.Errorf("HTML %v, %d files", c.hasHTML(), len(c.attachments()))
			}
			if tt.html == "" {
				return
			}
			doc, err := newSanitizer().document(c, nil)
			if err != nil {
				t.Fatal(err)
			}
			doc = strings.TrimPrefix(doc, frameHead)
			for _, s := range []string{"<article>", "</article>", "\n", "</body></html>", `<pre dir="auto" style="white-space:pre-wrap;font:inherit">`, "</pre>"} {
				doc = strings.ReplaceAll(doc, s, "")
			}
			if doc != tt.html {
				t.Errorf("HTML %q, want %q", doc, tt.html)
			}
		})
	}
}

func TestInlineImages(t *testing.T) {
	image := func(id, disposition string, size int) string {
		return "Content-Type: image/png; name=i.png\nContent-ID: <" + id + ">\nContent-Disposition: " + disposition + "\nContent-Transfer-Encoding: base64\n\n" +
			base64.StdEncoding.EncodeToString(append([]byte("\x89PNG\x0D\x0A\x1A\x0A"), make([]byte, size)...))
	}
	raw := crlf("Content-Type: multipart/related; boundary=b\n\n--b\nContent-Type: text/html\n\n<img src=cid:a><img src=cid:big><img src=cid:evil><img src=cid:att>\n--b\n" +
		image("a", "inline", 1000) + "\n--b\n" + image("unused", "inline", 1000) + "\n--b\n" + image("big", "inline", maxImages) + "\n--b\n" + image("att", "attachment", 10) +
		"\n--b\nContent-Type: image/png\nContent-ID: <evil>\n\n<svg onload=alert(1)>\n--b--\n")
	c, err := scan(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if len(c.images) != 2 || c.images["a"] == "" || c.images["unused"] == "" {
		t.Errorf("%d images", len(c.images))
	}
	if len(c.files) != 5 || len(c.attachments()) != 4 {
		t.Errorf("%d files, %d of them to download", len(c.files), len(c.attachments()))
	}
	if c.files[2].Size != maxImages+8 {
		t.Errorf("size %d", c.files[2].Size)
	}
}

func TestSegments(t *testing.T) {
	for in, want := range map[string]string{
		"see https://a.example/x.":                "see |<https://a.example/x>|.",
		"(https://a.example/(b)), http://c.d?e=f": "(|<https://a.example/(b)>|), |<http://c.d?e=f>",
		"<https://a.example>":                     "<|<https://a.example>|>",
		"javascript:alert(1) xhttp://no":          "javascript:alert(1) xhttp://no",
		"https://":                                "https://",
		"HTTPS://A.example":                       "<HTTPS://A.example>",
		"":                                        "",
	} {
		var got []string
		joined := ""
		for _, s := range segments(in) {
			joined += s.Text
			if s.URL != "" {
				got = append(got, "<"+s.URL+">")
			} else {
				got = append(got, s.Text)
			}
		}
		if g := strings.Join(got, "|"); g != want || joined != in {
			t.Errorf("%q: %q, want %q", in, g, want)
		}
	}
}

func TestHTMLToText(t *testing.T) {
	for in, want := range map[string]string{
		"<p>a  b\n c</p><p>d</p>":                               "a b c\n\nd",
		"<ul><li>x<li>y</ul>z":                                  "• x\n• y\n\nz",
		"<table><tr><td>a</td><td>b</td></tr><tr><td>c</table>": "a b\nc",
		"a<script>b</script><style>c</style><title>d</title>e":  "ae",
		"a<img alt=logo src=x>b":                                "a[logo]b",
		"a&lt;b&amp;c&nbsp;d":                                   "a<b&c\u00a0d",
		"<pre>a\n  b</pre>":                                     "a\n  b",
		"<b>bo</b>ld <i>it</i>":                                 "bold it",
		"":                                                      "",
		"<p><br></p>x":                                          "\nx",
	} {
		if got := htmlToText(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestFilename(t *testing.T) {
	for in, want := range map[string]string{
		"report.pdf": "report.pdf", "../../etc/passwd": "passwd", `C:\x\y.doc`: "y.doc", ".bashrc": "bashrc", "a\x00b\r\nc.txt": "ab  c.txt",
		"\u202egpj.exe": "gpj.exe", "con.txt": "_con.txt", "COM1": "_COM1", "com1.": "_com1", "": "attachment-3.pdf", "...": "attachment-3.pdf", "/": "attachment-3.pdf",
		`a<b>:"|?*%.txt`: "a_b______" + "_.txt", "x ": "x", "x.": "x", "Befund für Jane.pdf": "Befund für Jane.pdf", "診断書.pdf": "診断書.pdf", "a\u00a0b": "a b",
		strings.Repeat("ü", 200) + ".pdf": strings.Repeat("ü", 73) + ".pdf", "\xff\xfe.pdf": "\uFFFD.pdf",
	} {
		if got := filename(in, "application/pdf", 3); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzFilename(f *testing.F) {
	for _, s := range []string{"a.txt", "../x", "\u202e", "con", "%00", "a;b=\"c\"", "診断書", strings.Repeat("é.", 200), "nul. ", "a/..", "'*"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name := filename(s, "application/pdf", 1)
		if name == "" || len(name) > maxFilename+1 || !utf8.ValidString(name) || strings.ContainsAny(name, "/\\\x00\r\n\"<>:|?*%") || name[0] == '.' || name != strings.TrimSpace(name) {
			t.Fatalf("%q became %q", s, name)
		}
		stem, _, _ := strings.Cut(name, ".")
		if reserved(stem) || clean(name) != name {
			t.Fatalf("%q became %q", s, name)
		}
		value := contentDisposition(name)
		kind, params, err := mime.ParseMediaType(value)
		if err != nil || kind != "attachment" || params["filename"] != name && !strings.Contains(value, "filename*=") {
			t.Fatalf("%q: %q: %q, %v, %v", name, value, kind, params, err)
		}
		if i := strings.Index(value, "; filename*="); i >= 0 {
			if _, params, err := mime.ParseMediaType("attachment" + value[i:]); err != nil || params["filename"] != name {
				t.Fatalf("%q: %q: %v, %v", name, value, params, err)
			}
		}
		for _, c := range []byte(value) {
			if c < ' ' || c > '~' {
				t.Fatalf("%q: %q", name, value)
			}
		}
	})
}

func FuzzScan(f *testing.F) {
	for _, s := range []string{plainLetter, fullLetter, "", "\n", "--", "Content-Type: multipart/mixed; boundary=b\n\n--b\n--b--\n--b\n\nx",
		"Content-Type: multipart/mixed; boundary=\"\"\n\n----\n\nx", "Content-Type: text/html; charset=utf-7\n\n+ADw-", "Content-Type: text/plain; format=flowed; delsp=yes\n\n>> a \n> b \n",
		"Content-Type: multipart/alternative; boundary=b\nContent-Transfer-Encoding: base64\n\n--b\nContent-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n=\n=3D=\n--b"} {
		f.Add([]byte(s))
		f.Add([]byte(crlf(s)))
	}
	for _, raw := range samples(f) {
		f.Add(raw)
	}
	s := newSanitizer()
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) > 50_000 {
			return
		}
		c, err := scan(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err) // only reading can fail
		}
		text := c.text()
		if !utf8.ValidString(text) {
			t.Fatalf("text %q", text)
		}
		joined := ""
		for _, s := range segments(text) {
			joined += s.Text
		}
		if joined != text {
			t.Fatalf("%q became %q", text, joined)
		}
		doc, err := s.document(c, nil)
		if err != nil {
			t.Fatal(err)
		}
		harmless(t, strings.TrimPrefix(strings.TrimSuffix(doc, "</body></html>\n"), frameHead))
		// The same parts come when one of them is asked for.
		for _, file := range c.files {
			n := int64(-1)
			_, _, err := walk(iotest.OneByteReader(bytes.NewReader(raw)), func(l *leaf, body io.Reader) error {
				if l.n != file.N {
					return nil
				}
				var err error
				if file.In > 0 {
					_, err = inside(l, body, file.In, func(body io.Reader) error { n, err = io.Copy(io.Discard, body); return err })
					return err
				}
				n, err = io.Copy(io.Discard, body)
				return err
			})
			if file.In > 0 && n < 0 && file.Size == 0 {
				n = 0 // a winmail.dat may name a file and hold nothing of it
			}
			if err != nil || n != file.Size {
				t.Fatalf("part %d: %d bytes, listed with %d, %v", file.N, n, file.Size, err)
			}
		}
	})
}

func BenchmarkScan(b *testing.B) {
	for name, head := range map[string]string{
		"base64": "Content-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\n",
		"qp":     "Content-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(50 << 20)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := scan(io.MultiReader(strings.NewReader(head), &zeros{50 << 20})); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
