package probe

import (
	"bufio"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/miekg/dns"

	"github.com/postseal/postseal/policyd/policy"
)

func FuzzReply(f *testing.F) {
	for _, s := range []string{
		"220 mx.example ESMTP\r\n", "250-a\r\n250-STARTTLS\r\n250 SIZE 10\r\n", "250\r\n", "25\r\n", "250-\r\n250\n", "\r\n", "999 x\r\n",
		"250_x\r\n", "250 \x00\xff\r\n", strings.Repeat("250-x\r\n", 120) + "250 x\r\n", "250 " + strings.Repeat("y", 4000) + "\r\n",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		src := strings.NewReader(in)
		r, err := readReply(bufio.NewReaderSize(src, maxReplyLine))
		if read := len(in) - src.Len(); read > (maxReplyLines+1)*maxReplyLine {
			t.Errorf("read %d bytes", read)
		}
		if err != nil {
			return
		}
		if r.code < 200 || r.code > 599 || len(r.lines) == 0 || len(r.lines) > maxReplyLines {
			t.Errorf("reply %+v", r)
		}
		for _, s := range append(r.keywords(), r.String()) {
			if len(s) > 2*maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("unclean text %q", s)
			}
		}
		if r.keyword("STARTTLS") && !strings.Contains(strings.ToUpper(in), "STARTTLS") {
			t.Error("offered without being said")
		}
	})
}

// FuzzHosts feeds DNS messages to what reads MX records.
func FuzzHosts(f *testing.F) {
	for _, line := range []string{
		"a.example. 60 IN MX 10 mx.a.example.", "a.example. 60 IN MX 0 .", `a.example. 60 IN MX 1 b\032\000d.example.`,
		"a.example. 60 IN CNAME a.example.", `a.example. 60 IN MX 1 \255\.x.`,
	} {
		rr, err := dns.NewRR(line)
		if err != nil {
			f.Fatal(err)
		}
		m := new(dns.Msg).SetQuestion("a.example.", dns.TypeMX)
		m.Answer = []dns.RR{rr}
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var m dns.Msg
		if m.Unpack(b) != nil {
			return
		}
		var r Result
		r.mxHosts(m.Answer)
		if r.NullMX && len(r.MX) > 0 {
			t.Error("null MX and hosts")
		}
		for _, mx := range r.MX {
			if checkName(mx.Host) == nil {
				if _, err := parseDestination("[" + mx.Host + "]"); err != nil {
					t.Errorf("host %q: %v", mx.Host, err)
				}
				if checkHELO(mx.Host) != nil {
					t.Errorf("host %q", mx.Host)
				}
			}
			if s := clean(mx.Host); !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
				t.Errorf("unclean host %q", s)
			}
		}
	})
}

func FuzzDestination(f *testing.F) {
	for _, s := range []string{"a.example", "[a.example]", "[a.example]:587", "a.example:smtp", "[192.0.2.1]", "[IPv6:2001:db8::1]:25", "[]", "[", ":", "a..b", "bücher.example", "[::1%lo]", "a:0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key := Key(s)
		if Key(key) != key && !strings.HasSuffix(key, ".") {
			t.Errorf("%q: key %q, and of that %q", s, key, Key(key))
		}
		d, err := parseDestination(key)
		if err != nil {
			return
		}
		if (d.name == "") != d.addr.IsValid() || d.addr.IsValid() && !d.host {
			t.Errorf("%q: %+v", s, d)
		}
		if d.name != "" && (checkName(d.name) != nil || d.name != policy.CanonicalDomain(d.name)) {
			t.Errorf("%q: name %q", s, d.name)
		}
	})
}

func FuzzProtocols(f *testing.F) {
	for _, s := range []string{">=TLSv1.2", "<=TLSv1.2", "TLSv1.3", "!TLSv1:!TLSv1.1", "TLSv1.2, TLSv1.3", "::", ">=", "!"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, v := range versions {
			if speaks(s, v.number) && !speaks(s, versions[len(versions)-1].number) {
				t.Errorf("%q: %s will do, the newest not", s, v.name)
			}
		}
	})
}
