package portal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow"
)

// Replies keeps what recipients answer. [escrow.Vault] is one. The session is one
// that opens the pickup. Whom a reply goes to is no matter of the browser's.
type Replies interface {
	// Draft returns the draft there is, or a fresh one, not kept yet, whose ID is
	// "". escrow.ErrNobody if the message can't be answered.
	Draft(ctx context.Context, p *escrow.Pickup, s *escrow.Session) (*escrow.Reply, error)
	// SaveDraft keeps the text.
	SaveDraft(ctx context.Context, p *escrow.Pickup, s *escrow.Session, text string, all bool) (*escrow.Reply, error)
	// AddFile keeps a file as it streams. If it does not come whole, or is too
	// large (escrow.ErrTooLarge), the draft stays as it was.
	AddFile(ctx context.Context, p *escrow.Pickup, s *escrow.Session, name, mediaType string, r io.Reader) (*escrow.Reply, error)
	// RemoveFile removes the file numbered n, if there is one.
	RemoveFile(ctx context.Context, p *escrow.Pickup, s *escrow.Session, n int) (*escrow.Reply, error)
	// DiscardDraft deletes the draft, if there is one.
	DiscardDraft(ctx context.Context, p *escrow.Pickup, s *escrow.Session) error
	// SendReply sends the draft. escrow.ErrEmpty if there is nothing in it.
	SendReply(ctx context.Context, p *escrow.Pickup, s *escrow.Session) (*escrow.Reply, error)
	// Replies lists those that were sent, the oldest first.
	Replies(ctx context.Context, p *escrow.Pickup, s *escrow.Session) ([]escrow.Reply, error)
}

// replyRoutes mounts the pages of a reply, as messageRoutes does those of a message.
func (p *portal) replyRoutes(handle func(pattern, route string, h handler), prefix string, wrap func(at *gate, h opened) handler) {
	if p.replies == nil {
		return
	}
	handle("GET "+p.base+prefix+"/reply", prefix+"/reply", wrap(p.reading, p.reply))
	handle("GET "+p.base+prefix+"/reply/sent", prefix+"/reply/sent", wrap(p.reading, p.replySent))
	handle("POST "+p.base+prefix+"/reply", prefix+"/reply", p.rescue(wrap(p.uploading, p.writeReply)))
}

// saveTime is how long keeping a text or sending a reply may take, whether or not
// the browser still waits for it.
const saveTime = time.Minute

// replyView is the page on which a reply is written.
type replyView struct {
	Self      string
	Item      string
	To        []string
	AllTo     []string
	All       bool
	Subject   string
	Text      string
	Files     []escrow.ReplyFile
	Size      int64 // of the files
	Most      int64 // that they may have
	MostFiles int
	MostText  int64 // bytes
	Expires   time.Time

	Draft, Was, Since string // hidden fields, as in replyForm

	Kept      bool // the draft was saved just now
	Saved     time.Time
	Conflict  bool
	Other     string // text that was saved from elsewhere meanwhile
	Elsewhere string // what was done with the draft there: sent, discarded
	TooLong   int64  // bytes that the text has, where that is too many
	Empty     bool
	Cut       bool // the form came in part
	Refused   []refused
	More      int // files refused beyond those
}

// refused is a file that was not taken, and why: large, many.
type refused struct{ Name, Why string }

// maxRefused is how many of the refused files are named.
const maxRefused = 10

// Problem reports whether something has to be done before the reply can go.
func (v replyView) Problem() bool {
	return v.Conflict || v.Elsewhere != "" || v.TooLong > 0 || v.Empty || v.Cut || len(v.Refused) > 0
}

// status is that of an answer with the page.
func (v replyView) status() int {
	switch {
	case v.Conflict || v.Elsewhere != "":
		return http.StatusConflict
	case v.Cut:
		return http.StatusBadRequest // not 408: browsers would send it all again by themselves
	case v.Problem():
		return http.StatusUnprocessableEntity
	}
	return http.StatusOK
}

// version tells one text from another, for a hidden field.
func version(text string) string {
	hash := sha256.Sum256([]byte(text))
	return hex.EncodeToString(hash[:8])
}

