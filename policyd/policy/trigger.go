package policy

import (
	"errors"
	"fmt"
	"net/textproto"
	"regexp"
	"slices"
	"strings"
	"time"
)

// TriggerKind says which part of a message's header a trigger looks at.
type TriggerKind uint8

// The kinds, by the words of the database: subject, header, sensitivity.
const (
	OnSubject     TriggerKind = iota
	OnHeader                  // another field, by its name
	OnSensitivity             // the field Sensitivity (RFC 2156, section 2.3.1.14)
)

var triggerKindNames = [...]string{"subject", "header", "sensitivity"}

func (k TriggerKind) String() string {
	if int(k) < len(triggerKindNames) {
		return triggerKindNames[k]
	}
	return fmt.Sprintf("trigger(%d)", k)
}

// ParseTriggerKind reads one of the words subject, header, sensitivity.
func ParseTriggerKind(s string) (TriggerKind, error) {
	for i, n := range triggerKindNames {
		if s == n {
			return TriggerKind(i), nil
		}
	}
	return 0, fmt.Errorf("unknown kind of trigger %q: want subject, header or sensitivity", s)
}

// MarshalText writes the kind's word.
func (k TriggerKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Trigger is content that requires something of a message, where its sender may
// use it.
type Trigger struct {
	ID          int64
	Kind        TriggerKind
	Header      string // of kind header: the field's name, in lower case
	Pattern     string // text or /ERE/; of kind sensitivity: see [CanonicalSensitivity]
	Sender      string // who may use it, canonical as of a sender rule; "*": everybody
	Requirement Requirement
	Remove      bool // take the tag out of the subject, or the whole field of kind header
	Note        string
	Until       time.Time // end, exclusive; zero: none
	Created     time.Time
}

// Active reports whether the trigger is in force at now.
func (t *Trigger) Active(now time.Time) bool { return t.Until.IsZero() || now.Before(t.Until) }

// What names the content, such as "[secure]" or "X-Secure: yes".
func (t *Trigger) What() string {
	switch t.Kind {
	case OnHeader:
		return textproto.CanonicalMIMEHeaderKey(t.Header) + ": " + t.Pattern
	case OnSensitivity:
		return "Sensitivity: " + t.Pattern
	}
	return t.Pattern
}

// Who names the senders that may use it, as an administrator types them.
func (t *Trigger) Who() string { return (&Rule{Scope: BySender, Pattern: t.Sender}).typed() }

// String names the trigger in reasons and errors.
func (t *Trigger) String() string {
	return fmt.Sprintf("trigger %s %s (%s, for %s)", t.Kind, t.What(), t.Requirement, t.Who())
}

// Validate checks a trigger by itself and says what to do about what is wrong.
// Header, Sender and the Pattern of kind sensitivity must be canonical.
func (t *Trigger) Validate() error {
	_, err := t.compile()
	return err
}

var sensitivities = []string{"personal", "private", "company-confidential", "any"}

// CanonicalSensitivity reads what an administrator typed: personal, private,
// company-confidential (or confidential), the values of RFC 2156; or any, for all of
// them and whatever else the field says.
func CanonicalSensitivity(typed string) (string, error) {
	s := strings.ToLower(strings.TrimSpace(typed))
	if s == "confidential" {
		s = "company-confidential"
	}
	if !slices.Contains(sensitivities, s) {
		return "", fmt.Errorf("sensitivity %q: want personal, private, company-confidential or any", typed)
	}
	return s, nil
}

// unseen are fields that a trigger can't be about: what Postfix drops or adds on the
// way, and what has a kind of its own.
var unseen = map[string]string{
	"subject":                "use --subject",
	"sensitivity":            "use --sensitivity",
	"bcc":                    "Postfix drops the field",
	"resent-bcc":             "Postfix drops the field",
	"return-path":            "Postfix drops the field",
	"content-length":         "Postfix drops the field",
	"received":               "every message has the field, from everybody on its way",
	"mime-version":           "it is a field of MIME",
	"x-postseal-requirement": "the field is Postseal's own",
}

// CanonicalHeader reads the name of a header field (RFC 5322, section 2.2).
func CanonicalHeader(typed string) (string, error) {
	n := strings.ToLower(strings.TrimSpace(typed))
	if n == "" || len(n) > 200 {
		return "", fmt.Errorf("header field %.80q: want a name of 1 to 200 characters", typed)
	}
	for i := 0; i < len(n); i++ {
		if n[i] <= ' ' || n[i] >= 0x7f || n[i] == ':' {
			return "", fmt.Errorf("header field %q: a name is printable ASCII, without spaces", typed)
		}
	}
	if why, bad := unseen[n]; bad {
		return "", fmt.Errorf("header field %s: %s", typed, why)
	}
	if strings.HasPrefix(n, "content-") {
		return "", fmt.Errorf("header field %s: fields of MIME are not looked at", typed)
	}
	return n, nil
}

// trigger is one that is ready to be matched.
type trigger struct {
	*Trigger
	re   *regexp.Regexp // nil for kind sensitivity
	ere  string
	rule *Rule
}

func (t *Trigger) compile() (*trigger, error) {
	c := &trigger{Trigger: t, rule: &Rule{
		Scope: ByContent, Pattern: t.What(), Requirement: t.Requirement, Note: t.Note, Until: t.Until, Created: t.Created,
	}}
	switch t.Requirement {
	case ForcedTLS, Encryption, EscrowOnly:
	default:
		return nil, errors.New("a trigger requires something: --require tls, encryption or escrow")
	}
	if p, err := CanonicalPattern(BySender, t.Who()); err != nil {
		return nil, err
	} else if p != t.Sender {
		return nil, fmt.Errorf("sender pattern %q is not canonical", t.Sender)
	}
	if strings.ContainsAny(t.Note, "\r\n\x00") || len(t.Note) > 1000 {
		return nil, errors.New("the note must be one line of at most 1000 bytes")
	}
	switch t.Kind {
	case OnSubject:
		if t.Header != "" {
			return nil, errors.New("a trigger on the subject names no other header field")
		}
	case OnHeader:
		if n, err := CanonicalHeader(t.Header); err != nil {
			return nil, err
		} else if n != t.Header {
			return nil, fmt.Errorf("header field %q is not canonical", t.Header)
		}
	case OnSensitivity:
		if s, err := CanonicalSensitivity(t.Pattern); err != nil {
			return nil, err
		} else if s != t.Pattern || t.Header != "" {
			return nil, fmt.Errorf("sensitivity %q is not canonical", t.Pattern)
		}
		if t.Remove {
			return nil, errors.New("--remove goes with --subject and --header: Sensitivity is for the recipient to see")
		}
		return c, nil
	default:
		return nil, fmt.Errorf("unknown kind of trigger %d", t.Kind)
	}
	var err error
	c.ere, c.re, err = compilePattern(t.Kind.String(), t.Pattern)
	return c, err
}

// field is the lower-case name of the field that t looks at.
func (t *Trigger) field() string {
	if t.Kind == OnHeader {
		return t.Header
	}
	return t.Kind.String()
}

func (t *trigger) matches(value string) bool {
	for _, v := range readings(value) {
		if t.re != nil && t.re.MatchString(v) || t.re == nil && isSensitivity(v, t.Pattern) {
			return true
		}
	}
	return false
}

// isSensitivity compares a value of the field with what a trigger wants: without
// comments, and whatever stands between the words.
func isSensitivity(value, want string) bool {
	letters := func(s string) string {
		return strings.Map(func(r rune) rune {
			if r == '-' || r == '_' || r <= ' ' {
				return -1
			}
			return r
		}, strings.ToLower(s))
	}
	for {
		open := strings.LastIndexByte(value, '(')
		end := -1
		if open >= 0 {
			end = strings.IndexByte(value[open:], ')')
		}
		if end < 0 {
			break
		}
		value = value[:open] + value[open+end+1:]
	}
	got := letters(value)
	if want == "any" {
		return got != "" && got != "normal"
	}
	return got == letters(want)
}

// Triggers are all triggers of one moment: those of the settings, and those of the
// database.
type Triggers struct {
	list       []*trigger
	byField    map[string][]*trigger
	delimiters Delimiters
}

// All returns all triggers of the set, those of the settings first.
func (s *Triggers) All() []*Trigger {
	list := make([]*Trigger, len(s.list))
	for i, t := range s.list {
		list[i] = t.Trigger
	}
	return list
}

// NewTriggers makes the set. subjects are the patterns of the settings: everybody may
// use them, and they require encryption. delimiters is Postfix's recipient_delimiter.
// A trigger that can't be read is an error, never none.
func NewTriggers(subjects []string, triggers []*Trigger, delimiters Delimiters) (*Triggers, error) {
	s := &Triggers{byField: make(map[string][]*trigger), delimiters: delimiters}
	add := func(t *Trigger) error {
		c, err := t.compile()
		if err == nil {
			s.list = append(s.list, c)
			s.byField[t.field()] = append(s.byField[t.field()], c)
		}
		return err
	}
	for _, p := range subjects {
		if err := add(&Trigger{Kind: OnSubject, Pattern: p, Sender: "*", Requirement: Encryption}); err != nil {
			return nil, err
		}
	}
	for _, t := range triggers {
		if err := add(t); err != nil {
			return nil, fmt.Errorf("trigger %d (%s %s): %w", t.ID, t.Kind, t.What(), err)
		}
	}
	return s, nil
}

// Empty reports whether there are no triggers.
func (s *Triggers) Empty() bool { return s == nil || len(s.list) == 0 }

// Concerns reports whether some trigger looks at the header field of this name, in
// any case.
func (s *Triggers) Concerns(name string) bool {
	return !s.Empty() && len(s.byField[strings.ToLower(name)]) > 0
}

// Fired is a trigger that a header field sets off.
type Fired struct {
	*Trigger
	// Rule is what follows from it. Where the sender may not use the trigger it is
	// nil, and nothing does.
	Rule *Rule
}

// Match returns the triggers in force at now that a header field sets off, sent by
// sender. value is the field's, with or without its folds and encoded words (RFC 2047).
func (s *Triggers) Match(name, value string, sender Address, now time.Time) []Fired {
	if !s.Concerns(name) {
		return nil
	}
	var fired []Fired
	for _, t := range s.byField[strings.ToLower(name)] {
		if !t.Active(now) || !t.matches(value) {
			continue
		}
		f := Fired{Trigger: t.Trigger}
		if coversSender(t.Sender, sender, s.delimiters) {
			f.Rule = t.rule
		}
		fired = append(fired, f)
	}
	return fired
}

// Rules returns the rules of what fired, each once.
func Rules(fired []Fired) []*Rule {
	var rules []*Rule
	for _, f := range fired {
		if f.Rule != nil && !slices.Contains(rules, f.Rule) {
			rules = append(rules, f.Rule)
		}
	}
	return rules
}

// coversSender reports whether a pattern covers an address, as [Snapshot.Lookup]
// finds it.
func coversSender(pattern string, a Address, d Delimiters) bool {
	switch {
	case pattern == "*":
		return true
	case pattern == "<>" || a.IsNull():
		return pattern == "<>" && a.IsNull()
	case strings.HasPrefix(pattern, "."):
		return !strings.HasPrefix(a.Domain, "[") && strings.HasSuffix(a.Domain, pattern)
	case !strings.Contains(pattern, "@"):
		return a.Domain == pattern
	}
	local := strings.ToLower(a.Local)
	if local+"@"+a.Domain == pattern {
		return true
	}
	base, ok := d.Split(a.Local)
	return ok && strings.ToLower(base)+"@"+a.Domain == pattern
}

// HeaderChecks returns the lines of a Postfix regexp: table for header_checks. Such a
// table knows no sender and no end date, so only what requires encryption of everybody
// for good goes to the splitter at encryption, and everything else to the one at decide,
// which has the triggers themselves: other subjects; subjects that such a table can't
// read as [Triggers.Match] does (encoded words, folds, anything but ASCII); and every
// message that has another field which some trigger looks at.
func (s *Triggers) HeaderChecks(encryption, decide string) []string {
	if s.Empty() {
		return nil
	}
	var lines []string
	for _, t := range s.byField[OnSubject.String()] {
		to := decide
		if t.Sender == "*" && t.Requirement == Encryption && t.Until.IsZero() {
			to = encryption
		}
		if l := fmt.Sprintf("/%s/ FILTER %s", strings.ReplaceAll(headerERE(t.ere), "/", `\/`), to); !slices.Contains(lines, l) {
			lines = append(lines, l)
		}
	}
	if lines != nil {
		lines = append(lines, fmt.Sprintf(`/^Subject[[:space:]]*:.*(=\?|[^ -~])/ FILTER %s`, decide))
	}
	var names []string
	for name := range s.byField {
		if name != OnSubject.String() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		lines = append(lines, fmt.Sprintf("/^%s[[:space:]]*:/ FILTER %s", strings.ReplaceAll(escapeERE(name), "/", `\/`), decide))
	}
	return lines
}
