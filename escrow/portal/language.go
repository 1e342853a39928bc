package portal

import (
	"context"
	"net/http"
	"net/url"

	"github.com/postseal/postseal/escrow/words"
)

// languageCookie remembers what a reader chose, for a year.
const languageCookie = "lang"

const languageMaxAge = 365 * 24 * 60 * 60 // seconds

// languageLink is one of the languages at the foot of a page.
type languageLink struct {
	words.Language
	URL     string
	Current bool
}

// chooseLanguage notes the language that a reader has chosen, now (?lang=de) or
// before. A choice made now is kept in a cookie; nothing else comes of it, so a GET
// may do it.
func (p *portal) chooseLanguage(w http.ResponseWriter, r *http.Request, req *request) {
	name := languageCookie
	if p.secure {
		name = "__Secure-" + name
	}
	if r.Method == http.MethodGet && r.URL.RawQuery != "" {
		if tag := r.URL.Query().Get("lang"); words.Check(tag) == nil {
			req.chosen = tag
			http.SetCookie(w, &http.Cookie{
				Name: name, Value: tag, Path: p.base + "/", MaxAge: languageMaxAge,
				Secure: p.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
			})
			return
		}
	}
	if c, err := r.Cookie(name); err == nil && words.Check(c.Value) == nil {
		req.chosen = c.Value
	}
}

// place notes where a request is, for the links of its answer: home is a page that
// GET shows, sender is who the message is from, "" where it is about none.
func place(ctx context.Context, home, sender string) {
	if r, ok := ctx.Value(requestKey{}).(*request); ok {
		r.home, r.sender = home, sender
	}
}

// wordsOf returns the words for a request: those that its reader has chosen, else
// those of the rule about the recipient, else those that the browser asks for.
func wordsOf(r *http.Request) *words.Words {
	if q, ok := r.Context().Value(requestKey{}).(*request); ok {
		if q.chosen != "" {
			return words.For(q.chosen)
		}
		if q.language != "" {
			return words.For(q.language)
		}
	}
	return words.Match(r.Header.Get("Accept-Language"))
}

// languageLinks are links to a page in each language. One that answers a form has no
// address to come back to: its links lead to where the form was.
func languageLinks(r *http.Request, page string, now *words.Words) []languageLink {
	home, query := "", url.Values{}
	q, _ := r.Context().Value(requestKey{}).(*request)
	switch {
	case page == "unknown": // is the same for all, whatever was asked
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		query = r.URL.Query()
	case q != nil && q.home != "":
		home = q.home
	default:
		return nil
	}
	var links []languageLink
	for _, l := range words.Languages() {
		query.Set("lang", l.Tag)
		links = append(links, languageLink{l, home + "?" + query.Encode(), l.Tag == now.Tag})
	}
	return links
}