func (p *portal) replyView(v *visit, d *escrow.Reply) replyView {
	view := replyView{
		Self: v.self, Item: v.ItemID, Expires: v.Expires, MostFiles: escrow.MaxReplyFiles, MostText: escrow.MaxReplyText,
		Since: strconv.FormatInt(p.now().UnixMicro(), 10),
	}
	view.show(d)
	return view
}

// show puts the draft as it is kept into the page.
func (v *replyView) show(d *escrow.Reply) {
	v.To, v.AllTo = cleanAll(d.To), cleanAll(d.AllTo)
	v.Subject, v.Text, v.All = clean(d.Subject), d.Text, d.All && len(d.AllTo) > 0
	v.Draft, v.Was = d.ID, version(d.Text)
	v.files(d)
}

func (v *replyView) files(d *escrow.Reply) {
	v.Size, v.Most = d.Size, d.Most
	v.Files = cleanFiles(d.Files)
	if d.ID != "" {
		v.Draft, v.Saved = d.ID, d.Changed
	}
}

func cleanAll(list []string) []string {
	out := make([]string, 0, len(list))
	for _, s := range list {
		out = append(out, clean(s))
	}
	return out
}

// draft returns the draft of a message, one to nobody where it can't be answered.
func (p *portal) draft(ctx context.Context, v *visit, s *escrow.Session) (*escrow.Reply, error) {
	d, err := p.replies.Draft(ctx, v.Pickup, s)
	if errors.Is(err, escrow.ErrNobody) {
		return &escrow.Reply{}, nil
	}
	return d, err
}

func cleanFiles(list []escrow.ReplyFile) []escrow.ReplyFile {
	out := slices.Clone(list)
	for i := range out {
		out[i].Name = clean(out[i].Name)
	}
	return out
}

// reply shows the draft there is, or an empty one.
func (p *portal) reply(w http.ResponseWriter, r *http.Request, v *visit, s *escrow.Session) error {
	if r.Method == http.MethodHead {
		return headOnly(w, "text/html; charset=utf-8")
	}
	d, err := p.draft(r.Context(), v, s)
	if err != nil {
		return writing(err)
	}
	view := p.replyView(v, d)
	view.Kept = r.URL.RawQuery == "saved" && d.ID != ""
	return p.pages.write(w, r, http.StatusOK, "reply", view)
}

// sentView is the page after sending.
type sentView struct {
	Self string
	Item string
	To   []string
}

func (p *portal) replySent(w http.ResponseWriter, r *http.Request, v *visit, s *escrow.Session) error {
	if r.Method == http.MethodHead {
		return headOnly(w, "text/html; charset=utf-8")
	}
	sent, err := p.replies.Replies(r.Context(), v.Pickup, s)
	if err != nil {
		return writing(err)
	}
	if len(sent) == 0 {
		return see(w, v.self+"/message")
	}
	last := newest(sent)
	return p.pages.write(w, r, http.StatusOK, "replied", sentView{v.self, v.ItemID, cleanAll(slices.Concat(last.To, last.Cc))})
}

// repliedView is one of the replies on the page of the message.
type repliedView struct {
	To     []string
	Text   string
	Files  []escrow.ReplyFile
	Sent   time.Time
	State  string
	Failed []string // whom it did not reach
}

// replied returns what the page of a message tells of replies: how one may begin,
// as in messageView, and those that there are. Where that can't be found out the
// message is shown all the same.
func (p *portal) replied(ctx context.Context, v *visit, s *escrow.Session) (begin string, list []repliedView) {
	if p.replies == nil {
		return "", nil
	}
	sent, err := p.replies.Replies(ctx, v.Pickup, s)
	for _, r := range sent {
		list = append(list, repliedView{
			To: cleanAll(slices.Concat(r.To, r.Cc)), Text: r.Text, Files: cleanFiles(r.Files), Sent: r.Sent, State: r.State, Failed: cleanAll(r.Failed),
		})
	}
	if err == nil {
		var d *escrow.Reply
		switch d, err = p.draft(ctx, v, s); {
		case err != nil || len(d.To) == 0:
		case d.ID != "":
			begin = "draft"
		default:
			begin = "new"
		}
	}
	if err != nil && !over(err) && ctx.Err() == nil {
		p.log.Error("portal trouble", "error", writing(err))
	}
	return begin, list
}

