package portal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
)

// fakeReplies are the replies to one message, in memory.
type fakeReplies struct {
	mu      sync.Mutex
	draft   *escrow.Reply
	sent    []escrow.Reply
	content map[int]string
	to, all []string
	most    int64
	discard bool  // the content of files
	trouble error // of what changes something
	now     func() time.Time
	n       int // ids and file numbers
	saves   int
}

func newFakeReplies() *fakeReplies {
	return &fakeReplies{to: []string{"Dr. Ann Doé <doc@clinic.example>"}, most: 1000, content: map[int]string{}, now: func() time.Time { return testNow }}
}

func (f *fakeReplies) fresh() *escrow.Reply {
	return &escrow.Reply{State: escrow.ReplyDraft, To: f.to, AllTo: f.all, Subject: "Re: Befund für Jane", Most: f.most}
}

func (f *fakeReplies) copy() *escrow.Reply {
	if f.draft == nil {
		return f.fresh()
	}
	d := *f.draft
	d.Files = slices.Clone(d.Files)
	d.Size = 0
	for _, file := range d.Files {
		d.Size += file.Size
	}
	return &d
}

func (f *fakeReplies) begin() {
	if f.draft == nil {
		f.draft = f.fresh()
		f.n++
		f.draft.ID, f.draft.Created = fmt.Sprintf("reply-%d", f.n), f.now()
	}
	f.draft.Changed = f.now()
}

func (f *fakeReplies) Draft(ctx context.Context, p *escrow.Pickup, s *escrow.Session) (*escrow.Reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.to == nil {
		return nil, fmt.Errorf("draft: %w", escrow.ErrNobody)
	}
	return f.copy(), nil
}

func (f *fakeReplies) SaveDraft(ctx context.Context, p *escrow.Pickup, s *escrow.Session, text string, all bool) (*escrow.Reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trouble != nil || ctx.Err() != nil {
		return nil, errors.Join(f.trouble, ctx.Err())
	}
	if len(text) > escrow.MaxReplyText {
		return nil, escrow.ErrTooLarge
	}
	f.begin()
	f.saves++
	f.draft.Text, f.draft.All = text, all
	return f.copy(), nil
}

func (f *fakeReplies) AddFile(ctx context.Context, p *escrow.Pickup, s *escrow.Session, name, mediaType string, r io.Reader) (*escrow.Reply, error) {
	f.mu.Lock()
	left := f.most - f.copy().Size
	f.mu.Unlock()
	var b bytes.Buffer
	var w io.Writer = &b
	if f.discard {
		w = io.Discard
	}
	n, err := io.Copy(w, io.LimitReader(r, left+1))
	if err != nil {
		return nil, fmt.Errorf("add file: %w", err)
	}
	if n > left {
		return nil, escrow.ErrTooLarge
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trouble != nil {
		return nil, f.trouble
	}
	f.begin()
	f.n++
	f.content[f.n] = b.String()
	f.draft.Files = append(f.draft.Files, escrow.ReplyFile{N: f.n, Name: name, MediaType: mediaType, Size: n})
	return f.copy(), nil
}

func (f *fakeReplies) RemoveFile(ctx context.Context, p *escrow.Pickup, s *escrow.Session, n int) (*escrow.Reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draft != nil {
		f.draft.Files = slices.DeleteFunc(f.draft.Files, func(file escrow.ReplyFile) bool { return file.N == n })
	}
	return f.copy(), nil
}

func (f *fakeReplies) DiscardDraft(ctx context.Context, p *escrow.Pickup, s *escrow.Session) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.draft = nil
	return nil
}

func (f *fakeReplies) SendReply(ctx context.Context, p *escrow.Pickup, s *escrow.Session) (*escrow.Reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trouble != nil {
		return nil, f.trouble
	}
	if f.draft == nil || f.draft.Text == "" && len(f.draft.Files) == 0 {
		return nil, fmt.Errorf("send: %w", escrow.ErrEmpty)
	}
	d := f.copy()
	d.State, d.Changed = escrow.ReplyQueued, f.now()
	if d.All {
		d.Cc = d.AllTo
	}
	f.sent = append(f.sent, *d)
	f.draft = nil
	return d, nil
}

func (f *fakeReplies) Replies(ctx context.Context, p *escrow.Pickup, s *escrow.Session) ([]escrow.Reply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sent), nil
}

// names lists the files of the draft.
func (f *fakeReplies) names() (names []string) {
	for _, file := range f.copy().Files {
		names = append(names, file.Name)
	}
	return names
}

