package alarm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/postseal/postseal/tlsmap/probe"
)

// postLimit is for one POST, answer included.
const postLimit = 15 * time.Second

// CheckURL refuses what alarms can't be posted to: it wants https, or http to this host
// itself.
func CheckURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Fragment != "" || u.User != nil || u.Opaque != "" {
		return errors.New("want https://HOST[:PORT]/PATH") // not echoed: it may hold a secret
	}
	switch u.Scheme {
	case "https":
		return nil
	case "http":
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && a.IsLoopback() || strings.EqualFold(u.Hostname(), "localhost") {
			return nil
		}
		return fmt.Errorf("want https for %s: by http only to this host itself", u.Hostname())
	}
	return errors.New("want https://HOST[:PORT]/PATH")
}

func newClient() *http.Client {
	return &http.Client{
		Timeout:       postLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// Post is the body of the webhook. Fields are only ever added.
type Post struct {
	Version int    `json:"version"` // 1
	Host    string `json:"host"`    // this server
	Text    string `json:"text"`    // all of it for a person, as in the mail
	// AtOnce is how many destinations lost their TLS within an hour, where they are so
	// many that the cause is likely nearer.
	AtOnce int     `json:"at_once,omitempty"`
	Alarms []Alarm `json:"alarms"`
}

// Alarm is one alarm of a [Post].
type Alarm struct {
	ID     int64        `json:"id"` // to tell repeated ones
	At     time.Time    `json:"at"`
	Dest   string       `json:"dest"`
	Kind   probe.Kind   `json:"kind"`
	Ends   bool         `json:"ends"` // all clear
	Text   string       `json:"text"`
	Detail probe.Detail `json:"detail"`
}

// post sends news to the webhook. Its errors do not name the URL beyond the host.
func (s *Sender) post(ctx context.Context, n news) error {
	p := Post{Version: 1, Host: n.host, Text: n.subject(), AtOnce: n.atOnce}
	for i := range n.events {
		e := &n.events[i]
		_, begins := e.Kind.Ends()
		p.Alarms = append(p.Alarms, Alarm{e.ID, e.At.UTC(), e.Dest, e.Kind, !begins, e.Dest + " " + e.String(), e.Detail})
	}
	if len(p.Alarms) > 1 {
		for _, a := range p.Alarms {
			p.Text += "\n" + a.Text
		}
	}
	body, err := json.Marshal(p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, postLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, bytes.NewReader(body))
	if err != nil {
		return errors.New("the webhook's URL is none")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "Postseal")
	resp, err := s.Client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL
		}
		return fmt.Errorf("webhook at %s: %w", req.URL.Host, err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // so that the connection can be used again
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("webhook at %s answers %d", req.URL.Host, resp.StatusCode)
	}
	return nil
}
