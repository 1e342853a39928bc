package tlsmap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/postseal/postseal/policyd/policy"
)

// Options say how [Server.Write] writes the maps.
type Options struct {
	// Type is texthash (read as it is), or lmdb, cdb or hash (built by postmap). Empty is
	// texthash.
	Type string
	// Postmap is the command that builds them; "" for postmap in $PATH.
	Postmap string
	// PostmapArgs come first, such as -c and a configuration directory.
	PostmapArgs []string
	// Own lists the own domains, so that a rule for * or a parent domain does not
	// catch them. nil says that nobody knows them: such a rule is then an error.
	Own []string
	// Known lists more domains and next-hops that get a line of their own where their
	// answer differs from the one they would find: those whose posture is known, and
	// those in the administrator's own TLS policy table.
	Known []string
	// Bounce is the address, without its extension, to which notices bounce; "" for
	// none. It works where + is among Postfix's recipient_delimiter.
	Bounce string
}

// InexpressibleError lists the rules that a file cannot say, and why. Nothing was written.
type InexpressibleError struct{ Reasons []string }

func (e *InexpressibleError) Error() string {
	return "map files cannot say what these rules do, use the map server: " + strings.Join(e.Reasons, "; ")
}

// Write writes the maps as files into dir, and returns the names of the maps that
// differ from what was there. A file says the same at the same state of things,
// whenever and wherever it is written. Each is written under a temporary name, synced
// and renamed, so that Postfix finds the old one or the new one; a failure leaves the
// old ones.
//
// What main.cf says, with TYPE:DIR/NAME in place of the socketmaps:
//
//	transport_maps = TYPE:DIR/transport, and the administrator's own behind it
//	smtp_tls_policy_maps = TYPE:DIR/tls-policy, likewise
//	sender_dependent_default_transport_maps = TYPE:DIR/sender-transport
//
// and for securesmtp and forcedsmtp in master.cf:
//
//	-o smtp_tls_security_level=encrypt -o smtp_tls_mandatory_protocols=>=TLSv1.2
//	-o smtp_tls_policy_maps=TYPE:DIR/secure-tls-policy
//
// A destination that is not in secure-tls-policy gets the transport's own level, which
// is encrypt. static:encrypt must not stand behind that file: Postfix asks all tables
// for a domain before it asks any for the parent, so static: would answer first and the
// lines for parent domains would never be found. Nor may the administrator's own table
// stand behind it: a "may" there would undo encrypt. (Its keys go into Options.Known,
// and the stronger of both is written.)
//
// Lines for .parent in transport work only where parent_domain_matches_subdomains does
// not name transport_maps, which is the default (transport(5)); in the TLS policy maps
// they always work.
//
// What a destination publishes (DANE, MTA-STS) counts for those whose posture is known, as
// of the last look. A file can't say "wait", so where mail must wait its line is a policy
// that no certificate meets.
//
// What files do not do: they know the postures of listed domains only (others go by
// mandatory TLS, and to the escrow through the fallback); a recipient that requires
// nothing under a rule that does gets the line ":", with which Postfix does not look
// into the tables behind; recipients are not pinned to the splitter while a retry may
// come; and a change reaches Postfix when its processes reload.
func (s *Server) Write(ctx context.Context, dir string, o Options) (changed []string, err error) {
	switch o.Type {
	case "":
		o.Type = "texthash"
	case "texthash", "lmdb", "cdb", "hash":
	default:
		return nil, fmt.Errorf("map type %q: want texthash, lmdb, cdb or hash", o.Type)
	}
	if o.Postmap == "" {
		o.Postmap = "postmap"
	}
	files, err := s.files(ctx, o)
	if err != nil {
		return nil, err
	}
	for _, name := range Maps() {
		wrote, err := writeMap(ctx, dir, name, files[name], o)
		if err != nil {
			return changed, fmt.Errorf("write map %s: %w", name, err)
		}
		if wrote {
			changed = append(changed, name)
		}
	}
	return changed, nil
}

