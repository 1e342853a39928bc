package portal

import (
	"archive/zip"
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// wholeSite is a portal with all that there is, and the paths below its root of a
// message, an inbox and a sender's page.
func wholeSite(t *testing.T, letter string) (s *testSite, f *fakeInbox, senders *fakeSenders, message, inbox, sender string) {
	t.Helper()
	f = newFakeInbox("one", "two")
	f.raws[testItem] = letter
	f.pickup.Size = int64(len(letter))
	senders = newFakeSenders()
	s = newTestSite(t, f.fakeVault, func(c *Config) {
		c.Vault, c.Inbox, c.Replies, c.Senders = f, f, newFakeReplies(), senders
	})
	message, inbox, sender = "/m/"+testItem+"/"+testSecret, "/inbox/"+testTag, "/s/"+testItem+"/"+testSenderToken
	s.link = s.link[:strings.Index(s.link, "/m/")]
	return s, f, senders, message, inbox, sender
}

var postRoutes = regexp.MustCompile(`"POST( /|\s?")`)

// Every form refuses what another site sends, before anything else is done: of each
// route that there is.
func TestFormsOfOtherSites(t *testing.T) {
	s, f, senders, message, inbox, sender := wholeSite(t, crlf(fullLetter))
	accounts := []string{"/account/password", "/account/passkey", "/account/passkey/add", "/account/passkey/remove", "/account/totp", "/account/totp/confirm", "/account/totp/remove", "/account/signout", "/account/signout/all"}
	var paths []string
	for _, p := range []string{"/code", "/verify", "/leave", "/enrol", "/enrol/passkey", "/signin", "/signin/passkey", "/forgot", "/reply"} {
		paths = append(paths, message+p)
	}
	for _, p := range append([]string{"/leave", "/search", "/signin", "/signin/passkey", "/forgot", "/m/" + f.items[0].ItemID + "/reply"}, accounts...) {
		paths = append(paths, inbox+p)
	}
	for _, p := range []string{"/extend", "/resend", "/retract", "/passphrase", "/reset"} {
		paths = append(paths, sender+p)
	}
	// Who adds a route adds it here: they are counted where they are made.
	made := 0
	files, _ := filepath.Glob("*.go")
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil && !strings.HasSuffix(name, "_test.go") {
			made += len(postRoutes.FindAll(b, -1))
		}
	}
	const more = 4 // signin, its passkey, forgot and reply are made for a message and for an inbox
	if known := len(paths) - more; made != known {
		t.Errorf("%d routes are made that take a form, %d are tried here", made, known)
	}
	for _, path := range paths {
		for name, header := range map[string]http.Header{
			"another site": {"Sec-Fetch-Site": {"cross-site"}}, "a neighbour": {"Sec-Fetch-Site": {"same-site"}}, "another origin": {"Origin": {"https://evil.example"}},
			"a name that starts like ours": {"Origin": {s.link + ".evil.example"}}, "ours with a user": {"Origin": {strings.Replace(s.link, "://", "://evil@", 1)}}, "another scheme": {"Origin": {strings.Replace(s.link, "http:", "https:", 1)}},
			"as text": {"Sec-Fetch-Site": {"cross-site"}, "Content-Type": {"text/plain"}}, "as JSON": {"Origin": {"https://evil.example"}, "Content-Type": {"application/json"}},
		} {
			if a := s.do("POST", path, url.Values{"answer": {testCode}, "do": {"send"}, "text": {"x"}}, header); a.StatusCode != http.StatusForbidden || len(a.Cookies()) > 0 {
				t.Errorf("%s, %s: %s", path, name, a.Status)
			}
		}
		// The other way to make a browser send one: a GET, which changes nothing.
		for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH"} {
			if a := s.do(method, path+"?answer="+testCode+"&do=send&text=x&to=p1&phrase=seven+grey+herons", nil, nil); len(a.Cookies()) > 0 {
				t.Errorf("%s %s sets %v", method, path, a.Cookies())
			}
		}
	}
	if len(senders.done) > 0 {
		t.Errorf("on the sender's page this was done: %q", senders.done)
	}
	for _, call := range f.calls {
		if !slices.Contains([]string{"Pickup", "CheckDevice", "CheckToken", "Admit", "Owner", "BeginSignIn"}, call) {
			t.Errorf("%s was called", call)
		}
	}
}

