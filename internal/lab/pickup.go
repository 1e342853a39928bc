package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"

	"golang.org/x/net/html"
)

// Browser picks messages up as a person does: it opens pages, fills forms and
// follows links, keeps cookies, and runs no scripts.
type Browser struct {
	Client http.Client
	URL    *url.URL
	Status int
	Page   []byte
	Header http.Header
}

// NewBrowser returns a browser with an empty cookie jar.
func NewBrowser() *Browser {
	jar, _ := cookiejar.New(nil) // never fails without options
	return &Browser{Client: http.Client{Jar: jar, Timeout: 30 * time.Second}}
}

// Get opens a page, relative to the present one.
func (b *Browser) Get(ref string) error {
	u, err := b.resolve(ref)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	return b.do(req)
}

func (b *Browser) resolve(ref string) (*url.URL, error) {
	u, err := url.Parse(ref)
	if err == nil && b.URL != nil {
		u = b.URL.ResolveReference(u)
	}
	return u, err
}

func (b *Browser) do(req *http.Request) error {
	res, err := b.Client.Do(req)
	if err != nil {
		return errors.New("the portal does not answer") // the error names the URL, which is secret
	}
	defer res.Body.Close()
	b.Page, err = io.ReadAll(res.Body)
	b.URL, b.Status, b.Header = res.Request.URL, res.StatusCode, res.Header
	return err
}

// Form is a form of a page.
type Form struct {
	Action, Method string
	Fields         url.Values // with their present values; buttons too
	Empty          []Field    // the visible fields to fill in
	Text           string     // of the buttons
}

// Field is a visible field of a form.
type Field struct{ Name, Type, Autocomplete string }

// Submit sends a form.
func (b *Browser) Submit(f Form) error {
	u, err := b.resolve(f.Action)
	if err != nil {
		return err
	}
	var req *http.Request
	if strings.EqualFold(f.Method, "post") {
		req, err = http.NewRequest(http.MethodPost, u.String(), strings.NewReader(f.Fields.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Origin", u.Scheme+"://"+u.Host)
		}
	} else {
		u.RawQuery = f.Fields.Encode()
		req, err = http.NewRequest(http.MethodGet, u.String(), nil)
	}
	if err != nil {
		return err
	}
	return b.do(req)
}

// Links returns the targets of all links of the page.
func (b *Browser) Links() []string {
	var out []string
	b.walk(func(n *html.Node) {
		if n.Data == "a" && attr(n, "href") != "" {
			out = append(out, attr(n, "href"))
		}
	})
	return out
}

// Forms returns the forms of the page.
func (b *Browser) Forms() []Form {
	var forms []Form
	b.walk(func(n *html.Node) {
		if n.Data != "form" {
			return
		}
		f := Form{Action: attr(n, "action"), Method: attr(n, "method"), Fields: url.Values{}}
		walk(n, func(n *html.Node) {
			name, typ := attr(n, "name"), attr(n, "type")
			switch {
			case n.Data == "button", n.Data == "input" && typ == "submit":
				f.Text += text(n) + attr(n, "value") + " "
				if name != "" {
					f.Fields.Set(name, attr(n, "value"))
				}
			case n.Data == "input" && name != "":
				f.Fields.Set(name, attr(n, "value"))
				if typ != "hidden" && attr(n, "value") == "" {
					f.Empty = append(f.Empty, Field{name, typ, attr(n, "autocomplete")})
				}
			case n.Data == "textarea" && name != "":
				f.Fields.Set(name, text(n))
				f.Empty = append(f.Empty, Field{Name: name, Type: "textarea"})
			}
		})
		forms = append(forms, f)
	})
	return forms
}

func (b *Browser) walk(f func(*html.Node)) {
	if root, err := html.Parse(bytes.NewReader(b.Page)); err == nil {
		walk(root, f)
	}
}

func walk(n *html.Node, f func(*html.Node)) {
	if n.Type == html.ElementNode {
		f(n)
	}
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		walk(c, f)
	}
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func text(n *html.Node) string {
	if n.Type == html.TextNode {
		return n.Data
	}
	var out strings.Builder
	for c := n.FirstChild; c != nil; c = c.NextSibling {
		out.WriteString(text(c))
	}
	return out.String()
}

// Password is what recipients of the bed choose where they make an account.
const Password = "seven grey herons"

// Pickup opens a link and does what the pages ask for, until it has the original
// message, which it returns byte for byte. code is called after a code was asked for;
// passphrase answers where one is asked for, or a password, which is [Password] where
// it is empty.
func (b *Browser) Pickup(link string, code func() (string, error), passphrase string) ([]byte, error) {
	if err := b.Get(link); err != nil {
		return nil, err
	}
	asked := false
	for range 8 {
		if b.Status >= 400 {
			return nil, fmt.Errorf("the portal answered %d:\n%s", b.Status, b.Page)
		}
		for _, href := range b.Links() {
			if p, _, _ := strings.Cut(href, "?"); strings.HasSuffix(p, ".eml") || strings.HasSuffix(p, "/raw") {
				if err := b.Get(href); err != nil {
					return nil, err
				}
				if b.Status != http.StatusOK {
					return nil, fmt.Errorf("the download was answered with %d", b.Status)
				}
				return b.Page, nil
			}
		}
		if err := b.step(&asked, code, passphrase); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("no way to the message in 8 pages, the last is:\n%s", b.Page)
}

func (b *Browser) step(asked *bool, code func() (string, error), passphrase string) error {
	forms := b.Forms()
	for _, f := range forms { // ask for a code before filling one in
		if len(f.Empty) == 0 && !*asked && strings.EqualFold(f.Method, "post") {
			*asked = true
			return b.Submit(f)
		}
	}
	if passphrase == "" {
		passphrase = Password
	}
	for _, f := range forms {
		filled := false
		for _, field := range f.Empty { // of an enrolment both: the code and the new password
			switch {
			case field.Autocomplete == "one-time-code":
				c, err := code()
				if err != nil {
					return err
				}
				f.Fields.Set(field.Name, c)
				filled = true
			case field.Type == "password":
				f.Fields.Set(field.Name, passphrase)
				filled = true
			}
		}
		if filled {
			return b.Submit(f)
		}
	}
	return fmt.Errorf("no form to go on with on this page:\n%s", b.Page)
}

var codeLine = regexp.MustCompile(`(?m)\b(\d{3}[ -]?\d{3,5})\b`)

// Pickup picks a sealed message up by the link of its notice, reading the code
// from the mail that arrives for recipient.
func (b *Bed) Pickup(recipient, link, passphrase string) ([]byte, error) {
	return NewBrowser().Pickup(link, b.codeFor(recipient), passphrase)
}

// Open is Pickup by code, in a browser that stays: its page is the original message.
func (b *Bed) Open(recipient, link string) (*Browser, error) {
	browser := NewBrowser()
	_, err := browser.Pickup(link, b.codeFor(recipient), "")
	return browser, err
}

// codeFor returns a function that waits for a code that was mailed since now.
func (b *Bed) codeFor(recipient string) func() (string, error) {
	since := time.Now()
	return func() (c string, err error) {
		b.Wait(15*time.Second, func() bool {
			for _, m := range b.Received() {
				body := textOf(m.Data)
				if m.Time.After(since) && m.HasTo(recipient) && !linkLine.Match(body) {
					if found := codeLine.FindSubmatch(body); found != nil {
						c = strings.NewReplacer(" ", "", "-", "").Replace(string(found[1]))
					}
				}
			}
			return c != ""
		})
		if c == "" {
			return "", fmt.Errorf("no code arrived for %s", recipient)
		}
		return c, nil
	}
}
