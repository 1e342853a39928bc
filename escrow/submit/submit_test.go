package submit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"net/textproto"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/postseal/postseal/internal/audit"
)

// splitter is an LMTP server on loopback that answers as told.
type splitter struct {
	mu      sync.Mutex
	addr    string
	got     [][]byte
	to      [][]string
	reply   map[string]*smtp.SMTPError // by recipient; nil: sealed
	discard bool
}

func newSplitter(t testing.TB) *splitter {
	t.Helper()
	s := &splitter{reply: map[string]*smtp.SMTPError{}}
	srv := smtp.NewServer(s)
	srv.LMTP, srv.EnableSMTPUTF8, srv.EnableDSN, srv.MaxMessageBytes = true, true, true, 200<<20
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return s
}

func (s *splitter) NewSession(*smtp.Conn) (smtp.Session, error) { return &lmtpSession{s: s}, nil }

type lmtpSession struct {
	s  *splitter
	to []string
}

func (l *lmtpSession) Reset()                               { l.to = nil }
func (l *lmtpSession) Logout() error                        { return nil }
func (l *lmtpSession) Mail(string, *smtp.MailOptions) error { return nil }
func (l *lmtpSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	l.to = append(l.to, to)
	return nil
}
func (l *lmtpSession) Data(io.Reader) error { panic("LMTP") }
func (l *lmtpSession) LMTPData(r io.Reader, status smtp.StatusCollector) error {
	var b bytes.Buffer
	if l.s.discard {
		io.Copy(io.Discard, r)
	} else if _, err := b.ReadFrom(r); err != nil {
		return err
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	l.s.got, l.s.to = append(l.s.got, b.Bytes()), append(l.s.to, slices.Clone(l.to))
	for _, to := range l.to {
		if e := l.s.reply[to]; e != nil {
			status.SetStatus(to, e)
			continue
		}
		status.SetStatus(to, &smtp.SMTPError{Code: 250, EnhancedCode: smtp.EnhancedCode{2, 0, 0}, Message: "Sealed as aaaabbbbccccddddeeeeffff22"})
	}
	return nil
}

// memory is a store in memory.
type memory struct {
	mu       sync.Mutex
	keys     []Key
	requests map[string]Answered
	err      error
	logged   []string
	unlogged error
}

func (m *memory) Audit(ctx context.Context, entries ...audit.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unlogged != nil {
		return m.unlogged
	}
	for _, e := range entries {
		by := audit.By(ctx)
		m.logged = append(m.logged, strings.Join([]string{e.Kind, by.Kind, by.Name, by.Client, e.Sender, e.Recipient, e.Details["key"], e.Details["requires"]}, " "))
	}
	return nil
}

func (m *memory) AddAPIKey(_ context.Context, k Key) error { m.keys = append(m.keys, k); return nil }
func (m *memory) APIKeys(context.Context) ([]Key, error)   { return m.keys, nil }
func (m *memory) RemoveAPIKey(context.Context, string) (bool, error) {
	m.keys = nil
	return true, nil
}
func (m *memory) APIKey(_ context.Context, hash []byte, now time.Time) (*Key, error) {
	for _, k := range m.keys {
		if bytes.Equal(k.Hash, hash) {
			return &k, m.err
		}
	}
	return nil, ErrNoKey
}
func (m *memory) BeginRequest(_ context.Context, r Answered, _ time.Duration) (Answered, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := r.Key + "/" + r.Idempotency
	if first, ok := m.requests[k]; ok {
		return first, nil
	}
	m.requests[k] = r
	return r, nil
}
func (m *memory) EndRequest(_ context.Context, r Answered) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.requests[r.Key+"/"+r.Idempotency] = r
	return nil
}

type bench struct {
	t        testing.TB
	splitter *splitter
	escrow   *splitter
	store    *memory
	url, key string
}

