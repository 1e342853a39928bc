package portal

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/mail"
	"strconv"
	"strings"
	"time"

	"github.com/emersion/go-message"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/words"
)

// frameCSP is the policy of the frame that shows HTML mail. Links may open pages
// of their own; nothing is loaded and nothing runs.
const frameCSP = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'; " +
	"sandbox allow-popups allow-popups-to-escape-sandbox"

// openerPolicy cuts a page off from who opened it. A sandboxed answer does without:
// HTML lets a browser take the two together for an error.
const openerPolicy = "Cross-Origin-Opener-Policy"

// messageView is the page of a message.
type messageView struct {
	Self     string
	Inbox    string // of all messages to the recipient, "" where the device is not verified for it
	Leave    string // where to close it on this device
	Item     string
	Subject  string
	From     string
	Envelope string // the sender as the mail system knows it, where From says otherwise
	To       string
	Cc       string
	Date     string
	Expires  time.Time
	Size     int64

	HTML      bool // the frame is shown
	HasHTML   bool
	Text      []segment
	Files     []file
	Cut       bool
	Truncated bool
	Sealed    string // as content has it

	Reply   string // new, draft; "" where there is nobody to reply to
	Replies []repliedView
}

// message shows a message: as plain text first, if its sender wrote one.
func (p *portal) message(w http.ResponseWriter, r *http.Request, v *visit, s *escrow.Session) error {
	if r.Method == http.MethodHead {
		return headOnly(w, "text/html; charset=utf-8")
	}
	doc, err := p.messagePage(r, v, s)
	if err != nil {
		return err
	}
	return send(w, r, http.StatusOK, doc)
}

func (p *portal) messagePage(r *http.Request, v *visit, s *escrow.Session) ([]byte, error) {
	reply, replies := p.replied(r.Context(), v, s)
	leave, err := p.render(r.Context())
	if err != nil {
		return nil, err
	}
	defer leave()
	c, err := p.scan(r.Context(), v, s)
	if err != nil {
		return nil, err
	}
	view := messageView{
		Self: v.self, Item: v.ItemID, Expires: v.Expires, Size: v.Size,
		Subject: headerText(c.header, "Subject"), To: headerText(c.header, "To"), Cc: headerText(c.header, "Cc"),
		HasHTML: c.hasHTML(), Files: c.attachments(), Cut: c.cut, Truncated: c.truncated, Sealed: c.sealed,
		Reply: reply, Replies: replies,
	}
	view.Leave = v.self + "/leave"
	if p.inbox != nil && v.device != nil {
		view.Inbox = p.inboxPath(v.device.Tag)
		if v.inbox {
			view.Leave = view.Inbox + "/leave"
		}
	}
	view.From = headerText(c.header, "From")
	if sender := clean(v.Sender); !strings.Contains(strings.ToLower(view.From), strings.ToLower(sender)) {
		view.Envelope = sender
	}
	if view.From == "" {
		view.From, view.Envelope = view.Envelope, ""
	}
	if view.Date = headerText(c.header, "Date"); view.Date != "" {
		if t, err := mail.ParseDate(view.Date); err == nil {
			view.Date = wordsOf(r).Full(t)
		}
	}
	switch r.URL.Query().Get("as") {
	case "html":
		view.HTML = view.HasHTML
	case "text":
	default:
		view.HTML = view.HasHTML && !c.hasText()
	}
	if !view.HTML {
		view.Text = segments(c.textIn(wordsOf(r)))
	}
	return p.pages.render(r, "message", view)
}

// html is the document of the frame, made harmless. It may also be opened by
// itself: the sandbox is in its own policy too.
func (p *portal) html(w http.ResponseWriter, r *http.Request, v *visit, s *escrow.Session) error {
	h := w.Header()
	h.Set("Content-Security-Policy", frameCSP)
	h.Set("X-Frame-Options", "SAMEORIGIN")
	h.Del(openerPolicy)
	if r.Method == http.MethodHead {
		return headOnly(w, "text/html; charset=utf-8")
	}
	doc, err := p.frame(r.Context(), v, s, wordsOf(r))
	if err != nil {
		return err
	}
	return send(w, r, http.StatusOK, []byte(doc))
}

func (p *portal) frame(ctx context.Context, v *visit, s *escrow.Session, w *words.Words) (string, error) {
	leave, err := p.render(ctx)
	if err != nil {
		return "", err
	}
	defer leave()
	c, err := p.scan(ctx, v, s)
	if err != nil {
		return "", err
	}
	return p.sanitizer.document(c, w)
}