func newest(sent []escrow.Reply) escrow.Reply {
	return slices.MaxFunc(sent, func(a, b escrow.Reply) int { return a.Changed.Compare(b.Changed) })
}

// writing keeps a reply that can't be reached from looking like a wrong link, as
// opening does.
func writing(err error) error {
	if over(err) {
		return err
	}
	return fmt.Errorf("reply: %v", err)
}

// over reports that the message ended while its reply was written.
func over(err error) bool {
	return errors.Is(err, escrow.ErrExpired) || errors.Is(err, escrow.ErrRetracted)
}

// writer is at work on one form.
type writer struct {
	p    *portal
	v    *visit
	s    *escrow.Session
	f    *replyForm
	view replyView
	last *escrow.Reply // the draft as it was seen last
	done bool          // the reply was sent before, by the same button
}

// writeReply takes what the form brings, in its order: the text is kept before the
// files come, whatever becomes of them, and each file as it comes. Then it does
// what the button says, if nothing stands against it.
func (p *portal) writeReply(rw http.ResponseWriter, r *http.Request, v *visit, s *escrow.Session) error {
	f := formOf(r.Context())
	if f == nil {
		return errBadForm
	}
	f.taken = true
	wr := &writer{p: p, v: v, s: s, f: f}
	err := wr.take(r.Context())
	if err != nil && !errors.Is(err, errCut) {
		f.rest()
		return p.keep(rw, r, f, v.self, v, writing(err))
	}
	if err != nil {
		if !f.hasText && !f.script {
			return errBadForm
		}
		wr.view.Cut = true
	}
	if wr.view.To == nil {
		d, err := p.draft(r.Context(), v, s)
		if err != nil {
			return p.keep(rw, r, f, v.self, v, writing(err))
		}
		wr.start(d)
	}
	to := ""
	if !wr.view.Problem() || f.do == "reload" || f.do == "discard" && !wr.view.Conflict && wr.view.Elsewhere == "" {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), saveTime)
		defer cancel()
		if to, err = wr.act(ctx); err != nil {
			return p.keep(rw, r, f, v.self, v, writing(err))
		}
	}
	if f.hasText {
		wr.view.Text = f.text // whatever is kept: what was typed stays
		wr.view.All = f.all && len(wr.view.AllTo) > 0
	}
	switch {
	case f.script:
		return p.answerScript(rw, r, wr.view, to)
	case to != "":
		return see(rw, to)
	}
	place(r.Context(), "", v.Sender) // a link to this page in another language would lose the text
	return p.pages.write(rw, r, wr.view.status(), "reply", wr.view)
}

// start makes the page of the draft as it is before the form is looked at.
func (wr *writer) start(d *escrow.Reply) {
	wr.last = d
	wr.view = wr.p.replyView(wr.v, d)
	if !wr.f.since.IsZero() {
		wr.view.Since = strconv.FormatInt(wr.f.since.UnixMicro(), 10)
	}
}

// take reads the form to its end.
func (wr *writer) take(ctx context.Context) error {
	for {
		file, err := wr.f.next()
		switch {
		case err == io.EOF:
			wr.f.up.drain()
			return nil
		case err != nil:
			return err
		case file == nil:
			err = wr.save(ctx)
		default:
			err = wr.add(ctx, file)
		}
		if err != nil {
			return err
		}
	}
}

