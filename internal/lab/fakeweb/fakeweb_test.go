package fakeweb

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab/fakesmtp"
)

func TestSites(t *testing.T) {
	ca, err := fakesmtp.NewCA("")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start("127.0.0.1:0", ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	other, err := ca.Issue(fakesmtp.CertOptions{Names: []string{"other.example"}})
	if err != nil {
		t.Fatal(err)
	}
	const text = "version: STSv1\n"
	s.Set("good.example", Site{Text: text})
	s.Set("wrong.example", Site{Text: text, Certificate: other})
	s.Set("moved.example", Site{Redirect: "https://good.example" + PolicyPath})
	s.Set("html.example", Site{Text: text, ContentType: "text/html"})
	s.Set("bare.example", Site{Text: text, ContentType: "-"})
	s.Set("gone.example", Site{Status: http.StatusNotFound})
	s.Set("big.example", Site{Text: text, Oversize: 70_000})
	s.Set("slow.example", Site{Text: text, Slow: time.Millisecond, Delay: time.Millisecond})
	s.Set("alert.example", Site{Alert: true})
	s.Set("old.example", Site{Text: text, MaxTLS: tls.VersionTLS11})
	s.Set("hang.example", Site{Hang: true})

	get := func(host string) (*http.Response, string, error) {
		t.Helper()
		c := http.Client{
			Transport: &http.Transport{
				DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, s.Addr())
				},
				TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}, DisableKeepAlives: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       5 * time.Second,
		}
		if host == "hang.example" {
			c.Timeout = 50 * time.Millisecond
		}
		res, err := c.Get("https://" + host + PolicyPath)
		if err != nil {
			return nil, "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return res, string(body), err
	}
	for host, want := range map[string]struct {
		status int
		typ    string
	}{
		"good.example":  {200, "text/plain"},
		"moved.example": {302, "text/plain"},
		"html.example":  {200, "text/html"},
		"bare.example":  {200, ""},
		"gone.example":  {404, "text/plain"},
		"big.example":   {200, "text/plain"},
		"slow.example":  {200, "text/plain"},
	} {
		res, body, err := get(host)
		if err != nil {
			t.Errorf("%s: %v", host, err)
			continue
		}
		if res.StatusCode != want.status || res.Header.Get("Content-Type") != want.typ {
			t.Errorf("%s: %d %q, want %v", host, res.StatusCode, res.Header.Get("Content-Type"), want)
		}
		if s.Requests(host) != 1 {
			t.Errorf("%s: %d requests counted", host, s.Requests(host))
		}
		if want.status == 200 && !strings.HasSuffix(body, text) {
			t.Errorf("%s: body %.80q", host, body)
		}
		if host == "big.example" && len(body) < 70_000 {
			t.Errorf("%d bytes, want at least 70000", len(body))
		}
	}
	for _, host := range []string{"wrong.example", "alert.example", "old.example", "hang.example", "unknown.example"} {
		if _, _, err := get(host); err == nil {
			t.Errorf("%s: no error", host)
		}
	}
}

func TestPosts(t *testing.T) {
	ca, err := fakesmtp.NewCA("")
	if err != nil {
		t.Fatal(err)
	}
	s, err := Start("127.0.0.1:0", ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	c := http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, s.Addr())
		},
		TLSClientConfig: &tls.Config{RootCAs: ca.Pool()}, DisableKeepAlives: true,
	}}
	post := func(want int) {
		t.Helper()
		res, err := c.Post("https://r.example/v1?a=b", "a/b", strings.NewReader("text"))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("status %d, want %d", res.StatusCode, want)
		}
	}
	s.Set("r.example", Site{Status: 503})
	post(503)
	if got := s.Posts("r.example"); len(got) != 0 {
		t.Errorf("taken %+v", got)
	}
	s.Set("r.example", Site{})
	post(201)
	if got := s.Posts("r.example"); len(got) != 1 || got[0].URL != "/v1?a=b" || got[0].ContentType != "a/b" || string(got[0].Body) != "text" {
		t.Errorf("taken %+v", got)
	}
}
