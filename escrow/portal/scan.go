package portal

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/mail"
	"net/url"
	"strings"

	"github.com/emersion/go-message"

	"github.com/postseal/postseal/escrow/words"
)

// Limits on what is shown, in bytes.
const (
	maxShown  = 1 << 20 // of plain text, and of HTML
	maxImages = 2 << 20 // of images in the HTML, together
)

// content is what of a message can be shown.
type content struct {
	header    message.Header
	blocks    []block
	files     []file
	images    map[string]string // data URLs by Content-ID
	cut       bool              // there is more text than is shown
	truncated bool              // there are more parts than are read
	sealed    string            // encrypted, signed: in a way that only mail programs undo; or ""
}

// block is one piece of the text: a part, or the alternatives of one.
type block struct {
	message     int // 0, or the message within that it is of
	alternative int
	text        []string
	html        []string
	image       string    // a picture between texts: the Content-ID
	attached    *attached // the start of a message within
}

// file is a part to download, or a file within one.
type file struct {
	N         int
	In        int // counted from 1 within part N; 0 for the part itself
	Name      string
	Of        string // the name of the file that it is in, "" for none
	Size      int64  // bytes, decoded
	cid       string
	mediaType string
}

// scanner gathers what can be shown.
type scanner struct {
	c                              *content
	textLeft, htmlLeft, imagesLeft int64
	messages, shown                int // messages within
}

// scan reads a message for display. Memory is bounded by maxShown and maxImages,
// whatever its size.
func scan(r io.Reader) (*content, error) {
	c := &content{images: map[string]string{}}
	s := &scanner{c: c, textLeft: maxShown, htmlLeft: maxShown, imagesLeft: maxImages}
	header, truncated, err := walk(r, func(l *leaf, body io.Reader) error {
		in := 0
		return s.leaf(l, body, spot{n: l.n, in: &in})
	})
	if err != nil {
		return nil, err
	}
	c.header, c.truncated = header, c.truncated || truncated
	return c, nil
}

// read reads a text, up to what is left.
func (s *scanner) read(body io.Reader, left *int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(body, *left))
	if err != nil {
		return nil, err
	}
	*left -= int64(len(b))
	if *left == 0 {
		n, err := io.Copy(io.Discard, body)
		if err != nil {
			return nil, err
		}
		s.c.cut = s.c.cut || n > 0
	}
	return b, nil
}

func (s *scanner) leaf(l *leaf, body io.Reader, p spot) error {
	shown := l.disposition != "attachment" && l.filename == ""
	switch {
	case shown && (l.mediaType == "text/plain" || l.mediaType == "text/markdown"):
		b, err := s.read(body, &s.textLeft)
		if err != nil {
			return err
		}
		text := strings.ReplaceAll(withoutNUL(toUTF8(b, l.params["charset"], l.mediaType)), "\r\n", "\n")
		if strings.EqualFold(l.params["format"], "flowed") {
			text = unflow(text, strings.EqualFold(l.params["delsp"], "yes"))
		}
		if b := s.block(p.message, l.alternative); strings.TrimSpace(text) != "" {
			b.text = append(b.text, text)
		}
		return nil
	case shown && (l.mediaType == "text/html" || l.mediaType == "application/xhtml+xml"):
		b, err := s.read(body, &s.htmlLeft)
		if err != nil {
			return err
		}
		text := withoutNUL(toUTF8(b, l.params["charset"], "text/html"))
		if b := s.block(p.message, l.alternative); strings.TrimSpace(text) != "" {
			b.html = append(b.html, text)
		}
		return nil
	case l.alternative != 0 && shown && (l.mediaType == "text/x-amp-html" || l.mediaType == "text/watch-html"):
		return nil // a third form of the same text, for programs that ask for it
	}
	counted := &counter{r: body}
	f := file{N: l.n, In: p.k, Of: p.of, Name: filename(l.filename, l.mediaType, l.n), mediaType: l.mediaType}
	if p.k != 0 {
		f.N = p.n
	}
	if p.message == 0 {
		s.sealed(l)
	}
	i := s.file(f)
	p.of = f.Name
	var err error
	switch {
	case holdsMessage(l):
		err = s.message(counted, p)
	case holdsTNEF(l):
		err = s.tnef(counted, p)
	case l.disposition != "attachment" && (l.contentID != "" || l.disposition == "inline"):
		var url string
		url, _, err = s.image(counted)
		if url == "" || i < 0 {
			break
		}
		cid := l.contentID
		if cid == "" {
			cid = fmt.Sprintf("%d/%d@", f.N, f.In)
		}
		s.c.files[i].cid = cid
		s.c.images[cid] = url
		if l.disposition == "inline" {
			s.picture(cid, l.alternative, p)
		}
	}
	if err == nil {
		_, err = io.Copy(io.Discard, counted)
	}
	if i >= 0 {
		s.c.files[i].Size = counted.n
	}
	return err
}

// picture shows a picture between texts, where none of them names it.
func (s *scanner) picture(cid string, alternative int, p spot) {
	if alternative == 0 {
		s.add(block{message: p.message, image: cid})
		return
	}
	for i := range s.c.blocks {
		if b := &s.c.blocks[i]; b.message == p.message && b.alternative == alternative && len(b.html) > 0 && !s.c.names(cid) {
			shown := fmt.Sprintf("between/%d/%d@", p.n, p.k)
			s.c.images[shown] = s.c.images[cid]
			b.html = append(b.html, `<p><img src="cid:`+shown+`"></p>`)
		}
	}
}