var _ Replies = (*escrow.Vault)(nil)

func newReplySite(t testing.TB, change ...func(*Config)) (*testSite, *fakeReplies) {
	t.Helper()
	replies := newFakeReplies()
	s := newTestSite(t, newFakeVault(crlf(fullLetter)), append([]func(*Config){func(c *Config) { c.Replies = replies }}, change...)...)
	return s.verified(), replies
}

// formPart is a field or a file of a form.
type formPart struct{ name, value, file string }

func fld(name, value string) formPart      { return formPart{name: name, value: value} }
func attach(file, content string) formPart { return formPart{"files", content, file} }
func (s *testSite) postForm(path string, header http.Header, parts ...formPart) answer {
	s.t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	for _, p := range parts {
		h := textproto.MIMEHeader{}
		h.Set("Content-Disposition", multipart.FileContentDisposition(p.name, p.file))
		if p.name != "files" {
			h.Set("Content-Disposition", `form-data; name="`+p.name+`"`)
		} else {
			h.Set("Content-Type", "application/pdf")
		}
		w, err := m.CreatePart(h)
		if err != nil {
			s.t.Fatal(err)
		}
		io.WriteString(w, p.value)
	}
	m.Close()
	return s.postBody(path, m.FormDataContentType(), &b, header)
}

func (s *testSite) postBody(path, contentType string, body io.Reader, header http.Header) answer {
	s.t.Helper()
	r, err := http.NewRequest("POST", s.link+path, body)
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range header {
		r.Header[k] = v
	}
	r.Header.Set("Content-Type", contentType)
	resp, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp, string(got)}
}

// hidden returns the hidden fields of a page, as the browser sends them back.
func hidden(t testing.TB, page string) (parts []formPart) {
	t.Helper()
	for _, m := range regexp.MustCompile(`<input type="hidden" name="([a-z]+)" value="([^"]*)"`).FindAllStringSubmatch(page, -1) {
		parts = append(parts, fld(m[1], html.UnescapeString(m[2])))
	}
	if len(parts) < 3 {
		t.Fatalf("no hidden fields in %.2000s", page)
	}
	return parts
}

// write gets the page of a reply as a browser does, and posts it filled in.
func (s *testSite) write(text, button string, more ...formPart) answer {
	s.t.Helper()
	return s.fill(s.get("/reply").body, text, button, more...)
}

func (s *testSite) fill(page, text, button string, more ...formPart) answer {
	s.t.Helper()
	parts := append(hidden(s.t, page), fld("text", strings.ReplaceAll(text, "\n", "\r\n")))
	parts = append(parts, more...)
	name, value, ok := strings.Cut(button, "=")
	if !ok {
		name, value = "do", button
	}
	return s.postForm("/reply", nil, append(parts, fld(name, value))...)
}

func leads(t *testing.T, s *testSite, a answer, path string) {
	t.Helper()
	if to := a.Header.Get("Location"); a.StatusCode != 303 || !strings.HasSuffix(s.link+path, to) || !strings.HasSuffix(to, path) {
		t.Fatalf("%s to %q, want %q: %.1000s", a.Status, to, path, a.body)
	}
}

func TestReply(t *testing.T) {
	s, replies := newReplySite(t)
	a := s.get("/reply")
	wants(t, a, 200, "Dr. Ann Doé &lt;doc@clinic.example&gt;", "Re: Befund für Jane", "At most 20 files", `dir="auto"`, "!type=\"radio\"", `name="files" type="file" multiple`, "!is saved")
	if replies.draft != nil {
		t.Error("looking at the page keeps a draft")
	}
	text := "Dear <b>doctor</b>,\n\nthank you.\n"
	leads(t, s, s.write(text, "save", attach("scan.pdf", "pages"), attach("", "")), "/reply?saved")
	a = s.get("/reply?saved")
	wants(t, a, 200, "Your reply is saved", "25 December 2026", "scan.pdf", "5 bytes", "1 file attached", `value="reply-1"`, "\n"+html.EscapeString(text)+"</textarea>")
	if d := replies.copy(); d.Text != text || d.Files[0].MediaType != "application/pdf" || replies.content[d.Files[0].N] != "pages" {
		t.Errorf("kept %+v", d)
	}
	wants(t, s.get("/reply"), 200, "Draft, saved on 25 November 2026")
	leads(t, s, s.fill(a.body, text+"Jane", "attach", attach("scan.pdf", "other"), attach("scan.pdf", "third"), attach("empty.txt", "")), "/reply#attached")
	a = s.get("/reply")
	wants(t, a, 200, "Jane</textarea>", "scan (2).pdf", "scan (3).pdf", "empty.txt", "4 files attached")
	number := replies.copy().Files[1].N
	leads(t, s, s.fill(a.body, text+"Jane", fmt.Sprintf("remove=%d", number)), "/reply#attached")
	if got := replies.names(); !slices.Equal(got, []string{"scan.pdf", "scan (3).pdf", "empty.txt"}) {
		t.Errorf("left: %q", got)
	}
	leads(t, s, s.write(text+"Jane R", "send"), "/reply/sent")
	wants(t, s.get("/reply/sent"), 200, "on its way", "Dr. Ann Doé &lt;doc@clinic.example&gt;", "Back to the message")
	if len(replies.sent) != 1 || replies.sent[0].Text != text+"Jane R" || len(replies.sent[0].Files) != 3 {
		t.Errorf("sent %+v", replies.sent)
	}
	wants(t, s.get("/reply"), 200, "!Jane R", "!scan", `name="draft" value=""`)
	s.write("never mind", "save", attach("a", "b"))
	leads(t, s, s.write("never mind!", "discard"), "/message")
	if replies.draft != nil || len(replies.sent) != 1 {
		t.Error("discarded, and still there")
	}
	if strings.Contains(s.log.String(), "Jane") || strings.Contains(s.log.String(), "scan") {
		t.Errorf("the log has words of the reply: %s", s.log)
	}
}