// save keeps the text, unless that would overwrite what was written elsewhere.
func (wr *writer) save(ctx context.Context) error {
	// The browser need not wait for it: what has come is kept.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
	defer cancel()
	leave, err := wr.p.drafting.enter(ctx, draftKey(wr.v))
	if err != nil {
		return err
	}
	defer leave()
	d, err := wr.p.draft(ctx, wr.v, wr.s)
	if err != nil {
		return err
	}
	wr.start(d)
	if len(d.To) == 0 {
		return nil // the page says that nobody can be answered
	}
	f := wr.f
	if d.ID != f.draft || d.ID == "" {
		if err := wr.elsewhere(ctx, d); err != nil || wr.done {
			return err
		}
	}
	if d.Text != "" && d.Text != f.text && version(d.Text) != f.was {
		wr.view.Conflict, wr.view.Other = true, d.Text
		return nil
	}
	if f.tooLong {
		wr.view.TooLong = int64(len(f.text))
		return nil
	}
	if d.ID == "" && f.text == "" || d.ID != "" && d.Text == f.text && d.All == f.all {
		return nil
	}
	if d, err = wr.p.replies.SaveDraft(ctx, wr.v.Pickup, wr.s, f.text, f.all); err != nil {
		if errors.Is(err, escrow.ErrTooLarge) {
			wr.view.TooLong = int64(len(f.text))
			return nil
		}
		return err
	}
	wr.last = d
	wr.view.show(d)
	return nil
}

// elsewhere finds out what became of the draft that the form is about: there is
// another, or none.
func (wr *writer) elsewhere(ctx context.Context, d *escrow.Reply) error {
	f := wr.f
	if f.draft == "" && (f.since.IsZero() || f.text == "") {
		return nil
	}
	sent, err := wr.p.replies.Replies(ctx, wr.v.Pickup, wr.s)
	if err != nil {
		return err
	}
	for _, s := range sent {
		if f.draft != "" && s.ID != f.draft || f.draft == "" && s.Created.Before(f.since) {
			continue
		}
		if s.Text == f.text {
			wr.done = true // a button that was pressed twice
			return nil
		}
		if f.draft != "" {
			wr.view.Elsewhere = "sent"
			return nil
		}
	}
	if f.draft != "" {
		wr.view.Elsewhere = "discarded"
	}
	return nil
}

// add keeps a file, or tells why not.
func (wr *writer) add(ctx context.Context, file *filePart) error {
	if wr.last == nil {
		d, err := wr.p.draft(ctx, wr.v, wr.s)
		if err != nil {
			return err
		}
		wr.start(d)
	}
	name := filename(file.name, file.mediaType, len(wr.last.Files)+1)
	if wr.done || len(wr.last.To) == 0 {
		return nil // it went with the reply before; or there is nobody to reply to
	}
	if len(wr.last.Files) >= escrow.MaxReplyFiles {
		wr.refuse(name, "many")
		return nil
	}
	if wr.last.Most > 0 && wr.last.Size >= wr.last.Most {
		wr.refuse(name, "large")
		return nil
	}
	name = another(name, func(s string) bool {
		return slices.ContainsFunc(wr.last.Files, func(f escrow.ReplyFile) bool { return strings.EqualFold(f.Name, s) })
	})
	d, err := wr.p.replies.AddFile(ctx, wr.v.Pickup, wr.s, name, file.mediaType, file)
	switch {
	case file.cut:
		return errCut
	case errors.Is(err, escrow.ErrTooLarge):
		wr.refuse(name, "large")
		return nil
	case err != nil:
		return err
	}
	wr.last = d
	wr.view.files(d)
	return nil
}

func (wr *writer) refuse(name, why string) {
	if len(wr.view.Refused) == maxRefused {
		wr.view.More++
		return
	}
	wr.view.Refused = append(wr.view.Refused, refused{name, why})
}

// draftKey tells one draft from others, by whichever way it is come to.
func draftKey(v *visit) string { return v.ItemID + "/" + v.Recipient }

