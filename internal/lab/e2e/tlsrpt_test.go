package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net"
	netmail "net/mail"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakesmtp"
	"github.com/postseal/postseal/internal/lab/fakeweb"
	"github.com/postseal/postseal/tlsmap/tlsrpt"
)

// TestTLSReport: a destination without TLS that asks for reports (RFC 8460) is told
// by mail, over the road of notices, and by HTTPS; one that asks for none is not.
func TestTLSReport(t *testing.T) {
	s := newScene(t, lab.Options{
		Env:   []string{"POSTSEAL_TLSRPT_FROM=tls-reports@own.example", "POSTSEAL_TEST_NET=loopback"},
		Rules: []string{"domain add plain.example --require encryption", "domain add broken.example --require encryption"},
	})
	web, err := s.Web()
	if err != nil {
		t.Fatal(err)
	}
	web.Set("reports.plain.example", fakeweb.Site{})
	ip, _, err := net.SplitHostPort(web.Addr())
	if err != nil {
		t.Fatal(err)
	}
	for name, record := range map[string][2]string{
		"_smtp._tls.plain.example": {"TXT", `"v=TLSRPTv1; rua=mailto:reports@tls.example," "https://reports.plain.example/v1?of=plain"`},
		"reports.plain.example":    {"A", ip},
	} {
		if err := s.Record(name, record[0], record[1]); err != nil {
			t.Fatal(err)
		}
	}

	m := s.send("a@own.example", "b@plain.example")
	s.sealed(m, "b@plain.example")
	m = s.send("a@own.example", "b@broken.example")
	s.sealed(m, "b@broken.example")
	var show struct {
		Record  *tlsrpt.Record
		Pending *tlsrpt.Document
	}
	counted := func(domain string) func() bool {
		return func() bool {
			show.Record, show.Pending = nil, nil
			out, err := s.CLI("tlsrpt", "show", domain, "--json")
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal([]byte(out), &show); err != nil {
				t.Fatal(err)
			}
			return show.Pending != nil
		}
	}
	if !lab.Poll(patience, counted("broken.example")) || show.Record != nil {
		t.Fatalf("of broken.example there is %+v", show)
	}
	if !lab.Poll(patience, counted("plain.example")) || show.Record == nil {
		t.Fatalf("of plain.example there is %+v", show)
	}
	want := show.Pending
	if want.Total().Failed == 0 || want.Total().Succeeded != 0 || len(want.Policies) != 1 {
		t.Fatalf("counted %+v", want)
	}

	out, err := s.CLI("tlsrpt", "send", "--day", "today", "plain.example")
	if err != nil || strings.Count(out, ": sent\n") != 2 {
		t.Fatalf("send: %v\n%s", err, out)
	}
	posts := web.Posts("reports.plain.example")
	if len(posts) != 1 || posts[0].URL != "/v1?of=plain" || posts[0].ContentType != "application/tlsrpt+gzip" {
		t.Fatalf("posted %+v", posts)
	}
	posted, err := tlsrpt.ReadDocument(posts[0].Body)
	if err != nil {
		t.Fatal(err)
	}
	failed := posted.Policies[0]
	if posted.Contact != "tls-reports@own.example" || posted.Organization != "own.example" || failed.Policy.Type != tlsrpt.NoPolicy || failed.Policy.Domain != "plain.example" ||
		len(failed.Details) == 0 || failed.Details[0].Type != tlsrpt.STARTTLSNotSupported || failed.Details[0].SendingIP == "" || failed.Details[0].IP == "" ||
		posted.Total().Failed < want.Total().Failed {
		t.Errorf("posted %+v", posted)
	}

	mail := s.reportTo("reports@tls.example")
	if mail.From != "tls-reports@own.example" || !mail.TLS {
		t.Errorf("the mail is from %q, by TLS: %v", mail.From, mail.TLS)
	}
	if got := attached(t, mail.Data); !bytes.Equal(got, posts[0].Body) {
		t.Error("the mail has another report than was posted")
	}

	out, err = s.CLI("tlsrpt", "list")
	if err != nil || !strings.Contains(out, "mailto:reports@tls.example: sent") || !strings.Contains(out, "broken.example") {
		t.Errorf("list: %v\n%s", err, out)
	}

	// The night: the server itself, started anew, reports what was counted before it was
	// killed, to those who ask for it by then.
	s.check(s.Record("_smtp._tls.broken.example", "TXT", `"v=TLSRPTv1; rua=mailto:night@tls.example"`))
	s.Postseal.Kill()
	s.check(s.Postseal.Start("POSTSEAL_TEST_LATER=28h"))
	mail = s.reportTo("night@tls.example")
	night, err := tlsrpt.ReadDocument(attached(t, mail.Data))
	if err != nil || night.Policies[0].Policy.Domain != "broken.example" || night.Policies[0].Details[0].Type != tlsrpt.ValidationFailure || night.Total().Failed == 0 {
		t.Errorf("at night %+v, %v", night, err)
	}
	if span := night.Range.End.Sub(night.Range.Start); span != 24*time.Hour-time.Second {
		t.Errorf("a night's report is of %s", span)
	}
}

// reportTo waits for a mail.
func (s *scene) reportTo(to string) (mail fakesmtp.Mail) {
	s.t.Helper()
	if !s.Wait(patience, func() bool {
		for _, got := range s.Received() {
			if got.Accepted && got.HasTo(to) {
				mail = got
				return true
			}
		}
		return false
	}) {
		s.t.Fatalf("no report arrived for %s", to)
	}
	return mail
}

// attached returns the report in a mail.
func attached(t *testing.T, data []byte) []byte {
	t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "tlsrpt" || m.Header.Get("TLS-Report-Domain") == "" ||
		m.Header.Get("TLS-Report-Submitter") != "own.example" || m.Header.Get("Auto-Submitted") != "auto-generated" {
		t.Fatalf("%s %v, %v\n%s", kind, params, err, data)
	}
	parts := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := parts.NextPart()
		if err != nil {
			t.Fatalf("no report in\n%s", data)
		}
		if p.Header.Get("Content-Type") == "application/tlsrpt+gzip" {
			b, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, p))
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
}
