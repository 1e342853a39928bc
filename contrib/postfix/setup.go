package postfix

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

//go:embed main.cf
var mainFragment string

//go:embed master.cf
var masterFragment string

// The files that Setup adds to the configuration directory.
const (
	headerChecksFile = "postseal-header-checks"
	noticeFile       = "postseal-notice-recipients"
	stateFile        = "postseal-state.json"
)

// Options say where Postseal listens and what it needs of Postfix. [DefaultOptions]
// has the design's ports.
type Options struct {
	Policy   string          // policy service as Postfix names it: inet:127.0.0.1:8641
	Maps     string          // socketmap server: inet:127.0.0.1:8642
	Splitter policy.Splitter // inet:127.0.0.1:8643 and so on
	Fallback string          // [127.0.0.1]:8644

	// Where Postfix takes messages back: HOST:PORT on loopback.
	Plain, Secure, Forced, Notice string

	Floor      string           // least TLS version, as smtp_tls_mandatory_protocols wants it; "" for Postfix's
	Triggers   *policy.Triggers // nil for none
	NoticeFrom string           // address that notices come from; "" adds no bounce address
	DANE       bool             // Postfix is to look TLSA records up
	STS        bool             // Postseal verifies by MTA-STS policies

	DryRun bool      // show, and change nothing
	Out    io.Writer // what is changed is shown here; nil for nowhere
}

// DefaultOptions returns the design's ports.
func DefaultOptions() Options {
	return Options{
		Policy: "inet:127.0.0.1:8641",
		Maps:   "inet:127.0.0.1:8642",
		Splitter: policy.Splitter{
			Decide:     "inet:127.0.0.1:8649",
			Encryption: "inet:127.0.0.1:8643",
			Forced:     "inet:127.0.0.1:8648",
			Escrow:     "inet:127.0.0.1:8647",
		},
		Fallback: "[127.0.0.1]:8644",
		Plain:    "127.0.0.1:8651",
		Secure:   "127.0.0.1:8652",
		Forced:   "127.0.0.1:8654",
		Notice:   "127.0.0.1:8653",
		Floor:    ">=TLSv1.2",
		DANE:     true,
		STS:      true,
	}
}

func (o *Options) out() io.Writer {
	if o.Out == nil {
		return io.Discard
	}
	return o.Out
}

var endpoint = regexp.MustCompile(`^(inet:[^\s,{}:]+:[0-9]+|unix:[^\s,{}:]+)$`)

// validate refuses what would break out of a line of main.cf or leave loopback.
func (o *Options) validate() error {
	for _, e := range []struct{ name, value string }{
		{"policy", o.Policy}, {"map", o.Maps},
		{"LMTP", o.Splitter.Decide}, {"LMTP", o.Splitter.Encryption}, {"LMTP", o.Splitter.Forced}, {"LMTP", o.Splitter.Escrow},
	} {
		if !endpoint.MatchString(e.value) {
			return fmt.Errorf("%s listener %q: want inet:HOST:PORT, the host by name or IPv4, or unix:PATH", e.name, e.value)
		}
	}
	if !regexp.MustCompile(`^\[[0-9a-fA-F.:]+\]:[0-9]+$`).MatchString(o.Fallback) {
		return fmt.Errorf("fallback %q: want [127.0.0.1]:PORT", o.Fallback)
	}
	for _, hp := range []string{o.Plain, o.Secure, o.Forced, o.Notice} {
		if !regexp.MustCompile(`^(127\.[0-9.]+|\[::1\]|localhost):[0-9]+$`).MatchString(hp) {
			return fmt.Errorf("re-injection address %q: want a loopback one, 127.0.0.1:PORT", hp)
		}
	}
	if strings.ContainsAny(o.Floor, " \t\r\n{}$#") {
		return fmt.Errorf("TLS floor %q: want something like >=TLSv1.2", o.Floor)
	}
	return nil
}

