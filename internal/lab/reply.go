package lab

import (
	"bytes"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"strings"

	"golang.org/x/net/html"
)

// Attachment is a file that a [Browser] sends along.
type Attachment struct {
	Name string
	Data []byte
}

// Reply opens the page of a reply, fills it in and presses a button, "send" or
// "save". It sends the fields in the order of the page, as browsers do. The message
// must have been picked up by this browser.
func (b *Browser) Reply(link, button, text string, all bool, files ...Attachment) error {
	if err := b.Get(strings.TrimRight(link, "/") + "/reply"); err != nil {
		return err
	}
	if b.Status != http.StatusOK {
		return fmt.Errorf("the page of the reply was answered with %d:\n%s", b.Status, b.Page)
	}
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	action := ""
	b.walk(func(n *html.Node) {
		if n.Data == "form" && attr(n, "id") == "reply" {
			action = attr(n, "action")
			walk(n, func(n *html.Node) {
				switch name := attr(n, "name"); {
				case n.Data == "input" && attr(n, "type") == "hidden":
					form.WriteField(name, attr(n, "value"))
				case n.Data == "input" && attr(n, "type") == "radio" && all == (attr(n, "value") == "1"):
					form.WriteField(name, attr(n, "value"))
				case n.Data == "textarea" && name != "":
					form.WriteField(name, text)
				case n.Data == "input" && attr(n, "type") == "file":
					for _, f := range files {
						if w, err := form.CreateFormFile(name, f.Name); err == nil {
							w.Write(f.Data)
						}
					}
				case n.Data == "button" && name == "do" && attr(n, "value") == button:
					form.WriteField(name, button)
				}
			})
		}
	})
	if action == "" {
		return fmt.Errorf("no form for a reply on this page:\n%s", b.Page)
	}
	form.Close()
	u, err := b.resolve(action)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, u.String(), &body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", form.FormDataContentType())
	req.Header.Set("Origin", u.Scheme+"://"+u.Host)
	if err := b.do(req); err != nil {
		return err
	}
	if b.Status != http.StatusOK {
		return fmt.Errorf("the reply was answered with %d:\n%s", b.Status, b.Page)
	}
	if button == "send" && !strings.HasSuffix(b.URL.Path, "/reply/sent") {
		return errors.New("the page after the reply is not the one that says it was sent:\n" + string(b.Page))
	}
	return nil
}
