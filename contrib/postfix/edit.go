package postfix

import (
	"errors"
	"strings"
)

// The marks by which our lines are found again. What stands between begin and end
// is ours; a line of the administrator's that ours replace is kept as a comment.
const (
	beginMark = "# BEGIN postseal"
	endMark   = "# END postseal"
	kept      = "#postseal# "
)

const beginLine = beginMark + `: written by "postseal postfix setup", taken out by "postseal postfix undo"` + "\n"

// strip takes our lines out of a main.cf or master.cf and returns it as it was
// before, with the lines that were ours.
func strip(file string) (theirs, ours string, err error) {
	var b, o strings.Builder
	inside := false
	for line := range strings.Lines(file) {
		switch {
		case strings.HasPrefix(line, beginMark):
			if inside {
				return "", "", errors.New("two lines " + beginMark + " without " + endMark + " between them: repair the file by hand")
			}
			inside = true
		case strings.HasPrefix(line, endMark):
			if !inside {
				return "", "", errors.New("a line " + endMark + " without " + beginMark + " before it: repair the file by hand")
			}
			inside = false
		case inside:
			o.WriteString(line)
		default:
			b.WriteString(strings.TrimPrefix(line, kept))
		}
	}
	if inside {
		return "", "", errors.New("a line " + beginMark + " without " + endMark + " after it: repair the file by hand")
	}
	return b.String(), o.String(), nil
}

// entry is a logical line of a configuration file: its first physical line and
// those that continue it, with comments and empty lines between them.
type entry struct {
	from, to int    // physical lines, to exclusive
	text     string // joined, without comments
}

// entries returns the physical lines of a file and its logical ones, as Postfix
// reads main.cf and master.cf: a line that starts with white space continues the
// one before, and comments and empty lines do not part them (postconf(5)).
func entries(file string) (lines []string, found []entry) {
	for line := range strings.Lines(file) {
		i := len(lines)
		lines = append(lines, line)
		t := strings.TrimSpace(line)
		switch {
		case t == "" || strings.HasPrefix(t, "#"):
		case (line[0] == ' ' || line[0] == '\t') && len(found) > 0:
			e := &found[len(found)-1]
			e.to = i + 1
			e.text += " " + t
		default:
			found = append(found, entry{i, i + 1, t})
		}
	}
	return lines, found
}

// parameters returns what a main.cf sets, the last setting of each name.
func parameters(file string) map[string]string {
	m := make(map[string]string)
	_, es := entries(file)
	for _, e := range es {
		if name, value, ok := strings.Cut(e.text, "="); ok {
			m[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return m
}

// retire turns every setting of the parameters in main.cf that replaced has into
// a comment.
func retire(file string, replaced map[string]string) string {
	lines, es := entries(file)
	for _, e := range es {
		name, _, ok := strings.Cut(e.text, "=")
		if _, in := replaced[strings.TrimSpace(name)]; !ok || !in {
			continue
		}
		for i := e.from; i < e.to; i++ {
			if t := strings.TrimSpace(lines[i]); t != "" && !strings.HasPrefix(t, "#") {
				lines[i] = kept + lines[i]
			}
		}
	}
	return strings.Join(lines, "")
}

// drop takes out every line kept by retire for the parameters in names.
func drop(file string, names map[string]string) string {
	var b strings.Builder
	dropping := false
	for line := range strings.Lines(file) {
		if was, ok := strings.CutPrefix(line, kept); ok {
			if was != "" && was[0] != ' ' && was[0] != '\t' {
				name, _, _ := strings.Cut(was, "=")
				_, dropping = names[strings.TrimSpace(name)]
			}
			if dropping {
				continue
			}
		}
		b.WriteString(line)
	}
	return b.String()
}

// endWithNewline completes the last line of a file.
func endWithNewline(s string) string {
	if s != "" && !strings.HasSuffix(s, "\n") {
		return s + "\n"
	}
	return s
}

// insertPolicy puts call into a list of smtpd restrictions: behind what only
// rejects, before the first restriction that may permit, since a permit ends the
// list. sep parts the words of the result.
func insertPolicy(list string, call []string, sep string) string {
	words := splitList(list)
	at := 0
	for at < len(words) {
		n := rejects(words[at:])
		if n == 0 {
			break
		}
		at += n
	}
	out := append(append(append([]string{}, words[:at]...), call...), words[at:]...)
	return joinRestrictions(out, sep)
}

// rejects returns how many words the restriction at the front of words takes, if it
// can only reject, and 0 if it may permit or ends the list.
func rejects(words []string) int {
	w := strings.ToLower(words[0])
	n := 1
	switch {
	case w == "reject", w == "defer":
		return 0
	case w == "warn_if_reject":
		if len(words) == 1 {
			return 0
		}
		n = rejects(words[1:])
		if n == 0 {
			return 0
		}
		return n + 1
	case w == "sleep", strings.HasPrefix(w, "reject_rbl"), strings.HasPrefix(w, "reject_rhsbl"):
		n = 2
	case strings.HasPrefix(w, "reject_"), strings.HasPrefix(w, "defer_"):
	default:
		return 0
	}
	if n > len(words) {
		return 0
	}
	return n
}

// takesArgument reports whether a restriction is followed by an argument.
func takesArgument(w string) bool {
	w = strings.ToLower(w)
	return w == "check_policy_service" || w == "sleep" ||
		strings.HasPrefix(w, "check_") && strings.HasSuffix(w, "_access") ||
		strings.HasPrefix(w, "reject_rbl") || strings.HasPrefix(w, "reject_rhsbl") ||
		strings.HasPrefix(w, "permit_rhswl") || strings.HasPrefix(w, "permit_dnswl")
}

// joinRestrictions writes a list with sep between restrictions, and a blank (or sep,
// if that is a lone comma) before an argument.
func joinRestrictions(words []string, sep string) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			if sep != "," && takesArgument(words[i-1]) {
				b.WriteByte(' ')
			} else {
				b.WriteString(sep)
			}
		}
		b.WriteString(w)
	}
	return b.String()
}
