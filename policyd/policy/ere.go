package policy

import (
	"fmt"
	"regexp"
	"strings"
)

var repeat = regexp.MustCompile(`^\{[0-9]+(,[0-9]*)?\}`)

// checkERE refuses what Go's regexp and the C library's regcomp(3), which
// Postfix's regexp(5) tables use, read differently or only one of them reads: a
// pattern must not match here and be passed over there.
func checkERE(ere string) error {
	caret, bar := 0, false
	var err error
	refuse := func(format string, args ...any) {
		if err == nil {
			err = fmt.Errorf(format, args...)
		}
	}
	at := 0
	eachERE(ere, func(tok string, class bool) {
		switch {
		case class && strings.Contains(tok, `\`):
			refuse("a backslash inside [...] is read differently by Postfix: put the character outside")
		case class && (strings.Contains(tok, "[.") || strings.Contains(tok, "[=")):
			refuse("[. and [= inside [...] are not supported")
		case class && strings.Contains(tok[1:], "[") && !strings.Contains(tok[1:], "[:"):
			refuse("a [ inside [...] is read differently by Postfix: write \\[ outside")
		case class:
		case tok[0] == '\\' && (len(tok) != 2 || !strings.Contains(`\.[]{}()*+?^$|`, tok[1:])):
			refuse("%s is not an escape of POSIX regular expressions", tok)
		case tok == "{" && !repeat.MatchString(ere[at:]):
			refuse("a { that is no repetition: write \\{")
		case tok == "(" && strings.HasPrefix(ere[at:], "(?"):
			refuse("(? is not of POSIX regular expressions")
		case strings.Contains("*+?}^", tok) && at+1 < len(ere) && strings.Contains("*+?{", ere[at+1:at+2]):
			refuse("%s is not of POSIX regular expressions", ere[at:at+2])
		case tok == "^":
			caret++
		case tok == "|":
			bar = true
		}
		at += len(tok)
	})
	if caret > 1 || caret == 1 && (ere[0] != '^' || bar) {
		refuse("^ may stand only at the very front of a pattern without |: write several patterns")
	}
	return err
}

// eachERE calls fn with the tokens of an ERE: a bracket expression (class), an
// escaped character, any other byte.
func eachERE(ere string, fn func(tok string, class bool)) {
	for i := 0; i < len(ere); {
		n, class := 1, false
		switch ere[i] {
		case '\\':
			n = min(2, len(ere)-i)
		case '[':
			n, class = bracket(ere[i:]), true
		}
		fn(ere[i:i+n], class)
		i += n
	}
}

// bracket returns the length of the bracket expression at the front of s, by the
// rules of POSIX: a ] at its front is a character, and so is a backslash.
func bracket(s string) int {
	i := 1
	if i < len(s) && s[i] == '^' {
		i++
	}
	if i < len(s) && s[i] == ']' {
		i++
	}
	for i < len(s) {
		if s[i] == ']' {
			return i + 1
		}
		if strings.HasPrefix(s[i:], "[:") {
			if end := strings.Index(s[i+2:], ":]"); end >= 0 {
				i += 2 + end + 2
				continue
			}
		}
		i++
	}
	return len(s)
}
