package portal_test

import (
	"bytes"
	"crypto/sha256"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/portal"
	"github.com/postseal/postseal/internal/lab/logtext"
	"github.com/postseal/postseal/sql"
)

// realSite is a portal with a real vault on a database, and the browser of a
// recipient who has opened a message there.
type realSite struct {
	t      *testing.T
	vault  *escrow.Vault
	site   http.Handler
	client *http.Client
	self   string // URL of the message
	log    *lockedLog
}

// lockedLog is a log that is read while the server still writes it.
type lockedLog = logtext.Log

func newRealSite(t *testing.T, letter string) *realSite {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	db, err := sql.Open(t.Context(), "sqlite:"+filepath.Join(dir, "escrow.db"), sql.Options{Now: time.Now})
	must(err)
	t.Cleanup(func() { db.Close() })
	must(escrow.NewKeyFile(filepath.Join(dir, "keys")))
	keys, err := escrow.LoadKeys(filepath.Join(dir, "keys"))
	must(err)
	s := &realSite{t: t, log: &lockedLog{}}
	log := slog.New(slog.NewTextHandler(s.log, nil))
	var h http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r) }))
	t.Cleanup(server.Close)
	base, err := url.Parse(strings.Replace(server.URL, "127.0.0.1", "localhost", 1))
	must(err)
	s.vault, err = escrow.NewVault(escrow.Options{
		Store: db, Keys: keys, PortalURL: base.String(), NoticeFrom: "Clinic <notice@clinic.example>",
		Now: time.Now, Log: log, Replies: escrow.ReplyOptions{SpoolDir: dir},
	})
	must(err)
	h, err = portal.New(portal.Config{Vault: s.vault, Replies: s.vault, BaseURL: base, Log: log})
	must(err)
	s.site = h
	_, err = s.vault.Seal(t.Context(), escrow.Message{
		Sender: "doc@clinic.example", Recipients: []escrow.Recipient{{Address: "jane@old.example", Verify: escrow.VerifyCode}}, QueueID: "4Q1",
		Digest: sha256.Sum256([]byte(letter)), Size: int64(len(letter)),
		Body: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(letter)), nil },
	})
	must(err)
	jar, _ := cookiejar.New(nil)
	s.client = &http.Client{Jar: jar}
	s.self = s.mailed(regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(base.String()) + `/m/\S+`))
	_, err = s.client.Post(s.self+"/code", "application/x-www-form-urlencoded", nil)
	must(err)
	code := s.mailed(regexp.MustCompile(`(?m)^ *\d{4}[ -]?\d{4}\b`))
	resp, err := s.client.PostForm(s.self+"/verify", url.Values{"answer": {code}})
	must(err)
	resp.Body.Close()
	if !strings.Contains(resp.Request.URL.Path, "/message") {
		t.Fatalf("verified, at %s", resp.Request.URL.Path[:3])
	}
	return s
}

// mailed takes the mails out of the outbox and finds something in them.
func (s *realSite) mailed(what *regexp.Regexp) string {
	s.t.Helper()
	list, _, err := s.vault.Due(s.t.Context(), 10)
	if err != nil {
		s.t.Fatal(err)
	}
	var all strings.Builder
	for _, e := range list {
		if err := s.vault.Sent(s.t.Context(), e.ID); err != nil {
			s.t.Fatal(err)
		}
		all.Write(e.Text)
	}
	found := what.FindString(all.String())
	if found == "" {
		s.t.Fatalf("no %v in %s", what, all.String())
	}
	return strings.TrimSpace(found)
}

func (s *realSite) get(path string) string {
	s.t.Helper()
	resp, err := s.client.Get(s.self + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		s.t.Fatalf("%s %v", resp.Status, err)
	}
	return string(b)
}

// send posts a reply with a file of so many bytes.
func (s *realSite) send(page, text string, size int64, button string) (path, body string) {
	s.t.Helper()
	r, w := io.Pipe()
	m := multipart.NewWriter(w)
	go func() {
		for _, f := range regexp.MustCompile(`<input type="hidden" name="([a-z]+)" value="([^"]*)"`).FindAllStringSubmatch(page, -1) {
			m.WriteField(f[1], f[2])
		}
		m.WriteField("text", text)
		if size > 0 {
			file, _ := m.CreateFormFile("files", "film.mp4")
			block := bytes.Repeat([]byte("a film of a knee"), 4096)
			for left := size; left > 0; left -= int64(len(block)) {
				if _, err := file.Write(block[:min(left, int64(len(block)))]); err != nil {
					break
				}
			}
		}
		m.WriteField("do", button)
		m.Close()
		w.Close()
	}()
	resp, err := s.client.Post(s.self+"/reply", m.FormDataContentType(), r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Request.URL.Path, string(b)
}

// A reply with 50 MB goes through the real vault in bounded memory: up, and off.
func TestRealReply(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped in short mode: encrypts 50 MB")
	}
	s := newRealSite(t, "From: Dr. Ann <doc@clinic.example>\r\nTo: jane@old.example\r\nSubject: Values\r\n\r\nAll good.\r\n")
	page := s.get("/reply")
	if !strings.Contains(page, "doc@clinic.example") || !strings.Contains(page, "Re: Values") {
		t.Fatalf("%s", page)
	}
	const size, most = 50 << 20, 24 << 20
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	before, peak := m.HeapAlloc, m.HeapAlloc
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				runtime.ReadMemStats(&m)
				peak = max(peak, m.HeapAlloc)
			}
		}
	}()
	path, body := s.send(page, "Dear doctor, a secret word.", size, "save")
	close(stop)
	<-stopped
	if !strings.HasSuffix(path, "/reply") || !strings.Contains(body, "Your reply is saved") || !strings.Contains(body, "film.mp4") {
		t.Fatalf("%s", body)
	}
	t.Logf("the heap grew by %d MB", (peak-before)>>20)
	if peak-before > most {
		t.Errorf("the heap grew by %d MB", (peak-before)>>20)
	}
	// Another one does not fit; what was written is kept.
	path, body = s.send(body, "Dear doctor, another word.", size, "send")
	if !strings.Contains(body, "film (2).mp4 is too large") || !strings.Contains(body, "another word.</textarea>") {
		t.Fatalf("%s: %s", path, body)
	}
	if path, body = s.send(body, "Dear doctor, another word.", 0, "send"); !strings.HasSuffix(path, "/reply/sent") || !strings.Contains(body, "on its way") {
		t.Fatalf("%s: %s", path, body)
	}
	if page := s.get("/message"); !strings.Contains(page, "another word.") || !strings.Contains(page, "film.mp4") || !strings.Contains(page, "on its way") {
		t.Errorf("the message does not tell of its reply: %s", page)
	}
	if log := s.log.String(); strings.Contains(log, "word") || strings.Contains(log, "film") {
		t.Errorf("the log tells: %s", log)
	}
}

// The message is taken back while its reply is written.
func TestRealReplyToARetractedMessage(t *testing.T) {
	s := newRealSite(t, "From: Dr. Ann <doc@clinic.example>\r\nTo: jane@old.example\r\nSubject: Values\r\n\r\nAll good.\r\n")
	page := s.get("/reply")
	item := strings.Split(s.self, "/m/")[1][:26]
	if err := s.vault.Retract(t.Context(), item, ""); err != nil {
		t.Fatal(err)
	}
	if _, body := s.send(page, "a long letter", 1000, "send"); !strings.Contains(body, "taken the message back") || !strings.Contains(body, "\na long letter</textarea>") {
		t.Errorf("%s", body)
	}
}
