package escrow

import (
	"encoding/json"
	"net/mail"
	"time"

	"github.com/postseal/postseal/escrow/header"
)

// Limits of a summary, in characters.
const (
	maxSummarySubject = 500
	maxSummaryFrom    = 300
)

// maxReceipt bounds the addresses of a Disposition-Notification-To that are read,
// in bytes.
const maxReceipt = 2 << 10

// summary is what lists show of a message without opening it. It is kept under the
// server's keys.
type summary struct {
	Subject string    `json:"subject,omitempty"`
	From    string    `json:"from,omitempty"`
	Date    time.Time `json:"date,omitzero"`
}

// about is what is read of a message's header as it is sealed.
type about struct {
	summary
	messageID string // without angle brackets
	receipt   bool   // a read receipt was asked for
}

// inspect reads the header of a message. Whatever a stranger wrote there, the
// message must be sealed: what can't be read is empty.
func inspect(m Message) (a about) {
	// Dozens of decoders of charsets run here. Should one of them panic, the
	// message would be refused for ever.
	defer func() {
		if recover() != nil {
			a = about{}
		}
	}()
	body, err := m.Body()
	if err != nil {
		return about{} // sealing meets the same error
	}
	defer body.Close()
	h, _ := header.Read(body)
	return about{
		summary:   summary{Subject: h.Text("Subject", maxSummarySubject), From: h.Text("From", maxSummaryFrom), Date: h.Date()},
		messageID: h.MessageID(),
		receipt:   wantsReceipt(h, m.Sender),
	}
}

// wantsReceipt reports whether a read receipt is to be sent (RFC 8098, section
// 2.1): to one address alone, which is the envelope sender's. For any other the
// recipient would have to be asked; and an option that must be understood, and is
// not, forbids it (section 2.2).
func wantsReceipt(h header.Header, sender string) bool {
	to := h.Values("Disposition-Notification-To")
	if len(to) != 1 || len(to[0]) > maxReceipt || h.Get("Disposition-Notification-Options") != "" {
		return false
	}
	want, err := fold(sender)
	if err != nil || want == "" {
		return false
	}
	list, err := mail.ParseAddressList(to[0])
	if err != nil {
		return false
	}
	for _, a := range list {
		if got, err := fold(a.Address); err != nil || got != want {
			return false
		}
	}
	return true
}

// sealSummary encrypts a summary for its item.
func (v *Vault) sealSummary(s summary, item string) ([]byte, error) {
	plain, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return v.keys.seal(plain, "summary/1", item)
}

// openSummary decrypts a summary. One that does not open, and none, is empty: the
// message itself is there all the same.
func (v *Vault) openSummary(box []byte, item string) (s summary) {
	if len(box) == 0 {
		return summary{}
	}
	plain, err := v.keys.open(box, "summary/1", item)
	if err == nil {
		err = json.Unmarshal(plain, &s)
	}
	if err != nil {
		v.log.Warn("the summary of a message can't be read", "item", item, "error", err)
		return summary{}
	}
	return s
}