// act does what the button says, and returns where to go then; "" is the page
// again.
func (wr *writer) act(ctx context.Context) (to string, err error) {
	p, v, f := wr.p, wr.v, wr.f
	leave, err := p.drafting.enter(ctx, draftKey(v))
	if err != nil {
		return "", err
	}
	defer leave()
	if wr.done {
		return v.self + "/reply/sent", nil
	}
	switch f.do {
	case "send":
		if len(wr.view.To) == 0 {
			return "", nil
		}
		if strings.TrimSpace(f.text) == "" && len(wr.view.Files) == 0 {
			wr.view.Empty = true
			return "", nil
		}
		if _, err := p.replies.SendReply(ctx, v.Pickup, wr.s); errors.Is(err, escrow.ErrEmpty) {
			wr.view.Empty = true
			return "", nil
		} else if err != nil {
			return "", err
		}
		return v.self + "/reply/sent", nil
	case "discard":
		return v.self + "/message", p.replies.DiscardDraft(ctx, v.Pickup, wr.s)
	case "remove":
		d, err := p.replies.RemoveFile(ctx, v.Pickup, wr.s, f.file)
		if err != nil {
			return "", err
		}
		wr.view.files(d)
		return v.self + "/reply#attached", nil
	case "attach":
		return v.self + "/reply#attached", nil
	case "reload":
		return v.self + "/reply", nil
	case "save":
		return v.self + "/reply?saved", nil
	}
	return "", nil
}

// scriptAnswer is what the page's script gets.
type scriptAnswer struct {
	Draft    string        `json:"draft"`
	Was      string        `json:"was"`
	Attached template.HTML `json:"attached"` // list of the files
	Problem  template.HTML `json:"problem"`
	Saved    string        `json:"saved"` // what to say, where the text is kept
	To       string        `json:"to"`    // where to go
	Stop     bool          `json:"stop"`  // saving by itself would not help
}

func (p *portal) answerScript(w http.ResponseWriter, r *http.Request, view replyView, to string) error {
	a := scriptAnswer{Draft: view.Draft, Was: view.Was, To: to, Stop: view.Conflict || view.Elsewhere != ""}
	var err error
	if a.Attached, err = p.pages.fragment(r, "reply", "attached", view); err != nil {
		return err
	}
	if view.Problem() {
		if a.Problem, err = p.pages.fragment(r, "reply", "problems", view); err != nil {
			return err
		}
	} else if view.Draft != "" {
		a.Saved = wordsOf(r).T("reply.kept-now")
	}
	return sendJSON(w, view.status(), a)
}

func sendJSON(w http.ResponseWriter, status int, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	_, err = w.Write(b)
	return err
}

// fragment renders a part of a page.
func (p *pages) fragment(r *http.Request, name, part string, view any) (template.HTML, error) {
	t, err := p.template(wordsOf(r).Tag, name)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, part, view); err != nil {
		return "", fmt.Errorf("page %s: %w", name, err)
	}
	return template.HTML(b.String()), nil
}

// keptView is the page for who may not write any more, or can't be served just
// now: with all that was typed.
type keptView struct {
	Why    string // expired, retracted, verify, unknown, trouble
	Self   string // of the message; "" where it is no use
	Verify string // where to go to be verified again
	Sender string
	Item   string
	Text   string
	Cut    bool // the text is longer than what is shown

	Draft, Was, Since string
	All               bool
}

type formKey struct{}

func formOf(ctx context.Context) *replyForm {
	f, _ := ctx.Value(formKey{}).(*replyForm)
	return f
}

// rescue is around what takes replies: where who wrote is not let in any more, the
// answer has the text that was typed, and says what to do.
func (p *portal) rescue(next handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		f := newReplyForm(w, r)
		r = r.WithContext(context.WithValue(r.Context(), formKey{}, f))
		held := &heldResponse{ResponseWriter: w, form: f}
		err := next(held, r)
		if f.taken || err == nil && held.status == 0 {
			return err
		}
		if f.parts == nil {
			if err != nil {
				return err
			}
			return errBadForm
		}
		f.up.ends = time.Now().Add(strangerTime)
		f.up.left = min(f.up.left, strangerUpload)
		self := strings.TrimSuffix(r.URL.EscapedPath(), "/reply")
		if err == nil {
			err = &unverifiedError{held.header.Get("Location")}
		}
		f.rest()
		return p.keep(w, r, f, self, nil, err)
	}
}

// How much is read of the form of somebody who may not write, to answer a browser
// that still sends.
const (
	strangerTime   = 10 * time.Minute
	strangerUpload = 128 << 20 // bytes
)

