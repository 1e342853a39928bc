package portal

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/words"
)

// Senders shows the senders of messages what became of them. [escrow.Vault] is one.
// pickup names one of the recipients of the view; "" means all where that is said.
type Senders interface {
	// SenderView finds what a link to a sender's page leads to; escrow.ErrUnknown.
	SenderView(ctx context.Context, item, token string) (*escrow.SenderView, error)
	// SenderExtend lets a recipient, or all, read the message for longer, and
	// returns until when. escrow.ErrUnknown if it is over.
	SenderExtend(ctx context.Context, v *escrow.SenderView, pickup string) (time.Time, error)
	// SenderResend mails a new link. *escrow.LockedError after too many;
	// escrow.ErrNotRecoverable, or escrow.ErrNoPassphrase where one has to be set.
	SenderResend(ctx context.Context, v *escrow.SenderView, pickup string) error
	// SenderRetract takes the message back from a recipient, or from all.
	SenderRetract(ctx context.Context, v *escrow.SenderView, pickup string) error
	// SenderPassphrase mails a new link that needs the passphrase, as SenderResend.
	// *escrow.PassphraseError if it can't be taken.
	SenderPassphrase(ctx context.Context, v *escrow.SenderView, pickup, phrase string) error
	// SenderReset deletes a recipient's account; escrow.ErrUnknown if there is none.
	SenderReset(ctx context.Context, v *escrow.SenderView, pickup string) error
	// Downloaded notes, for the page, that a recipient has downloaded the original.
	Downloaded(ctx context.Context, p *escrow.Pickup)
}

// senderRoutes mounts the sender's page.
func (p *portal) senderRoutes(handle func(pattern, route string, h handler)) {
	const s = "/s/{item}/{token}"
	mount := func(method, path string, h func(http.ResponseWriter, *http.Request, *senderVisit) error) {
		handle(method+" "+p.base+s+path, s+path, p.sender(h))
	}
	mount("GET", "", p.senderPage)
	mount("POST", "/extend", p.senderExtend)
	mount("POST", "/resend", p.senderResend)
	for _, act := range []string{"retract", "passphrase", "reset"} {
		mount("GET", "/"+act, func(w http.ResponseWriter, r *http.Request, v *senderVisit) error {
			return p.senderAsk(w, r, v, act)
		})
	}
	mount("POST", "/retract", p.senderRetract)
	mount("POST", "/passphrase", p.senderPassphrase)
	mount("POST", "/reset", p.senderReset)
}

// senderVisit is a request to a sender's page, with the right link.
type senderVisit struct {
	*escrow.SenderView
	self string // path of the page, escaped
}

// sender finds what a link to a sender's page leads to. A stranger's link ends here,
// as every unknown path does.
func (p *portal) sender(h func(http.ResponseWriter, *http.Request, *senderVisit) error) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		item, token := r.PathValue("item"), r.PathValue("token")
		got, err := p.senders.SenderView(r.Context(), item, token)
		if err != nil {
			return err
		}
		found(r.Context(), got.ItemID, "")
		v := &senderVisit{got, p.base + "/s/" + url.PathEscape(item) + "/" + url.PathEscape(token)}
		place(r.Context(), v.self, got.Sender)
		if r.Method == http.MethodPost {
			if err := form(w, r); err != nil {
				return err
			}
		}
		return h(w, r, v)
	}
}

// senderView is the sender's page.
type senderView struct {
	Self       string
	Item       string
	Created    time.Time
	Size       int64
	Recipients []senderRow
	Open       int       // recipients who can read it still
	ExtendTo   time.Time // what extending would give; zero: nothing
	Sealed     bool      // no new link can be made
	Done       string    // what was done just now: extend, resend, …
	Locked     time.Time // no new link before
	Changed    bool      // the action came too late
}

// senderRow is one recipient on it.
type senderRow struct {
	escrow.SenderRecipient
	Over  bool
	How   string // of the first reading, in words
	Lines []eventLine
}

// eventLine is an event in words.
type eventLine struct {
	At   time.Time
	Text string
}

func (p *portal) senderView(r *http.Request, v *senderVisit) senderView {
	w := wordsOf(r)
	view := senderView{Self: v.self, Item: v.ItemID, Created: v.Created, Size: v.Size, Sealed: v.Mode == escrow.ModeSealed}
	for _, got := range v.Recipients {
		row := senderRow{SenderRecipient: got, Over: got.Over(), How: phrased(w, "sender.how-", got.ReadHow)}
		row.Address = clean(got.Address)
		if !row.Over {
			view.Open++
			if got.ExtendTo.After(view.ExtendTo) {
				view.ExtendTo = got.ExtendTo
			}
		}
		for _, e := range got.Events {
			if text := phrased(w, "sender.event-", e.What, e.Detail); text != "" {
				row.Lines = append(row.Lines, eventLine{e.At, text})
			}
		}
		view.Recipients = append(view.Recipients, row)
	}
	return view
}

// phrased returns the text of the key that prefix and parts make, joined by dashes;
// where there is none, that of fewer parts; "" where there is none at all.
func phrased(w *words.Words, prefix string, parts ...string) string {
	for n := len(parts); n > 0; n-- {
		key := prefix + parts[0]
		for _, part := range parts[1:n] {
			key += "-" + part
		}
		if text := w.T(key); text != key {
			return text
		}
	}
	return ""
}

// senderActs are what can be done on the page, as in its addresses.
var senderActs = []string{"extend", "resend", "retract", "passphrase", "reset"}

// senderPage shows the message. It changes nothing.
func (p *portal) senderPage(w http.ResponseWriter, r *http.Request, v *senderVisit) error {
	view := p.senderView(r, v)
	if done := r.URL.Query().Get("done"); slices.Contains(senderActs, done) {
		view.Done = done
	}
	return p.pages.write(w, r, http.StatusOK, "sender", view)
}

