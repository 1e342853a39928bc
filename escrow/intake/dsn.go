package intake

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/postseal/postseal/policyd/policy"
)

// maxORCPT is the longest ORCPT that is passed on, in bytes. RFC 3461, section
// 4.2 asks for 500; Postfix sends what an alias makes of it.
const maxORCPT = 1500

// validORCPT reports whether v, the value of an ORCPT parameter, may be passed on
// as it is: type;xtext (RFC 3461, section 4.2), or with UTF-8 (RFC 6533).
func validORCPT(v string) bool {
	kind, addr, ok := strings.Cut(v, ";")
	if !ok || kind == "" || addr == "" || len(v) > maxORCPT || !utf8.ValidString(v) {
		return false
	}
	for i := 0; i < len(kind); i++ {
		c := kind[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	for i := 0; i < len(addr); i++ {
		switch c := addr[i]; {
		case c <= ' ' || c == 0x7f || c == '=':
			return false
		case c == '+':
			if _, ok := hexPair(addr[i+1:]); !ok {
				return false
			}
		case c >= 0x80 && !strings.EqualFold(kind, "utf-8"):
			return false
		}
	}
	return true
}

func hexPair(s string) (byte, bool) {
	if len(s) < 2 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:2], 16, 8)
	if err != nil || s[0] == '+' {
		return 0, false
	}
	return byte(n), true
}

// originalAddress returns the address of an ORCPT parameter; the zero Address if
// it is none of mail, or can't be read.
func originalAddress(v string) policy.Address {
	if !validORCPT(v) {
		return policy.Address{}
	}
	kind, addr, _ := strings.Cut(v, ";")
	unicode := strings.EqualFold(kind, "utf-8")
	if !unicode && !strings.EqualFold(kind, "rfc822") {
		return policy.Address{}
	}
	var b strings.Builder
	for i := 0; i < len(addr); i++ {
		if addr[i] == '+' { // validORCPT has seen that digits follow
			c, _ := hexPair(addr[i+1:])
			b.WriteByte(c)
			i += 2
			continue
		}
		if unicode && strings.HasPrefix(addr[i:], `\x{`) {
			if end := strings.IndexByte(addr[i:], '}'); end > 3 {
				if n, err := strconv.ParseUint(addr[i+3:i+end], 16, 21); err == nil && utf8.ValidRune(rune(n)) {
					b.WriteRune(rune(n))
					i += end
					continue
				}
			}
		}
		b.WriteByte(addr[i])
	}
	a, err := policy.ParseAddress(b.String())
	if err != nil {
		return policy.Address{}
	}
	return a
}

// cutORCPT takes the ORCPT parameter out of the argument of a RCPT command (TO:…),
// whatever it holds. The path is skipped as go-smtp reads it, so that nothing
// inside of a quoted local part is taken for a parameter. rest is the argument
// without it.
func cutORCPT(arg string) (rest, orcpt string) {
	end := endOfPath(arg)
	if end < 0 {
		return arg, ""
	}
	words := strings.Fields(arg[end:])
	kept := words[:0]
	for _, w := range words {
		if len(w) >= 6 && strings.EqualFold(w[:6], "ORCPT=") {
			orcpt = w[6:]
			continue
		}
		kept = append(kept, w)
	}
	if orcpt == "" && len(kept) == len(words) {
		return arg, ""
	}
	return strings.Join(append([]string{arg[:end]}, kept...), " "), orcpt
}

// endOfPath returns the index behind the path of TO:<path>, or -1 where there is
// none that go-smtp would accept.
func endOfPath(arg string) int {
	if len(arg) < 3 || !strings.EqualFold(arg[:3], "TO:") {
		return -1
	}
	i := 3
	for i < len(arg) && (arg[i] == ' ' || arg[i] == '\t') {
		i++
	}
	bracket := i < len(arg) && arg[i] == '<'
	if bracket {
		i++
	}
	if i < len(arg) && arg[i] == '@' { // source route
		n := strings.IndexByte(arg[i:], ':')
		if n < 0 {
			return -1
		}
		i += n + 1
	}
	if i < len(arg) && arg[i] == '"' {
		for i++; ; i++ {
			if i >= len(arg) {
				return -1
			}
			if arg[i] == '\\' {
				i++
			} else if arg[i] == '"' {
				i++
				break
			}
		}
	} else {
		for i < len(arg) && arg[i] != '@' {
			if strings.IndexByte("()<>[]:;\\,\" \t", arg[i]) >= 0 {
				return -1
			}
			i++
		}
	}
	if i >= len(arg) || arg[i] != '@' {
		return -1
	}
	for i < len(arg) && arg[i] != ' ' && arg[i] != '\t' && arg[i] != '>' {
		i++
	}
	if bracket {
		if i >= len(arg) || arg[i] != '>' {
			return -1
		}
		i++
	}
	return i
}
