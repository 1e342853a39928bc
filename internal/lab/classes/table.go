package classes

import (
	"fmt"
	"strings"
)

// parts are the headings of the documentation.
var parts = []struct {
	title, text string
	classes     func() []Class
}{
	{"Connections", "", connections},
	{"STARTTLS and the handshake", "", handshakes},
	{"DNS", "", names},
	{"Certificates, without DANE or MTA-STS", "Nobody looks at a certificate unless a rule says so (`--level verify`). Such a rule is for the whole\ndomain, so all mail there is required; the column `mail` is empty.", certificates},
	{"DANE", "posttls-finger stops at the first host, and takes `secure` for a host without records, so it can't be\ncompared where several hosts count; its column is empty then.", dane},
	{"MTA-STS", "", sts},
}

// Table writes all classes as the tables of docs/destinations.md.
func Table() string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "## %s\n\n", p.title)
		if p.text != "" {
			fmt.Fprintf(&b, "%s\n\n", p.text)
		}
		b.WriteString("| class | what it is | check | TLS policy: mail; required | mail | `encryption` | `tls` | posttls-finger |\n|---|---|---|---|---|---|---|---|\n")
		for _, c := range p.classes() {
			what := c.What
			if c.Unforeseen != "" {
				what += ". Not foretold: " + c.Unforeseen
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", c.Name, what, c.says(), c.policies(), c.Mail, c.Encryption, c.TLS, c.Finger)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// says is what check says in short.
func (c *Class) says() string {
	s := c.State
	if c.DANE != "" {
		s += ", DANE " + c.DANE
	}
	if c.STS != "" {
		s += ", MTA-STS " + c.STS
	}
	return s
}

func (c *Class) policies() string {
	quoted := func(p string) string {
		switch p {
		case "":
			return "none"
		case Nothing:
			return Nothing
		}
		return "`" + strings.ReplaceAll(p, c.Domain(), "D") + "`"
	}
	secure := c.Secure
	if secure == "" {
		secure = "encrypt"
	}
	return quoted(c.Policy) + "; " + quoted(secure)
}