func TestRepliesOnTheMessage(t *testing.T) {
	s, replies := newReplySite(t)
	wants(t, s.get("/message"), 200, `href="/m/`+testItem+"/"+testSecret+`/reply">Reply</a>`, "!Your replies")
	s.write("half a", "save")
	wants(t, s.get("/message"), 200, ">Go on with your reply</a>")
	s.write("all <of> it", "send", attach("scan.pdf", "x"))
	wants(t, s.get("/message"), 200, ">Reply</a>", "Your replies", "on its way", "all &lt;of&gt; it", "scan.pdf", "doc@clinic.example")
	replies.sent[0].State, replies.sent[0].Failed = escrow.ReplyFailed, []string{"doc@clinic.example"}
	wants(t, s.get("/message"), 200, "not delivered", "did not arrive", "Not reached:")
	replies.to = nil
	wants(t, s.get("/message"), 200, "!/reply\"", "all &lt;of&gt; it")
}

// By the inbox it is the same, and leads back there.
func TestReplyInTheInbox(t *testing.T) {
	f, replies := newFakeInbox("Befund"), newFakeReplies()
	s := newTestSite(t, f.fakeVault, func(c *Config) { c.Vault, c.Inbox, c.Replies = f, f, replies })
	base := s.link[:strings.Index(s.link, "/m/")]
	s.link = base + "/inbox/" + testTag
	s.signIn("device")
	s.link += "/m/" + f.items[0].ItemID
	wants(t, s.get("/message"), 200, "/m/"+f.items[0].ItemID+`/reply">Reply`)
	page := s.get("/reply").body
	leads(t, s, s.write("hello", "save"), "/reply?saved")
	leads(t, s, s.write("hello again", "send"), "/reply/sent")
	wants(t, s.get("/reply/sent"), 200, "on its way", "/m/"+f.items[0].ItemID+`/message"`)
	f.mu.Lock()
	f.tokens["device"] = false
	f.mu.Unlock()
	wants(t, s.fill(page, "a third", "send"), 403, "a third</textarea>", "not signed in here any more", `href="/inbox/`+testTag)
	f.tokens["device"] = true
	f.gone[f.items[0].ItemID] = escrow.ErrRetracted
	wants(t, s.fill(page, "a fourth", "send"), 410, "a fourth</textarea>", "taken the message back", testSender)
	f.items[0].Openable = false
	delete(f.gone, f.items[0].ItemID)
	wants(t, s.fill(page, "a fifth", "send"), 403, "a fifth</textarea>")
}

func TestReplyAll(t *testing.T) {
	s, replies := newReplySite(t)
	replies.all = []string{"Praxis <office@clinic.example>", "Lab <lab@clinic.example>"}
	wants(t, s.get("/reply"), 200, `name="all" value="0" checked`, "Praxis &lt;office@clinic.example&gt;", "Lab &lt;lab@clinic.example&gt;")
	page := s.get("/reply").body
	a := s.postForm("/reply", nil, append(hidden(t, page), fld("all", "1"), fld("text", "all of you"), fld("do", "save"))...)
	leads(t, s, a, "/reply?saved")
	if !replies.copy().All {
		t.Error("not to all")
	}
	page = s.get("/reply").body
	if !strings.Contains(page, `name="all" value="1" checked`) {
		t.Error("the choice is lost")
	}
	s.postForm("/reply", nil, append(hidden(t, page), fld("all", "1"), fld("text", "all of you"), fld("do", "send"))...)
	wants(t, s.get("/reply/sent"), 200, "lab@clinic.example")
}

