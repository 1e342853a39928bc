package escrow

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/textproto"
	"regexp"
	"strings"
	"time"

	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/escrow/seal"
	"github.com/postseal/postseal/policyd/policy"
)

// A bounce address is postseal-bounce+KIND ID.TAG@DOMAIN, ID being that of a pickup
// or of a reply: 60 bytes of local
// part, in letters whose case may get lost.
const (
	bouncePrefix = "postseal-bounce+"
	bounceNotice = 'n'
	bounceCode   = 'c'
	bounceReply  = 'r'    // of a reply, not of a pickup
	bounceTag    = minTag // bytes
)

// bounceAddress returns the envelope sender of mails about a pickup, or of a reply.
func (v *Vault) bounceAddress(kind byte, of string) string {
	id := string(kind) + of
	return bouncePrefix + id + "." + seal.EncodeTag(v.keys.tag(bounceTag, "bounce/1", id)) + "@" + v.writer.From.Domain
}

// IsBounceAddress reports whether an address, in any spelling, is one that this
// server gave its notices, or a reply, as envelope sender. token is for Bounced. It does no
// I/O.
func (v *Vault) IsBounceAddress(address string) (token string, ok bool) {
	if len(address) < len(bouncePrefix) {
		return "", false
	}
	a, err := policy.ParseAddress(address)
	if err != nil || a.Domain != v.writer.From.Domain || len(a.Local) < len(bouncePrefix) || !strings.EqualFold(a.Local[:len(bouncePrefix)], bouncePrefix) {
		return "", false
	}
	token = strings.ToLower(a.Local[len(bouncePrefix):])
	_, _, ok = v.bounceToken(token)
	return token, ok
}

func (v *Vault) bounceToken(token string) (kind byte, pickup string, ok bool) {
	id, tag, found := strings.Cut(token, ".")
	if !found || len(id) < 1 || !seal.IsID(id[1:]) {
		return 0, "", false
	}
	b, err := seal.DecodeTag(tag)
	if err != nil || len(b) != bounceTag || !v.keys.checkTag(b, "bounce/1", id) {
		return 0, "", false
	}
	return id[0], id[1:], true
}

// maxReport is how much of a bounce is read to understand it, in bytes.
const maxReport = 256 << 10

// Bounced takes a mail that came to a bounce address: token is what
// IsBounceAddress returned, from the envelope sender, "" for the null sender.
//
// A report that a notice failed becomes a failure report to the sender of the
// sealed message, once; one that a reply failed, to who wrote it. A person's reply to
// a notice gets one automatic answer; one to the envelope sender of a reply is
// ErrNoMailbox, lest its writer takes it for delivered. Everything else (delay warnings, vacation notes)
// is dropped. ErrUnknown if the token is
// not genuine, or its message is gone; other errors mean: try again.
func (v *Vault) Bounced(ctx context.Context, token, from string, report io.Reader) error {
	kind, id, ok := v.bounceToken(token)
	if !ok {
		return ErrUnknown
	}
	text, err := io.ReadAll(io.LimitReader(report, maxReport))
	if err != nil {
		return fmt.Errorf("bounce: %w", err)
	}
	what, why := classify(from, bytes.NewReader(text))
	if kind == bounceReply {
		if what == aFailure {
			return v.replyBounced(ctx, id, why.recipients)
		}
		if what == aReply {
			return ErrNoMailbox
		}
		v.log.Info("mail to the bounce address of a reply dropped", "reply", id, "what", what.String())
		return nil
	}
	s, err := v.store.PickupByID(ctx, id)
	if errors.Is(err, ErrUnknown) {
		return ErrUnknown
	} else if err != nil {
		return fmt.Errorf("bounce: %w", err)
	}
	switch {
	case what == aFailure && kind == bounceNotice:
		return v.noticeFailed(ctx, s, why.status)
	case what == aReply:
		return v.answer(ctx, s, from)
	}
	v.log.Info("mail to a bounce address dropped", "item", s.ItemID, "what", what.String())
	return nil
}

// noticeFailed tells the sender that the recipient could not be told. Unless a new
// link is sent, that is the end of it: the sender is not told once more when the
// message expires.
func (v *Vault) noticeFailed(ctx context.Context, s *StoredPickup, why notify.Status) error {
	var queued *NewMail
	// The null sender gets no report, and nobody one about a message that has
	// been read or is over.
	if v.wantsFailure(s, MailFailure) && stateOf(s, v.now()) == StateHeld {
		var err error
		if queued, err = v.failed(ctx, MailFailure, []StoredPickup{*s}, why); err != nil {
			return fmt.Errorf("bounce: %w", err)
		}
	}
	first, err := v.store.NoticeBounced(ctx, s.ID, queued)
	if err != nil {
		return fmt.Errorf("bounce: %w", err)
	}
	if first {
		v.log.Warn("notice bounced", "item", s.ItemID, "sender_told", queued != nil)
		v.wake()
	}
	return nil
}

