package portal_test

import (
	"encoding/base64"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// slowClient takes the start of an answer, and then nothing until it is let go.
type slowClient struct {
	http.ResponseWriter
	left  int
	stuck chan<- struct{}
	free  <-chan struct{}
	all   int
}

func (c *slowClient) Write(b []byte) (int, error) {
	if c.left > 0 {
		if c.left -= len(b); c.left <= 0 {
			c.stuck <- struct{}{}
			<-c.free
		}
	}
	c.all += len(b)
	return len(b), nil
}

// Whoever is slow to take a large message costs little memory, whichever way it is taken:
// there may be many.
func TestSlowDownloadsNeedLittleMemory(t *testing.T) {
	const size, clients, most = 6 << 20, 6, 900 << 10 // bytes, of a message and for each client
	film := make([]byte, size)
	rand.NewChaCha8([32]byte{3}).Read(film)
	s := newRealSite(t, "From: Dr. Ann <doc@clinic.example>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"+
		"--b\r\n\r\nSee the film.\r\n--b\r\nContent-Type: video/mp4; name=film.mp4\r\nContent-Transfer-Encoding: base64\r\n\r\n"+
		base64.StdEncoding.EncodeToString(film)+"\r\n--b--\r\n")
	film = nil
	at, err := url.Parse(s.self)
	if err != nil {
		t.Fatal(err)
	}
	stuck, free := make(chan struct{}), make(chan struct{})
	took := make([]*slowClient, clients)
	var wg sync.WaitGroup
	before := heapInUse()
	for i := range took {
		path := []string{"/raw", "/part/2"}[i%2]
		r := httptest.NewRequest("GET", s.self+path, nil)
		r.Host = at.Host
		for _, c := range s.client.Jar.Cookies(r.URL) {
			r.AddCookie(c)
		}
		took[i] = &slowClient{ResponseWriter: httptest.NewRecorder(), left: size / 2, stuck: stuck, free: free}
		wg.Go(func() { s.site.ServeHTTP(took[i], r) })
	}
	for range took {
		<-stuck
	}
	each := (int64(heapInUse()) - int64(before)) / clients
	t.Logf("%d kB for each", each>>10)
	if each > most {
		t.Errorf("%d kB for each download under way, want %d at most", each>>10, most>>10)
	}
	close(free)
	wg.Wait()
	for i, c := range took {
		if c.all < size {
			t.Errorf("client %d got %d bytes", i, c.all)
		}
	}
	if log := s.log.String(); strings.Contains(log, "film") {
		t.Errorf("the log tells: %s", log)
	}
}

// heapInUse is what lives on the heap, in bytes.
func heapInUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // pools keep what they hold over one
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