// Files returns the content of the maps by name, as [Server.Write] writes them.
func (s *Server) files(ctx context.Context, o Options) (map[string][]byte, error) {
	w := writer{Server: s, opts: o}
	w.transportFile(ctx)
	w.tlsFiles(ctx)
	w.senderFile()
	if w.err != nil {
		return nil, w.err
	}
	if len(w.cannot) > 0 {
		slices.Sort(w.cannot)
		return nil, &InexpressibleError{slices.Compact(w.cannot)}
	}
	files := make(map[string][]byte)
	for _, name := range Maps() {
		var b bytes.Buffer
		fmt.Fprintf(&b, "# %s: written by postseal, changes are lost.\n", name)
		lines := w.lines[name]
		slices.Sort(lines)
		for _, l := range slices.Compact(lines) {
			b.WriteString(l + "\n")
		}
		files[name] = b.Bytes()
	}
	return files, nil
}

// writer gathers the lines of all maps.
type writer struct {
	*Server
	opts   Options
	lines  map[string][]string
	cannot []string
	err    error
}

func (w *writer) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *writer) add(name, key, value string) {
	if w.lines == nil {
		w.lines = make(map[string][]string)
	}
	w.lines[name] = append(w.lines[name], key+"\t"+value)
}

// noOwn says that nothing is own: for patterns that stand for many domains, of which
// the own ones have lines of their own.
type noOwn struct{}

func (noOwn) Own(context.Context, string) (bool, error) { return false, nil }

// Representatives of "any domain" and "any subdomain", for which there is no rule.
const anyDomain = "postseal-any-domain"

// answerFor returns the transport's answer for a pattern, as [Server.transport] gives it:
// for a wide pattern, as for a domain under it of which nothing is known.
func (w *writer) answerFor(ctx context.Context, pattern string) (string, error) {
	wide := *w.Server
	engine := *w.cfg.Engine
	engine.Own = noOwn{}
	question := policy.Question{SenderUnknown: true, Fresh: &policy.Posture{}}
	switch {
	case pattern == "*":
		question.Recipient.Domain = anyDomain
	case pattern[0] == '.':
		question.Recipient.Domain = anyDomain + pattern
	default:
		text, err := w.transport(ctx, pattern)
		var blocked *blockedError
		if errors.As(err, &blocked) {
			return "retry:4.7.1 " + sanitise(blocked.Error()), nil
		}
		return text, err
	}
	wide.cfg.Engine = &engine
	var d policy.Answer
	if engine.Plain(&question, &d) {
		return "", nil
	}
	if err := engine.Complete(ctx, &question, &d); err != nil {
		return "", err
	}
	text, err := wide.road(&d)
	var blocked *blockedError
	if errors.As(err, &blocked) {
		return "retry:4.7.1 " + sanitise(blocked.Error()), nil
	}
	return text, err
}

// transportFile lists every pattern of a recipient rule, and of a sender rule since
// bounces return to it, with what the map server would answer for it.
func (w *writer) transportFile(ctx context.Context) {
	answers := make(map[string]string) // by pattern; ":" is written only under a broader line
	broad := ""
	put := func(pattern string) {
		if _, done := answers[pattern]; done || w.err != nil {
			return
		}
		key := pattern
		if !strings.Contains(pattern, "@") && pattern[0] != '.' && pattern != "*" {
			key = "@" + pattern // any address of the domain
		}
		text, err := w.answerFor(ctx, key)
		if err != nil {
			w.fail(fmt.Errorf("decide for %s: %w", pattern, err))
			return
		}
		answers[pattern] = text
		if text != "" && (pattern == "*" || pattern[0] == '.') {
			broad = pattern
		}
	}
	now := w.cfg.Engine.Now()
	for r := range w.cfg.Engine.Rules().All {
		if r.Active(now) && r.Pattern != "<>" && (r.Scope == policy.ByRecipient || r.Scope == policy.BySender) {
			put(r.Pattern)
		}
	}
	if w.opts.Own == nil && broad != "" {
		w.cannot = append(w.cannot, fmt.Sprintf("a rule for %s (it covers own domains, and nobody lists them: --own-domain)", broad))
	}
	for _, d := range slices.Concat(w.opts.Own, w.opts.Known) {
		if d = policy.CanonicalDomain(d); d != "" && d[0] != '.' && !strings.ContainsAny(d, ":@* ") {
			put(d)
		}
	}
	for pattern, text := range answers {
		if text == broader(answers, pattern) {
			continue
		}
		if text == "" {
			text = ":" // the line that changes nothing, and ends the search
		}
		w.address(MapTransport, pattern, text)
	}
	if w.opts.Bounce != "" {
		w.address(MapTransport, w.opts.Bounce, w.splitEncryption)
	}
}