func TestNobodyToReplyTo(t *testing.T) {
	s, replies := newReplySite(t)
	replies.to = nil
	wants(t, s.get("/reply"), 200, "can’t be answered", "!<form id")
	wants(t, s.postForm("/reply", nil, fld("text", "hello?"), fld("do", "send")), 200, "can’t be answered", "hello?")
	if len(replies.sent) > 0 {
		t.Error("sent")
	}
}

// What does not fit is told; what was typed, and what fits, is kept.
func TestReplyLimits(t *testing.T) {
	long := strings.Repeat("ä", escrow.MaxReplyText/2+1)
	for _, tt := range []struct {
		name   string
		text   string
		files  []formPart
		page   []string
		kept   []string
		keeps  bool // the text
		status int
	}{
		{name: "nothing", text: " \n", page: []string{"Write something"}, status: 422, keeps: true},
		{name: "a long text", text: long, files: []formPart{attach("a.pdf", "a")}, page: []string{"too long and was not saved", "262 kB", "äää</textarea>", "a.pdf"}, kept: []string{"a.pdf"}, status: 422},
		{name: "a large file among others", text: "hi", files: []formPart{attach("a.pdf", "a"), attach("b.pdf", strings.Repeat("b", 1001)), attach("c.pdf", "c")},
			page: []string{"b.pdf is too large: the files of a reply can have 1 kB together", "\nhi</textarea>", "2 files attached"}, kept: []string{"a.pdf", "c.pdf"}, keeps: true, status: 422},
		{name: "large together", text: "hi", files: []formPart{attach("a.pdf", strings.Repeat("a", 600)), attach("b.pdf", strings.Repeat("b", 600)), attach("c.pdf", strings.Repeat("c", 400)), attach("d.pdf", "")},
			page: []string{"b.pdf is too large", "d.pdf is too large"}, kept: []string{"a.pdf", "c.pdf"}, keeps: true, status: 422},
		{name: "a thousand files", text: "hi", files: slices.Repeat([]formPart{attach("n.pdf", "x")}, 1000),
			page: []string{"n.pdf: a reply can have 20 files", "and 970 more files", "n (20).pdf"}, kept: append([]string{"n.pdf"}, func() (l []string) {
				for n := 2; n <= 20; n++ {
					l = append(l, fmt.Sprintf("n (%d).pdf", n))
				}
				return l
			}()...), keeps: true, status: 422},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, replies := newReplySite(t)
			a := s.write(tt.text, "send", tt.files...)
			wants(t, a, tt.status, tt.page...)
			wants(t, a, tt.status, "Error: ", `role="alert"`, `aria-describedby="problems safe"`)
			if len(replies.sent) > 0 {
				t.Error("it was sent")
			}
			if got := replies.names(); !slices.Equal(got, tt.kept) {
				t.Errorf("files %q, want %q", got, tt.kept)
			}
			if kept := replies.copy().Text == tt.text; kept != tt.keeps {
				t.Errorf("text kept: %v, %.20q", kept, replies.copy().Text)
			}
			// The page that came back is a form like any other.
			leads(t, s, s.fill(a.body, "hi again", "save"), "/reply?saved")
		})
	}
}

func TestReplyFileNames(t *testing.T) {
	s, replies := newReplySite(t)
	body := "--b\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\nhi\r\n"
	for _, name := range []string{
		`filename="../../etc/passwd"`, `filename="C:\\Users\\jane\\a.pdf"`, `filename="a%0D%0ABcc: x@y.example.txt"`, `filename*=UTF-8''a%0D%0ABcc%3A%20x`,
		`filename="` + strings.Repeat("long", 1000) + `.pdf"`, `filename="CON.txt"`, `filename="gpj.` + "\u202e" + `exe"`, `filename="` + "\xff\xfe" + `.txt"`, `filename=".."`, `filename="日本 語.pdf"`, `filename="<script>.js"`,
	} {
		body += "--b\r\nContent-Disposition: form-data; name=\"files\"; " + name + "\r\nContent-Type: text/html; x=\"a\"\r\n\r\nx\r\n"
	}
	body += "--b\r\nContent-Disposition: form-data; name=\"do\"\r\n\r\nsave\r\n--b--\r\n"
	leads(t, s, s.postBody("/reply", "multipart/form-data; boundary=b", strings.NewReader(body), nil), "/reply?saved")
	if n := len(replies.names()); n != 11 {
		t.Errorf("%d files: %q", n, replies.names())
	}
	for _, f := range replies.copy().Files {
		if strings.ContainsAny(f.Name, "/\\\r\n<>:\x00\u202e") || f.Name == "" || len(f.Name) > 255 || f.Name[0] == '.' {
			t.Errorf("a file is called %q", f.Name)
		}
		if f.MediaType != "text/html" {
			t.Errorf("a type is %q", f.MediaType)
		}
	}
	if !slices.Contains(replies.names(), "passwd") || !slices.Contains(replies.names(), "日本 語.pdf") {
		t.Errorf("names: %q", replies.names())
	}
}