// senderDone sends the browser back to the page after act, or shows it with what
// came in between.
func (p *portal) senderDone(w http.ResponseWriter, r *http.Request, v *senderVisit, act string, err error) error {
	var locked *escrow.LockedError
	status := http.StatusConflict
	switch {
	case err == nil:
		return see(w, v.self+"?done="+act)
	case errors.As(err, &locked):
		status = http.StatusTooManyRequests
		p.retryAfter(w, locked.Until)
	case errors.Is(err, escrow.ErrNoPassphrase):
		return see(w, v.self+"/passphrase?to="+url.QueryEscape(r.PostForm.Get("to")))
	case errors.Is(err, escrow.ErrUnknown), errors.Is(err, escrow.ErrNotRecoverable):
	default:
		return err
	}
	again, err := p.senders.SenderView(r.Context(), r.PathValue("item"), r.PathValue("token"))
	if err != nil {
		return err
	}
	view := p.senderView(r, &senderVisit{again, v.self})
	if locked != nil {
		view.Locked = locked.Until
	} else {
		view.Changed = true
	}
	return p.pages.write(w, r, status, "sender", view)
}

func (p *portal) senderExtend(w http.ResponseWriter, r *http.Request, v *senderVisit) error {
	_, err := p.senders.SenderExtend(r.Context(), v.SenderView, r.PostForm.Get("to"))
	return p.senderDone(w, r, v, "extend", err)
}

func (p *portal) senderResend(w http.ResponseWriter, r *http.Request, v *senderVisit) error {
	return p.senderDone(w, r, v, "resend", p.senders.SenderResend(r.Context(), v.SenderView, r.PostForm.Get("to")))
}

func (p *portal) senderRetract(w http.ResponseWriter, r *http.Request, v *senderVisit) error {
	if !v.sure(r, "retract") {
		return p.senderUnsure(w, r, v, "retract")
	}
	return p.senderDone(w, r, v, "retract", p.senders.SenderRetract(r.Context(), v.SenderView, r.PostForm.Get("to")))
}

func (p *portal) senderReset(w http.ResponseWriter, r *http.Request, v *senderVisit) error {
	if !v.sure(r, "reset") {
		return p.senderUnsure(w, r, v, "reset")
	}
	return p.senderDone(w, r, v, "reset", p.senders.SenderReset(r.Context(), v.SenderView, r.PostForm.Get("to")))
}

// askView is a page that asks before something is done.
type askView struct {
	Self    string
	Act     string // retract, passphrase, reset
	To      string // pickup, "" for all
	Address string // "" for all
	Many    bool   // there are other recipients
	Least   int    // characters of a passphrase
	Phrase  string // as typed
	Problem bool   // it, or the number, can't be taken
	Number  string // to be typed before something is deleted for good
}

// number is what has to be typed: a scanner in the sender's mailbox follows the link, and
// presses buttons, of two pages one after the other too; but what it types it does not
// read. It is no secret, and the same each time.
func (v *senderVisit) number(act, to string) string {
	h := sha256.Sum256([]byte("sure/1\x00" + v.self + "\x00" + act + "\x00" + to))
	return fmt.Sprintf("%04d", binary.BigEndian.Uint32(h[:])%10000)
}

// sure reports whether it was typed.
func (v *senderVisit) sure(r *http.Request, act string) bool {
	return strings.Join(strings.Fields(r.PostForm.Get("sure")), "") == v.number(act, r.PostForm.Get("to"))
}

// senderUnsure asks once more, for the number.
func (p *portal) senderUnsure(w http.ResponseWriter, r *http.Request, v *senderVisit, act string) error {
	view, ok := v.ask(act, r.PostForm.Get("to"))
	if !ok {
		return p.senderDone(w, r, v, act, escrow.ErrUnknown)
	}
	view.Problem = true
	return p.pages.write(w, r, http.StatusUnprocessableEntity, "sender-ask", view)
}

// ask makes the page for the recipient that is meant; false if there is none.
func (v *senderVisit) ask(act, to string) (askView, bool) {
	view := askView{Self: v.self, Act: act, To: to, Many: len(v.Recipients) > 1, Least: escrow.MinPassphrase, Number: v.number(act, to)}
	if to == "" {
		return view, act == "retract"
	}
	for i := range v.Recipients {
		r := &v.Recipients[i]
		if r.ID == to {
			view.Address = clean(r.Address)
			return view, !r.Over() && (act != "passphrase" || r.CanResend) && (act != "reset" || r.Enrolled)
		}
	}
	return view, false
}

// senderAsk shows the page that asks. It changes nothing.
func (p *portal) senderAsk(w http.ResponseWriter, r *http.Request, v *senderVisit, act string) error {
	view, ok := v.ask(act, r.URL.Query().Get("to"))
	if !ok {
		return see(w, v.self)
	}
	return p.pages.write(w, r, http.StatusOK, "sender-ask", view)
}

func (p *portal) senderPassphrase(w http.ResponseWriter, r *http.Request, v *senderVisit) error {
	to, phrase := r.PostForm.Get("to"), r.PostForm.Get("phrase")
	err := p.senders.SenderPassphrase(r.Context(), v.SenderView, to, phrase)
	var bad *escrow.PassphraseError
	if errors.As(err, &bad) {
		view, ok := v.ask("passphrase", to)
		if !ok {
			return see(w, v.self)
		}
		view.Problem, view.Phrase = true, phrase
		return p.pages.write(w, r, http.StatusUnprocessableEntity, "sender-ask", view)
	}
	return p.senderDone(w, r, v, "passphrase", err)
}