// broader returns what transport(5) would find for pattern without its own line.
func broader(answers map[string]string, pattern string) string {
	domain := pattern
	if i := strings.LastIndexByte(pattern, '@'); i >= 0 {
		// An extension is looked up without it, so that line would be found first.
		if base := strings.IndexAny(pattern[:i], "+-"); base > 0 {
			return "\x00" // keep the line, whatever the delimiter
		}
		domain = pattern[i+1:]
		if t, ok := answers[domain]; ok {
			return t
		}
	}
	if pattern == "*" {
		return ""
	}
	if domain[0] != '[' {
		for i := 1; i < len(domain); i++ {
			if domain[i] == '.' {
				if t, ok := answers[domain[i:]]; ok {
					return t
				}
			}
		}
	}
	return answers["*"]
}

// address adds a line for a pattern, in both forms that Postfix may look an address up
// by: its local part quoted and not.
func (w *writer) address(name, pattern, text string) {
	keys := []string{pattern}
	if i := strings.LastIndexByte(pattern, '@'); i > 0 {
		a := policy.Address{Local: pattern[:i], Domain: pattern[i+1:]}
		keys = append(keys, a.String())
	}
	for _, k := range keys {
		if strings.ContainsAny(k, " \t\"\\") || k[0] == '#' || strings.TrimSpace(k) != k {
			w.cannot = append(w.cannot, fmt.Sprintf("a rule for %q (a key with a space, quote or leading # cannot be written)", pattern))
			return
		}
	}
	for _, k := range slices.Compact(keys) {
		w.add(name, k, text)
	}
}

// waiting is the line for a destination whose mail must wait: no certificate can have
// that name (RFC 6761, section 6.4).
const waiting = "secure match=waits.postseal.invalid"

// known returns what a destination publishes as of the last look. Nobody waits for a
// look: what is not known yet counts as not published, as for the destinations that are
// not in the file at all.
func (w *writer) known(_ context.Context, dest string) policy.Published {
	var p policy.Published
	if !strings.HasPrefix(dest, anyDomain) {
		p = w.cfg.Engine.Postures.Posture(dest, policy.TLSParams{}).Published
	}
	if p.DANE == policy.DANEUnknown {
		p.DANE = policy.DANEOff
	}
	if p.STS == policy.STSUnknown {
		p.STS = policy.STSOff
	}
	return p
}

// line is the text of a lookup, or the one for mail that waits.
func line(text string, err error) (string, error) {
	var wait *waitError
	if errors.As(err, &wait) {
		return waiting, nil
	}
	return text, err
}

// tlsFiles lists the domains, parents and next-hops of recipient rules.
func (w *writer) tlsFiles(ctx context.Context) {
	files := *w.Server
	if w.cfg.Published != nil {
		files.cfg.Published = w.known
	}
	rules, now := w.cfg.Engine.Rules(), w.cfg.Engine.Now()
	keys := make(map[string]bool)
	var exempt []string // domains whose mail may go in plaintext
	for r := range rules.All {
		if r.Scope != policy.ByRecipient || !r.Active(now) {
			continue
		}
		if i := strings.LastIndexByte(r.Pattern, '@'); i >= 0 {
			if r.Requirement == policy.None {
				exempt = append(exempt, r.Pattern[i+1:])
			}
			continue
		}
		if r.Pattern == "*" {
			if !unsaid(r.TLS) {
				w.cannot = append(w.cannot, "the TLS demands of the rule for * (a TLS policy table has no such key)")
			}
			continue
		}
		keys[r.Pattern] = true
		if r.Requirement == policy.None && unsaid(r.TLS) {
			exempt = append(exempt, r.Pattern)
		}
		if r.Nexthop != "" {
			keys[strings.ToLower(r.Nexthop)] = true
		}
	}
	exempts := func(parent string) bool {
		return slices.ContainsFunc(exempt, func(e string) bool { return strings.HasSuffix(e, parent) }) ||
			slices.ContainsFunc(w.opts.Own, func(d string) bool { return strings.HasSuffix(policy.CanonicalDomain(d), parent) })
	}
	for _, k := range w.opts.Known {
		if k = strings.ToLower(k); k != "" && k != "*" && !strings.ContainsAny(k, "@ \t") {
			keys[k] = true
		}
	}
	for key := range keys {
		ask := key
		if key[0] == '.' {
			ask = anyDomain + key
		}
		// A line for a parent would catch a subdomain that is exempt or own, which no
		// line of its own could take out again: this map is the second guard only.
		if key[0] != '.' || !exempts(key) {
			text, err := line(files.tlsPolicy(ctx, ask))
			if err != nil {
				w.fail(fmt.Errorf("tls policy of %s: %w", key, err))
				return
			}
			if text != "" {
				w.add(MapTLSPolicy, key, text)
			}
		}
		text, err := line(files.secureTLSPolicy(ctx, ask))
		if err != nil {
			w.fail(fmt.Errorf("tls policy of %s: %w", key, err))
			return
		}
		w.add(MapSecureTLSPolicy, key, text)
	}
	for _, f := range w.fallback {
		w.add(MapTLSPolicy, f, "none")
		w.add(MapSecureTLSPolicy, f, "none")
	}
}