func TestFileType(t *testing.T) {
	for in, want := range map[string]string{
		"application/pdf": "application/pdf", "text/plain; charset=\"x\r\ny\"": "application/octet-stream", "TEXT/Plain; charset=utf-8": "text/plain", "": "application/octet-stream",
		"message/rfc822": "application/octet-stream", "multipart/mixed; boundary=a": "application/octet-stream", "text": "application/octet-stream", "a/" + strings.Repeat("b", 300): "application/octet-stream", "text/x\r\nBcc: y": "application/octet-stream",
	} {
		if got := fileType(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// A form that breaks off keeps the text, and the files that came whole.
func TestBrokenForms(t *testing.T) {
	const text = "--b\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\nhello\r\n"
	const file = "--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"%s\"\r\n\r\n%s"
	for _, tt := range []struct {
		name, body string
		status     int
		text       string
		files      []string
	}{
		{"empty", "", 400, "", nil},
		{"no parts", "hello, world\r\n", 400, "", nil},
		{"no end after the text", text, 400, "", nil},
		{"half a text", text[:len(text)-4], 400, "", nil},
		{"half a file", text + fmt.Sprintf(file, "a", "a\r\n") + fmt.Sprintf(file, "b", "bbb"), 400, "hello", []string{"a"}},
		{"no end after a file", text + fmt.Sprintf(file, "a", "a\r\n"), 400, "hello", nil},
		{"a huge name of a field", text + "--b\r\nContent-Disposition: form-data; name=\"" + strings.Repeat("n", 1<<20) + "\"\r\n\r\nx\r\n--b--\r\n", 400, "hello", nil},
		{"a huge header", text + "--b\r\n" + strings.Repeat("X-A: b\r\n", 1<<16) + "\r\nx\r\n--b--\r\n", 400, "hello", nil},
		{"a header that is none", text + "--b\r\nquite secret words\r\n\r\nx\r\n--b--\r\n", 400, "hello", nil},
		{"a huge preamble", strings.Repeat("x", 1<<20) + "\r\n" + text + "--b--\r\n", 400, "", nil},
		{"fields unknown, long and twice", "--b\r\nContent-Disposition: form-data; name=\"what\"\r\n\r\n" + strings.Repeat("x", 1<<20) + "\r\n--b\r\nContent-Disposition: form-data; name=\"do\"\r\n\r\n" + strings.Repeat("y", 1<<20) + "\r\n" + text + strings.Replace(text, "hello", "other", 1) + "--b--\r\n", 200, "hello", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, replies := newReplySite(t)
			a := s.postBody("/reply", "multipart/form-data; boundary=b", strings.NewReader(tt.body), nil)
			if a.StatusCode != tt.status {
				t.Errorf("%s", a.Status)
			}
			if tt.text != "" {
				wants(t, a, tt.status, tt.text+"</textarea>")
			}
			if tt.text != "" && tt.status == 400 {
				wants(t, a, tt.status, "cut off")
			}
			if d := replies.copy(); d.Text != tt.text || !slices.Equal(replies.names(), tt.files) {
				t.Errorf("kept %q, %q", d.Text, replies.names())
			}
			if strings.Contains(s.log.String(), "secret words") || strings.Contains(a.body, "secret words") {
				t.Error("the form is quoted")
			}
		})
	}
	s, _ := newReplySite(t)
	for _, kind := range []string{"application/x-www-form-urlencoded", "text/plain", "multipart/form-data", "multipart/mixed; boundary=b", ""} {
		wants(t, s.postBody("/reply", kind, strings.NewReader("text=hello&do=send"), nil), 400)
	}
}

// A connection that breaks in the middle of a file leaves the draft as it was, with
// the text that came before.
func TestAnUploadThatIsCut(t *testing.T) {
	s, replies := newReplySite(t)
	replies.most = 1 << 20
	s.write("first", "save", attach("a.pdf", "a"))
	page := s.get("/reply").body
	r, w := io.Pipe()
	m := multipart.NewWriter(w)
	req, _ := http.NewRequest("POST", s.link+"/reply", r)
	req.Header.Set("Content-Type", m.FormDataContentType())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if resp, err := s.client.Do(req); err == nil {
			resp.Body.Close()
			t.Errorf("answered %s", resp.Status)
		}
	}()
	for _, p := range hidden(t, page) {
		m.WriteField(p.name, p.value)
	}
	m.WriteField("text", "second")
	file, _ := m.CreateFormFile("files", "b.pdf")
	file.Write(make([]byte, 100<<10))
	w.CloseWithError(errors.New("the train went into a tunnel"))
	<-done
	text := func() string { // the server may be at it still
		replies.mu.Lock()
		defer replies.mu.Unlock()
		return replies.copy().Text
	}
	for end := time.Now().Add(10 * time.Second); text() != "second"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the text is lost: %q", text())
		}
	}
	time.Sleep(50 * time.Millisecond)
	if got := replies.names(); !slices.Equal(got, []string{"a.pdf"}) {
		t.Errorf("files: %q", got)
	}
}

