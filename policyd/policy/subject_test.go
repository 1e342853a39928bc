package policy

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func subjects(t testing.TB, patterns ...string) *Triggers {
	t.Helper()
	s, err := NewTriggers(patterns, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// matchSubject returns the rule of the first trigger that a subject sets off.
func matchSubject(s *Triggers, subject string) *Rule {
	for _, r := range Rules(s.Match("Subject", subject, Address{}, now)) {
		return r
	}
	return nil
}

func b64(charset, text string) string {
	return "=?" + charset + "?B?" + base64.StdEncoding.EncodeToString([]byte(text)) + "?="
}

func TestSubjectsMatch(t *testing.T) {
	split := base64.StdEncoding.EncodeToString([]byte("Ärzte"))[:4] // ends in the middle of nothing: three bytes
	tests := []struct {
		name, pattern, subject string
		want                   bool
	}{
		{"at the front", "[secure]", "[secure] lab results", true},
		{"in the middle", "[secure]", "Re: [secure] lab results", true},
		{"any case", "[secure]", "[SeCuRe]", true},
		{"brackets are plain text", "[secure]", "e", false},
		{"a dot is plain text", "a.b", "axb", false},
		{"absent", "[secure]", "lab results", false},
		{"empty subject", "[secure]", "", false},
		{"white space of any kind", "top secret", "top \t secret", true},
		{"white space is needed", "top secret", "topsecret", false},
		{"folded", "top secret", "top\r\n secret", true},
		{"folded without CR", "top secret", "top\n\tsecret", true},
		{"folds inside a word are none", "secret", "sec\r\n ret", false},
		{"non-ASCII", "ärzte", "An ÄRZTE", true},
		{"base64", "[secure]", b64("utf-8", "[secure] Größe"), true},
		{"base64 in small letters", "[secure]", "=?utf-8?b?W3NlY3VyZV0=?=", true},
		{"base64 without padding", "[secure]", "=?utf-8?B?W3NlY3VyZV0?=", true},
		{"quoted-printable", "top secret", "=?utf-8?Q?top_secret?=", true},
		{"quoted-printable, hex", "secret", "=?UTF-8?q?=73=65cret?=", true},
		{"small hex digits", "ärzte", "=?utf-8?q?=c3=84rzte?=", true},
		{"words between words", "top secret", "x =?utf-8?Q?top?= secret y", true},
		{"split into two words", "[secure]", "=?utf-8?Q?[sec?= =?utf-8?Q?ure]?=", true},
		{"split and folded", "[secure]", "=?utf-8?Q?[sec?=\r\n =?utf-8?B?dXJlXQ==?=", true},
		{"split between charsets", "[secure]", "=?utf-8?Q?[sec?= =?iso-8859-1?Q?ure]?=", true},
		{"split inside a character", "ärzte", "=?utf-8?Q?=C3?= =?utf-8?Q?=84rzte?=", true},
		{"split inside a character, base64", "ärzte", "=?utf-8?B?" + split + "?= =?utf-8?B?" + base64.StdEncoding.EncodeToString([]byte("Ärzte")[3:]) + "?=", true},
		{"without space between words", "[secure]", "=?utf-8?Q?[sec?==?utf-8?Q?ure]?=", true},
		{"UTF-16", "[secure]", b64("utf-16", "\xfe\xff\x00[\x00s\x00e\x00c\x00u\x00r\x00e\x00]"), true},
		{"UTF-7", "[secure]", "=?utf-7?Q?+AFs-secure+AF0-_+AOQ-?=", true},
		{"ISO-2022-KR", "[secure]", b64("iso-2022-kr", "\x1b$)C[secure] \x0e0!\x0f"), true},
		{"a plus sign is no shift", "a+b", "=?utf-7?Q?a+-b?=", true},
		{"glued to text", "[secure]", "Re:=?utf-8?Q?[secure]?=x", true},
		{"space inside a word", "top secret", "=?utf-8?Q?top secret?=", true},
		{"Latin-1", "größe", "=?iso-8859-1?Q?Gr=F6=DFe?=", true},
		{"Windows", "größe", "=?windows-1252?Q?Gr=F6=DFe?=", true},
		{"Windows, other word first", "[secure]", "=?windows-1252?Q?Gr=F6=DFe?= [secure]", true},
		{"Windows, base64", "[secure]", b64("Windows-1252", "[secure] \xf6"), true},
		{"Japanese", "親展", "=?iso-2022-jp?B?GyRCP0ZFOBsoQg==?=", true},
		{"split inside a character of two bytes", "親展", "=?shift_jis?Q?=90?= =?shift_jis?Q?=65=93=57?=", true},
		{"unknown charset", "[secure]", b64("x-unknown", "[secure]"), true},
		{"unknown charset beside a known one", "ärzte", "=?x-unknown?Q?x?= =?utf-8?Q?=C3=84rzte?=", true},
		{"with a language", "secret", "=?utf-8*en?Q?secret?=", true},
		{"no charset", "secret", "=??Q?secret?=", true},
		{"broken words are text", "secret", "=?utf-8?X?secret?=", true},
		{"unfinished word", "secret", "=?utf-8?Q?secret", true},
		{"not there when decoded either", "[secure]", "=?utf-8?Q?[sec_ure]?=", false},
		{"ERE", "/^(top|very) +secret$/", "x", false},
		{"ERE anchored", "/^secret: [0-9]+$/", "Secret: 123", true},
		{"ERE anchored, not at the front", "/^secret/", "no secret", false},
		{"ERE, slash inside", `/a\/b/`, "x a/b y", true},
		{"ERE, class", "/case[[:space:]]+[0-9]{4}/", "Case 1234", true},
		{"ERE decoded", "/case [0-9]{4}/", b64("utf-8", "Case 1234"), true},
	}
	for _, tt := range tests {
		s, err := NewTriggers([]string{"never-there", tt.pattern}, nil, "")
		if err != nil {
			if tt.want {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		got := matchSubject(s, tt.subject)
		if (got != nil) != tt.want {
			t.Errorf("%s: %q matches %q: %v, want %v", tt.name, tt.pattern, tt.subject, got != nil, tt.want)
		}
		if got != nil && (got.Pattern != tt.pattern || got.Requirement != Encryption || got.Scope != ByContent) {
			t.Errorf("%s: rule %+v", tt.name, got)
		}
	}
	var none *Triggers
	if none.Match("Subject", "x", Address{}, now) != nil || none.HeaderChecks("e", "d") != nil || !none.Empty() {
		t.Error("no patterns match something")
	}
}

func TestSubjectPatternsThatAreRefused(t *testing.T) {
	for _, p := range []string{
		"", "  ", "a\nb", "/(/", "/x*/", "/a|/", "/a/b/", `/\d/`, `/\bx/`, `/\<x/`, `/x\n/`, `/\x41/`, `/a\\/b/`, `/(?i)x/`, `/x+?/`, `/x**/`, `/x{2}?/`,
		`/x{,3}/`, `/x{/`, `/[\d]/`, `/[]\]/`, `/[[.a.]]/`, `/[[=a=]]/`, `/a^b/`, `/(^a)/`, `/^a|b/`, `/^*a/`, `/x\/`, "/[a/", `/[[]x/`,
	} {
		if _, err := NewTriggers([]string{p}, nil, ""); err == nil {
			t.Errorf("took %q", p)
		}
	}
}

// postmap asks a real regexp: table, with the lines of HeaderChecks, for each
// subject as Postfix's cleanup(8) would.
func postmap(t *testing.T, s *Triggers, headers []string) []string {
	t.Helper()
	exe, err := exec.LookPath("postmap")
	if err != nil {
		t.Skip("needs Postfix's postmap")
	}
	dir := t.TempDir()
	table := filepath.Join(dir, "header_checks")
	if err := os.WriteFile(table, []byte(strings.Join(s.HeaderChecks("escrow:e", "escrow:d"), "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// cleanup(8) looks headers up as bytes; postmap does so only with SMTPUTF8 off.
	if err := os.WriteFile(filepath.Join(dir, "main.cf"), []byte("compatibility_level = 3.6\nsmtputf8_enable = no\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{table, filepath.Join(dir, "main.cf")} { // Postfix waits for a fresh file to settle
		if err := os.Chtimes(f, now, time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	// -h parses a message as cleanup does, and asks for each of its header
	// fields, folds and all. It prints those that are found.
	cmd := exec.Command(exe, "-c", dir, "-h", "-q", "-", "regexp:"+table)
	var unfolded []string
	for _, h := range headers {
		unfolded = append(unfolded, strings.ReplaceAll(h, "\r\n", "\n"))
	}
	cmd.Stdin = strings.NewReader(strings.Join(unfolded, "\n") + "\n\n")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, _ := cmd.Output() // 1: nothing was found
	if stderr.Len() > 0 {
		t.Fatalf("postmap: %s", stderr.String())
	}
	var results []string
	for _, h := range unfolded {
		h = strings.Replace(h, " :", ":", 1) // the space is gone before any table sees it
		_, after, found := strings.Cut("\n"+string(out), "\n"+h+"\tFILTER ")
		result := ""
		if found {
			result, _, _ = strings.Cut(after, "\n")
			result = "FILTER " + result
		}
		results = append(results, result)
	}
	return results
}

// TestPostfixAgrees holds what the routing relies on: a subject that Match
// finds is never passed over by Postfix's table, and where the table alone
// decides (plain, unfolded ASCII), both say the same.
func TestPostfixAgrees(t *testing.T) {
	patterns := []string{
		"[secure]", "top secret", "a.b*c", "x+y?", "50% (net) {final} ^ $ |", `back\slash`, "a/b", "ärzte", "#hash", "if", "'quote\"",
		"/^anchored/", "/at the end$/", "/(one|two) *three/", "/[[:digit:]]{3}-x/", `/slash\/inside/`, "/^only$/", "/a$|bcd/", "/[]x]y]/", "/[^a-z]z9/", `/lit\.\*/`, "/cost [$]5/", `/[\/]root/`, "/end\\$/",
	}
	plain := []string{
		"", "[secure] x", "x [SECURE]", "secure", "top secret", "TOP  secret", "top\tsecret", "topsecret", "a.b*c", "axbbc", "x+y?", "xxy", "50% (net) {final} ^ $ |",
		`back\slash`, "backslash", "a/b", "#hash", "if", `'quote"`, "anchored", "not anchored", "Anchored x", "at the end", "at the end.", "at the end  ", "one three", "twothree", "three",
		"123-x", "12-x", "slash/inside", "only", "only this", "xa", "xa ", "abcd", "]y]", "xy]", "zy]", "1z9", "az9", "lit.*", "litxx", "cost $5", "/root", "end$", "end$x", "FILTER x", "=", "=?",
		"plain ~ text", "Re: Fwd: nothing",
	}
	hard := []string{
		b64("utf-8", "[secure]"), "=?utf-8?Q?top_secret?=", "=?utf-8?Q?top?=\n =?utf-8?Q?secret?=", "top\n secret", "top\r\n\tsecret", "ärzte", "ÄRZTE", "x\n [secure]", "=?windows-1252?Q?=C4rzte?=", "=?utf-8?Q?at_the_end?=", "cost\n $5", "one\n three",
		"anchored\n x", "\xc4rzte top secret", "at the\n end",
	}
	s := subjects(t, patterns...)
	var headers, all []string
	for i, subject := range append(append([]string{}, plain...), hard...) {
		name := []string{"Subject: ", "subject:", "SUBJECT : ", "Subject:\t "}[i%4]
		headers, all = append(headers, name+subject), append(all, subject)
	}
	for i, got := range postmap(t, s, headers) {
		matched := matchSubject(s, all[i])
		if matched != nil && got == "" {
			t.Errorf("%q: matches %q, and Postfix passes it over", headers[i], matched.Pattern)
		}
		if asciiOnly := i < len(plain) && !strings.ContainsAny(all[i], "\t") && !strings.Contains(all[i], "=?"); asciiOnly {
			want := ""
			if matched != nil {
				want = "FILTER escrow:e"
			}
			if strings.Contains(headers[i], "\t") && want == "" {
				want = "FILTER escrow:d"
			}
			if got != want {
				t.Errorf("%q: Postfix says %q, want %q", headers[i], got, want)
			}
		}
	}
	for i, got := range postmap(t, s, []string{"X-Subject: [secure]", "Comments: Subject: [secure]", "Subjects: [secure]"}) {
		if got != "" {
			t.Errorf("another header field (%d) goes to %q", i, got)
		}
	}
	// Each pattern by itself, so that no other one hides that it is broken.
	for _, p := range patterns {
		one := subjects(t, p)
		for i, got := range postmap(t, one, headers) {
			if matchSubject(one, all[i]) != nil && got == "" {
				t.Errorf("%q alone: Postfix passes over %q", p, headers[i])
			}
		}
	}
}

func FuzzSubjectsMatch(f *testing.F) {
	s := subjects(f, "[secure]", "/^a +b$/")
	for _, seed := range []string{"[secure]", "=?utf-8?B?W3NlY3VyZV0=?=", "=?utf-8?Q?[sec?= =?utf-8?Q?ure]?=", "=?x?q?=?=", "=??b??=", "a\n b", "=?utf-16?B?AA==?="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, subject string) {
		_ = decodeWords(subject) // must not panic
		if strings.Contains(strings.ToLower(unfold(subject)), "[secure]") && matchSubject(s, subject) == nil {
			t.Fatalf("%q is passed over", subject)
		}
		if text := strings.TrimSpace(unfold(subject)); text != "" {
			encoded := fmt.Sprintf("%s [secure]", b64("utf-8", text))
			if matchSubject(s, encoded) == nil {
				t.Fatalf("%q hides a pattern", encoded)
			}
		}
	})
}

func FuzzSubjectPatterns(f *testing.F) {
	for _, seed := range []string{"[secure]", "/^a$/", `/\//`, "/[]a]/", "/a{2,3}/", `\`, "//", "/[[:alpha:]]x/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, p string) {
		s, err := NewTriggers([]string{p}, nil, "")
		if err != nil {
			return
		}
		for _, line := range s.HeaderChecks("e", "d") {
			body, ok := strings.CutSuffix(strings.TrimSuffix(strings.TrimSuffix(line, " FILTER e"), " FILTER d"), "/")
			if !ok || strings.Contains(line, "\n") || strings.Contains(strings.NewReplacer(`\\`, "", `\/`, "").Replace(body[1:]), "/") {
				t.Fatalf("%q: table line %q", p, line)
			}
		}
	})
}