// plan is what Setup writes.
type plan struct {
	mainBefore, masterBefore string // without our lines
	mainNow, masterNow       string // as they are
	main, master             string
	written                  map[string]string // parameters of our block of main.cf
	files                    map[string]string // other files; "" for none
	notes                    []string
}

// Setup adds Postseal to main.cf and master.cf, and shows what it changes as lines
// with + and -. Run again it changes nothing, or only what options or the
// administrator's own lines have changed since. What the administrator had stays:
// lists keep their entries behind ours, replaced lines stay as comments, and
// what was there before is kept in postseal-state.json for [Instance.Undo].
//
// It does not reload Postfix.
func (p *Instance) Setup(ctx context.Context, o Options) error {
	dir, err := p.dir(ctx)
	if err != nil {
		return err
	}
	pl, err := p.plan(ctx, dir, o)
	if err != nil {
		return err
	}
	changed := pl.show(o.out())
	for _, n := range pl.notes {
		fmt.Fprintf(o.out(), "note: %s\n", n)
	}
	if o.DANE || o.STS {
		entries, err := p.YieldingTLS(ctx)
		if err != nil {
			return err
		}
		if len(entries) > 0 {
			fmt.Fprintf(o.out(), "note: smtp_tls_policy_maps has %s. %s. If an entry is for a partner whose TLS is broken: %s\n", few(entries), yields, overriding(entries[0]))
		}
	}
	if o.DryRun {
		return nil
	}
	if err := p.write(dir, pl); err != nil {
		return err
	}
	p.Forget()
	if !changed {
		fmt.Fprintln(o.out(), "nothing to change")
	}
	return nil
}

// dir returns the configuration directory.
func (p *Instance) dir(ctx context.Context) (string, error) {
	if p.ConfigDir != "" {
		return filepath.Abs(p.ConfigDir)
	}
	d, err := p.Param(ctx, "config_directory")
	if err == nil && d == "" {
		err = errors.New("postconf names no config_directory")
	}
	return d, err
}

// at returns an Instance like p for files elsewhere, without p's cache.
func (p *Instance) at(dir string) *Instance {
	return &Instance{ConfigDir: dir, Postconf: p.Postconf, Postmap: p.Postmap, Postsuper: p.Postsuper,
		Postqueue: p.Postqueue, Postfix: p.Postfix, Run: p.Run, Timeout: p.Timeout, TTL: -1, Now: p.Now}
}

// scratch writes main.cf and master.cf to a directory of their own, for postconf
// to read.
func (p *Instance) scratch(mainCF, masterCF string) (*Instance, func(), error) {
	tmp, err := os.MkdirTemp("", "postseal-")
	if err != nil {
		return nil, nil, err
	}
	done := func() { os.RemoveAll(tmp) }
	// Postfix reads a file that has just changed again and again until it has
	// not for a second: make it look old.
	then := time.Now().Add(-time.Minute)
	for name, text := range map[string]string{"main.cf": mainCF, "master.cf": masterCF} {
		file := filepath.Join(tmp, name)
		if err := errors.Join(os.WriteFile(file, []byte(text), 0o600), os.Chtimes(file, then, then)); err != nil {
			done()
			return nil, nil, err
		}
	}
	return p.at(tmp), done, nil
}

func (p *Instance) plan(ctx context.Context, dir string, o Options) (*plan, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	pl, err := p.before(dir)
	if err != nil {
		return nil, err
	}
	was, done, err := p.scratch(pl.mainBefore, pl.masterBefore)
	if err != nil {
		return nil, err
	}
	defer done()
	services, err := was.Services(ctx)
	if err != nil {
		return nil, fmt.Errorf("master.cf: %w", err)
	}
	v := view{Options: o, ctx: ctx, p: was, dir: dir, files: make(map[string]string)}
	if err := v.look(services); err != nil {
		return nil, err
	}
	block, err := v.render("main.cf", mainFragment)
	if err != nil {
		return nil, err
	}
	pl.written = parameters(block)
	pl.main = endWithNewline(retire(pl.mainBefore, pl.written)) + beginLine + block + endMark + "\n"
	added, err := v.render("master.cf", masterFragment)
	if err != nil {
		return nil, err
	}
	pl.master = endWithNewline(v.amend(pl.masterBefore)) + beginLine + added + endMark + "\n"
	pl.files, pl.notes = v.files, v.notes

	// Postfix's own tool must read what is written.
	will, done2, err := p.scratch(pl.main, pl.master)
	if err != nil {
		return nil, err
	}
	defer done2()
	if _, err := will.postconf(ctx, "-n"); err != nil {
		return nil, fmt.Errorf("the new main.cf does not read: %w", err)
	}
	if _, err := will.postconf(ctx, "-M"); err != nil {
		return nil, fmt.Errorf("the new master.cf does not read: %w", err)
	}
	return pl, nil
}

