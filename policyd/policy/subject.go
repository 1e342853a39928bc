package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// Subjects are the subject patterns whose messages require encryption (the
// content scope).
type Subjects struct {
	patterns []subjectPattern
}

type subjectPattern struct {
	typed string
	re    *regexp.Regexp
	ere   string
	rule  *Rule
}

// ParseSubjects reads patterns: plain text, found anywhere in the subject,
// without regard to case, white space matching any run of white space; or
// /ERE/, a POSIX extended regular expression. Each demands encryption. What Go
// and Postfix's regexp(5) would read differently is refused.
func ParseSubjects(patterns []string) (*Subjects, error) {
	s := &Subjects{}
	for _, p := range patterns {
		if strings.TrimSpace(p) == "" {
			return nil, fmt.Errorf("empty subject pattern: it would match every message")
		}
		if strings.ContainsAny(p, "\r\n\x00") {
			return nil, fmt.Errorf("subject pattern %q: must be one line", p)
		}
		var ere string
		if len(p) > 2 && p[0] == '/' && p[len(p)-1] == '/' {
			ere = p[1 : len(p)-1]
			if strings.Contains(strings.ReplaceAll(ere, `\/`, ""), "/") {
				return nil, fmt.Errorf("subject pattern %q: write a slash inside as \\/", p)
			}
			ere = strings.ReplaceAll(ere, `\/`, "/")
			if err := checkERE(ere); err != nil {
				return nil, fmt.Errorf("subject pattern %q: %w", p, err)
			}
		} else {
			var words []string
			for _, w := range strings.Fields(p) {
				words = append(words, escapeERE(w))
			}
			ere = strings.Join(words, `[[:space:]]+`)
		}
		if _, err := regexp.CompilePOSIX(ere); err != nil {
			return nil, fmt.Errorf("subject pattern %q: %w", p, err)
		}
		re, err := regexp.Compile("(?is)" + ere)
		if err != nil {
			return nil, fmt.Errorf("subject pattern %q: %w", p, err)
		}
		if re.MatchString("") {
			return nil, fmt.Errorf("subject pattern %q would match every message", p)
		}
		s.patterns = append(s.patterns, subjectPattern{
			typed: p, re: re, ere: ere,
			rule: &Rule{Scope: ByContent, Pattern: p, Requirement: Encryption},
		})
	}
	return s, nil
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

// Empty reports whether there are no patterns.
func (s *Subjects) Empty() bool { return s == nil || len(s.patterns) == 0 }

// Match returns the rule of the first pattern that subject, the value of the
// header field with or without its folds and encoded words (RFC 2047), matches;
// nil if none does.
func (s *Subjects) Match(subject string) *Rule {
	if s.Empty() {
		return nil
	}
	raw := strings.TrimSpace(unfold(subject))
	decoded, ascii := strings.TrimSpace(decodeWords(raw)), strings.TrimSpace(asciiOfWords(raw))
	for i := range s.patterns {
		p := &s.patterns[i]
		if p.re.MatchString(raw) || p.re.MatchString(decoded) || p.re.MatchString(ascii) {
			return p.rule
		}
	}
	return nil
}

func unfold(s string) string {
	return strings.NewReplacer("\r\n", "", "\n", "", "\r", "").Replace(s)
}

// HeaderChecks returns the lines of a Postfix regexp: table for header_checks:
// the patterns go to the splitter at encryption; a subject that such a table
// can't read as [Subjects.Match] does (encoded words, folds, anything but ASCII)
// goes to the splitter at decide, which asks Match.
func (s *Subjects) HeaderChecks(encryption, decide string) []string {
	if s.Empty() {
		return nil
	}
	var lines []string
	for _, p := range s.patterns {
		lines = append(lines, fmt.Sprintf("/%s/ FILTER %s", strings.ReplaceAll(headerERE(p.ere), "/", `\/`), encryption))
	}
	return append(lines, fmt.Sprintf(`/^Subject[[:space:]]*:.*(=\?|[^ -~])/ FILTER %s`, decide))
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
