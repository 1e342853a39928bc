package portal

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
)

// fakeInbox is a vault of many messages to one recipient, in memory.
type fakeInbox struct {
	*fakeVault
	mu       sync.Mutex
	items    []escrow.InboxItem // the newest first
	raws     map[string]string
	damage   map[string]int // bytes after which an item can't be read
	gone     map[string]error
	tokens   map[string]bool
	opens    []string
	peeks    int
	searched int // messages, as it was told
	unlogged error
	big      int64 // bytes of each message, without end of its text
}

// newFakeInbox holds letters with these subjects, the newest first.
func newFakeInbox(subjects ...string) *fakeInbox {
	f := &fakeInbox{fakeVault: newFakeVault(crlf(plainLetter)), raws: map[string]string{}, damage: map[string]int{}, gone: map[string]error{}, tokens: map[string]bool{"device": true}}
	for i, subject := range subjects {
		id := fmt.Sprintf("item%022d", i)
		id = strings.NewReplacer("0", "a", "1", "b", "8", "y", "9", "z").Replace(id)
		raw := crlf("From: Dr. Ann Doé <doc@clinic.example>\nSubject: " + subject + "\nContent-Type: text/plain; charset=utf-8\n\n" + fmt.Sprintf("The text of letter %d.\n", i))
		f.raws[id] = raw
		at := testNow.Add(-time.Duration(i+1) * time.Hour)
		f.items = append(f.items, escrow.InboxItem{
			ItemID: id, Sender: testSender, Subject: subject, From: "Dr. Ann Doé <doc@clinic.example>", Date: at, Created: at, Expires: testNow.Add(20 * 24 * time.Hour),
			State: escrow.StateHeld, Size: int64(len(raw)), Mode: escrow.ModeRecoverable, Verify: escrow.VerifyCode, Openable: true,
		})
	}
	return f
}

func (f *fakeInbox) CheckDevice(ctx context.Context, tag, token string) (*escrow.Device, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if tag != testTag || !f.tokens[token] {
		return nil, escrow.ErrUnknown
	}
	return &escrow.Device{Address: testHolder, Tag: tag, How: escrow.VerifyCode, Expires: testNow.Add(time.Hour)}, nil
}

func (f *fakeInbox) SignOut(ctx context.Context, d *escrow.Device) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.tokens)
	return nil
}

func (f *fakeInbox) Inbox(ctx context.Context, d *escrow.Device, q escrow.InboxQuery) (list []escrow.InboxItem, total int, err error) {
	search := escrow.NewSearch(q.Search)
	for _, it := range f.items {
		if search.Match(it.Sender, it.From, it.Subject) {
			if total >= q.Offset && len(list) < q.Limit {
				list = append(list, it)
			}
			total++
		}
	}
	return list, total, nil
}

func (f *fakeInbox) InboxOpen(ctx context.Context, d *escrow.Device, item string) (*escrow.Pickup, *escrow.Session, error) {
	for _, it := range f.items {
		if it.ItemID != item {
			continue
		}
		p := &escrow.Pickup{ItemID: item, Recipient: testHolder, Sender: it.Sender, State: it.State, Created: it.Created, Expires: it.Expires, Size: it.Size}
		if err := f.gone[item]; err != nil {
			return p, nil, err
		}
		if !it.Openable {
			return p, nil, escrow.ErrNeedsLink
		}
		return p, &escrow.Session{Expires: d.Expires}, nil
	}
	return nil, nil, escrow.ErrUnknown
}

func (f *fakeInbox) body(item string) io.ReadCloser {
	if f.big > 0 {
		return io.NopCloser(io.LimitReader(io.MultiReader(strings.NewReader("Subject: big\r\n\r\n"), lines{}), f.big))
	}
	raw := f.raws[item]
	if n := f.damage[item]; n > 0 {
		return io.NopCloser(io.MultiReader(strings.NewReader(raw[:n]), errReader{}))
	}
	return io.NopCloser(strings.NewReader(raw))
}

// lines is an endless text.
type lines struct{}

func (lines) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = "abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnopqrstuvwxyz\r\n"[i%64]
	}
	return len(p), nil
}

func (f *fakeInbox) Open(ctx context.Context, p *escrow.Pickup, s *escrow.Session) (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opens = append(f.opens, p.ItemID)
	return f.body(p.ItemID), nil
}