// senderFile lists sender rules. Postfix looks up the address and @domain, no more.
func (w *writer) senderFile() {
	now := w.cfg.Engine.Now()
	for r := range w.cfg.Engine.Rules().All {
		if r.Scope != policy.BySender || !r.Active(now) {
			continue
		}
		key, ask := r.Pattern, r.Pattern
		switch {
		case key == "*" || key[0] == '.':
			if r.Requirement != policy.None {
				w.cannot = append(w.cannot, fmt.Sprintf("the sender rule %s (Postfix looks senders up by address and domain only)", key))
			}
			continue
		case key != "<>" && !strings.Contains(key, "@"):
			key, ask = "@"+key, `""@`+key
		}
		text, err := w.senderTransport(ask)
		if err != nil {
			w.fail(fmt.Errorf("sender %s: %w", r.Pattern, err))
			return
		}
		if text == "" {
			text = "DUNNO" // ends the search, where the sender's domain has a line
		}
		w.address(MapSenderTransport, key, text)
	}
}

// writeMap writes one map, if it differs from what is there.
func writeMap(ctx context.Context, dir, name string, content []byte, o Options) (wrote bool, err error) {
	path := filepath.Join(dir, name)
	suffix := map[string]string{"lmdb": ".lmdb", "cdb": ".cdb", "hash": ".db"}[o.Type]
	old, err := os.ReadFile(path)
	if err == nil && bytes.Equal(old, content) {
		if suffix == "" {
			return false, nil
		}
		if _, err := os.Stat(path + suffix); err == nil {
			return false, nil
		}
	} else if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false, err
	}
	// A directory of its own: postmap puts the table, and whatever it needs meanwhile,
	// beside the text. It is in dir, so that renaming stays within one file system.
	tmp, err := os.MkdirTemp(dir, ".postseal-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(tmp)
	text := filepath.Join(tmp, name)
	if err := os.WriteFile(text, content, 0o644); err != nil {
		return false, err
	}
	if err := os.Chmod(text, 0o644); err != nil { // whatever the umask: Postfix reads it as postfix
		return false, err
	}
	if err := syncPath(text); err != nil {
		return false, err
	}
	if suffix != "" {
		if err := postmap(ctx, o, text); err != nil {
			return false, err
		}
		if err := syncPath(text + suffix); err != nil {
			return false, err
		}
		// The table first: after a crash in between the text still differs, and both
		// are written again.
		if err := os.Rename(text+suffix, path+suffix); err != nil {
			return false, err
		}
	}
	if err := os.Rename(text, path); err != nil {
		return false, err
	}
	return true, syncPath(dir)
}

func postmap(ctx context.Context, o Options, text string) error {
	cmd := exec.CommandContext(ctx, o.Postmap, append(slices.Clone(o.PostmapArgs), o.Type+":"+text)...)
	out, err := cmd.CombinedOutput()
	// postmap warns of keys that it leaves out, and still succeeds.
	if err == nil && len(bytes.TrimSpace(out)) > 0 {
		err = errors.New("it warned")
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", o.Postmap, o.Type, err, sanitise(string(bytes.TrimSpace(out))))
	}
	return nil
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