// withoutNUL drops what no text has: programs have stopped at it, or skipped it.
func withoutNUL(s string) string { return strings.ReplaceAll(s, "\x00", "") }

// sealed notes that the message is packed in a way that only mail programs undo.
func (s *scanner) sealed(l *leaf) {
	switch l.mediaType {
	case "application/pkcs7-mime", "application/x-pkcs7-mime":
		s.c.sealed = "encrypted"
		if strings.EqualFold(l.params["smime-type"], "signed-data") {
			s.c.sealed = "signed"
		}
	case "application/pgp-encrypted":
		s.c.sealed = "encrypted"
	}
}

// image reads a picture for the page; url is "" if it is none, or too large for
// what is left.
func (s *scanner) image(body io.Reader) (url string, size int64, err error) {
	if s.imagesLeft <= 0 {
		return "", 0, nil
	}
	br := bufio.NewReaderSize(body, 1024)
	head, _ := br.Peek(512) // an error comes again
	t := imageType(head)
	if t == "" {
		return "", 0, nil
	}
	data, err := io.ReadAll(io.LimitReader(br, s.imagesLeft+1))
	if err != nil || int64(len(data)) > s.imagesLeft {
		return "", int64(len(data)), err
	}
	s.imagesLeft -= int64(len(data))
	return "data:" + t + ";base64," + base64.StdEncoding.EncodeToString(data), int64(len(data)), nil
}

// counter counts the bytes read.
type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// file lists a file, and returns its index; -1 if there are too many.
func (s *scanner) file(f file) int {
	if len(s.c.files) >= maxFiles {
		s.c.truncated = true
		return -1
	}
	s.c.files = append(s.c.files, f)
	return len(s.c.files) - 1
}

func (s *scanner) add(b block) *block {
	if len(s.c.blocks) >= maxBlocks {
		s.c.truncated = true
		return &block{}
	}
	s.c.blocks = append(s.c.blocks, b)
	return &s.c.blocks[len(s.c.blocks)-1]
}

// block returns the block of an alternative, or a new one outside of any.
func (s *scanner) block(message, alternative int) *block {
	if alternative != 0 {
		for i := range s.c.blocks {
			if b := &s.c.blocks[i]; b.message == message && b.alternative == alternative {
				return b
			}
		}
	}
	return s.add(block{message: message, alternative: alternative})
}

// imageType is the type of an image that every browser shows, by its bytes; ""
// for all else, SVG among it.
func imageType(head []byte) string {
	switch t := http.DetectContentType(head); t {
	case "image/png", "image/jpeg", "image/gif", "image/webp":
		return t
	}
	return ""
}

// text is the plain text of the message: of each block the text, or what its HTML
// says.
func (c *content) text() string { return c.textIn(nil) }

// textIn is the text, with the heads of messages within in the words of a
// language; with nil, without words.
func (c *content) textIn(w *words.Words) string {
	var parts []string
	for _, b := range c.blocks {
		switch {
		case b.attached != nil:
			var head []string
			if w != nil {
				head = append(head, "──── "+w.T("message.attached")+" ────")
			}
			for _, l := range b.attached.lines(w) {
				head = append(head, strings.TrimPrefix(l[0]+": "+l[1], ": "))
			}
			parts = append(parts, strings.Join(head, "\n"))
		case len(b.text) > 0:
			parts = append(parts, b.text...)
		default:
			for _, h := range b.html {
				parts = append(parts, htmlToText(h))
			}
		}
	}
	out := parts[:0]
	for _, p := range parts {
		if p = strings.Trim(p, "\n"); p != "" {
			out = append(out, p)
		}
	}
	return strings.Join(out, "\n\n")
}

// lines are what the head of a message within tells: a name and a value each.
func (a *attached) lines(w *words.Words) [][2]string {
	date := a.Date
	if t, err := mail.ParseDate(date); err == nil && w != nil {
		date = w.Full(t)
	}
	var lines [][2]string
	for _, l := range [][2]string{{"message.from", a.From}, {"message.to", a.To}, {"message.date", date}, {"message.subject", a.Subject}} {
		if l[1] == "" {
			continue
		}
		if w != nil {
			l[0] = w.T(l[0])
		} else {
			l[0] = ""
		}
		lines = append(lines, l)
	}
	return lines
}

// hasText and hasHTML report in which forms the sender wrote the message; of
// messages within only if there is nothing else.
func (c *content) hasText() bool {
	first := -1
	for _, b := range c.blocks {
		if first < 0 && (len(b.text) > 0 || len(b.html) > 0) {
			first = b.message
		}
		if b.message == first && len(b.text) > 0 {
			return true
		}
	}
	return false
}

// hasHTML also counts pictures between texts.
func (c *content) hasHTML() bool {
	return c.any(func(b block) bool { return len(b.html) > 0 || b.image != "" })
}

func (c *content) any(f func(block) bool) bool {
	for _, b := range c.blocks {
		if f(b) {
			return true
		}
	}
	return false
}

// names reports whether the HTML shows a picture at its place.
func (c *content) names(cid string) bool {
	return c.any(func(b block) bool {
		for _, h := range b.html {
			if strings.Contains(h, "cid:"+cid) || strings.Contains(h, "cid:"+url.PathEscape(cid)) {
				return true
			}
		}
		return false
	})
}

// attachments are the files, without the images that the HTML shows.
func (c *content) attachments() []file {
	var files []file
	for _, f := range c.files {
		if f.cid == "" || !c.names(f.cid) {
			files = append(files, f)
		}
	}
	return files
}