// No page can be put into another site's frame, to have its buttons pressed unseen:
// neither those that there are, nor errors. The one document that is for a frame is for
// our own, and has no buttons.
func TestNoPageIsFramed(t *testing.T) {
	s, f, _, message, inbox, sender := wholeSite(t, crlf(fullLetter))
	u, _ := url.Parse(s.link)
	look := func(when string) {
		t.Helper()
		paths := []string{"/", "/nowhere", "/robots.txt", "/favicon.ico", sender, sender + "/retract", sender + "/passphrase?to=p2", sender + "/reset?to=p1", sender + "?done=retract", inbox, inbox + "/signin", inbox + "/forgot", inbox + "/account", inbox + "/zip", inbox + "/m/" + f.items[0].ItemID + "/message", inbox + "/m/" + f.items[0].ItemID + "/html"}
		for _, p := range []string{"", "?closed", "?cookies", "/message", "/message?as=html", "/html", "/raw", "/part/4", "/part/99", "/reply", "/reply/sent", "/forgot"} {
			paths = append(paths, message+p)
		}
		for _, path := range paths {
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "OPTIONS"} {
				a := s.do(method, path, nil, nil)
				policy, framed := a.Header.Get("Content-Security-Policy"), a.Header.Get("X-Frame-Options")
				if path == "/robots.txt" || path == "/favicon.ico" {
					continue // no page
				}
				if strings.HasSuffix(path, "/html") && framed == "SAMEORIGIN" && a.StatusCode == http.StatusOK {
					if !strings.Contains(policy, "frame-ancestors 'self'") || !strings.Contains(policy, "sandbox") || strings.Contains(a.body, "<form") || strings.Contains(a.body, "<button") {
						t.Errorf("%s, %s %s: %q", when, method, path, policy)
					}
					continue
				}
				if framed != "DENY" || !strings.Contains(policy, "frame-ancestors 'none'") && !strings.HasPrefix(a.Header.Get("Content-Disposition"), "attachment") && strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") && !strings.HasSuffix(path, "/html") {
					t.Errorf("%s, %s %s, %s: X-Frame-Options %q, policy %q", when, method, path, a.Status, framed, policy)
				}
				if a.Header.Get("Access-Control-Allow-Origin") != "" {
					t.Errorf("%s %s is for other sites", method, path)
				}
			}
		}
	}
	look("a stranger")
	s.client.Jar.SetCookies(u, []*http.Cookie{{Name: "device-" + testTag, Value: "device", Path: "/"}})
	look("verified")
}