func (f *fakeInbox) SearchToken(_ *escrow.Device, query string) (string, error) {
	return hex.EncodeToString([]byte(query)), nil
}

func (f *fakeInbox) SearchOf(_ *escrow.Device, token string) string {
	b, _ := hex.DecodeString(token)
	return string(b)
}

func (f *fakeInbox) Searched(_ context.Context, d *escrow.Device, messages int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.searched += messages
	return f.unlogged
}

func (f *fakeInbox) Peek(ctx context.Context, p *escrow.Pickup, s *escrow.Session) (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.peeks++
	return f.body(p.ItemID), nil
}

// inboxSite is a portal whose browser is verified.
func inboxSite(t testing.TB, f *fakeInbox) *testSite {
	t.Helper()
	s := newTestSite(t, f.fakeVault, func(c *Config) { c.Vault, c.Inbox = f, f })
	s.link = s.link[:strings.Index(s.link, "/m/")] + "/inbox/" + testTag
	s.signIn("device")
	return s
}

func (s *testSite) signIn(token string) {
	u, _ := url.Parse(s.link)
	s.client.Jar.SetCookies(u, []*http.Cookie{{Name: "device-" + testTag, Value: token, Path: "/"}})
}

func TestInboxPage(t *testing.T) {
	f := newFakeInbox("Befund für Jane", "<b>bold</b>", "", "sealed away", "taken back", "too late", "שלום עולם", "read")
	f.items[3].Openable, f.items[3].Subject, f.items[3].From = false, "", ""
	f.items[4].State, f.items[4].Openable, f.items[4].Subject, f.items[4].From = escrow.StateRetracted, false, "", ""
	f.items[5].State, f.items[5].Openable, f.items[5].Subject, f.items[5].From, f.items[5].Expires = escrow.StateExpired, false, "", "", testNow.Add(-24*time.Hour)
	f.items[7].State, f.items[7].ReadAt, f.items[7].Replied = escrow.StateRead, testNow, true
	s := inboxSite(t, f)
	a := s.get("")
	wants(t, a, 200, "Your messages", testHolder, "8 messages", "Befund für Jane", "&lt;b&gt;bold", "(no subject)", "<bdi>שלום עולם</bdi>", "Dr. Ann Doé &lt;doc@clinic.example&gt;",
		"Open it with the link in its mail", "Taken back by its sender", "Expired on 24 November 2026", "Answered", "Readable until 15 December 2026",
		`href="/inbox/`+testTag+"/m/"+f.items[0].ItemID+`/message"`, "/zip", "Close all messages", "<main>")
	if n := strings.Count(a.body, `class="badge"`); n != 5 {
		t.Errorf("%d unread", n)
	}
	for _, i := range []int{3, 4, 5} {
		if strings.Contains(a.body, f.items[i].ItemID) {
			t.Errorf("a link to what can't be opened, item %d", i)
		}
	}
	if len(a.body) > 50_000 || len(f.opens) != 0 || f.peeks != 0 {
		t.Errorf("%d bytes; opened %q, looked into %d", len(a.body), f.opens, f.peeks)
	}
	s.do("HEAD", "", nil, nil)
	wants(t, s.get("/m/"+f.items[0].ItemID+"/message"), 200, "The text of letter 0", "All your messages", `action="/inbox/`+testTag+`/leave"`, `href="/inbox/`+testTag+`"`)
	if len(f.opens) != 1 {
		t.Errorf("opened %q", f.opens)
	}
	wants(t, s.do("HEAD", "/m/"+f.items[1].ItemID+"/message", nil, nil), 200)
	wants(t, s.do("HEAD", "/zip", nil, nil), 200)
	if len(f.opens) != 1 {
		t.Errorf("HEAD opened %q", f.opens)
	}
	a = s.get("/m/" + f.items[0].ItemID + "/raw")
	wants(t, a, 200)
	if d := a.Header.Get("Content-Disposition"); a.body != f.raws[f.items[0].ItemID] || !strings.Contains(d, "Befund%20f%C3%BCr%20Jane.eml") {
		t.Errorf("%s\n%s", d, a.body)
	}
	wants(t, s.get("/m/"+f.items[3].ItemID+"/message"), 403, "opens only by the link", testSender, f.items[3].ItemID, "All your messages")
	wants(t, s.get("/m/nothing/message"), 404, "There is no message here")
	f.gone[f.items[0].ItemID] = escrow.ErrRetracted // while the list is open
	wants(t, s.get("/m/"+f.items[0].ItemID+"/message"), 410, "taken this message back", testSender, "!Your link was right", "All your messages")
	f.gone[f.items[0].ItemID] = escrow.ErrExpired
	wants(t, s.get("/m/"+f.items[0].ItemID+"/raw"), 410, "has expired")
	for _, secret := range []string{testHolder, testTag, "Befund", "device-"} {
		if strings.Contains(s.log.String(), secret) {
			t.Errorf("%q is in the log", secret)
		}
	}
}