func newBench(t testing.TB) *bench {
	b := &bench{t: t, splitter: newSplitter(t), escrow: newSplitter(t), store: &memory{requests: map[string]Answered{}}}
	k, secret, err := NewKey([]string{"@clinic.example"}, "lab", time.Time{}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	b.key = secret
	b.store.AddAPIKey(t.Context(), k)
	h, err := NewAPI(Config{
		Store: b.store, Domain: "own.example", SpoolDir: t.TempDir(), MaxSize: 80 << 20,
		Submitter: &Submitter{Encryption: b.splitter.addr, Escrow: b.escrow.addr, Hostname: "test"},
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	b.url = srv.URL + "/api/v1/messages"
	return b
}

func (b *bench) post(kind string, body io.Reader, header ...string) (int, map[string]any) {
	b.t.Helper()
	r, err := http.NewRequest("POST", b.url, body)
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Content-Type", kind)
	r.Header.Set("Authorization", "Bearer "+b.key)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		b.t.Fatalf("%d: %v", resp.StatusCode, err)
	}
	return resp.StatusCode, out
}

const letterJSON = `{"from":"Lab <lab@clinic.example>","to":["pat@old.example"],"bcc":["Copy <copy@old.example>","PAT@OLD.example"],"subject":"Grüße\r\nBcc: x@evil.example","text":"result: fine","html":"<p>fine <img src=\"cid:a\"></p>",
 "attachments":[{"name":"../r.txt","type":"text/plain","content":"aGVsbG8="},{"name":"a.png","type":"image/png","content_id":"a","content":"aGVsbG8="}]}`

func TestMessageIsComposedAndTaken(t *testing.T) {
	b := newBench(t)
	status, out := b.post("application/json", strings.NewReader(letterJSON))
	if status != 202 {
		t.Fatalf("%d %v", status, out)
	}
	if got := fmt.Sprint(b.splitter.to); got != "[[pat@old.example copy@old.example]]" {
		t.Errorf("envelope %s", got)
	}
	m, err := mail.ReadMessage(bytes.NewReader(b.splitter.got[0]))
	if err != nil {
		t.Fatal(err)
	}
	if m.Header.Get("Bcc") != "" || !strings.Contains(m.Header.Get("Subject"), "=?utf-8?") || m.Header.Get("Message-ID") != "<"+out["message_id"].(string)+">" {
		t.Errorf("header %v", m.Header)
	}
	first := out["recipients"].([]any)[0].(map[string]any)
	if first["outcome"] != Sealed || first["item"] != "aaaabbbbccccddddeeeeffff22" {
		t.Errorf("result %v", first)
	}
	if bytes.Contains(b.splitter.got[0], []byte("../")) {
		t.Error("a file name kept its path")
	}
}

// What a program sends is in the audit log, by its key; and is not sent where that fails.
func TestWhatIsSubmittedIsLogged(t *testing.T) {
	b := newBench(t)
	b.store.unlogged = errors.New("locked")
	if status, out := b.post("application/json", strings.NewReader(letterJSON)); status != 503 || len(b.splitter.got) != 0 {
		t.Errorf("sent unlogged: %d %v", status, out)
	}
	b.store.unlogged = nil
	if status, out := b.post("application/json", strings.NewReader(letterJSON)); status != 202 {
		t.Fatalf("%d %v", status, out)
	}
	key := b.store.keys[0].ID
	var want []string
	for _, to := range []string{"pat@old.example", "copy@old.example"} {
		want = append(want, "submitted api "+key+" 127.0.0.1 lab@clinic.example "+to+" "+key+" encryption")
	}
	if !slices.Equal(b.store.logged, want) {
		t.Errorf("%q, want %q", b.store.logged, want)
	}
}

func TestEscrowGoesToItsPort(t *testing.T) {
	b := newBench(t)
	status, _ := b.post("application/json", strings.NewReader(`{"from":"lab@clinic.example","to":["a@b.example"],"text":"x","require":"escrow"}`))
	if status != 202 || len(b.escrow.got) != 1 || len(b.splitter.got) != 0 {
		t.Errorf("%d, %d and %d", status, len(b.escrow.got), len(b.splitter.got))
	}
}

func TestBadRequestsAreToldAndSendNothing(t *testing.T) {
	many := `"` + strings.Repeat(`a@b.example","`, MaxRecipients) + `z@b.example"`
	for _, c := range []struct {
		name, kind, body, field string
		status                  int
	}{
		{"no JSON", "application/json", "hello", "message", 422},
		{"cut", "application/json", `{"from":`, "message", 422},
		{"two", "application/json", `{"from":"lab@clinic.example","to":["a@b.example"]} {}`, "message", 422},
		{"unknown field", "application/json", `{"form":"lab@clinic.example"}`, "message", 422},
		{"a number", "application/json", `{"from":7}`, "message", 422},
		{"no sender", "application/json", `{"to":["a@b.example"]}`, "", 403},
		{"another sender", "application/json", `{"from":"lab@other.example","to":["a@b.example"],"text":"x"}`, "from", 403},
		{"bad sender", "application/json", `{"from":"lab","to":["a@b.example"]}`, "from", 422},
		{"no recipient", "application/json", `{"from":"lab@clinic.example"}`, "to", 422},
		{"bad recipient", "application/json", `{"from":"lab@clinic.example","cc":["x\r\nRCPT TO:<y>"]}`, "cc", 422},
		{"too many", "application/json", `{"from":"lab@clinic.example","to":[` + many + `]}`, "to", 422},
		{"require none", "application/json", `{"from":"lab@clinic.example","to":["a@b.example"],"require":"none"}`, "require", 422},
		{"bad base64", "application/json", `{"from":"lab@clinic.example","to":["a@b.example"],"attachments":[{"content":"%"}]}`, "attachments[0].content", 422},
		{"bad reference", "application/json", `{"from":"lab@clinic.example","to":["a@b.example"],"in_reply_to":"<a b>"}`, "header", 422},
		{"wrong type", "text/plain", `{}`, "Content-Type", 422},
		{"no type", "", `{}`, "Content-Type", 422},
		{"empty form", "multipart/form-data; boundary=x", "--x--\r\n", "message", 422},
		{"file first", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\nx\r\n--x--\r\n", "message", 422},
		{"cut form", "multipart/form-data; boundary=x", "--x\r\nContent-Disposition: form-data; name=message\r\n\r\n{", "", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			status, out := b.post(c.kind, strings.NewReader(c.body))
			if status != c.status || c.field != "" && out["field"] != c.field {
				t.Errorf("%d %v, want %d at %q", status, out, c.status, c.field)
			}
			if len(b.splitter.got)+len(b.escrow.got) > 0 {
				t.Error("something was sent")
			}
			if strings.Contains(fmt.Sprint(out), "hello") {
				t.Errorf("the answer quotes what was sent: %v", out)
			}
		})
	}
}

func TestKeyIsNeeded(t *testing.T) {
	b := newBench(t)
	for _, auth := range []string{"", "Bearer", "Bearer psk_wrong", "Basic " + b.key, "Bearer " + strings.ToUpper(b.key)} {
		if status, _ := b.post("application/json", strings.NewReader(letterJSON), "Authorization", auth); status != 401 {
			t.Errorf("%q: %d, want 401", auth, status)
		}
	}
	if len(b.splitter.got) > 0 {
		t.Error("something was sent")
	}
	b.store.err = io.ErrUnexpectedEOF
	if status, _ := b.post("application/json", strings.NewReader(letterJSON)); status != 503 {
		t.Errorf("a store that fails: %d, want 503", status)
	}
}

func TestKeyPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, address string
		may              bool
	}{
		{"lab@clinic.example", "LAB@Clinic.example", true},
		{"lab@clinic.example", "lab2@clinic.example", false},
		{"@clinic.example", "lab@clinic.example", true},
		{"@clinic.example", "lab@sub.clinic.example", false},
		{"@.clinic.example", "lab@sub.clinic.example", true},
		{"*", "a@b.example", true},
		{"*", "nobody", false},
	} {
		k, _, err := NewKey([]string{c.pattern}, "", time.Time{}, time.Now())
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		if got := k.MaySend(c.address); got != c.may {
			t.Errorf("%s may send as %s: %v", c.pattern, c.address, got)
		}
	}
}