// unverifiedError reports that a device is not verified any more.
type unverifiedError struct{ to string }

func (e *unverifiedError) Error() string { return "not verified" }

// rest reads the form to its end, for its text.
func (f *replyForm) rest() {
	for {
		if _, err := f.next(); err != nil {
			f.up.drain()
			return
		}
	}
}

// heldResponse keeps back what is answered to who may not write.
type heldResponse struct {
	http.ResponseWriter
	form   *replyForm
	header http.Header
	status int
}

func (h *heldResponse) Header() http.Header {
	if h.form.taken {
		return h.ResponseWriter.Header()
	}
	if h.header == nil {
		h.header = http.Header{}
	}
	return h.header
}

func (h *heldResponse) WriteHeader(status int) {
	if h.form.taken {
		h.ResponseWriter.WriteHeader(status)
	} else if h.status == 0 {
		h.status = status
	}
}

func (h *heldResponse) Write(b []byte) (int, error) {
	if h.form.taken {
		return h.ResponseWriter.Write(b)
	}
	if h.status == 0 {
		h.status = http.StatusOK
	}
	return len(b), nil
}

// Unwrap is for http.ResponseController.
func (h *heldResponse) Unwrap() http.ResponseWriter { return h.ResponseWriter }

// keep answers err with what was typed. v is nil where the message was not found,
// or may not be opened.
func (p *portal) keep(w http.ResponseWriter, r *http.Request, f *replyForm, self string, v *visit, err error) error {
	if r.Context().Err() != nil || f.text == "" && !f.script {
		return p.unkept(w, err, v)
	}
	view := keptView{Self: self, Text: f.text, Cut: len(f.text) >= maxTyped, Draft: f.draft, Was: f.was, All: f.all}
	if !f.since.IsZero() {
		view.Since = strconv.FormatInt(f.since.UnixMicro(), 10)
	}
	if v != nil {
		view.Sender, view.Item = clean(v.Sender), v.ItemID
	}
	var ended *overError
	var unverified *unverifiedError
	status := http.StatusServiceUnavailable
	switch {
	case errors.As(err, &ended):
		view.Why, status, view.Sender, view.Item, view.Self = "expired", http.StatusGone, ended.view.Sender, ended.view.Item, ""
		if ended.view.Retracted {
			view.Why = "retracted"
		}
	case errors.Is(err, escrow.ErrExpired):
		view.Why, status, view.Self = "expired", http.StatusGone, ""
	case errors.Is(err, escrow.ErrRetracted):
		view.Why, status, view.Self = "retracted", http.StatusGone, ""
	case errors.As(err, &unverified):
		view.Why, status, view.Verify = "verify", http.StatusForbidden, unverified.to
		if u, err := url.Parse(unverified.to); err != nil || unverified.to == "" || u.IsAbs() || u.Host != "" {
			view.Verify = self + "/message"
		}
	case errors.Is(err, escrow.ErrUnknown):
		view.Why, status, view.Self = "unknown", http.StatusNotFound, ""
	default:
		view.Why = "trouble"
		p.log.Error("portal trouble", "error", err)
		w.Header().Set("Retry-After", "60")
	}
	if f.script {
		text, err := p.pages.fragment(r, "kept", "why", view)
		if err != nil {
			return err
		}
		return sendJSON(w, status, scriptAnswer{Draft: f.draft, Was: f.was, Problem: text, Stop: view.Why != "trouble" && view.Why != "verify"})
	}
	place(r.Context(), "", view.Sender)
	return p.pages.write(w, r, status, "kept", view)
}

// unkept answers an error where nothing was typed.
func (p *portal) unkept(w http.ResponseWriter, err error, v *visit) error {
	var unverified *unverifiedError
	if errors.As(err, &unverified) && unverified.to != "" {
		return see(w, unverified.to)
	}
	if v != nil && over(err) {
		return &overError{overView{Sender: clean(v.Sender), Retracted: errors.Is(err, escrow.ErrRetracted), Expires: v.Expires, Item: v.ItemID}}
	}
	return err
}