func (v *Vault) answer(ctx context.Context, s *StoredPickup, from string) error {
	a, err := policy.ParseAddress(from)
	if err != nil || a.Domain == "" {
		return nil // nobody to answer
	}
	now, id := v.now(), seal.NewID()
	m, err := v.newMail(id, mailAnswer, "", v.writer.Answer(notify.Answer{ID: id, To: a.String(), Sender: s.Sender, Language: s.Language, Created: now}), now, time.Time{})
	if err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	first, err := v.store.NoticeAnswered(ctx, s.ID, m)
	if err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	if first {
		v.log.Info("reply to a notice answered", "item", s.ItemID)
		v.wake()
	}
	return nil
}

// incoming is what came to a bounce address.
type incoming int

const (
	noise    incoming = iota // delay warnings, vacation notes, lists
	aFailure                 // a notice could not be delivered
	aReply                   // a person's
)

func (i incoming) String() string { return [...]string{"noise", "failure", "reply"}[i] }

// classify reads what came. A failure is a delivery status report with a failed
// recipient (RFC 3464), or, from the null sender, what a mail system without
// such reports sends.
func classify(from string, report io.Reader) (incoming, failure) {
	m, err := mail.ReadMessage(bufio.NewReader(io.LimitReader(report, maxReport)))
	if err != nil {
		if from == "" {
			return aFailure, unexplained() // without a header: rather tell once too often
		}
		return noise, unexplained()
	}
	kind, params, _ := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if kind == "multipart/report" && strings.EqualFold(params["report-type"], "delivery-status") {
		return statusOf(m.Body, params["boundary"])
	}
	if kind == "multipart/report" {
		return noise, unexplained() // read receipts, complaints
	}
	auto := strings.ToLower(strings.TrimSpace(m.Header.Get("Auto-Submitted")))
	if from != "" {
		if auto != "" && !strings.HasPrefix(auto, "no") || m.Header.Get("List-Id") != "" || m.Header.Get("X-Autoreply") != "" {
			return noise, unexplained()
		}
		switch strings.ToLower(m.Header.Get("Precedence")) {
		case "bulk", "list", "junk", "auto_reply":
			return noise, unexplained()
		}
		return aReply, unexplained()
	}
	if strings.HasPrefix(auto, "auto-replied") || m.Header.Get("X-Autoreply") != "" {
		return noise, unexplained() // a vacation note (RFC 3834)
	}
	who := strings.ToLower(m.Header.Get("From"))
	if strings.Contains(who, "mailer-daemon") || strings.Contains(who, "postmaster") {
		return aFailure, unexplained()
	}
	return noise, unexplained()
}

// failure is what a bounce says of why.
type failure struct {
	recipients []string // that it names, as they were given (RFC 3464, section 2.3.1) and as they became
	status     notify.Status
}

func unexplained() failure {
	return failure{status: notify.Status{Code: "5.0.0", Diagnostic: "x-postseal; the notice came back"}}
}

var (
	statusCode = regexp.MustCompile(`^5\.[0-9]{1,3}\.[0-9]{1,3}$`)
	smtpReply  = regexp.MustCompile(`^smtp; *([245][0-9][0-9])[ -]`)
)

// add notes a failed recipient. The status and the code of the reply are those of the
// first; the words of the reply are left out, since they may quote the notice.
func (f *failure) add(h textproto.MIMEHeader, first bool) {
	for _, field := range []string{"Original-Recipient", "Final-Recipient"} {
		if _, a, ok := strings.Cut(h.Get(field), ";"); ok {
			f.recipients = append(f.recipients, strings.TrimSpace(a))
		}
	}
	if !first {
		return
	}
	if code := strings.TrimSpace(h.Get("Status")); statusCode.MatchString(code) {
		f.status.Code = code
	}
	if reply := smtpReply.FindStringSubmatch(strings.ToLower(h.Get("Diagnostic-Code"))); reply != nil {
		f.status.Diagnostic = "smtp; " + reply[1] + " " + f.status.Code
	}
}

// statusOf looks for a failed recipient in a report. One that can't be read
// counts as a failure.
func statusOf(body io.Reader, boundary string) (incoming, failure) {
	why := unexplained()
	if boundary == "" {
		return aFailure, why
	}
	parts := multipart.NewReader(body, boundary)
	for range 10 {
		p, err := parts.NextRawPart()
		if err != nil {
			return aFailure, why
		}
		kind, _, _ := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if kind != "message/delivery-status" && kind != "message/global-delivery-status" {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(p, maxReport))
		if err != nil && len(text) == 0 {
			return aFailure, why
		}
		seen, failed := false, false
		r := textproto.NewReader(bufio.NewReader(bytes.NewReader(append(text, "\r\n\r\n"...))))
		for {
			h, err := r.ReadMIMEHeader()
			action, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(h.Get("Action"))), " ")
			if action == "failed" {
				why.add(h, !failed)
				failed = true
			}
			seen = seen || action != ""
			if err != nil {
				break
			}
		}
		if seen && !failed {
			return noise, unexplained() // delayed, delivered, relayed, expanded
		}
		return aFailure, why
	}
	return aFailure, why
}
