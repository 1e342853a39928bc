package portal

import (
	"bufio"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/emersion/go-message"
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
}

// block is one piece of the text: a part, or the alternatives of one.
type block struct {
	alternative int
	text        []string
	html        []string
}

// file is a part to download.
type file struct {
	N    int
	Name string
	Size int64 // bytes, decoded
	cid  string
}

// scan reads a message for display. Memory is bounded by maxShown and maxImages,
// whatever its size.
func scan(r io.Reader) (*content, error) {
	c := &content{images: map[string]string{}}
	textLeft, htmlLeft, imagesLeft := int64(maxShown), int64(maxShown), int64(maxImages)
	read := func(body io.Reader, left *int64) ([]byte, error) {
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
			c.cut = c.cut || n > 0
		}
		return b, nil
	}
	var err error
	c.header, c.truncated, err = walk(r, func(l *leaf, body io.Reader) error {
		shown := l.disposition != "attachment" && l.filename == ""
		switch {
		case shown && l.mediaType == "text/plain":
			b, err := read(body, &textLeft)
			if err != nil {
				return err
			}
			text := strings.ReplaceAll(toUTF8(b, l.params["charset"], l.mediaType), "\r\n", "\n")
			if strings.EqualFold(l.params["format"], "flowed") {
				text = unflow(text, strings.EqualFold(l.params["delsp"], "yes"))
			}
			if b := c.block(l.alternative); strings.TrimSpace(text) != "" {
				b.text = append(b.text, text)
			}
		case shown && (l.mediaType == "text/html" || l.mediaType == "application/xhtml+xml"):
			b, err := read(body, &htmlLeft)
			if err != nil {
				return err
			}
			text := toUTF8(b, l.params["charset"], "text/html")
			if b := c.block(l.alternative); strings.TrimSpace(text) != "" {
				b.html = append(b.html, text)
			}
		case l.alternative != 0 && shown && (l.mediaType == "text/x-amp-html" || l.mediaType == "text/watch-html"):
			// A third form of the same text, for programs that ask for it.
		default:
			f := file{N: l.n, Name: filename(l.filename, l.mediaType, l.n)}
			if l.contentID != "" && l.disposition != "attachment" && imagesLeft > 0 {
				br := bufio.NewReader(body)
				head, _ := br.Peek(512)
				if t := imageType(head); t != "" {
					data, err := io.ReadAll(io.LimitReader(br, imagesLeft+1))
					if err != nil {
						return err
					}
					f.Size = int64(len(data))
					if f.Size <= imagesLeft {
						imagesLeft -= f.Size
						f.cid = l.contentID
						c.images[l.contentID] = "data:" + t + ";base64," + base64.StdEncoding.EncodeToString(data)
					}
				}
				body = br
			}
			n, err := io.Copy(io.Discard, body)
			if err != nil {
				return err
			}
			f.Size += n
			c.files = append(c.files, f)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// block returns the block of an alternative, or a new one outside of any.
func (c *content) block(alternative int) *block {
	if alternative != 0 {
		for i := range c.blocks {
			if c.blocks[i].alternative == alternative {
				return &c.blocks[i]
			}
		}
	}
	c.blocks = append(c.blocks, block{alternative: alternative})
	return &c.blocks[len(c.blocks)-1]
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
func (c *content) text() string {
	var parts []string
	for _, b := range c.blocks {
		if len(b.text) > 0 {
			parts = append(parts, b.text...)
			continue
		}
		for _, h := range b.html {
			parts = append(parts, htmlToText(h))
		}
	}
	for i, p := range parts {
		parts[i] = strings.Trim(p, "\n")
	}
	return strings.Join(parts, "\n\n")
}

// hasText and hasHTML report in which forms the sender wrote the message.
func (c *content) hasText() bool { return c.any(func(b block) bool { return len(b.text) > 0 }) }
func (c *content) hasHTML() bool { return c.any(func(b block) bool { return len(b.html) > 0 }) }

func (c *content) any(f func(block) bool) bool {
	for _, b := range c.blocks {
		if f(b) {
			return true
		}
	}
	return false
}

// attachments are the files, without the images that the HTML shows.
func (c *content) attachments() []file {
	var files []file
	for _, f := range c.files {
		if f.cid == "" || !c.any(func(b block) bool {
			for _, h := range b.html {
				if strings.Contains(h, "cid:"+f.cid) || strings.Contains(h, "cid:"+url.PathEscape(f.cid)) {
					return true
				}
			}
			return false
		}) {
			files = append(files, f)
		}
	}
	return files
}