// view is what the fragments are rendered with: the options, and what the
// administrator has.
type view struct {
	Options
	ctx   context.Context
	p     *Instance // the configuration without our lines
	dir   string
	files map[string]string
	notes []string

	Recipient, Data, EndOfData             string
	HeaderChecks, Strip                    string
	NoticeMaps                             []param
	Relay                                  string
	SMTPOptions                            []string
	SMTPChroot, SMTPDChroot, CleanupChroot string
	EscrowChroot                           string
	NoticeMilters, NoticePolicyMaps        string
	Encryption, ForcedTLS, Decide          string
	DNSSEC                                 bool

	raw      map[string]string
	services []Service
}

type param struct{ Name, Value string }

func (v *view) look(services []Service) error {
	v.services = services
	raw, err := v.p.RawParams(v.ctx, "smtpd_recipient_restrictions", "smtpd_data_restrictions", "smtpd_end_of_data_restrictions",
		"relayhost", "smtpd_milters", "non_smtpd_milters", "smtp_tls_policy_maps", "transport_maps",
		"sender_dependent_default_transport_maps", "header_checks", "local_recipient_maps", "virtual_mailbox_maps",
		"relay_recipient_maps", "smtpd_relay_restrictions", "content_filter", "smtpd_proxy_filter", "message_strip_characters")
	if err != nil {
		return err
	}
	v.raw = raw
	expanded, err := v.p.Params(v.ctx, "relayhost", "content_filter", "smtpd_proxy_filter",
		"smtp_dns_support_level", "disable_dns_lookups", "smtp_host_lookup")
	if err != nil {
		return err
	}
	call := []string{"check_policy_service", "$postseal_policy"}
	v.Recipient = v.withPolicy(raw["smtpd_recipient_restrictions"], call, ", ")
	v.Data = v.withPolicy(raw["smtpd_data_restrictions"], call, ", ")
	v.EndOfData = v.lastWord(raw["smtpd_end_of_data_restrictions"], call, ", ")
	v.Relay = strings.Join(splitList(expanded["relayhost"]), ",")
	v.Encryption = v.Splitter.Transport(policy.Encryption)
	v.ForcedTLS = v.Splitter.Transport(policy.ForcedTLS)
	v.Decide = v.Splitter.Transport(policy.None)
	if raw["non_smtpd_milters"] != "" {
		v.NoticeMilters = "$non_smtpd_milters"
	}
	v.NoticePolicyMaps = strings.Join(v.others(raw["smtp_tls_policy_maps"]), ",")
	v.SMTPChroot, v.SMTPDChroot, v.CleanupChroot, v.EscrowChroot = "-", "-", "-", "-"
	for _, s := range services {
		switch s.String() {
		case "smtp/unix":
			v.SMTPChroot = s.Chroot
			v.SMTPOptions = optionArgs(s.Args)
			if _, set := s.Options["smtp_tls_mandatory_protocols"]; set {
				v.Floor = ""
			}
		case "smtp/inet":
			v.SMTPDChroot = s.Chroot
		case "cleanup/unix":
			v.CleanupChroot = s.Chroot
		case "lmtp/unix":
			v.EscrowChroot = s.Chroot
		}
	}
	if main, err := v.p.postconf(v.ctx, "-n"); err != nil {
		return err
	} else if _, set := parameters(main)["smtp_tls_mandatory_protocols"]; set {
		v.Floor = "" // the administrator's own; the policy map says the floor besides
	}
	if v.chrooted(v.SMTPDChroot) || v.chrooted(v.EscrowChroot) {
		for _, e := range []string{v.Policy, v.Maps, v.Splitter.Decide, v.Splitter.Encryption, v.Splitter.Forced, v.Splitter.Escrow} {
			if strings.HasPrefix(e, "unix:/") {
				return fmt.Errorf("%s: a chrooted service of master.cf can't reach it: listen on TCP, or in the queue directory and name the path from there (unix:private/postseal)", e)
			}
		}
	}
	if !v.Triggers.Empty() {
		v.HeaderChecks = filepath.Join(v.dir, headerChecksFile)
		v.files[headerChecksFile] = v.headerChecks()
		v.Strip = withNUL(raw["message_strip_characters"])
	}
	if v.DANE {
		// Who has switched DNS off for his mail has reasons.
		without := expanded["smtp_dns_support_level"] == "disabled" || expanded["disable_dns_lookups"] == "yes" ||
			!slices.Contains(splitList(expanded["smtp_host_lookup"]), "dns")
		if v.DNSSEC = !without; without {
			v.notes = append(v.notes, "this Postfix does not look hosts up in DNS (smtp_dns_support_level, disable_dns_lookups, smtp_host_lookup): it can't verify by TLSA records (DANE), and Postseal does not ask it to")
		}
	}
	if expanded["content_filter"] != "" {
		v.notes = append(v.notes, "content_filter is set: a FILTER of the policy service goes past it. See postseal postfix check for where the policy service must then stand")
	}
	if expanded["smtpd_proxy_filter"] != "" {
		v.notes = append(v.notes, "smtpd_proxy_filter is set: it switches every FILTER off. Put the policy service on the port that the proxy returns to; see postseal postfix check")
	}
	return v.lookNotice()
}