func TestInboxWithoutADevice(t *testing.T) {
	f := newFakeInbox("one")
	s := inboxSite(t, f)
	other := strings.Replace(s.link, testTag, "ffffgggghhhhiiiijjjj", 1)
	stranger := s.get(strings.Replace(s.link, "/inbox/"+testTag, "/nothing/here", 1))
	wants(t, stranger, 404)
	for _, path := range []string{"", "/zip", "/m/" + f.items[0].ItemID + "/message"} {
		for _, link := range []string{other, strings.Replace(s.link, testTag, "x", 1), strings.Replace(s.link, testTag, "%22%3B", 1), strings.Replace(s.link, testTag, strings.ToUpper(testTag), 1)} {
			if a := s.get(link + path); a.StatusCode != 404 || a.body != stranger.body {
				t.Errorf("%s%s: %s", link, path, a.Status)
			}
		}
	}
	s.client.Jar, _ = cookiejar.New(nil)
	if a := s.get(""); a.StatusCode != 404 || a.body != stranger.body {
		t.Errorf("a stranger at a known tag: %s", a.Status)
	}
	wants(t, s.post("/leave"), 404)
	s.signIn("another")
	wants(t, s.get(""), 403, "closed on this device", "newest mail")
	if len(f.opens) != 0 {
		t.Errorf("opened %q", f.opens)
	}
}

func TestInboxIsClosed(t *testing.T) {
	f := newFakeInbox("one")
	s := inboxSite(t, f)
	a := s.post("/leave")
	wants(t, a, 303)
	if to := a.Header.Get("Location"); to != "/inbox/"+testTag+"?closed" {
		t.Errorf("to %q", to)
	}
	if len(f.tokens) != 0 {
		t.Error("the device is still verified")
	}
	wants(t, s.get("?closed"), 403, "closed on this device", `role="status"`)
	// In another tab, where the list was open:
	wants(t, s.get("/m/"+f.items[0].ItemID+"/message"), 403, "closed on this device")
	wants(t, s.get("?s=one"), 403, "closed on this device")
	wants(t, s.post("/leave"), 303)
	f.tokens["device"] = true
	for _, header := range []http.Header{{"Sec-Fetch-Site": {"cross-site"}}, {"Origin": {"https://evil.example"}}} {
		s.signIn("device")
		wants(t, s.do("POST", "/leave", url.Values{}, header), 403)
	}
	if !f.tokens["device"] {
		t.Error("another site closed it")
	}
}

func TestInboxPaging(t *testing.T) {
	var subjects []string
	for i := range 60 {
		subjects = append(subjects, fmt.Sprintf("Letter no. %d %s", i, strings.Repeat("long ", 30)))
	}
	s := inboxSite(t, newFakeInbox(subjects...))
	a := s.get("")
	wants(t, a, 200, "60 messages", "1 to 25 of 60", `href="?page=2"`, "Letter no. 0 ", "Letter no. 24 ", "!Letter no. 25 ", "!Newer")
	if len(a.body) > 50_000 {
		t.Errorf("a page has %d bytes", len(a.body))
	}
	wants(t, s.get("?page=2"), 200, "26 to 50 of 60", `href="?page=1"`, `href="?page=3"`)
	wants(t, s.get("?page=3"), 200, "51 to 60 of 60", "!Older")
	wants(t, s.get("?page=99999999999999999999"), 200, "1 to 25 of 60")
	wants(t, s.get("?page=77"), 200, "51 to 60 of 60")
	wants(t, s.get("?page=-1"), 200, "1 to 25 of 60")
	wants(t, s.get("?s="+hex.EncodeToString([]byte("letter"))+"&page=2"), 200, "60 messages found", `href="?page=3&amp;s=6c6574746572"`, "!more found in the text")
	wants(t, inboxSite(t, newFakeInbox()).get(""), 200, "no message for you at the moment", "!/zip")
}