func TestTwoWindowsOfAReply(t *testing.T) {
	s, replies := newReplySite(t)
	s.write("begun", "save")
	one, two := s.get("/reply").body, s.get("/reply").body
	leads(t, s, s.fill(one, "written in one", "save"), "/reply?saved")
	a := s.fill(two, "written in two", "send", attach("a.pdf", "a"))
	wants(t, a, 409, "changed in another window", "\nwritten in one</textarea>", "\nwritten in two</textarea>", "a.pdf")
	if replies.copy().Text != "written in one" || len(replies.sent) > 0 {
		t.Fatal("the other text is overwritten, or sent")
	}
	// Discarding would lose the other text too.
	wants(t, s.fill(two, "written in two", "discard"), 409)
	leads(t, s, s.fill(a.body, "written in two", "reload"), "/reply")
}

func TestReplyElsewhere(t *testing.T) {
	t.Run("keep mine", func(t *testing.T) {
		s, replies := newReplySite(t)
		one, two := s.get("/reply").body, s.get("/reply").body
		s.fill(one, "one", "save")
		a := s.fill(two, "two", "save")
		wants(t, a, 409, "\none</textarea>", "\ntwo</textarea>")
		leads(t, s, s.fill(a.body, "two", "save"), "/reply?saved")
		if replies.copy().Text != "two" {
			t.Errorf("kept %q", replies.copy().Text)
		}
	})
	t.Run("take the other", func(t *testing.T) {
		s, replies := newReplySite(t)
		one, two := s.get("/reply").body, s.get("/reply").body
		s.fill(one, "one", "save")
		s.fill(two, "two", "save")
		leads(t, s, s.fill(two, "two", "reload"), "/reply")
		if replies.copy().Text != "one" {
			t.Errorf("kept %q", replies.copy().Text)
		}
	})
	t.Run("the same text is no conflict", func(t *testing.T) {
		s, _ := newReplySite(t)
		one, two := s.get("/reply").body, s.get("/reply").body
		s.fill(one, "one\nline", "save")
		leads(t, s, s.fill(two, "one\nline", "save"), "/reply?saved")
	})
	t.Run("sent twice by one button", func(t *testing.T) {
		s, replies := newReplySite(t)
		for _, saved := range []bool{false, true} {
			if saved {
				s.write("draft", "save")
			}
			page := s.get("/reply").body
			leads(t, s, s.fill(page, "hello", "send"), "/reply/sent")
			leads(t, s, s.fill(page, "hello", "send", attach("a", "a")), "/reply/sent")
		}
		if len(replies.sent) != 2 || replies.draft != nil {
			t.Errorf("sent %d times, draft %v", len(replies.sent), replies.draft)
		}
	})
	t.Run("sent elsewhere, and written on", func(t *testing.T) {
		s, replies := newReplySite(t)
		s.write("draft", "save")
		page := s.get("/reply").body
		s.fill(page, "hello", "send")
		a := s.fill(page, "hello again", "send")
		wants(t, a, 409, "sent from another window", "hello again</textarea>")
		if len(replies.sent) != 1 || replies.copy().Text != "hello again" {
			t.Error("sent, or not kept")
		}
		leads(t, s, s.fill(a.body, "hello again", "send"), "/reply/sent")
	})
	t.Run("discarded elsewhere", func(t *testing.T) {
		s, replies := newReplySite(t)
		s.write("draft", "save")
		page := s.get("/reply").body
		s.fill(page, "", "discard")
		a := s.fill(page, "hello", "send")
		wants(t, a, 409, "discarded in another window", "hello</textarea>")
		if len(replies.sent) != 0 || replies.copy().Text != "hello" {
			t.Error("sent, or not kept")
		}
		leads(t, s, s.fill(a.body, "hello", "send"), "/reply/sent")
	})
	t.Run("a second reply may say the same", func(t *testing.T) {
		s, replies := newReplySite(t)
		s.write("thanks", "send")
		now := testNow.Add(time.Minute)
		s.vault.mu.Lock()
		s.vault.now = func() time.Time { return now }
		s.vault.mu.Unlock()
		page := strings.Replace(s.get("/reply").body, strconv.FormatInt(testNow.UnixMicro(), 10), strconv.FormatInt(now.UnixMicro(), 10), 1)
		leads(t, s, s.fill(page, "thanks", "send"), "/reply/sent")
		if len(replies.sent) != 2 {
			t.Errorf("sent %d times", len(replies.sent))
		}
	})
}