func (v *view) chrooted(flag string) bool {
	return flag == "y" // "-" means n since Postfix 3.0
}

// withPolicy returns a list of restrictions with the policy service in it, or as it
// is where the administrator has already put it in.
func (v *view) withPolicy(list string, call []string, sep string) string {
	if v.hasPolicy(list) {
		return joinRestrictions(splitList(list), sep)
	}
	return insertPolicy(list, call, sep)
}

// lastWord is withPolicy for the end of the message, where ours is also the last
// FILTER, since the last one counts.
func (v *view) lastWord(list string, call []string, sep string) string {
	words := splitList(v.withPolicy(list, call, sep))
	if len(words) > len(call) && !v.hasPolicy(list) {
		words = append(words, call...)
	}
	return joinRestrictions(words, sep)
}

func (v *view) hasPolicy(list string) bool {
	return strings.Contains(list, "$postseal_policy") || strings.Contains(list, v.Policy)
}

// others returns a list of maps without our own.
func (v *view) others(list string) []string {
	return slices.DeleteFunc(splitList(list), func(m string) bool {
		return strings.HasPrefix(m, "socketmap:"+v.Maps+":")
	})
}

// optionArgs returns the -o options of a service, each as it was written.
func optionArgs(args []string) []string {
	var o []string
	for i := 0; i < len(args); i++ {
		if args[i] == "-o" && i+1 < len(args) {
			i++
			o = append(o, args[i])
		} else if rest, ok := strings.CutPrefix(args[i], "-o"); ok && rest != "" {
			o = append(o, rest)
		}
	}
	return o
}

func (v *view) render(name, text string) (string, error) {
	funcs := template.FuncMap{
		"theirs": func(name string) string {
			var b strings.Builder
			for _, m := range v.others(v.raw[name]) {
				b.WriteString(", " + m)
			}
			return b.String()
		},
		"knows": func(name string) (bool, error) {
			m, err := v.p.RawParams(v.ctx, name)
			_, ok := m[name]
			return ok, err
		},
	}
	t, err := template.New(name).Funcs(funcs).Parse(text)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	if err := t.Execute(&b, v); err != nil {
		return "", fmt.Errorf("render %s: %w", name, err)
	}
	return strings.TrimLeft(b.String(), "\n"), nil
}