// search types words into the form of the inbox, and goes where it leads, of which no
// address has the words.
func (s *testSite) search(words string) answer {
	s.t.Helper()
	a := s.post("/search", "q", words)
	to := a.Header.Get("Location")
	if a.StatusCode != http.StatusSeeOther || len(words) > 3 && strings.Contains(to, url.QueryEscape(words)) {
		s.t.Errorf("a search is answered %s %s", a.Status, to)
	}
	u, err := url.Parse(s.link)
	if err == nil {
		u, err = u.Parse(to)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return s.get(u.String())
}

func TestInboxSearch(t *testing.T) {
	f := newFakeInbox("apples", "pears", "plums", "sealed")
	f.raws[f.items[1].ItemID] = crlf("Content-Type: text/html\n\n<p>About <b>Äpp</b>fel and <i>apples</i></p>")
	f.raws[f.items[2].ItemID] = crlf("Content-Type: multipart/mixed; boundary=b\n\n--b\n\nnothing\n--b\nContent-Disposition: attachment; filename=apples.pdf\n\nx\n--b--\n")
	f.items[3].Openable, f.items[3].Subject = false, ""
	f.raws[f.items[3].ItemID] = "apples"
	s := inboxSite(t, f)
	a := s.search(" APPLES\x00 ")
	wants(t, a, 200, "1 message found", "2 more found in the text", ">apples<", ">pears<", ">plums<", `value="APPLES"`, "!Not all messages")
	wants(t, s.search("doc@ äppfel"), 200, "0 messages found", "1 more found", ">pears<") // words of sender and text together
	wants(t, s.search("<script>"), 200, "0 messages found", "0 more found", "&lt;script&gt;", "!<script>")
	wants(t, s.search("  "), 200, "4 messages", "!found")
	wants(t, s.search(strings.Repeat("ä", 500)), 200, "0 messages found")
	if len(f.opens) != 0 || f.peeks == 0 {
		t.Errorf("a search opened %q, looked into %d", f.opens, f.peeks)
	}
	if f.searched == 0 || f.searched > f.peeks {
		t.Errorf("looked into %d, and says so of %d", f.peeks, f.searched)
	}
	f.unlogged = errors.New("locked")
	wants(t, s.search("apples"), 503, "!pears")
	f.unlogged = nil
	f.damage[f.items[1].ItemID] = 30 // hides no other
	f.gone[f.items[0].ItemID] = escrow.ErrRetracted
	wants(t, s.search("nothing"), 200, "1 more found", ">plums<", "only their beginning was searched")
}

func TestInboxSearchIsBounded(t *testing.T) {
	var subjects []string
	for i := range 2*searchMessages + 10 {
		subjects = append(subjects, fmt.Sprint("letter ", i))
	}
	f := newFakeInbox(subjects...)
	s := inboxSite(t, f)
	pages := 0
	for next := "?s=" + hex.EncodeToString([]byte("text 109")); next != ""; pages++ {
		f.peeks = 0
		a := s.get(next)
		wants(t, a, 200)
		if f.peeks > searchMessages {
			t.Errorf("%d looked into at a time", f.peeks)
		}
		_, rest, more := strings.Cut(a.body, `<a class="second" href="?s=`)
		if !more {
			wants(t, a, 200, "letter 109", "!Not all messages", "!found by sender")
			break
		}
		wants(t, a, 200, "Not all messages were searched", "0 more found")
		next, _, _ = strings.Cut(rest, `"`)
		next = "?s=" + html.UnescapeString(next)
	}
	if pages != 2 {
		t.Errorf("%d pages before the last", pages)
	}
	f = newFakeInbox("a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
	f.big = 50 << 20
	for i := range f.items {
		f.items[i].Size = f.big
	}
	s = inboxSite(t, f)
	wants(t, s.search("nothing"), 200, "Not all messages were searched", "only their beginning was searched")
	if f.peeks > searchBytes/searchEach {
		t.Errorf("looked into %d large messages", f.peeks)
	}
}

func unzip(t *testing.T, body string) map[string]string {
	t.Helper()
	r, err := zip.NewReader(strings.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range r.File {
		rc, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		files[f.Name] = string(b)
	}
	return files
}

func TestInboxZip(t *testing.T) {
	long := strings.Repeat("長い件名", 40)
	f := newFakeInbox("Befund für Jane", "same", "SAME", "same", "../../etc/passwd", `C:\con`, "", "sealed", "gone", long, "a\u202egpj.exe", "same (2)")
	f.items[7].Openable = false
	f.gone[f.items[8].ItemID] = escrow.ErrRetracted
	for i := range f.items {
		f.items[i].Date = time.Time{} // the mail's own says nothing
		f.items[i].Created = testNow
	}
	s := inboxSite(t, f)
	a := s.get("/zip")
	wants(t, a, 200)
	if got := a.Header.Get("Content-Disposition"); got != `attachment; filename="messages-2026-11-25.zip"` || a.Header.Get("Content-Type") != "application/zip" {
		t.Errorf("%q, %q", got, a.Header.Get("Content-Type"))
	}
	files := unzip(t, a.body)
	want := map[string]int{
		"2026-11-25 Befund für Jane.eml": 0, "2026-11-25 same.eml": 1, "2026-11-25 SAME (2).eml": 2, "2026-11-25 same (3).eml": 3,
		"2026-11-25 ..-..-etc-passwd.eml": 4, "2026-11-25 C_-con.eml": 5, "2026-11-25.eml": 6, "2026-11-25 agpj.exe.eml": 10, "2026-11-25 same (2) (2).eml": 11,
	}
	for name, i := range want {
		if files[name] != f.raws[f.items[i].ItemID] {
			t.Errorf("%s: %q", name, files[name])
		}
	}
	seen := 0
	for name, body := range files {
		if len(name) > maxFilename || strings.ContainsAny(name, `/\:`) {
			t.Errorf("name %q", name)
		}
		if body == f.raws[f.items[9].ItemID] {
			seen++
		}
	}
	if len(files) != len(want)+1 || seen != 1 || len(f.opens) != len(files) {
		t.Errorf("%d files, %d opened", len(files), len(f.opens))
	}
	for i := range f.items {
		f.items[i].Openable = false
	}
	wants(t, s.get("/zip"), 303)
}

// No archive looks whole that is not.
func TestInboxZipThatFails(t *testing.T) {
	f := newFakeInbox("one", "two", "three")
	f.damage[f.items[1].ItemID] = 40
	s := inboxSite(t, f)
	resp, err := s.client.Get(s.link + "/zip")
	if err == nil {
		var body []byte
		body, err = io.ReadAll(resp.Body)
		resp.Body.Close()
		if _, e := zip.NewReader(bytes.NewReader(body), int64(len(body))); e == nil {
			t.Error("it looks whole")
		}
	}
	if err == nil {
		t.Error("the download ended as if it were whole")
	}
}

// Whatever the size of the messages, an archive of them takes no more memory.
func TestInboxZipMemory(t *testing.T) {
	f := newFakeInbox("one", "two")
	f.big = 50 << 20
	for i := range f.items {
		f.items[i].Size = f.big
	}
	base, _ := url.Parse("http://portal.example")
	h, err := New(Config{Vault: f, Inbox: f, BaseURL: base})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("GET", "http://portal.example/inbox/"+testTag+"/zip", nil)
	r.AddCookie(&http.Cookie{Name: "device-" + testTag, Value: "device"})
	w := &countingWriter{header: http.Header{}}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	h.ServeHTTP(w, r)
	runtime.ReadMemStats(&after)
	if w.n < 2*f.big || w.status != 200 {
		t.Errorf("%d bytes, status %d", w.n, w.status)
	}
	if took := after.TotalAlloc - before.TotalAlloc; took > 4<<20 {
		t.Errorf("an archive of 100 MB allocates %d bytes", took)
	}
}

type countingWriter struct {
	header http.Header
	n      int64
	status int
}

func (w *countingWriter) Header() http.Header { return w.header }
func (w *countingWriter) WriteHeader(s int)   { w.status = s }
func (w *countingWriter) Write(p []byte) (int, error) {
	w.n += int64(len(p))
	return len(p), nil
}
