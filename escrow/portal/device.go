package portal

import (
	"net/http"
	"time"

	"github.com/postseal/postseal/escrow"
)

// deviceCookie is the name of the cookie by which a browser is verified for all
// messages to one recipient. Two recipients may share a browser.
func (p *portal) deviceCookie(tag string) string {
	name := "device-" + tag
	if p.secure {
		name = "__Secure-" + name
	}
	return name
}

// setDevice keeps the token of a device in the browser until ends; "" forgets it.
// Lax, not Strict: a link in a mail program must find a verified device.
func (p *portal) setDevice(w http.ResponseWriter, tag, token string, ends time.Time) {
	c := &http.Cookie{
		Name: p.deviceCookie(tag), Value: token, Path: p.base + "/",
		Secure: p.secure, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if c.MaxAge = int(ends.Sub(p.now()) / time.Second); c.MaxAge <= 0 || token == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// deviceToken returns the token that the browser has for a recipient, "" if it has
// none.
func (p *portal) deviceToken(r *http.Request, tag string) string {
	if c, err := r.Cookie(p.deviceCookie(tag)); err == nil {
		return c.Value
	}
	return ""
}

// deviceOf finds the device that the browser is for a recipient:
// escrow.ErrUnknown where it is none, or no longer.
func (p *portal) deviceOf(r *http.Request, tag string) (*escrow.Device, error) {
	token := p.deviceToken(r, tag)
	if !isTag(tag) || token == "" || token == closedDevice {
		return nil, escrow.ErrUnknown
	}
	return p.vault.CheckDevice(r.Context(), tag, token)
}