func TestAQuotaIsAnsweredClearly(t *testing.T) {
	for want, code := range map[int]smtp.EnhancedCode{507: {4, 3, 1}, 429: {4, 2, 2}} {
		b := newBench(t)
		for _, to := range []string{"pat@old.example", "copy@old.example"} {
			b.splitter.reply[to] = &smtp.SMTPError{Code: 452, EnhancedCode: code, Message: "Quota exceeded: the escrow is full, try again later"}
		}
		status, out := b.post("application/json", strings.NewReader(letterJSON))
		if status != want || !strings.Contains(fmt.Sprint(out), "Quota exceeded") {
			t.Errorf("%d %v, want %d", status, out, want)
		}
	}
}

// A repeated request gives the splitter the same bytes again, until it has an answer.
func TestRepeatedRequest(t *testing.T) {
	b := newBench(t)
	b.splitter.reply["pat@old.example"] = &smtp.SMTPError{Code: 451, Message: "later"}
	b.splitter.reply["copy@old.example"] = &smtp.SMTPError{Code: 451, Message: "later"}
	idem := []string{"Idempotency-Key", "order 66"}
	if status, _ := b.post("application/json", strings.NewReader(`{"from":"lab@clinic.example","to":[]}`), idem...); status != 422 {
		t.Fatalf("no recipient: %d", status)
	}
	if status, out := b.post("application/json", strings.NewReader(letterJSON), idem...); status != 503 {
		t.Fatalf("%d %v", status, out)
	}
	clear(b.splitter.reply)
	status, out := b.post("application/json", strings.NewReader(letterJSON), idem...)
	if status != 202 || !bytes.Equal(b.splitter.got[0], b.splitter.got[1]) {
		t.Fatalf("%d %v, or other bytes", status, out)
	}
	status, again := b.post("application/json", strings.NewReader(letterJSON), idem...)
	if status != 202 || fmt.Sprint(again) != fmt.Sprint(out) || len(b.splitter.got) != 2 {
		t.Errorf("%d %v, sent %d times", status, again, len(b.splitter.got))
	}
	if status, _ := b.post("application/json", strings.NewReader(strings.Replace(letterJSON, "fine", "bad", 1)), idem...); status != 422 {
		t.Errorf("another request under the same key: %d, want 422", status)
	}
}