// Whatever ends while somebody writes: the text comes back, and what to do.
func TestNothingTypedIsLost(t *testing.T) {
	typed := "a long letter\n<to> the doctor"
	for _, tt := range []struct {
		name   string
		change func(*testSite, *fakeReplies)
		status int
		page   []string
	}{
		{"expired", func(s *testSite, _ *fakeReplies) { s.vault.err = escrow.ErrExpired }, 410, []string{"has expired while you were writing", testSender, testItem, "!<form"}},
		{"retracted", func(s *testSite, _ *fakeReplies) { s.vault.err = escrow.ErrRetracted }, 410, []string{"taken the message back", testSender, testItem, "!<form"}},
		{"signed out", func(s *testSite, _ *fakeReplies) { s.post("/leave") }, 403, []string{"not signed in here any more", "Save my text now", `href="/m/` + testItem + "/" + testSecret + `"`}},
		{"a new link", func(s *testSite, _ *fakeReplies) { s.vault.err = escrow.ErrUnknown }, 404, []string{"does not work any more", "!<form"}},
		{"trouble", func(s *testSite, r *fakeReplies) { r.trouble = errors.New("disk full") }, 503, []string{"on our side", "Save my text now"}},
		{"trouble before", func(s *testSite, r *fakeReplies) { s.vault.err = errors.New("disk full") }, 503, []string{"on our side", "Save my text now"}},
		{"expired just now", func(s *testSite, r *fakeReplies) { r.trouble = fmt.Errorf("save: %w", escrow.ErrExpired) }, 410, []string{"has expired while", testSender}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, replies := newReplySite(t)
			s.write("begun", "save")
			page := s.get("/reply").body
			tt.change(s, replies)
			a := s.fill(page, typed, "send", attach("a.pdf", strings.Repeat("a", 500<<10)))
			wants(t, a, tt.status, append(tt.page, "\n"+html.EscapeString(typed)+"</textarea>", "readonly", "Error: ", "Copy it", "hreflang")[:len(tt.page)+4]...)
			if strings.Contains(s.log.String(), "letter") {
				t.Error("the log has the text")
			}
			if !strings.Contains(a.body, "<form") {
				return
			}
			// Verified again, or healthy again, the page keeps the text.
			replies.trouble, s.vault.err = nil, nil
			s.verified()
			leads(t, s, s.fill(a.body, typed, "attach"), "/reply#attached")
			if replies.copy().Text != typed {
				t.Errorf("kept %q", replies.copy().Text)
			}
		})
	}
	t.Run("nothing was typed", func(t *testing.T) {
		s, _ := newReplySite(t)
		page := s.get("/reply").body
		s.post("/leave")
		leads(t, s, s.fill(page, "", "save"), "")
		s.vault.err = escrow.ErrExpired
		wants(t, s.fill(page, "", "save"), 410, "expired")
		s.vault.err = escrow.ErrUnknown
		wants(t, s.fill(page, "", "save"), 404, "no message here")
	})
	t.Run("from another site", func(t *testing.T) {
		s, _ := newReplySite(t)
		wants(t, s.postForm("/reply", http.Header{"Sec-Fetch-Site": {"cross-site"}}, fld("text", "planted")), 403, "!planted")
	})
}