// amend adds to the administrator's own services: pickup sends everything to the
// splitter, and smtpd services with restrictions of their own ask the policy service too.
func (v *view) amend(master string) string {
	lines, es := entries(master)
	for _, e := range slices.Backward(es) {
		s, ok := parseService(e.text)
		if !ok {
			continue
		}
		add := v.amendments(s)
		if len(add) == 0 {
			continue
		}
		if !strings.HasSuffix(lines[e.to-1], "\n") {
			lines[e.to-1] += "\n"
		}
		in := beginLine
		for _, a := range add {
			in += "  -o " + a + "\n"
		}
		lines = slices.Insert(lines, e.to, in+endMark+"\n")
	}
	return strings.Join(lines, "")
}

func (v *view) amendments(s Service) []string {
	var add []string
	call := []string{"check_policy_service", "$postseal_policy"}
	switch s.Command {
	case "pickup":
		// sendmail(1), and what postsuper -r sent round again without its FILTER.
		if old, set := s.Options["content_filter"]; (set && old != "") || !set && v.raw["content_filter"] != "" {
			v.notes = append(v.notes, "pickup has a content filter: mail from sendmail(1) goes through that one. Put the policy service on the port that it returns to")
			break
		}
		add = append(add, "content_filter="+v.Decide)
	case "smtpd":
		for _, name := range []string{"smtpd_recipient_restrictions", "smtpd_data_restrictions", "smtpd_end_of_data_restrictions"} {
			old, set := s.Options[name]
			if !set || v.hasPolicy(old) {
				continue
			}
			value := v.withPolicy(old, call, ",")
			if name == "smtpd_end_of_data_restrictions" {
				value = v.lastWord(old, call, ",")
			}
			if strings.ContainsAny(value, " \t") {
				value = "{ " + name + " = " + value + " }"
			} else {
				value = name + "=" + value
			}
			add = append(add, value)
		}
	}
	return add
}

// lookNotice makes the addresses that notices bounce to acceptable, in the table
// that decides on the domain.
func (v *view) lookNotice() error {
	if v.NoticeFrom == "" {
		return nil
	}
	a, err := policy.ParseAddress(v.NoticeFrom)
	if err != nil || a.Domain == "" || a.Local == "" {
		return fmt.Errorf("notice address %q: want user@domain", v.NoticeFrom)
	}
	class, err := NewOwnDomains(v.p).class(v.ctx, a.Domain)
	if err != nil {
		return fmt.Errorf("domain of the notice address: %w", err)
	}
	name := ""
	switch class {
	case "mydestination":
		name = "local_recipient_maps"
	case "virtual_mailbox_domains":
		name = "virtual_mailbox_maps"
	case "relay_domains":
		name = "relay_recipient_maps"
	case "virtual_alias_domains":
		return fmt.Errorf("notice address %q: %s is in virtual_alias_domains, whose mail Postfix never routes: take an address in another domain, such as postseal@$myhostname", v.NoticeFrom, a.Domain)
	default:
		v.notes = append(v.notes, fmt.Sprintf("%s, the domain of the notices, is none whose mail this Postfix takes: notices that bounce will not come back. List it in relay_domains, or take another address", a.Domain))
		return nil
	}
	if v.raw[name] == "" {
		return nil // every recipient is accepted
	}
	file := filepath.Join(v.dir, noticeFile)
	v.files[noticeFile] = "# Written by \"postseal postfix setup\": where bounced notices come back.\n/^postseal-bounce\\+[^@]+@" + regexp.QuoteMeta(a.Domain) + "$/ OK\n"
	v.NoticeMaps = append(v.NoticeMaps, param{name, "regexp:" + file + ", " + strings.Join(splitList(v.raw[name]), ", ")})
	return nil
}
