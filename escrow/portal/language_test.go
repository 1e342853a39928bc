package portal

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestLanguage(t *testing.T) {
	v := newFakeVault(crlf(fullLetter))
	s := newTestSite(t, v)
	german := http.Header{"Accept-Language": {"de-CH, en;q=0.5"}}
	wants(t, s.do("GET", "", nil, german), 200, `<html lang="de" dir="ltr">`, `href="?lang=ar" lang="ar" hreflang="ar" dir="rtl"`, "日本語")
	v.pickup.Language = "fr"
	wants(t, s.do("GET", "", nil, german), 200, `<html lang="fr" dir="ltr">`)
	// What the reader chooses counts more than a rule, and is kept.
	a := s.do("GET", "?lang=ar", nil, german)
	wants(t, a, 200, `<html lang="ar" dir="rtl">`, `<span lang="ar" dir="rtl" aria-current="true">`)
	if c := a.Cookies(); len(c) != 1 || c[0].Name != "lang" || c[0].Value != "ar" || !c[0].HttpOnly || c[0].SameSite != http.SameSiteLaxMode {
		t.Errorf("cookies %v", c)
	}
	wants(t, s.get(""), 200, `<html lang="ar" dir="rtl">`)
	wants(t, s.post("/verify", "answer", "no digits"), 422, `<html lang="ar"`, `href="`+strings.TrimPrefix(s.link, s.link[:strings.Index(s.link, "/m/")])+`?lang=de"`)
	s.verified()
	wants(t, s.get("/message?as=html"), 200, `<html lang="ar"`, `href="?as=html&amp;lang=de"`)
	for _, bad := range []string{"tlh", "", "de<script>", "../de"} {
		if c := s.get("?lang=" + url.QueryEscape(bad)).Cookies(); len(c) > 0 {
			t.Errorf("lang=%s set a cookie", bad)
		}
	}
	if c := s.do("HEAD", "?lang=de", nil, nil).Cookies(); len(c) > 0 {
		t.Error("HEAD set a cookie")
	}
	for _, c := range s.do("POST", "/leave?lang=de", nil, nil).Cookies() {
		if c.Name == "lang" {
			t.Error("POST chose a language")
		}
	}
}
