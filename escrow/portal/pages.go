package portal

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/postseal/postseal/escrow/account"
	"github.com/postseal/postseal/escrow/brand"
	"github.com/postseal/postseal/escrow/words"
)

//go:embed templates
var files embed.FS

// pages renders the portal's pages. Style and icon are part of each: nothing else
// has to be fetched before it can be read. A script, where a page has one, only
// helps: it is templates/NAME.js, and stands where its template says {{script
// "NAME"}}.
type pages struct {
	parse     func(language, name string) (*template.Template, error)
	mu        sync.Mutex
	templates map[[2]string]*template.Template // by language and name, those that were used
	style     string                           // its source in a policy
	scripted  map[string]string                // sources of scripts, by page
	icon      []byte
	host      string
	support   string
	brands    *brand.Set
	now       func() time.Time
}

// page is what a template is executed with. The words of its language are
// functions of the template:
//
//	t, th             text, and text with arguments that are HTML
//	date, day, clock  a time (words.Words has what they mean), "" for the zero time
//	full              a time in its own zone, with the day of the week
//	in, ago, until    how far it is from now; when it is, and how far that is
//	size, number
//	bdi, strong, item text that may run in another direction; the same, stressed; the
//	                  number of a message
type page struct {
	*words.Words
	Page      string // its name
	Host      string
	Support   string
	Brand     *brandView // nil: none
	Languages []languageLink
	View      any
}

// pageNames are the templates, each a file of that name.
var pageNames = []string{"landing", "enrol", "signin", "forgot", "account", "message", "over", "unknown", "refused", "trouble", "reply", "replied", "kept", "inbox", "inbox-closed", "sender", "sender-ask"}

// sharedScripts names the script of pages that have one together.
var sharedScripts = map[string]string{"enrol": "passkey", "signin": "passkey", "forgot": "passkey", "account": "passkey"}

func newPages(host, support string, brands *brand.Set, now func() time.Time) (*pages, error) {
	rules, err := files.ReadFile("templates/style.css")
	if err != nil {
		return nil, fmt.Errorf("portal pages: %w", err)
	}
	style := brand.Stylesheet + string(rules)
	icon, err := files.ReadFile("templates/icon.svg")
	if err != nil {
		return nil, fmt.Errorf("portal pages: %w", err)
	}
	p := &pages{templates: map[[2]string]*template.Template{}, scripted: map[string]string{}, icon: icon, host: host, support: support, brands: brands, now: now}
	p.style = source(style)
	scripts := map[string]template.HTML{}
	for _, name := range pageNames {
		file := name
		if shared := sharedScripts[name]; shared != "" {
			file = shared
		}
		script, err := files.ReadFile("templates/" + file + ".js")
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("portal pages: %w", err)
		}
		p.scripted[name] = source(string(script))
		scripts[file] = template.HTML("<script>" + string(script) + "</script>")
	}
	styleElement := template.HTML("<style>" + style + "</style>")
	iconURL := template.URL("data:image/svg+xml;base64," + base64.StdEncoding.EncodeToString(icon))
	p.parse = func(language, name string) (*template.Template, error) {
		return template.New("layout.html").Funcs(functions(words.For(language), now)).Funcs(template.FuncMap{
			"style":  func() template.HTML { return styleElement },
			"icon":   func() template.URL { return iconURL },
			"script": func(name string) template.HTML { return scripts[name] },
		}).ParseFS(files, "templates/layout.html", "templates/access.html", "templates/"+name+".html")
	}
	for _, name := range pageNames { // what can't be parsed is told now; all languages have the same functions
		if _, err := p.template(words.Languages()[0].Tag, name); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// template returns the template of a page, which is made when it is first asked for:
// all pages in all languages take some ten megabytes.
func (p *pages) template(language, name string) (*template.Template, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := [2]string{language, name}
	if t := p.templates[key]; t != nil {
		return t, nil
	}
	t, err := p.parse(language, name)
	if err != nil {
		return nil, fmt.Errorf("portal pages: %w", err)
	}
	p.templates[key] = t
	return t, nil
}

// source names an inline style or script in a policy, by its hash.
func source(text string) string {
	hash := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"
}

// policy is the Content-Security-Policy of a page: its own style, that of a brand,
// its script, and nothing else.
func (p *pages) policy(name string, b *brand.Brand) string {
	styles := p.style
	if b != nil && b.Style != "" {
		styles += " " + source(string(b.Style))
	}
	csp := "default-src 'none'; style-src " + styles + "; img-src data:; frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	if script := p.scripted[name]; script != "" {
		csp += "; script-src " + script + "; connect-src 'self'"
	}
	return csp
}

// functions are those of the templates in a language.
func functions(w *words.Words, now func() time.Time) template.FuncMap {
	f := template.FuncMap{"t": w.T, "th": w.HTML}
	f["date"] = w.Date
	f["day"] = w.Day
	f["clock"] = w.Clock
	f["full"] = w.Full
	f["in"] = func(t time.Time) string { return w.In(t, now()) }
	f["ago"] = func(t time.Time) string { return w.Ago(t, now()) }
	f["until"] = func(t time.Time) string { return w.Until(t, now()) }
	f["size"] = w.Size
	f["number"] = w.Number
	f["bdi"] = words.Isolate
	f["strong"] = func(s string) template.HTML { return "<strong>" + words.Isolate(s) + "</strong>" }
	f["item"] = func(s string) template.HTML {
		return `<bdi class="item">` + template.HTML(template.HTMLEscapeString(s)) + "</bdi>"
	}
	f["minPassword"] = func() int { return account.MinPassword }
	return f
}

// write renders a page, whole, before the status is sent.
func (p *pages) write(w http.ResponseWriter, r *http.Request, status int, name string, view any) error {
	doc, err := p.render(r, name, view)
	if err != nil {
		if name == "trouble" {
			http.Error(w, "Please try again later.", http.StatusServiceUnavailable)
			return nil
		}
		return err
	}
	return send(w, r, status, doc)
}

func (p *pages) render(r *http.Request, name string, view any) ([]byte, error) {
	w := wordsOf(r)
	q, ok := r.Context().Value(requestKey{}).(*request)
	if !ok {
		q = new(request)
	}
	own := p.brands.For(q.sender)
	q.policy = p.policy(name, own)
	t, err := p.template(w.Tag, name)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, page{w, name, p.host, p.support, viewBrand(own, w.Tag), languageLinks(r, name, w), view}); err != nil {
		return nil, fmt.Errorf("page %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// send answers with an HTML document.
func send(w http.ResponseWriter, r *http.Request, status int, doc []byte) error {
	if q, ok := r.Context().Value(requestKey{}).(*request); ok && q.policy != "" {
		w.Header().Set("Content-Security-Policy", q.policy)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(doc)))
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return nil
	}
	_, err := w.Write(doc)
	return err
}

// masked shows an address to who may not be its owner: the first letter of the
// local part, and the domain.
func masked(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at <= 0 {
		return "•••"
	}
	local, domain := strings.Trim(address[:at], `"`), address[at:]
	_, n := utf8.DecodeRuneInString(local)
	return local[:n] + "•••" + clean(domain)
}
