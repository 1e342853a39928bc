package portal

import (
	"bytes"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// samples returns mail as programs write it, and as they should not.
func samples(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("testdata/mail/*.eml")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files: %v", len(files), err)
	}
	out := map[string][]byte{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(filepath.Base(f), ".eml")] = b
	}
	return out
}

// TestMail shows each sample: its text, its files, and what of its HTML survives.
func TestMail(t *testing.T) {
	for name, raw := range samples(t) {
		t.Run(name, func(t *testing.T) {
			vault := newFakeVault(string(raw))
			site := newTestSite(t, vault).verified()
			c, err := scan(bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			doc, err := newSanitizer().document(c, nil)
			if err != nil {
				t.Fatal(err)
			}
			body := strings.TrimSuffix(strings.TrimPrefix(doc, frameHead), "</body></html>\n")
			harmless(t, body)

			var got strings.Builder
			fmt.Fprintf(&got, "subject: %s\n", headerText(c.header, "Subject"))
			fmt.Fprintf(&got, "text: %v, html: %v, sealed: %q, cut: %v, truncated: %v\n", c.hasText(), c.hasHTML(), c.sealed, c.cut, c.truncated)
			for _, f := range c.attachments() {
				fmt.Fprintf(&got, "file %d/%d: %s %q, %d bytes\n", f.N, f.In, f.Name, f.Of, f.Size)
			}
			fmt.Fprintf(&got, "\n%s\n", c.text())
			if c.hasHTML() {
				fmt.Fprintf(&got, "\n==== html ====\n%s", strings.ReplaceAll(body, dot, "DOT"))
			}
			want := filepath.Join("testdata/mail", name+".want")
			if *update {
				if err := os.WriteFile(want, []byte(got.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			b, err := os.ReadFile(want)
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != string(b) {
				t.Errorf("got\n%s\nwant\n%s", got.String(), b)
			}

			// No sample ends in an error page, and each file comes as it is listed.
			for _, page := range []string{"/message", "/message?as=text", "/message?as=html", "/html", "/raw"} {
				if a := site.get(page); a.StatusCode != 200 {
					t.Errorf("%s: %d", page, a.StatusCode)
				} else if page == "/raw" && a.body != string(raw) {
					t.Error("the download is another")
				}
			}
			for _, f := range c.attachments() {
				path := fmt.Sprintf("/part/%d", f.N)
				if f.In > 0 {
					path += "?in=" + url.QueryEscape(fmt.Sprint(f.In))
				}
				a := site.get(path)
				if a.StatusCode != 200 || int64(len(a.body)) != f.Size || !strings.Contains(a.Header.Get("Content-Disposition"), "attachment") {
					t.Errorf("%s: %d, %d bytes of %d, %q", path, a.StatusCode, len(a.body), f.Size, a.Header)
				}
				if !strings.Contains(a.Header.Get("Content-Disposition"), contentDisposition(f.Name)) {
					t.Errorf("%s: %q, want %q", path, a.Header.Get("Content-Disposition"), f.Name)
				}
			}
		})
	}
}

func TestFilesWithin(t *testing.T) {
	all := samples(t)
	site := newTestSite(t, newFakeVault(string(all["winmail"]))).verified()
	for path, want := range map[string]string{
		"/part/2?in=1": "%PDF-1.4 findings",
		"/part/2?in=2": "<script>alert(1)</script>",
		"/part/2?in=4": "%PDF transfer",
	} {
		a := site.get(path)
		if a.StatusCode != 200 || a.body != want {
			t.Errorf("%s: %d %q", path, a.StatusCode, a.body)
		}
		if ct := a.Header.Get("Content-Type"); strings.Contains(ct, "html") {
			t.Errorf("%s: served as %s", path, ct)
		}
	}
	for _, path := range []string{"/part/2?in=5", "/part/2?in=0", "/part/2?in=-1", "/part/2?in=x", "/part/1?in=1", "/part/2?in=99999999999999999999"} {
		if a := site.get(path); a.StatusCode != 404 {
			t.Errorf("%s: %d", path, a.StatusCode)
		}
	}
	site = newTestSite(t, newFakeVault(string(all["forwarded"]))).verified()
	found := false
	for k := 1; k < 10; k++ {
		if a := site.get(fmt.Sprintf("/part/2?in=%d", k)); a.body == "%PDF deep" && strings.Contains(a.Header.Get("Content-Disposition"), `"deep.pdf"`) {
			found = true
		}
	}
	if !found {
		t.Error("the file of the innermost message does not come")
	}
}

// What is nested without end, or counts thousands, is shown as far as it goes, and
// quickly.
func TestMailWithoutEnd(t *testing.T) {
	var nested, attached, many strings.Builder
	nested.WriteString("Subject: deep\nContent-Type: multipart/mixed; boundary=b0\n\n")
	for i := range 5000 {
		fmt.Fprintf(&nested, "--b%d\n\ntext %d\n--b%d\nContent-Type: multipart/mixed; boundary=b%d\n\n", i, i, i, i+1)
	}
	for i := range 2000 {
		fmt.Fprintf(&attached, "Subject: deep %d\nContent-Type: message/rfc822\n\n", i)
	}
	many.WriteString("Subject: many\nContent-Type: multipart/mixed; boundary=b\n\n")
	for i := range 5000 {
		fmt.Fprintf(&many, "--b\nContent-Type: message/rfc822\n\nSubject: m%d\nContent-Type: multipart/mixed; boundary=c\n\n--c\n\ntext %d\n--c\nContent-Type: application/pdf\n\nx\n--c--\n", i, i)
	}
	for name, raw := range map[string]string{"nested": nested.String(), "attached": attached.String(), "many": many.String()} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			c, err := scan(strings.NewReader(raw))
			if err != nil || !c.truncated || len(c.files) > maxFiles || len(c.blocks) > maxBlocks {
				t.Fatalf("%v, %+v", err, c)
			}
			if name != "attached" && !strings.Contains(c.text(), "text 1") {
				t.Errorf("text %.200q", c.text())
			}
			doc, err := newSanitizer().document(c, nil)
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 20*time.Second || len(doc) > 10*maxShown {
				t.Errorf("%d bytes after %v", len(doc), took)
			}
		})
	}
}

// Style sheets keep what is known, within their own text.
func TestSheet(t *testing.T) {
	for in, want := range map[string]string{
		"p{color:red}":                                                      ".x p{color: red}",
		"p , .a#b > td.c+i{COLOR:RED;x:y}":                                  ".x p,.x .a#b > td.c+i{color: RED}",
		"body{margin:0!important}":                                          ".x .mail-body{margin: 0 !important}",
		"html{color:red}html p{color:red}":                                  ".x{color: red}\n.x p{color: red}",
		"html>body.a b{color:red}":                                          ".x .mail-body.a b{color: red}",
		"html ~ p{color:red}":                                               "",
		"> p{color:red}":                                                    "",
		"bodyguard{color:red}":                                              ".x bodyguard{color: red}",
		"a:hover,a:visited{color:red}":                                      ".x a:hover,.x a:visited{color: red}",
		`td[class="a"],td[style*=b]{color:red}`:                             `.x td[class="a"],.x td[style*=b]{color: red}`,
		"p{background:#fff url(http://x/y.png) no-repeat}":                  ".x p{background: #fff no-repeat}",
		"p{background:url('http://x/a)b.png')}":                             "",
		"p{background-image:url(x)}":                                        "",
		"p{background:\\75rl(x)}":                                           "",
		"p{background:u/**/rl(http://x)}":                                   "",
		"p{color:expression(alert(1))}":                                     "",
		"p{color:var(--x)}p{width:attr(x)}":                                 "",
		"p{position:fixed;top:0;z-index:9}":                                 "",
		"p{content:'x';behavior:url(x);-moz-binding:url(x)}":                "",
		"@import 'http://x/y.css';p{color:red}":                             ".x p{color: red}",
		"@import url(http://x/y.css);p{color:red}":                          ".x p{color: red}",
		"@font-face{font-family:x;src:url(x)}p{color:red}":                  ".x p{color: red}",
		"@charset \"x\";@namespace svg url(x);p{color:red}":                 ".x p{color: red}",
		"@media (max-width:480px){p{color:red}@import 'x';}i{color:red}":    "@media (max-width:480px){\n.x p{color: red}\n}\n.x i{color: red}",
		"@media screen and (prefers-color-scheme:dark){p{color:red}}":       "",
		"@media print{p{color:red}}":                                        "",
		"@media (max-width:1px){@media (max-width:1px){p{color:red}}}":      "",
		"@supports (color:red){p{color:red}}i{color:red}":                   ".x i{color: red}",
		"@keyframes a{from{color:red}}i{color:red}":                         ".x i{color: red}",
		"<!-- p{color:red} -->":                                             ".x p{color: red}",
		"p{color:red}</style><script>alert(1)</script>":                     ".x p{color: red}",
		"p{font-family:'a</style><img src=x>'}":                             "",
		"p{font-family:\"Calibri\",sans-serif}":                             ".x p{font-family: \"Calibri\",sans-serif}",
		"p{font-family:'a;color:red}i{color:red}":                           "",
		"p{color:red;}}i{color:red}":                                        ".x p{color: red}\n.x i{color: red}",
		"p{color:red":                                                       ".x p{color: red}",
		"p{color:red}/* i{color:red}":                                       ".x p{color: red}",
		"p\\{,i{color:red}":                                                 ".x i{color: red}",
		"input[value^=a]{background:url(http://x/a)}":                       "",
		"a::before{color:red}a:not(.b){color:red}:root{color:red}":          "",
		"p{width:calc(100% - 10px);color:rgb(1,2,3)}":                       ".x p{width: calc(100% - 10px); color: rgb(1,2,3)}",
		"p{{color:red}}i{color:red}":                                        ".x i{color: red}",
		"p{color:red}" + strings.Repeat(" ", 10) + strings.Repeat("{", 999): ".x p{color: red}",
	} {
		if got := strings.TrimSuffix(sheet(in, "x"), "\n"); got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
}

// What is known to get around sanitisers does not get around this one.
func TestBypasses(t *testing.T) {
	s := newSanitizer()
	runs := regexp.MustCompile(`(?i)<(script|svg|math|iframe|object|embed|link|meta|base|form|input|button|textarea|noscript|template)|javascript:|vbscript:|data:text|\son\w+=|srcset|http://127`)
	for _, in := range []string{
		`<noscript><p title="</noscript><img src=x onerror=alert(1)>"></noscript>`,
		`<svg></p><style><a id="</style><img src=1 onerror=alert(1)>">`,
		`<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=alert(1)&gt;">`,
		`<form><math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>`,
		`<svg><style>&lt;img src=x onerror=alert(1)&gt;</style></svg>`,
		`<svg><a xlink:href="javascript:alert(1)"><text>x</text></a><animate onbegin=alert(1)>`,
		`<svg><foreignObject><iframe srcdoc="<script>alert(1)</script>">`,
		`<style></style><script>alert(1)</script>`,
		`<style>p{}</style ><script>alert(1)</script>`,
		`<style/><img src=x onerror=alert(1)>`,
		`<style><!--</style><script>alert(1)</script>-->`,
		`<<style></style>script>alert(1)</script>`,
		`<style></style/><iframe src=http://127.0.0.1>`,
		`<body onload=alert(1)><html onclick=alert(1)><body background="http://127.0.0.1/x">`,
		`<body class='a"><script>alert(1)</script>' style='color:red"><script>alert(1)</script>'>`,
		`<body class="&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;">`,
		`<img src=data:text/html,<script>alert(1)</script>><img src="data:image/svg+xml;base64,PHN2Zz4=">`,
		`<img srcset="http://127.0.0.1/x 2x" src=" java&#10;script:alert(1)"><picture><source srcset=http://127.0.0.1/y></picture>`,
		`<a href="jav&#x09;ascript:alert(1)">x</a><a href="&#1;javascript:alert(1)">y</a><a href="vbscript:x">z</a>`,
		`<a href="data:text/html;base64,PHNjcmlwdD4=">x</a><a href="//127.0.0.1/">y</a>`,
		`<meta http-equiv=refresh content="0;url=http://127.0.0.1/"><base href="http://127.0.0.1/"><link rel=stylesheet href=http://127.0.0.1/>`,
		`<form action=http://127.0.0.1/><input type=password><button formaction=http://127.0.0.1/>go</button></form>`,
		`<object data=http://127.0.0.1/></object><embed src=http://127.0.0.1/><applet code=x></applet>`,
		`<iframe srcdoc="&lt;script&gt;alert(1)&lt;/script&gt;"></iframe><frameset><frame src=http://127.0.0.1/></frameset>`,
		`<p style="background:u\72l(http://127.0.0.1/)"><p style="background:url(http://127.0.0.1/)"><p style="w:expression(alert(1))">`,
		`<p style="background-image:image-set('http://127.0.0.1/x' 1x)"><p style="list-style:url(http://127.0.0.1/)">`,
		`<p style="color:red;&#10;position:fixed;top:0;left:0;width:100%;height:100%">`,
		`<xmp><p title="</xmp><script>alert(1)</script>"></xmp><plaintext><script>alert(1)</script>`,
		`<textarea><p title="</textarea><script>alert(1)</script>"></textarea><title><p title="</title><script>alert(1)</script>">`,
		`<template><script>alert(1)</script></template><select><script>alert(1)</script></select>`,
		"<scr\x00ipt>alert(1)</scr\x00ipt><img\x00 src=x on\x00error=alert(1)>",
		`<img """><script>alert(1)</script>"><img/src/onerror=alert(1)><p/onclick=alert(1)>`,
		`<!--><script>alert(1)</script>--><!--!><script>alert(1)</script>--!><script>alert(1)</script>`,
		`<![CDATA[<script>alert(1)</script>]]><?xml-stylesheet href="http://127.0.0.1/"?>`,
		`</section></article></body></html><script>alert(1)</script><iframe src=http://127.0.0.1/>`,
		`<math href="javascript:alert(1)">x</math><table background=http://127.0.0.1/><td background=http://127.0.0.1/>`,
		`<video poster=http://127.0.0.1/><audio src=http://127.0.0.1/></audio></video><input type=image src=http://127.0.0.1/>`,
		`<v:imagedata src="http://127.0.0.1/x"/><o:OLEObject/><xml><x:y/></xml><?import namespace=t>`,
		`<a href=https://ok.example/ target=_top rel=opener ping=http://127.0.0.1/ download>x</a>`,
	} {
		got := show(t, s, in)
		harmless(t, got)
		if m := runs.FindString(got); m != "" {
			t.Errorf("%q\ngot %q, with %q", in, got, m)
		}
	}
	link := show(t, s, `<a href=https://ok.example/ target=_top rel=opener>x</a>`)
	if !strings.Contains(link, `target="_blank"`) || !strings.Contains(link, "noopener") || strings.Contains(link, "_top") {
		t.Errorf("a link: %s", link)
	}
}

func FuzzSheet(f *testing.F) {
	for _, s := range []string{"p{color:red}", "@media (max-width:480px){p{color:red}}", "<!-- p{font:'x'} -->", "p{background:url(x) #fff}", "html>body a[b='c']{x:y}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		if len(in) > 10_000 {
			return
		}
		out := sheet(in, "x")
		if harmlessSheet.MatchString(out) || strings.ContainsAny(out, "<\\") {
			t.Errorf("%q became %q", in, out)
		}
		if sheet(strings.ReplaceAll(out, ".x ", ""), "x") == "" && out != "" && !strings.Contains(out, ".mail-body") && !strings.Contains(out, ".x{") {
			t.Errorf("%q is not understood again", out)
		}
	})
}
