package e2e

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// witness looks on while Postseal is used: it is the web server in front of the
// portal, watches all processes, and keeps what the disk holds. It learns the secrets
// that cross it, and keeps what others could have seen.
type witness struct {
	t         *testing.T
	base, dir string // URL of the web server in front; spool-dir

	mu      sync.Mutex
	secrets *needles
	places  map[string][]byte // by name
	access  bytes.Buffer      // the web server's log
	seen    map[string]bool   // processes, their arguments and environments
	spooled int               // files that were seen in the spool directory
}

// secretFields are fields of forms that hold secrets.
var secretFields = []string{"q", "answer", "password", "old", "phrase", "totp", "ceremony", "response"}

// capability is what a path holds that leads to a message: for its recipient, or for
// its sender.
var capability = regexp.MustCompile(`/([ms])/[^/?]+/([^/?]+)`)

func newWitness(t *testing.T, addr, spool string) *witness {
	t.Helper()
	w := &witness{t: t, base: "http://" + strings.Replace(addr, "127.0.0.1", "localhost", 1), dir: spool, secrets: newNeedles(), places: make(map[string][]byte), seen: make(map[string]bool)}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	portal := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "127.0.0.1:8645"})
	portal.ModifyResponse = func(r *http.Response) error {
		for _, c := range r.Cookies() {
			if len(c.Value) >= 16 { // else it is a mark, such as of having left
				w.secret("cookie", c.Value)
			}
		}
		return nil
	}
	server := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.learn(r)
		out := &counted{ResponseWriter: rw}
		portal.ServeHTTP(out, r)
		w.mu.Lock()
		defer w.mu.Unlock()
		// As nginx and Apache do: the format "combined".
		fmt.Fprintf(&w.access, "%s - - [%s] \"%s %s %s\" %d %d \"%s\" \"%s\"\n", r.RemoteAddr, time.Now().Format("02/Jan/2006:15:04:05 -0700"),
			r.Method, r.RequestURI, r.Proto, out.status, out.bytes, r.Referer(), r.UserAgent())
	})}
	go server.Serve(ln)
	t.Cleanup(func() { server.Close() })
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond):
				w.look()
			}
		}
	}()
	t.Cleanup(func() { close(done); <-ended })
	return w
}

type counted struct {
	http.ResponseWriter
	status, bytes int
}

func (c *counted) WriteHeader(status int) { c.status = status; c.ResponseWriter.WriteHeader(status) }
func (c *counted) Write(b []byte) (int, error) {
	c.bytes += len(b)
	return c.ResponseWriter.Write(b)
}
func (c *counted) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// secret adds one.
func (w *witness) secret(name, value string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.secrets.add(name, value)
}

// learn takes the secrets out of a request.
func (w *witness) learn(r *http.Request) {
	if m := capability.FindStringSubmatch(r.URL.Path); m != nil {
		w.secret(map[string]string{"m": "link", "s": "sender's link"}[m[1]], m[2])
	}
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if kind != "application/x-www-form-urlencoded" {
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		w.t.Error("a request that can't be read")
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, _ := url.ParseQuery(string(body))
	for _, f := range secretFields {
		w.secret(f, form.Get(f))
	}
}

// look looks at all processes, and at what waits in the spool directory, also in files
// that have no name any more.
func (w *witness) look() {
	procs, _ := filepath.Glob("/proc/[0-9]*")
	names, _ := filepath.Glob(filepath.Join(w.dir, "*"))
	for _, p := range procs {
		args, err := os.ReadFile(p + "/cmdline")
		if err != nil || len(args) == 0 {
			continue
		}
		env, _ := os.ReadFile(p + "/environ")
		w.mu.Lock()
		w.seen[string(args)+"\n"+string(env)] = true
		w.mu.Unlock()
		if !bytes.HasSuffix(args, []byte("\x00serve\x00")) {
			continue
		}
		fds, _ := os.ReadDir(p + "/fd")
		for _, fd := range fds {
			if to, err := os.Readlink(p + "/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, w.dir+"/") {
				names = append(names, p+"/fd/"+fd.Name())
			}
		}
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		b, _ := io.ReadAll(io.LimitReader(f, 8<<20))
		f.Close()
		if len(b) > 0 {
			w.keep(fmt.Sprintf("a file of %d bytes in the spool directory", len(b)), b)
			w.mu.Lock()
			w.spooled++
			w.mu.Unlock()
		}
	}
}

// keep keeps what is to be searched.
func (w *witness) keep(place string, data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.places[place] = data
}

// database keeps the files of a database as they are now.
func (w *witness) database(when, path string) {
	w.t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		b, err := os.ReadFile(path + suffix)
		if err != nil {
			w.t.Error(err)
		}
		w.keep("the database"+suffix+" "+when, b)
	}
}

// processes returns the arguments and environments of all that ran.
func (w *witness) processes() []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b bytes.Buffer
	for p := range w.seen {
		b.WriteString(p)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// ran reports whether a command was seen.
func (w *witness) ran(args ...string) bool {
	return bytes.Contains(w.processes(), []byte("\x00"+strings.Join(args, "\x00")))
}
