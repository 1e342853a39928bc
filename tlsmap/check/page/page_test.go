package page

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/check"
	"github.com/postseal/postseal/tlsmap/probe"
)

const evil = `<script>alert(1)</script>`

// report is one of a destination that says things it should not.
func report(domain string) *check.Report {
	r := check.Build(&probe.Result{
		Dest: domain, Domain: domain, State: policy.Works, Reason: evil, DANE: policy.DANENone, MX: []probe.MXResult{{
			Host: "mx." + domain, Preference: 10, Addresses: []probe.AddressResult{{
				Addr: netip.MustParseAddr("192.0.2.1"), State: policy.Works, TLS: true, STARTTLS: true, Banner: "220 " + evil, Version: "TLSv1.3", Cipher: "TLS_AES_128_GCM_SHA256",
				EHLO: []string{evil}, Cert: &probe.Certificate{Names: []string{evil}, Issuer: evil, VerifyError: evil, KeyType: "RSA", KeyBits: 2048},
			}},
		}},
	}, nil, nil, time.Now())
	r.TLSRPT = &check.TLSRPT{Record: evil, RUA: []string{evil}}
	r.Decision = &check.Decision{Channel: "plain", Line: "nothing is required", Reasons: []string{evil}}
	return r
}

func ask(p http.Handler, method, target string, form url.Values, change ...func(*http.Request)) *httptest.ResponseRecorder {
	req := httptest.NewRequest(method, "http://127.0.0.1:8646"+target, strings.NewReader(form.Encode()))
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for _, f := range change {
		f(req)
	}
	w := httptest.NewRecorder()
	p.ServeHTTP(w, req)
	return w
}

func TestCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan string, 1)
		p := New(Options{Listen: "127.0.0.1:8646", Check: func(_ context.Context, domain string) *check.Report {
			asked <- domain
			time.Sleep(time.Second)
			return report(domain)
		}})
		if w := ask(p, "GET", "/check?domain=a.example", nil); w.Code != 200 || !strings.Contains(w.Body.String(), `name="domain"`) {
			t.Errorf("the form: %d", w.Code)
		}
		synctest.Wait()
		if len(asked) > 0 {
			t.Error("a GET started a check")
		}
		w := ask(p, "POST", "/check", url.Values{"domain": {" Someone@A.Example. "}})
		to := w.Header().Get("Location")
		if w.Code != http.StatusSeeOther || !strings.HasPrefix(to, "/check/") {
			t.Fatalf("%d to %q", w.Code, to)
		}
		if got := <-asked; got != "a.example" {
			t.Errorf("asked for %q", got)
		}
		if w := ask(p, "GET", to, nil); w.Code != 200 || w.Header().Get("Refresh") != "2" || !strings.Contains(w.Body.String(), "Looking at") {
			t.Errorf("while it runs: %d, refresh %q", w.Code, w.Header().Get("Refresh"))
		}
		if again := ask(p, "POST", "/check", url.Values{"domain": {"a.example"}}).Header().Get("Location"); again != to {
			t.Errorf("the same check is started twice: %q", again)
		}
		time.Sleep(2 * time.Second)
		w = ask(p, "GET", to, nil)
		body := w.Body.String()
		for _, want := range []string{"mx.a.example", "192.0.2.1", "TLSv1.3", "nothing is required", "<h2>What the destination should do</h2>", "&lt;script&gt;"} {
			if !strings.Contains(body, want) {
				t.Errorf("the report lacks %q", want)
			}
		}
		if strings.Contains(body, "<script") || w.Header().Get("Refresh") != "" || !strings.HasPrefix(w.Header().Get("Content-Security-Policy"), "default-src 'none'") {
			t.Errorf("headers %v\n%s", w.Header(), body)
		}
		time.Sleep(time.Hour)
		if w := ask(p, "GET", to, nil); w.Code != http.StatusNotFound {
			t.Errorf("an old report: %d", w.Code)
		}
	})
}

// Only our own form can start a check.
func TestSameOrigin(t *testing.T) {
	p := New(Options{Listen: "127.0.0.1:8646", Check: func(context.Context, string) *check.Report {
		t.Error("a stranger's page started a check")
		return report("a.example")
	}})
	for name, change := range map[string]func(*http.Request){
		"another site": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"its origin":   func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") },
		"no origin":    func(r *http.Request) { r.Header.Set("Origin", "null") },
		"rebinding":    func(r *http.Request) { r.Host = "evil.example" },
	} {
		if w := ask(p, "POST", "/check", url.Values{"domain": {"a.example"}}, change); w.Code != 403 && w.Code != 421 {
			t.Errorf("%s: %d", name, w.Code)
		}
	}
}

// So many checks at a time, and in an hour.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Options{Listen: "127.0.0.1:8646", PerHour: 5, Check: func(ctx context.Context, domain string) *check.Report {
			<-ctx.Done()
			return report(domain)
		}})
		try := func(domain string) int {
			return ask(p, "POST", "/check", url.Values{"domain": {domain}}).Code
		}
		for i, domain := range []string{"a.example", "b.example", "c.example"} {
			if got, want := try(domain), []int{303, 303, 429}[i]; got != want {
				t.Errorf("%s: %d, want %d", domain, got, want)
			}
		}
		time.Sleep(time.Minute) // both are broken off
		try("d.example")
		try("e.example")
		time.Sleep(time.Minute)
		if got := try("f.example"); got != 303 {
			t.Errorf("the fifth: %d", got)
		}
		time.Sleep(time.Minute)
		if got := try("g.example"); got != 429 {
			t.Errorf("the sixth in an hour: %d", got)
		}
		time.Sleep(time.Hour)
		if got := try("g.example"); got != 303 {
			t.Errorf("an hour later: %d", got)
		}
		time.Sleep(time.Minute)
	})
}

func TestPublicDomain(t *testing.T) {
	for typed, want := range map[string]string{
		"a.example": "a.example", "A.Example.": "a.example", "joe@a.example": "a.example", "bücher.example": "xn--bcher-kva.example",
		"": "", "localhost": "", "mail": "", "a.localhost": "", "printer.local": "", "db.internal": "", "x.home.arpa": "",
		"192.0.2.1": "", "[192.0.2.1]": "", "[10.0.0.1]": "", "[mx.a.example]": "", "a.example:25": "", "::1": "", "1.2.3": "", "0x7f.1": "",
		"a b.example": "", "http://a.example": "", "-a.example": "", "a..example": "", "a.example\r\nx": "", "[": "",
	} {
		got, err := PublicDomain(typed)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q (%v), want %q", typed, got, err, want)
		}
	}
}

func TestPublicAddress(t *testing.T) {
	for a, want := range map[string]bool{
		"192.0.2.1": true, "2001:db8::1": true, "8.8.8.8": true,
		"127.0.0.1": false, "::1": false, "10.1.2.3": false, "192.168.0.1": false, "172.16.0.1": false, "169.254.169.254": false, "fe80::1": false,
		"fd00::1": false, "0.0.0.0": false, "::": false, "100.64.0.1": false, "224.0.0.1": false, "255.255.255.255": false, "::ffff:127.0.0.1": false, "64:ff9b::7f00:1": false,
		"2002:7f00:1::1": false, "2002:a00:5::1": false, "fec0::1": false, "198.18.0.1": false, "240.0.0.1": false, "0.1.2.3": false, "::7f00:1": false,
	} {
		if got := PublicAddress(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v, want %v", a, got, want)
		}
	}
}