// part downloads one part of the message, decoded, as it streams; with in, a file
// that the part holds.
func (p *portal) part(w http.ResponseWriter, r *http.Request, v *visit, s *escrow.Session) error {
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil || n < 1 || n > maxParts {
		return escrow.ErrUnknown
	}
	in := 0
	if q := r.URL.Query().Get("in"); q != "" {
		if in, err = strconv.Atoi(q); err != nil || in < 1 {
			return escrow.ErrUnknown
		}
	}
	if r.Method == http.MethodHead {
		return headOnly(w, "application/octet-stream")
	}
	var within file
	if in > 0 {
		// A name may come after its file: the list is read first.
		if within, err = p.within(r.Context(), v, s, n, in); err != nil {
			return err
		}
	}
	part := strconv.Itoa(n)
	if in > 0 {
		part += "/" + strconv.Itoa(in)
	}
	body, err := p.vault.Open(escrow.Downloading(r.Context(), escrow.DownloadFile, part), v.Pickup, s)
	if err != nil {
		return opening(err)
	}
	defer body.Close()
	sent := false
	_, _, err = walk(body, func(l *leaf, content io.Reader) error {
		if l.n != n {
			return nil
		}
		if in > 0 {
			var err error
			sent, err = inside(l, content, in, func(body io.Reader) error {
				p.download(w, within.Name, downloadType(within.mediaType))
				_, err := io.Copy(w, body)
				return err
			})
			if err != nil {
				return err
			}
			return errEnough
		}
		sent = true
		p.download(w, filename(l.filename, l.mediaType, l.n), downloadType(l.mediaType))
		if _, err := io.Copy(w, content); err != nil {
			return err
		}
		return errEnough
	})
	if err == nil && !sent {
		return escrow.ErrUnknown
	}
	return err
}

// within finds a file that a part holds, by its number.
func (p *portal) within(ctx context.Context, v *visit, s *escrow.Session, n, in int) (file, error) {
	leave, err := p.render(ctx)
	if err != nil {
		return file{}, err
	}
	defer leave()
	c, err := p.scan(ctx, v, s)
	if err != nil {
		return file{}, err
	}
	for _, f := range c.files {
		if f.N == n && f.In == in {
			return f, nil
		}
	}
	return file{}, escrow.ErrUnknown
}

// raw downloads the message byte for byte.
func (p *portal) raw(w http.ResponseWriter, r *http.Request, v *visit, s *escrow.Session) error {
	if r.Method == http.MethodHead {
		w.Header().Set("Content-Length", strconv.FormatInt(v.Size, 10))
		return headOnly(w, "application/octet-stream")
	}
	body, err := p.vault.Open(escrow.Downloading(r.Context(), escrow.DownloadOriginal, ""), v.Pickup, s)
	if err != nil {
		return opening(err)
	}
	defer body.Close()
	if p.senders != nil {
		p.senders.Downloaded(r.Context(), v.Pickup)
	}
	// Not message/rfc822: some browsers show that.
	name := "message.eml"
	if v.inbox { // where several may be downloaded, one after the other
		name, body = nameOf(v, body)
	}
	p.download(w, name, "application/octet-stream")
	if v.Size > 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(v.Size, 10))
	}
	_, err = io.Copy(w, body)
	return err
}

func (p *portal) download(w http.ResponseWriter, name, mediaType string) {
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Disposition", contentDisposition(name))
	h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
	h.Del(openerPolicy)
}

// headOnly answers HEAD without opening the message: that would count as read.
func headOnly(w http.ResponseWriter, mediaType string) error {
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(http.StatusOK)
	return nil
}

// render waits for a place to take a message apart and make a page of it: few do
// so at a time. The page is sent without it, since the other end may be slow.
func (p *portal) render(ctx context.Context) (leave func(), err error) {
	select {
	case p.rendering <- struct{}{}:
		return func() { <-p.rendering }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// scan opens the message and takes it apart.
func (p *portal) scan(ctx context.Context, v *visit, s *escrow.Session) (*content, error) {
	body, err := p.vault.Open(ctx, v.Pickup, s)
	if err != nil {
		return nil, opening(err)
	}
	defer body.Close()
	return scan(body)
}

// opening keeps a message whose key is gone from looking like a wrong link: the
// link was right a moment ago.
func opening(err error) error { return fmt.Errorf("open message: %v", err) }

// headerText returns a header field for display.
func headerText(h message.Header, name string) string {
	const most = 2000
	text := clean(decodeWords(h.Get(name)))
	if r := []rune(text); len(r) > most {
		text = string(r[:most]) + "…"
	}
	return text
}
