package check

import (
	"bytes"
	"encoding/csv"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"
)

func TestLines(t *testing.T) {
	tests := []struct {
		in   string
		want string // asked, with ! where it is no destination
	}{
		{"a.example\nb.example\n", "a.example b.example"},
		{"a.example\r\n\r\nb.example", "a.example b.example"},
		{"\xef\xbb\xbfa.example", "a.example"},
		{"# all\n  a.example  # ours\n\t\n#b\nc#d.example", "a.example c#d.example!"},
		{"joe@a.example\nBÜCHER.example\n[192.0.2.1]\n[mx.a.example]:587", "joe@a.example BÜCHER.example [192.0.2.1] [mx.a.example]:587"},
		{"a.example b.example", "a.example b.example!"},
		{"http://a.example/\n-a.example\na..example\n@\njoe@\n192.0.2.1", "http://a.example/! -a.example! a..example! @! joe@! 192.0.2.1!"},
		{"a\x00b.example\n\xff.example\n\x1b[31m.example", "a?b.example! ?.example! ?[31m.example!"},
		{"a.example\na.example", "a.example a.example"}, // each line has its row
		{"", ""},
	}
	for _, tt := range tests {
		var got []string
		l := NewLines(strings.NewReader(tt.in))
		for {
			it, err := l.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			s := it.Asked
			if it.Err != nil {
				s += "!"
			}
			got = append(got, s)
		}
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%q: %s, want %s", tt.in, s, tt.want)
		}
	}
	l := NewLines(strings.NewReader(strings.Repeat("x", 100_000) + "\nb.example\n"))
	if it, err := l.Next(); err != nil || it.Err == nil || len(it.Asked) > maxText {
		t.Errorf("a long line: %d bytes, %v, %v", len(it.Asked), it.Err, err)
	}
	if it, err := l.Next(); err != nil || it.Asked != "b.example" || it.Line != 2 {
		t.Errorf("after a long line: %+v, %v", it, err)
	}
	if _, err := NewLines(strings.NewReader("\xff\xfea\x00.\x00")).Next(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("UTF-16: %v", err)
	}
}

// TestHarmlessCSV: no text of a stranger is a formula, and a record is one line that
// every reader of CSV takes apart alike.
func TestHarmlessCSV(t *testing.T) {
	for _, evil := range []string{`=HYPERLINK("http://x")`, "+1", "-1+2", "@SUM(1)", "\t=1", "\r=1", "'=1", "a,b", `a"b`, "a\nb", "x\r\ny", "'", "-"} {
		row := &Row{Asked: "a.example", Class: "tls", Reason: evil, MX: []string{evil}, TLSPolicy: evil}
		line, err := CSV.Append(nil, row)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Count(line, []byte("\n")) != 1 || !bytes.HasSuffix(line, []byte("\n")) {
			t.Errorf("%q: not one line: %q", evil, line)
		}
		fields, err := csv.NewReader(bytes.NewReader(append([]byte(CSV.Header()), line...))).ReadAll()
		if err != nil || len(fields) != 2 {
			t.Fatalf("%q: %v", evil, err)
		}
		for i, f := range fields[1] {
			if f != "" && strings.ContainsRune("=+-@\t\r", rune(f[0])) {
				t.Errorf("%q: column %s is a formula: %q", evil, fields[0][i], f)
			}
		}
	}
}

func TestRowsReadBack(t *testing.T) {
	for _, f := range []Format{JSONLines, CSV} {
		for _, asked := range []string{"a.example", "-a.example", "@", "'x", "'-x", `"a b"@c.example`, "bücher.example", "a,b"} {
			row := &Row{Asked: asked, Class: "tls", State: "works", DANE: "none", STS: "enforce", TLSRPT: []string{"mailto:r@a.example"}, Channel: "plain", MX: []string{}}
			line, err := f.Append(nil, row)
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.Parse(line)
			if err != nil {
				t.Fatalf("%s %q: %v", f, asked, err)
			}
			got.MX = []string{}
			if d := cmp.Diff(row, got); d != "" {
				t.Errorf("%s: %s", f, d)
			}
		}
	}
}

