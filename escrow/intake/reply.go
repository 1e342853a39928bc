package intake

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-smtp"

	"github.com/postseal/postseal/escrow"
)

// maxReply bounds the text of a reply, in bytes: RFC 5321, section 4.5.3.1.5 allows
// 512 for the line, and go-smtp puts the recipient in front.
const maxReply = 400

// reply makes a reply. enhanced is written 4.3.0.
func reply(code int, enhanced, format string, args ...any) *smtp.SMTPError {
	var e smtp.EnhancedCode
	if _, err := fmt.Sscanf(enhanced, "%d.%d.%d", &e[0], &e[1], &e[2]); err != nil {
		e = smtp.EnhancedCode{code / 100, 0, 0}
	}
	return &smtp.SMTPError{Code: code, EnhancedCode: e, Message: oneLine(fmt.Sprintf(format, args...))}
}

// oneLine makes a text fit for a reply: no line ends, nothing unprintable, not too
// long.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if len(s) > maxReply {
		s = strings.ToValidUTF8(s[:maxReply], "")
	}
	return s
}

// The replies that are the same everywhere.
func forgotten() *smtp.SMTPError { return reply(451, "4.3.0", "Not handled, try again") }
func internal() *smtp.SMTPError  { return reply(451, "4.3.0", "Internal trouble, try again") }

// quotaReply says whose quota is used up. It is a matter of time until messages expire or
// somebody makes room, so it is never a 5xx: the message waits in Postfix's queue, and
// goes back to its sender only after maximal_queue_lifetime. RFC 3463 has 4.3.1 for a
// system whose storage is full, and 4.2.2 for a quota of one's own.
func quotaReply(e *escrow.QuotaError) *smtp.SMTPError {
	code := "4.2.2"
	if e.Total {
		code = "4.3.1"
	}
	return reply(452, code, "Quota exceeded: %s is full, try again later", e.Of())
}

// asReply makes a reply of any error. What is not meant as one becomes 451: go-smtp
// would make 554 of it, and the message would bounce. nil becomes 451 too: go-smtp
// would say 250.
func asReply(err error) *smtp.SMTPError {
	var r *smtp.SMTPError
	if !errors.As(err, &r) || r == nil {
		if err == nil {
			return forgotten()
		}
		return internal()
	}
	if r.Code < 200 || r.Code >= 300 && r.Code < 400 || r.Code > 599 {
		return internal()
	}
	return r
}

func accepted(r *smtp.SMTPError) bool { return r != nil && r.Code/100 == 2 }
