package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// CheckSubject checks a subject pattern of the settings.
func CheckSubject(pattern string) error {
	_, _, err := compilePattern("subject", pattern)
	return err
}

// compilePattern reads a pattern: plain text, found anywhere in the field, without
// regard to case, white space matching any run of white space; or /ERE/, a POSIX
// extended regular expression. What Go and Postfix's regexp(5) would read differently is
// refused.
func compilePattern(what, p string) (ere string, re *regexp.Regexp, err error) {
	if strings.TrimSpace(p) == "" {
		return "", nil, fmt.Errorf("empty %s pattern: it would match every message", what)
	}
	if strings.ContainsAny(p, "\r\n\x00") || len(p) > 1000 {
		return "", nil, fmt.Errorf("%s pattern %.80q: must be one line of at most 1000 bytes", what, p)
	}
	if len(p) > 2 && p[0] == '/' && p[len(p)-1] == '/' {
		ere = p[1 : len(p)-1]
		if strings.Contains(strings.ReplaceAll(ere, `\/`, ""), "/") {
			return "", nil, fmt.Errorf("%s pattern %q: write a slash inside as \\/", what, p)
		}
		ere = strings.ReplaceAll(ere, `\/`, "/")
		if err := checkERE(ere); err != nil {
			return "", nil, fmt.Errorf("%s pattern %q: %w", what, p, err)
		}
	} else {
		var words []string
		for _, w := range strings.Fields(p) {
			words = append(words, escapeERE(w))
		}
		ere = strings.Join(words, `[[:space:]]+`)
	}
	if _, err := regexp.CompilePOSIX(ere); err != nil {
		return "", nil, fmt.Errorf("%s pattern %q: %w", what, p, err)
	}
	if re, err = regexp.Compile("(?is)" + ere); err != nil {
		return "", nil, fmt.Errorf("%s pattern %q: %w", what, p, err)
	}
	if re.MatchString("") {
		return "", nil, fmt.Errorf("%s pattern %q would match every message", what, p)
	}
	return ere, re, nil
}

func escapeERE(w string) string {
	var b strings.Builder
	for _, r := range w {
		if strings.ContainsRune(`\.[]{}()*+?^$|`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// readings returns the ways in which the value of a header field may be read: as it
// stands, with its encoded words (RFC 2047) decoded, and with their ASCII alone.
func readings(value string) [3]string {
	raw := strings.TrimSpace(unfold(value))
	return [3]string{raw, strings.TrimSpace(decodeWords(raw)), strings.TrimSpace(asciiOfWords(raw))}
}

func unfold(s string) string {
	return strings.NewReplacer("\r\n", "", "\n", "", "\r", "").Replace(s)
}

// headerERE returns ere for the whole header field. Match sees its value, without
// white space around it.
func headerERE(ere string) string {
	const name = "^Subject[[:space:]]*:"
	var b strings.Builder
	eachERE(ere, func(tok string, class bool) {
		if tok == "$" && !class {
			tok = "[[:space:]]*$"
		}
		b.WriteString(tok)
	})
	if rest, ok := strings.CutPrefix(b.String(), "^"); ok {
		return name + "[[:space:]]*(" + rest + ")"
	}
	return name + ".*(" + b.String() + ")"
}
