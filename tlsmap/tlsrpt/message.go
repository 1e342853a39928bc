package tlsrpt

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net/mail"
	"strings"
	"time"
)

// message writes the mail of a report (RFC 8460, section 5.3). That it is from a
// program (RFC 3834) keeps other programs from answering.
func (r *Reporter) message(rep *Report, to string) ([]byte, error) {
	d, err := ReadDocument(rep.JSON)
	if err != nil {
		return nil, fmt.Errorf("report as stored: %w", err)
	}
	boundary := "tlsrpt-" + newID()
	var b bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\r\n", args...) }
	line("From: %s", (&mail.Address{Name: r.Name, Address: r.From}).String())
	line("To: %s", to)
	line("Subject: Report Domain: %s", rep.Domain)
	line(" Submitter: %s", r.domain)
	line(" Report-ID: <%s>", d.ID)
	line("Date: %s", r.Now().UTC().Format(time.RFC1123Z))
	line("Message-ID: <%s.%s>", newID()[:8], d.ID)
	line("TLS-Report-Domain: %s", rep.Domain)
	line("TLS-Report-Submitter: %s", r.domain)
	line("Auto-Submitted: auto-generated")
	line("MIME-Version: 1.0")
	line("Content-Type: multipart/report; report-type=\"tlsrpt\";")
	line(" boundary=\"%s\"", boundary)
	line("")
	line("--%s", boundary)
	line("Content-Type: text/plain; charset=us-ascii")
	line("Content-Transfer-Encoding: 7bit")
	line("")
	sum := d.Total()
	line("This is a report of TLS sessions (RFC 8460) with the mail servers of")
	line("%s on %s (UTC), from %s.", rep.Domain, rep.Day, r.domain)
	line("%d succeeded, %d failed. The attachment says more.", sum.Succeeded, sum.Failed)
	line("")
	line("--%s", boundary)
	line("Content-Type: application/tlsrpt+gzip")
	line("Content-Transfer-Encoding: base64")
	line("Content-Disposition: attachment;")
	line(" filename=\"%s\"", r.filename(rep.Domain, d))
	line("")
	for text := base64.StdEncoding.EncodeToString(rep.JSON); text != ""; {
		n := min(len(text), 76)
		line("%s", text[:n])
		text = text[n:]
	}
	line("")
	line("--%s--", boundary)
	return b.Bytes(), nil
}

// filename is that of section 5.1, with the random part of the report-id as
// unique-id.
func (r *Reporter) filename(domain string, d *Document) string {
	unique, _, _ := strings.Cut(d.ID, "@")
	return fmt.Sprintf("%s!%s!%d!%d!%s.json.gz", r.domain, domain, d.Range.Start.Unix(), d.Range.End.Unix(), unique)
}
