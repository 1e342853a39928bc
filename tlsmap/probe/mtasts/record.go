package mtasts

import (
	"fmt"
	"strings"
)

// ParseRecord returns the id in the TXT records of _mta-sts.DOMAIN (RFC 8461,
// section 3.1). The strings of a record must have been put together, without spaces
// between. Every error wraps [ErrNoRecord]: the domain then has no policy that
// could be found.
func ParseRecord(records []string) (id string, err error) {
	record, found := "", 0
	for _, r := range records {
		if strings.HasPrefix(r, "v=STSv1;") {
			record = r
			found++
		}
	}
	switch {
	case found == 0 && len(records) > 0:
		return "", fmt.Errorf("%w: none of the TXT records begins with v=STSv1;", ErrNoRecord)
	case found == 0:
		return "", ErrNoRecord
	case found > 1:
		return "", fmt.Errorf("%w that counts: there are %d", ErrNoRecord, found)
	}
	fields := strings.Split(record, ";")[1:]
	if last := len(fields) - 1; isSpace(fields[last]) {
		fields = fields[:last] // the delimiter at the end
	}
	for _, f := range fields {
		f = strings.Trim(f, " \t")
		name, value, ok := strings.Cut(f, "=")
		switch {
		case !ok || !fieldName(name):
			return "", fmt.Errorf("%w that counts: bad field %.40q", ErrNoRecord, f)
		case name != "id" || id != "": // of several the first counts (section 3.2)
			if !recordValue(value) {
				return "", fmt.Errorf("%w that counts: bad value of %s", ErrNoRecord, name)
			}
		case !validID(value):
			return "", fmt.Errorf("%w that counts: bad id %.40q: want 1 to 32 letters and digits", ErrNoRecord, value)
		default:
			id = value
		}
	}
	if id == "" {
		return "", fmt.Errorf("%w that counts: it has no id", ErrNoRecord)
	}
	return id, nil
}

func isSpace(s string) bool { return strings.Trim(s, " \t") == "" }

func validID(s string) bool {
	if s == "" || len(s) > 32 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !alnum(s[i]) {
			return false
		}
	}
	return true
}

func alnum(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// fieldName tells sts-ext-name, which has the form of all names.
func fieldName(s string) bool {
	if s == "" || len(s) > 32 || !alnum(s[0]) {
		return false
	}
	for i := 1; i < len(s); i++ {
		if c := s[i]; !alnum(c) && c != '_' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

// recordValue tells sts-ext-value.
func recordValue(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '=' || c == ';' {
			return false
		}
	}
	return s != ""
}
