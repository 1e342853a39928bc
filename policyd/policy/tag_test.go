package policy

import (
	"strings"
	"testing"
	"time"
)

func remover(t testing.TB, pattern string) *Triggers {
	t.Helper()
	s, err := NewTriggers(nil, []*Trigger{
		{Kind: OnSubject, Pattern: pattern, Sender: "*", Requirement: Encryption, Remove: true},
		{Kind: OnHeader, Header: "x-secure", Pattern: "yes", Sender: "*", Requirement: Encryption, Remove: true},
		{Kind: OnSubject, Pattern: "[kept]", Sender: "*", Requirement: Encryption},
		{Kind: OnSubject, Pattern: "[theirs]", Sender: "clinic.example", Requirement: Encryption, Remove: true},
		{Kind: OnSubject, Pattern: "[over]", Sender: "*", Requirement: Encryption, Remove: true, Until: now},
	}, "+")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRewrite(t *testing.T) {
	same := "\x00"
	tests := []struct{ name, field, want string }{
		{"at the front", "Subject: [secure] lab results\r\n", "Subject: lab results\r\n"},
		{"in the middle", "Subject: Re: [secure] lab\r\n", "Subject: Re: lab\r\n"},
		{"at the end", "Subject: lab [SECURE]\r\n", "Subject: lab\r\n"},
		{"alone", "Subject: [secure]\r\n", "Subject:\r\n"},
		{"twice", "Subject: [secure] Re: [secure] lab\r\n", "Subject: Re: lab\r\n"},
		{"twice at the front", "Subject: [secure] [secure] lab\r\n", "Subject: lab\r\n"},
		{"nothing but tags", "Subject: [secure] [secure]\r\n", "Subject:\r\n"},
		{"glued", "Subject: lab[secure]results\r\n", "Subject: labresults\r\n"},
		{"glued at the front", "Subject:[secure]lab\n", "Subject:lab\n"},
		{"other white space stays", "Subject:  a  b [secure]  c \r\n", "Subject:  a  b c \r\n"},
		{"no line end", "subject : [secure] x", "subject : x"},
		{"a fold after it", "Subject: [secure]\r\n lab\r\n", "Subject: lab\r\n"},
		{"a fold before it", "Subject: lab\r\n [secure]\r\n", "Subject: lab\r\n"},
		{"folds around it", "Subject: lab\r\n [secure]\r\n results\r\n", "Subject: lab\r\n results\r\n"},
		{"other folds stay", "Subject: one\r\n\ttwo\r\n [secure] three\r\n four\r\n", "Subject: one\r\n\ttwo\r\n three\r\n four\r\n"},
		{"a fold at the front", "Subject:\r\n [secure] lab\r\n", "Subject:\r\n lab\r\n"},
		{"alone behind a fold", "Subject:\r\n [secure]\r\n", "Subject:\r\n"},
		{"words beside it stay", "Subject: [secure] =?iso-8859-1?Q?Gr=F6=DFe?=\r\n", "Subject: =?iso-8859-1?Q?Gr=F6=DFe?=\r\n"},
		{"8 bits beside it stay", "Subject: gr\xf6\xdfe [secure] x\r\n", "Subject: gr\xf6\xdfe x\r\n"},
		{"in a word of its own", "Subject: =?utf-8?Q?[secure]?= lab\r\n", "Subject: lab\r\n"},
		{"in a word", "Subject: =?utf-8?Q?[secure]_Gr=C3=B6=C3=9Fe?=\r\n", "Subject: =?utf-8?q?Gr=C3=B6=C3=9Fe?=\r\n"},
		{"in a word, base64", "Subject: Re: " + b64("utf-8", "[secure] Größe") + " x\r\n", "Subject: Re: " + strings.Replace(b64("utf-8", "Größe"), "?B?", "?b?", 1) + " x\r\n"},
		{"in a word of another charset", "Subject: =?windows-1252?Q?[secure]_Gr=F6=DFe?=\r\n", "Subject: =?utf-8?q?Gr=C3=B6=C3=9Fe?=\r\n"},
		{"in a stateful charset", "Subject: =?iso-2022-jp?B?W3NlY3VyZV0gGyRCP0ZFOBsoQg==?=\r\n", "Subject: " + strings.Replace(b64("utf-8", "親展"), "?B?", "?b?", 1) + "\r\n"},
		{"what is left is ASCII", "Subject: =?utf-8?Q?[secure]_lab?=\r\n", "Subject: lab\r\n"},
		{"over two words", "Subject: =?utf-8?Q?[sec?=\r\n =?utf-8?Q?ure]_=C3=A4?=\r\n", "Subject: =?utf-8?q?=C3=A4?=\r\n"},
		{"over two charsets", "Subject: =?utf-8?Q?=C3=A4_[sec?= =?iso-8859-1?Q?ure]_=E4?=\r\n", "Subject: =?utf-8?q?=C3=A4_?= =?utf-8?q?=C3=A4?=\r\n"},
		{"half in a word", "Subject: x [sec=?utf-8?Q?ure]_=C3=A4?= y\r\n", "Subject: x =?utf-8?q?=C3=A4?= y\r\n"},
		{"another charset's word is not touched", "Subject: =?utf-8?Q?[secure]?= =?iso-8859-1?Q?=E4?=\r\n", "Subject: =?iso-8859-1?Q?=E4?=\r\n"},
		{"between two words the space is meant", "Subject: =?utf-8?Q?=C3=A4?= [secure] =?utf-8?Q?=C3=A4?=\r\n", "Subject: =?utf-8?q?=C3=A4_=C3=A4?=\r\n"},
		{"a word that can't be read beside it", "Subject: [secure] =?x-unknown?Q?=E4?= x\r\n", "Subject: =?x-unknown?Q?=E4?= x\r\n"},
		{"in a word that can't be read", "Subject: =?x-unknown?Q?[secure]_=E4?=\r\n", same},
		{"in a broken word", "Subject: =?utf-8?Q?[secure]_=E4?=\r\n", same},
		{"in a charset that only hides it", "Subject: =?utf-7?Q?+AFs-secure+AF0-_+AOQ-?=\r\n", same},
		{"no tag", "Subject: lab results\r\n", same},
		{"a trigger that keeps its tag", "Subject: [kept] x\r\n", same},
		{"a trigger of somebody else", "Subject: [theirs] x\r\n", same},
		{"a trigger that is over", "Subject: [over] x\r\n", same},
		{"another field", "Comments: [secure] x\r\n", same},
		{"a header field", "X-Secure: YES\r\n", ""},
		{"a header field, folded", "x-secure:\r\n =?utf-8?Q?yes?=\r\n", ""},
		{"a header field that says something else", "X-Secure: no\r\n", same},
		{"no field", "[secure]\r\n", same},
	}
	s := remover(t, "[secure]")
	for _, tt := range tests {
		got, changed := s.Rewrite(tt.field, Address{Local: "a", Domain: "b.example"}, now)
		if tt.want == same {
			tt.want = tt.field
		}
		if got != tt.want || changed != (tt.want != tt.field) {
			t.Errorf("%s: %q became %q (%v), want %q", tt.name, tt.field, got, changed, tt.want)
		}
	}
	if got, _ := s.Rewrite("Subject: [theirs] x\r\n", Address{Local: "a", Domain: "clinic.example"}, now); got != "Subject: x\r\n" {
		t.Errorf("who may use it: %q", got)
	}
	var none *Triggers
	if got, changed := none.Rewrite("Subject: [secure]\r\n", Address{}, now); changed || got != "Subject: [secure]\r\n" {
		t.Errorf("without triggers: %q", got)
	}
}

// TestLongSubjectIsFoldedAnew holds that words written anew are no longer than they
// may be.
func TestLongSubjectIsFoldedAnew(t *testing.T) {
	text := strings.Repeat("größe ", 40)
	s := remover(t, "[secure]")
	got, _ := s.Rewrite("Subject: "+b64("utf-8", "[secure] "+text)+"\r\n", Address{}, now)
	for l := range strings.SplitSeq(strings.TrimRight(got, "\r\n"), "\r\n") {
		if len(strings.TrimSpace(strings.TrimPrefix(l, "Subject:"))) > 75 {
			t.Errorf("a line of %d characters: %q", len(l), l)
		}
	}
	if d := strings.TrimSpace(decodeWords(strings.TrimSpace(unfold(strings.TrimPrefix(got, "Subject:"))))); d != strings.TrimSpace(text) {
		t.Errorf("reads %q", d)
	}
}

func FuzzRewrite(f *testing.F) {
	for _, seed := range []string{
		" [secure] lab\r\n", " =?utf-8?Q?[secure]_x?=\r\n", " =?utf-8?B?W3NlY3VyZV0=?= x\r\n\ty [secure]\r\n", "[secure]", " a\r\n [secure]\r\n b", "\r\n [secure]\r\n \r\n",
		" =?utf-8?Q?=C3?= =?utf-8?Q?=A4[secure]?=", " =?utf-8?Q?a?= [secure] =?utf-8?Q?b?=\n", " =?x?q?[secure]=?= =?utf-8*en?b?W3NlY3VyZV0?=", "=??b?[secure]?=",
	} {
		f.Add(seed)
	}
	s := remover(f, "[secure]")
	f.Fuzz(func(t *testing.T, value string) {
		var joined strings.Builder
		for _, p := range parts(unfold(value)) {
			joined.WriteString(p.text)
		}
		if joined.String() != decodeWords(unfold(value)) {
			t.Fatalf("%q is read as %q in parts, %q as a whole", value, joined.String(), decodeWords(unfold(value)))
		}
		field := "Subject:" + value
		got, changed := s.Rewrite(field, Address{}, time.Time{})
		if !changed {
			if got != field {
				t.Fatalf("%q became %q unchanged", field, got)
			}
			return
		}
		words := func(s string) string {
			_, v, _ := strings.Cut(s, ":")
			return strings.Join(strings.Fields(decodeWords(strings.TrimSpace(unfold(v)))), "")
		}
		// Nothing but the tag, and white space, is missing.
		want := words(field)
		for {
			i := strings.Index(strings.ToLower(want), "[secure]")
			if i < 0 || len(strings.ToLower(want)) != len(want) {
				break
			}
			want = want[:i] + want[i+len("[secure]"):]
			if words(got) == want {
				break
			}
		}
		if len(strings.ToLower(want)) == len(want) && words(got) != want {
			t.Fatalf("%q became %q: reads %q, want %q", field, got, words(got), want)
		}
		if _, v, _ := strings.Cut(got, ":"); !wellFolded(strings.TrimRight(v, "\r\n")) {
			t.Fatalf("%q became %q, which ends the header", field, got)
		}
		if len(got) > 4*len(field)+200 {
			t.Fatalf("%d bytes became %d", len(field), len(got))
		}
	})
}
