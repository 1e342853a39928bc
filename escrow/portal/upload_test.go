package portal

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// An upload may be as slow as it likes, if it goes on; one that stands still, or
// goes on for ever, is cut.
func TestSlowUploads(t *testing.T) {
	for _, tt := range []struct {
		name   string
		every  time.Duration // between two pieces
		pieces int
		status int
		ends   time.Duration // at the latest
	}{
		{"slow", 50 * time.Second, 60, 303, time.Hour},
		{"stands still", 10 * time.Minute, 3, 400, 4 * time.Minute},
		{"for ever", 50 * time.Second, 10000, 400, uploadTime + 5*time.Minute},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				base, _ := url.Parse("http://portal.example")
				replies := newFakeReplies()
				replies.most = 1 << 20
				h, err := New(Config{Vault: newFakeVault(crlf(plainLetter)), Replies: replies, BaseURL: base})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ln, done := make(pipes), make(chan error)
				go func() { done <- Run(ctx, ln, h, nil) }()
				ours, theirs := net.Pipe()
				ln <- theirs
				cookie := (&portal{}).cookieName("device", &visit{suffix: suffix(testSecret)})
				head := "--b\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\nhello\r\n--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"a\"\r\n\r\n"
				tail := "\r\n--b\r\nContent-Disposition: form-data; name=\"do\"\r\n\r\nsave\r\n--b--\r\n"
				var writing sync.WaitGroup
				writing.Go(func() {
					fmt.Fprintf(ours, "POST /m/%s/%s/reply HTTP/1.1\r\nHost: portal.example\r\nCookie: %s=token\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: %d\r\n\r\n%s",
						testItem, testSecret, cookie, len(head)+tt.pieces*10+len(tail), head)
					for range tt.pieces {
						time.Sleep(tt.every)
						if _, err := io.WriteString(ours, "0123456789"); err != nil {
							return
						}
					}
					io.WriteString(ours, tail)
				})
				start := time.Now()
				resp, err := http.ReadResponse(bufio.NewReader(ours), nil)
				if err != nil {
					t.Fatalf("after %v: %v", time.Since(start), err)
				}
				if resp.StatusCode != tt.status || time.Since(start) > tt.ends {
					t.Errorf("%s after %v", resp.Status, time.Since(start))
				}
				if tt.status == 400 {
					page, _ := io.ReadAll(resp.Body)
					wants(t, answer{resp, string(page)}, 400, "cut off", "hello</textarea>")
				}
				if d := replies.copy(); d.Text != "hello" || (len(d.Files) == 1) != (tt.status == 303) {
					t.Errorf("kept %q, %v", d.Text, d.Files)
				}
				ours.Close()
				cancel()
				close(ln)
				<-done
				writing.Wait()
			})
		})
	}
}

// FuzzReplyForm feeds what a browser sends, and what none would.
func FuzzReplyForm(f *testing.F) {
	part := func(disposition, value string) string {
		return "--b\r\nContent-Disposition: form-data; " + disposition + "\r\n\r\n" + value + "\r\n"
	}
	f.Add("multipart/form-data; boundary=b", part(`name="draft"`, "x")+part(`name="since"`, "12")+part(`name="all"`, "1")+part(`name="text"`, "hello\r\nyou")+part(`name="files"; filename="a.pdf"`, "%PDF")+part(`name="files"; filename=""`, "")+part(`name="remove"`, "3")+"--b--\r\n")
	f.Add("multipart/form-data; boundary=b", part(`name="text"`, "\xff\x00\r")+part(`name="text"`, "again")+part(`name="files"; filename*=UTF-8''..%2f..%2fa%0d%0a`, "x"))
	f.Add("multipart/form-data; boundary=b", "--b\r\nnonsense\r\n\r\n--b--")
	f.Add("multipart/form-data", "")
	f.Add("text/plain; boundary=b", "--b--")
	f.Fuzz(func(t *testing.T, kind, body string) {
		r := httptest.NewRequest("POST", "/reply", strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		form := newReplyForm(httptest.NewRecorder(), r)
		for n := 0; ; n++ {
			if n > len(body) {
				t.Fatal("no end of parts")
			}
			file, err := form.next()
			if err != nil {
				if err != io.EOF && err != errCut {
					t.Fatalf("an error that tells more: %v", err)
				}
				break
			}
			if file == nil {
				continue
			}
			if _, err := io.Copy(io.Discard, file); err != nil && !file.cut {
				t.Fatalf("cut, and not told: %v", err)
			}
			if name := filename(file.name, file.mediaType, n); name == "" || !utf8.ValidString(name) || strings.ContainsAny(name, "/\\\r\n\x00") {
				t.Fatalf("a file is called %q", name)
			}
			if strings.ContainsAny(file.mediaType, "\r\n; \"") || strings.Count(file.mediaType, "/") != 1 {
				t.Fatalf("a type is %q", file.mediaType)
			}
		}
		if !utf8.ValidString(form.text) || strings.ContainsAny(form.text, "\r\x00") {
			t.Fatalf("text %q", form.text)
		}
	})
}

func TestAnother(t *testing.T) {
	taken := map[string]bool{"a.pdf": true, "a (2).pdf": true, ".rc": true, "b": true, "c.averylongextension": true}
	for in, want := range map[string]string{"a.pdf": "a (3).pdf", "new.pdf": "new.pdf", ".rc": ".rc (2)", "b": "b (2)", "c.averylongextension": "c.averylongextension (2)"} {
		if got := another(in, func(s string) bool { return taken[s] }); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