// TestResume: whatever a run that was killed left of its last line, the next one goes
// on as if there had been one run, and leaves a file of another list alone.
func TestResume(t *testing.T) {
	list := "a.example\n# x\n-b.example\nc.example\nd.example\n"
	for _, f := range []Format{JSONLines, CSV} {
		whole := func(from int, b []byte) []byte {
			l := NewLines(strings.NewReader(list))
			for i := 0; ; i++ {
				it, err := l.Next()
				if err != nil {
					return b
				}
				if i >= from {
					b, _ = f.Append(b, &Row{Asked: it.Asked, Class: "tls", State: "works", Reason: "ä \"", Checked: time.Unix(1e9, 0).UTC()})
				}
			}
		}
		want := whole(0, []byte(f.Header()))
		for cut := range len(want) + 1 {
			name := filepath.Join(t.TempDir(), "out")
			if err := os.WriteFile(name, want[:cut], 0o600); err != nil {
				t.Fatal(err)
			}
			got, n, err := resumeFile(name, f, list)
			if err != nil {
				t.Fatalf("%s cut at %d: %v", f, cut, err)
			}
			if lines := bytes.Count(want[:cut], []byte("\n")) - strings.Count(f.Header(), "\n"); n != max(0, lines) {
				t.Errorf("%s cut at %d: %d rows taken for done, want %d", f, cut, n, lines)
			}
			if got = whole(n, got); !bytes.Equal(got, want) {
				t.Fatalf("%s cut at %d: goes on to\n%s\nwant\n%s", f, cut, got, want)
			}
		}
		for about, b := range map[string]string{
			"another list":     string(bytes.Replace(want, []byte("c.example"), []byte("e.example"), 1)),
			"a longer list":    string(want) + string(want[len(f.Header()):]),
			"a file of prose":  "Dear all,\nthis\nis not ours\n",
			"damage in middle": string(want[:len(want)/2]) + "\nx\n" + string(want[len(want)/2:]),
		} {
			name := filepath.Join(t.TempDir(), "out")
			if err := os.WriteFile(name, []byte(b), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, _, err := resumeFile(name, f, list); err == nil {
				t.Errorf("%s, %s: no error", f, about)
			}
			if got, _ := os.ReadFile(name); string(got) != b {
				t.Errorf("%s, %s: the file was changed", f, about)
			}
		}
		name := filepath.Join(t.TempDir(), "out")
		torn := append(bytes.Clone(want[:len(want)/2]), "\x00\x00\x00\n"...)
		os.WriteFile(name, torn, 0o600)
		if got, n, err := resumeFile(name, f, list); err != nil || !bytes.Equal(whole(n, got), want) {
			t.Errorf("%s: zeros at the end: %v", f, err)
		}
	}
}

// resumeFile returns what Resume left of a file, header included, and how many rows.
func resumeFile(name string, f Format, list string) ([]byte, int, error) {
	file, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	done, goesOn, err := Resume(file, f, NewLines(strings.NewReader(list)))
	if err != nil {
		return nil, 0, err
	}
	b, err := os.ReadFile(name)
	if !goesOn {
		b = append(b, f.Header()...)
	}
	return b, done.Asked, err
}

func TestSummary(t *testing.T) {
	var s Summary
	for _, c := range []string{"tls", "tls", "enforced", ClassError} {
		s.Add(&Row{Class: c, STS: "enforce", DANE: "none", Channel: "plain"})
	}
	var b strings.Builder
	s.WriteText(&b)
	for _, want := range []string{"4 checked", "tls              2   50.0%", "enforced         1   25.0%", "error            1   25.0%", "MTA-STS enforced: 4"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
}

// FuzzLines feeds lists: every item is one printable line that its row keeps.
func FuzzLines(f *testing.F) {
	for _, s := range []string{"a.example\n", "# x\n\xef\xbb\xbfa", "=cmd|x\n-1\n@\n", "\xff\xfe", "a b # c\n\r\n", `"a b"@c.example`, "a,b\"c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		l := NewLines(strings.NewReader(in))
		for {
			it, err := l.Next()
			if err != nil {
				return
			}
			if it.Asked == "" || len(it.Asked) > 4*maxText || strings.ContainsFunc(it.Asked, unicode.IsControl) {
				t.Fatalf("asked %q", it.Asked)
			}
			for _, format := range []Format{JSONLines, CSV} {
				line, err := format.Append(nil, &Row{Asked: it.Asked, Class: "tls"})
				if err != nil {
					t.Fatal(err)
				}
				if got, err := format.Parse(line); err != nil || got.Asked != it.Asked {
					t.Fatalf("%s: %q is read back as %+v, %v", format, it.Asked, got, err)
				}
			}
		}
	})
}