// Whatever a request says of the host that it is for: another one is refused, and none
// comes back in an answer or a redirection. What a cache keeps by one of them would
// otherwise be everybody's.
func TestHostTricks(t *testing.T) {
	s, f, _, message, _, _ := wholeSite(t, crlf(fullLetter))
	addr := strings.TrimPrefix(s.URL, "http://")
	host := strings.TrimPrefix(s.link, "http://")
	const evil = "evil.example"
	ask := func(raw string) (status int, answer string) {
		t.Helper()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, raw)
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return 0, ""
		}
		defer r.Body.Close()
		b, _ := io.ReadAll(r.Body)
		return r.StatusCode, fmt.Sprint(r.Header, string(b))
	}
	end := "Content-Length: 0\r\nConnection: close\r\n\r\n"
	refused := map[string]string{
		"another": "Host: " + evil, "ours before it": "Host: " + host + "." + evil, "ours as a user": "Host: " + host + "@" + evil, "ours as a port": "Host: " + evil + ":" + host,
		"ours after a slash": "Host: " + evil + "/" + host, "ours after a NUL": "Host: " + evil + "\x00" + host, "two": "Host: " + host + "\r\nHost: " + evil, "a list": "Host: " + host + ", " + evil,
		"ours after a space": "Host: " + evil + " " + host, "none": "Host: ", "of a proxy": "Host: " + host + "\r\nX-Forwarded-Host: " + evil, "of two proxies": "Host: " + host + "\r\nX-Forwarded-Host: " + evil + ", " + host,
		"an address": "Host: " + addr, "another port": "Host: localhost:1", "no port": "Host: localhost", "in brackets": "Host: [::1]:80",
	}
	for name, header := range refused {
		for _, line := range []string{"POST " + message + "/code HTTP/1.1", "GET " + message + " HTTP/1.1"} {
			if status, answer := ask(line + "\r\n" + header + "\r\n" + end); status < 400 || status >= 500 || strings.Contains(answer, evil) {
				t.Errorf("%s, %.4s: %d %s", name, line, status, answer)
			}
		}
	}
	if f.sent != 0 {
		t.Fatalf("%d codes were mailed", f.sent)
	}
	taken := map[string]string{
		"fields that nobody reads": "Host: " + host + "\r\nX-Host: " + evil + "\r\nForwarded: host=" + evil + "\r\nX-Original-URL: /x\r\nX-Rewrite-URL: http://" + evil + "/\r\nX-Forwarded-Server: " + evil + "\r\nX-HTTP-Host-Override: " + evil + "\r\nX-Forwarded-Proto: gopher\r\nX-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /" + evil,
		"in capitals":              "Host: " + strings.ToUpper(host),
	}
	for name, header := range taken {
		before := f.sent
		if status, answer := ask("POST " + message + "/code HTTP/1.1\r\n" + header + "\r\n" + end); status != http.StatusSeeOther || strings.Contains(answer, evil) || !strings.Contains(answer, "Location:["+message+"?sent") && !strings.Contains(answer, "Location:["+message) || f.sent != before+1 {
			t.Errorf("%s: %d %s", name, status, answer)
		}
		if status, answer := ask("GET " + message + " HTTP/1.1\r\n" + header + "\r\n" + end); status != http.StatusOK || strings.Contains(answer, evil) {
			t.Errorf("%s: %d %s", name, status, answer)
		}
	}
	// The request line names a host of its own (RFC 9112, section 3.2.2): it counts.
	for line, want := range map[string]int{"GET http://" + evil + message + " HTTP/1.1\r\nHost: " + host: 421, "GET http://" + host + message + " HTTP/1.1\r\nHost: " + evil: 200} {
		if status, answer := ask(line + "\r\n" + end); status != want || strings.Contains(answer, evil) {
			t.Errorf("%s: %d", line, status)
		}
	}
	// Paths that a redirection would lead elsewhere by.
	for _, path := range []string{"//" + evil + "/..", "/\\" + evil, "//" + evil + message, "/%2f" + evil, "/." + message, message + "/../../..//" + evil, "/m//" + evil, "/%09/" + evil} {
		if status, answer := ask("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n" + end); status >= 300 && status < 400 && strings.Contains(answer, "Location:[//") || strings.Contains(answer, "Location:[http") || status == 0 {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
}

// Who is no proxy of ours can't say for which host it asks.
func TestHostOfNoProxy(t *testing.T) {
	s := newTestSite(t, newFakeVault(crlf(plainLetter)), func(c *Config) { c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")} })
	host := strings.Split(strings.TrimPrefix(s.link, "http://"), "/")[0]
	for header, want := range map[string]int{"Host: evil.example\r\nX-Forwarded-Host: " + host: http.StatusMisdirectedRequest, "Host: " + host + "\r\nX-Forwarded-Host: evil.example": http.StatusOK} {
		c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET "+s.link[strings.Index(s.link, "/m/"):]+" HTTP/1.1\r\n"+header+"\r\nConnection: close\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		c.Close()
		if r.StatusCode != want {
			t.Errorf("%q: %s, want %d", header, r.Status, want)
		}
	}
}

// hostileNames are of files that want to be elsewhere, or something else.
var hostileNames = []string{
	"../../etc/passwd", "..\\..\\windows\\system32\\evil.dll", "/etc/passwd", "C:\\evil.exe", "C:evil.exe", "\\\\server\\share\\evil", "....//....//etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e%5cevil",
	"..\u2215..\u2215etc", "..\uff0f..\uff0fetc", "..\u29f8x", "..", ".", "...", "", " ", "~/.ssh/authorized_keys", "~root", ".htaccess", ".bashrc", "-rf", "--help", "a\x00.pdf", "a\r\nContent-Type: text/html\r\n\r\n<script>alert(1)</script>",
	"a\"; filename=\"evil.html", "a'; filename*=UTF-8''evil.html", "evil.pdf\u202efdp.exe", "evil\u200b.pdf", "NUL", "con.txt", "COM1.pdf", "lpt9", "aux.", "evil.pdf. . .", "evil.txt::$DATA", "evil.txt:stream", "$(reboot).pdf", "`reboot`.pdf", "a|b>c<d&e;f.pdf",
	"<img src=x onerror=alert(1)>.pdf", "javascript:alert(1)", "https://evil.example/x", "file:///etc/passwd", "desktop.ini", strings.Repeat("a/", 3000) + "x", strings.Repeat("x", 5000) + ".pdf", strings.Repeat("..", 5000), "\xff\xfe/\xc0\xaf..\xc0\xaf", "e\u0301.pdf",
}

// A name of an attachment leads out of no directory, ends no header, and hides nothing:
// in a download, of a file in a winmail.dat or a message within, in the list on the
// page, and in the archive of the inbox, whose names are the messages' subjects.
func TestNamesStayInTheirPlace(t *testing.T) {
	stays := func(where, name string) {
		t.Helper()
		if !filepath.IsLocal(name) || strings.ContainsAny(name, "/\\:\r\n\x00\"<>|*?") || name != filepath.Base(name) || strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.TrimSpace(name) != name || len(name) > 255 || reserved(strings.SplitN(name, ".", 2)[0]) || strings.ContainsAny(name, "\u202e\u200b") {
			t.Errorf("%s: %q", where, name)
		}
	}
	var letter strings.Builder
	letter.WriteString("Subject: x\r\nContent-Type: multipart/mixed; boundary=bnd\r\n\r\n--bnd\r\n\r\ntext\r\n")
	part := func(name string) string {
		return "Content-Type: application/pdf\r\nContent-Disposition: attachment; filename=\"=?utf-8?b?" + base64.StdEncoding.EncodeToString([]byte(name)) + "?=\"\r\n\r\nx\r\n"
	}
	for _, name := range hostileNames {
		letter.WriteString("--bnd\r\n" + part(name))
	}
	letter.WriteString("--bnd\r\nContent-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed; boundary=inner\r\n\r\n")
	for _, name := range hostileNames {
		letter.WriteString("--inner\r\n" + part(name))
	}
	letter.WriteString("--inner--\r\n--bnd\r\nContent-Type: application/ms-tnef\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.StdEncoding.EncodeToString(winmail(hostileNames...)) + "\r\n--bnd--\r\n")
	s := newTestSite(t, newFakeVault(letter.String())).verified()
	n := len(hostileNames)
	download := func(path string) {
		t.Helper()
		a := s.get(path)
		kind, params, err := mime.ParseMediaType(a.Header.Get("Content-Disposition"))
		if a.StatusCode != 200 || err != nil || kind != "attachment" || len(params) != 1 {
			t.Errorf("%s: %s, %q, %v", path, a.Status, a.Header.Get("Content-Disposition"), err)
			return
		}
		if ct := a.Header.Get("Content-Type"); ct != "application/pdf" && ct != "application/octet-stream" {
			t.Errorf("%s: type %s", path, ct)
		}
		stays(path, params["filename"])
	}
	for i := range hostileNames {
		download(fmt.Sprintf("/part/%d", i+2))
		download(fmt.Sprintf("/part/%d?in=%d", n+2, i+1))
		download(fmt.Sprintf("/part/%d?in=%d", n+3, i+1))
	}
	page := s.get("/message")
	if strings.Contains(page.body, "<img") || strings.Contains(page.body, "<script>alert") || strings.Contains(page.body, "/etc/") || strings.Count(page.body, "/part/") < 3*n {
		t.Errorf("the page: %d files; %.300s", strings.Count(page.body, "/part/"), page.body)
	}
	a := inboxSite(t, newFakeInbox(hostileNames...)).get("/zip")
	archive, err := zip.NewReader(strings.NewReader(a.body), int64(len(a.body)))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range archive.File {
		stays("archive", f.Name)
		if f.Mode()&os.ModeType != 0 || seen[strings.ToLower(f.Name)] || f.Method != zip.Store {
			t.Errorf("%q: %v, method %d, twice: %v", f.Name, f.Mode(), f.Method, seen[strings.ToLower(f.Name)])
		}
		seen[strings.ToLower(f.Name)] = true
	}
	if len(archive.File) != n {
		t.Errorf("%d messages in the archive, want %d", len(archive.File), n)
	}
}

// winmail makes a winmail.dat with files of these names ([MS-OXTNEF]).
func winmail(names ...string) []byte {
	le := func(v int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(v)) }
	out := []byte{0x78, 0x9F, 0x3E, 0x22, 1, 0}
	attr := func(level byte, id int, data []byte) {
		sum := uint16(0)
		for _, c := range data {
			sum += uint16(c)
		}
		out = append(append(append(append(out, level), le(id)...), le(len(data))...), data...)
		out = binary.LittleEndian.AppendUint16(out, sum)
	}
	attr(1, 0x00069007, append(le(65001), 0, 0, 0, 0)) // the code page: UTF-8
	for _, name := range names {
		attr(2, 0x00069002, make([]byte, 14))
		attr(2, 0x00018010, append([]byte(name), 0))
		attr(2, 0x0006800F, []byte("the file"))
	}
	return out
}

// grew tells how much more memory was in use at the highest while f ran, in MB.
func grew(f func()) int { return int(peak(f) >> 20) }

// Mails that are made to grow when they are taken apart are shown as far as it goes, in
// bounded memory.
func TestMIMEBombs(t *testing.T) {
	rep := strings.Repeat
	for name, letter := range map[string]string{
		"boundaries that look alike": "Content-Type: multipart/mixed; boundary=" + rep("-", 69) + "\n\n" + rep(rep("-", 70)+"\n", 100_000),
		"parts without end":          "Content-Type: multipart/mixed; boundary=b\n\n" + rep("--b\n\n", 500_000),
		"alternatives without end":   "Content-Type: multipart/alternative; boundary=b\n\n" + rep("--b\nContent-Type: text/html\n\n<p>x\n", 100_000),
		"fields":                     rep("X: y\n", 500_000) + "\nx",
		"a field":                    "Subject: " + rep("x", 5<<20) + "\n\nx",
		"a field in a million lines": "Subject: x\n" + rep(" y\n", 1_000_000) + "\nx",
		"words of a field":           "Subject:" + rep(" =?utf-8?q?=41?=", 200_000) + "\n\nx",
		"parameters":                 "Content-Type: text/plain" + rep("; a=b", 500_000) + "\n\nx",
		"continued parameters": "Content-Type: text/plain" + func() (s string) {
			var b strings.Builder
			for i := range 50_000 {
				fmt.Fprintf(&b, "; name*%d=x", i)
			}
			return b.String()
		}() + "\n\nx",
		"a comment in comments":         "Content-Type: text/plain " + rep("(", 500_000) + "\n\nx",
		"addresses":                     "From: " + rep("a@b.example, ", 200_000) + "\nTo: " + rep("(", 200_000) + "\n\nx",
		"base64 of base64":              "Content-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString([]byte("Content-Transfer-Encoding: base64\n\n"+base64.StdEncoding.EncodeToString(make([]byte, 1<<20)))),
		"quoted-printable":              "Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n" + rep("=\n", 600_000),
		"messages in messages":          rep("Content-Type: message/rfc822\n\n", 50_000) + "x",
		"elements in elements":          "Content-Type: text/html\n\n" + rep("<div>", 200_000),
		"elements that mend themselves": "Content-Type: text/html\n\n" + rep("<a><b><i><table><td>", 40_000),
		"attributes":                    "Content-Type: text/html\n\n<p " + rep("title=x ", 130_000) + ">",
		"an entity again and again":     "Content-Type: text/html\n\n" + rep("&#x1F600;", 110_000),
		"entities of entities":          "Content-Type: text/html\n\n<!DOCTYPE x [<!ENTITY a \"x\"><!ENTITY b \"&a;&a;\">]>" + rep("&b;", 300_000),
		"selectors":                     "Content-Type: text/html\n\n<style>" + rep("a ", 60_000) + "{color:red}</style>x",
		"media in media":                "Content-Type: text/html\n\n<style>" + rep("@media screen{", 9_000) + "p{color:red}</style>x",
		"an image a thousand times":     "Content-Type: multipart/related; boundary=b\n\n--b\nContent-Type: text/html\n\n" + rep("<img src=cid:x>", 60_000) + "\n--b\nContent-Type: image/png\nContent-ID: <x>\nContent-Transfer-Encoding: base64\n\n" + base64.StdEncoding.EncodeToString(append([]byte("\x89PNG\r\n\x1a\n"), make([]byte, 1<<20)...)) + "\n--b--\n",
		"charset that grows":            "Content-Type: text/plain; charset=gb18030\n\n" + rep("\x81\x30\x81\x30", 250_000),
		"text that flows":               "Content-Type: text/plain; format=flowed; delsp=yes\n\n" + rep("> \n", 300_000),
		"links":                         "Content-Type: text/plain\n\n" + rep("http://x.example/", 60_000),
		"a calendar":                    "Content-Type: text/calendar\n\nBEGIN:VCALENDAR\n" + rep("BEGIN:VEVENT\n", 80_000),
	} {
		t.Run(name, func(t *testing.T) {
			s := newTestSite(t, newFakeVault(crlf(letter))).verified()
			s.vault.pickup.Size = int64(len(s.vault.raw))
			for _, path := range []string{"/message", "/html", "/part/1", "/raw"} {
				var a answer
				// What a test holds of the letter and the answer counts too.
				if mb := grew(func() { a = s.get(path) }); mb > 150 {
					t.Errorf("%s: %d MB more in use", path, mb)
				}
				if a.StatusCode != http.StatusOK && path != "/part/1" { // there may be no part
					t.Errorf("%s: %s", path, a.Status)
				}
				if most := 12 << 20; len(a.body) > most && (path == "/message" || path == "/html") {
					t.Errorf("%s: a page of %d bytes", path, len(a.body))
				}
			}
		})
	}
}

// What is compressed stays so: nothing of the portal unpacks it, however small it is and
// however large it would be. Compressed texts of a winmail.dat end at their limit
// (TestReadLimits of escrow/tnef).
func TestZipBombs(t *testing.T) {
	var gz, z bytes.Buffer
	gw, _ := gzip.NewWriterLevel(&gz, flate.BestCompression)
	zw := zip.NewWriter(&z)
	f, err := zw.Create("../../evil")
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 200 {
		gw.Write(zeros)
		f.Write(zeros)
	}
	gw.Close()
	zw.Close()
	part := func(kind, name string, b []byte) string {
		return "--b\r\nContent-Type: " + kind + "; name=" + name + "\r\nContent-Encoding: gzip\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.StdEncoding.EncodeToString(b) + "\r\n"
	}
	letter := "Subject: x\r\nContent-Encoding: gzip\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n" + part("application/zip", "a.zip", z.Bytes()) + part("application/gzip", "a.gz", gz.Bytes()) +
		part("image/svg+xml", "a.svgz", gz.Bytes()) + part("application/vnd.openxmlformats-officedocument.wordprocessingml.document", "a.docx", z.Bytes()) + "--b--\r\n"
	s := newTestSite(t, newFakeVault(letter)).verified()
	mb := grew(func() {
		for path, want := range map[string][]byte{"/part/1": z.Bytes(), "/part/2": gz.Bytes(), "/part/3": gz.Bytes(), "/part/4": z.Bytes(), "/raw": []byte(letter)} {
			r, err := http.NewRequest("GET", s.link+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Accept-Encoding", "identity") // so that the client unpacks nothing
			resp, err := s.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || !bytes.Equal(got, want) || resp.Header.Get("Content-Encoding") != "" {
				t.Errorf("%s: %d bytes of %d, %q, %v", path, len(got), len(want), resp.Header.Get("Content-Encoding"), err)
			}
		}
		for _, path := range []string{"/message", "/html"} {
			if a := s.get(path); a.StatusCode != http.StatusOK || len(a.body) > 100_000 {
				t.Errorf("%s: %s, %d bytes", path, a.Status, len(a.body))
			}
		}
		// A form that is sent compressed is not unpacked either.
		r, _ := http.NewRequest("POST", s.link+"/verify", bytes.NewReader(gz.Bytes()))
		r.Header = http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Content-Encoding": {"gzip"}}
		if resp, err := s.client.Do(r); err == nil {
			resp.Body.Close()
		}
	})
	if mb > 40 {
		t.Errorf("%d MB more in use", mb)
	}
}