// What the page's script sends: parts of the form, and it gets no page back.
func TestReplyByScript(t *testing.T) {
	s, replies := newReplySite(t)
	script := http.Header{"X-Requested-With": {"postseal"}}
	ask := func(status int, parts ...formPart) (a scriptAnswer) {
		t.Helper()
		got := s.postForm("/reply", script, parts...)
		if got.StatusCode != status {
			t.Fatalf("%s: %s", got.Status, got.body)
		}
		if err := json.Unmarshal([]byte(got.body), &a); err != nil {
			t.Fatalf("%v: %s", err, got.body)
		}
		return a
	}
	page := hidden(t, s.get("/reply").body)
	a := ask(200, append(page, fld("text", "a"))...)
	if a.Draft != "reply-1" || a.Was == "" || a.Saved == "" || a.Problem != "" || replies.copy().Text != "a" {
		t.Fatalf("%+v", a)
	}
	next := []formPart{fld("draft", a.Draft), fld("was", a.Was), page[2]}
	a = ask(200, append(next, fld("text", "ab"))...)
	next[1].value = a.Was
	if ask(200, append(next, fld("text", "ab"))...); replies.saves != 2 {
		t.Errorf("saved %d times", replies.saves)
	}
	a = ask(200, next[0], attach("a.pdf", "a"))
	if !strings.Contains(string(a.Attached), "a.pdf") || replies.copy().Text != "ab" {
		t.Errorf("%+v", a)
	}
	a = ask(422, next[0], attach("b.pdf", strings.Repeat("b", 2000)))
	if !strings.Contains(string(a.Problem), "b.pdf is too large") || !strings.Contains(string(a.Attached), "a.pdf") || strings.Contains(string(a.Attached), "b.pdf") || a.Stop {
		t.Errorf("%+v", a)
	}
	other := s.get("/reply").body
	s.fill(other, "from another window", "save")
	a = ask(409, append(next, fld("text", "abc"))...)
	if !a.Stop || !strings.Contains(string(a.Problem), "from another window") || replies.copy().Text != "from another window" {
		t.Errorf("%+v", a)
	}
	s.post("/leave")
	a = ask(403, append(next, fld("text", "abcd"))...)
	if a.Stop || !strings.Contains(string(a.Problem), "not signed in") || a.Draft != "reply-1" {
		t.Errorf("%+v", a)
	}
	ask(403, attach("c.pdf", "c"))
	s.vault.err = escrow.ErrRetracted
	if a = ask(410, append(next, fld("text", "abcd"))...); !a.Stop || !strings.Contains(string(a.Problem), "taken the message back") {
		t.Errorf("%+v", a)
	}
}

// blank is a file of so many zero bytes that is nowhere.
type blank struct{ left int64 }

func (z *blank) Read(b []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(b)), z.left)
	clear(b[:n])
	z.left -= n
	return int(n), nil
}

// uploadOf is a form with a text and one large file.
func uploadOf(size int64) (body io.Reader, contentType string) {
	head := "--b\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\nhello\r\n--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"film.mp4\"\r\nContent-Type: video/mp4\r\n\r\n"
	tail := "\r\n--b\r\nContent-Disposition: form-data; name=\"do\"\r\n\r\nsave\r\n--b--\r\n"
	return io.MultiReader(strings.NewReader(head), &blank{size}, strings.NewReader(tail)), "multipart/form-data; boundary=b"
}

// peak runs f and returns how far the heap grew meanwhile, in bytes.
func peak(f func()) int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, most := m.HeapAlloc, m.HeapAlloc
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	return int64(most - before)
}

func TestLargeUploadInBoundedMemory(t *testing.T) {
	s, replies := newReplySite(t)
	replies.discard, replies.most = true, 60<<20
	const most = 12 << 20
	grew := peak(func() {
		body, kind := uploadOf(50 << 20)
		leads(t, s, s.postBody("/reply", kind, body, nil), "/reply?saved")
	})
	if d := replies.copy(); d.Size != 50<<20 {
		t.Errorf("kept %d bytes", d.Size)
	}
	if grew > most {
		t.Errorf("the heap grew by %d MB", grew>>20)
	}
	// One that is too large is read to its end, and dropped: its page arrives.
	grew = peak(func() {
		body, kind := uploadOf(200 << 20)
		wants(t, s.postBody("/reply", kind, body, nil), 422, "film (2).mp4 is too large", "hello")
	})
	if grew > most {
		t.Errorf("the heap grew by %d MB", grew>>20)
	}
}