func TestSplitterDown(t *testing.T) {
	b := newBench(t)
	ln, _ := net.Listen("tcp", "127.0.0.1:0")
	ln.Close()
	s := &Submitter{Encryption: ln.Addr().String(), Escrow: ln.Addr().String(), Hostname: "x"}
	h, err := NewAPI(Config{Store: b.store, Domain: "own.example", Submitter: s})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	defer srv.Close()
	b.url = srv.URL + "/api/v1/messages"
	status, out := b.post("application/json", strings.NewReader(letterJSON))
	if status != 503 || !strings.Contains(fmt.Sprint(out), Deferred) {
		t.Errorf("%d %v", status, out)
	}
}

// form streams a form with a file of size bytes.
func form(size int64) (kind string, body io.Reader) {
	r, w := io.Pipe()
	m := multipart.NewWriter(w)
	go func() {
		p, _ := m.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="message"`}, "Content-Type": {"application/json"}})
		io.WriteString(p, `{"from":"lab@clinic.example","to":["pat@old.example"],"subject":"s","text":"t"}`)
		p, _ = m.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="file"; filename="scan.dcm"`}, "Content-Type": {"application/dicom"}})
		io.CopyN(p, zeros{}, size)
		w.CloseWithError(m.Close())
	}()
	return m.FormDataContentType(), r
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestLargeFileInConstantMemory(t *testing.T) {
	b := newBench(t)
	b.splitter.discard = true
	stop, peak := make(chan struct{}), make(chan uint64)
	go func() {
		var most uint64
		for {
			select {
			case <-stop:
				peak <- most
				return
			case <-time.After(10 * time.Millisecond):
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
	}()
	kind, body := form(50 << 20)
	status, out := b.post(kind, body)
	close(stop)
	if status != 202 {
		t.Fatalf("%d %v", status, out)
	}
	if most := <-peak; most > 40<<20 {
		t.Errorf("%d MB of heap for a file of 50 MB", most>>20)
	}
	kind, body = form(90 << 20)
	if status, _ := b.post(kind, body); status != 413 {
		t.Errorf("a request over the limit: %d, want 413", status)
	}
	left, _ := os.ReadDir(os.TempDir())
	for _, f := range left {
		if strings.Contains(f.Name(), "postseal-spool") {
			t.Errorf("%s was left", f.Name())
		}
	}
}

func FuzzReadRequest(f *testing.F) {
	f.Add("application/json", []byte(letterJSON))
	f.Add("multipart/form-data; boundary=x", []byte("--x\r\nContent-Disposition: form-data; name=message\r\n\r\n"+letterJSON+"\r\n--x\r\nContent-Disposition: form-data; name=file; filename=\"a\\\"b\"\r\n\r\nx\r\n--x--\r\n"))
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		r := httptest.NewRequest("POST", "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", kind)
		req, err := ReadRequest(r, t.TempDir(), 1<<20)
		if err != nil {
			return
		}
		defer req.Close()
		req.Date, req.MessageID, req.Boundary = time.Unix(0, 0), "x@y.example", "b"
		if req.Check() != nil {
			return
		}
		var b bytes.Buffer
		if _, err := req.message().WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		m, err := mail.ReadMessage(&b)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Header["From"]) != 1 || len(m.Header["Bcc"]) != 0 {
			t.Errorf("header %v", m.Header)
		}
	})
}
