package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/mail"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/words"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/tlsmap/alarm"
)

// defaultConfig is read where it exists and --config does not name another.
const defaultConfig = "/etc/postseal/postseal.toml"

// setting is one setting: a flag, an environment variable and a key of the TOML
// file, all of one name.
type setting struct {
	name  string
	usage string
	value string // default; of a repeatable one, parted by spaces
	many  bool   // repeatable; a list in TOML
	check func(string) error
}

func (s setting) env() string {
	return "POSTSEAL_" + strings.ToUpper(strings.ReplaceAll(s.name, "-", "_"))
}

// settings lists every setting, its default stated once.
func settings() []setting {
	return []setting{
		{name: "db", usage: "the database, `sqlite:PATH`", value: "sqlite:/var/lib/postseal/postseal.db", check: checkDSN},
		{name: "key-file", usage: "the server's keys, made by postseal key new", value: "/etc/postseal/postseal.key"},
		{name: "policy-listen", usage: "policy delegation for smtpd", value: "127.0.0.1:8641", check: checkListen},
		{name: "map-listen", usage: "socketmap for trivial-rewrite and smtp", value: "127.0.0.1:8642", check: checkListen},
		{name: "lmtp-listen", usage: "LMTP: splitter and escrow, requirement encryption", value: "127.0.0.1:8643", check: checkListen},
		{name: "lmtp-escrow-listen", usage: "LMTP: the same, requirement escrow", value: "127.0.0.1:8647", check: checkListen},
		{name: "lmtp-tls-listen", usage: "LMTP: the same, requirement tls", value: "127.0.0.1:8648", check: checkListen},
		{name: "lmtp-decide-listen", usage: "LMTP: the same, adding no requirement", value: "127.0.0.1:8649", check: checkListen},
		{name: "fallback-listen", usage: "SMTP: where mandatory TLS has failed (TCP only)", value: "127.0.0.1:8644", check: checkTCP},
		{name: "portal-listen", usage: "HTTP(S): the pickup portal", value: "127.0.0.1:8645", check: checkListen},
		{name: "portal-url", usage: "how recipients reach the portal", value: "http://localhost:8645", check: checkURL},
		{name: "portal-cert", usage: "certificate chain of the portal (PEM)"},
		{name: "portal-key", usage: "private key of the portal (PEM)"},
		{name: "portal-proxy", usage: "a proxy in front of the portal whose X-Forwarded-For is believed, `ADDRESS[/BITS]` (default: loopback)", many: true, check: checkPrefix},
		{name: "portal-support", usage: "one line on the portal's pages: whom to ask for help"},
		{name: "brand-dir", usage: "names, logos, colours and texts of senders' domains for pages and notices; see docs/branding.md"},
		{name: "admin-listen", usage: "HTTP: health and metrics, and pages about destinations", value: "127.0.0.1:8646", check: checkListen},
		{name: "admin-url", usage: "how browsers reach the pages of the admin port, where not by its address: `https://HOST[:PORT]`", check: checkAdminURL},
		{name: "admin-cert", usage: "certificate chain of the admin port (PEM), which then speaks TLS alone, for health, metrics and the API too"},
		{name: "admin-key", usage: "private key of the admin port (PEM)"},
		{name: "oidc-issuer", usage: "the `URL` of an identity provider (OpenID Connect) by which administrators sign in", check: checkIssuer},
		{name: "oidc-client-id", usage: "what the identity provider calls this server"},
		{name: "oidc-client-secret-file", usage: "a `FILE` with the secret that the identity provider has for this server"},
		{name: "oidc-admins", usage: "who may sign in by the identity provider: `EMAIL` or sub:SUBJECT, and =operator behind it for who may change things", many: true, check: checkNamed},
		{name: "api-listen", usage: "HTTP(S): POST /api/v1/messages (default: on the admin port); away from loopback with the portal's certificate"},
		{name: "reinject-plain", usage: "Postfix smtpd that takes mail back: nothing required", value: "127.0.0.1:8651", check: checkTCP},
		{name: "reinject-secure", usage: "Postfix smtpd that takes mail back: must be encrypted", value: "127.0.0.1:8652", check: checkTCP},
		{name: "reinject-forced", usage: "Postfix smtpd that takes mail back: forced TLS", value: "127.0.0.1:8654", check: checkTCP},
		{name: "notice-relay", usage: "Postfix smtpd that takes notices", value: "127.0.0.1:8653", check: checkTCP},
		{name: "resolver", usage: "DNS resolver, `HOST:PORT` (default: /etc/resolv.conf)", many: true, check: checkTCP},
		{name: "trusted-resolver", usage: "a resolver away from loopback whose word on DNSSEC (the AD bit) is believed, `ADDRESS`; the road to it must be safe", many: true, check: checkAddress},
		{name: "dane", usage: "verify by TLSA records (DANE), where the resolver is trusted: auto or off", value: "auto", check: checkOneOf("auto", "off")},
		{name: "mta-sts", usage: "verify by MTA-STS policies: on or off", value: "on", check: checkOneOf("on", "off")},
		{name: "probe-from", usage: "local `ADDRESS` of the probe's connections, one for each family (default: Postfix's smtp_bind_address and smtp_bind_address6)", many: true, check: checkAddress},
		{name: "alarm-after", usage: "how long a destination must have had TLS for its loss to be an alarm", value: "7d", check: checkDuration},
		{name: "alarm-mail", usage: "who gets a mail of an alarm, `ADDRESS`", check: checkMailbox},
		{name: "alarm-webhook", usage: "an `URL` that alarms are posted to, as JSON: https, or http to this host itself", check: checkWebhook},
		{name: "tlsrpt-from", usage: "send daily reports of TLS failures (RFC 8460) from this `ADDRESS` (default: none are sent)", check: checkMailbox},
		{name: "tlsrpt-attributes", usage: "tell Postfix (3.10 or later, with smtp_tlsrpt_enable) what its own reports need: on or off", value: "off", check: checkOneOf("on", "off")},
		{name: "own-domain", usage: "a domain that this server delivers itself (default: asked of Postfix)", many: true, check: checkOwnDomain},
		{name: "secure-subject", usage: "a subject `PATTERN` that requires encryption: text, or /POSIX extended regular expression/", many: true, check: checkSubject},
		{name: "grace", usage: "how long TLS that vanished is waited for before the escrow", value: "30m", check: checkDuration},
		{name: "audit-keep", usage: "how long entries of the audit log are kept", value: "2192d", check: checkLifetime},
		{name: "audit-checkpoint-file", usage: "a `FILE` that each day's signed checkpoint of the audit log is appended to; best on another machine"},
		{name: "message-lifetime", usage: "how long a sealed message can be picked up", value: "30d", check: checkLifetime},
		{name: "quota-total", usage: "how many bytes of sealed messages may be held in all, with K, M, G; 0: any number", value: "0", check: checkQuota},
		{name: "quota-domain", usage: "how many bytes of sealed messages may be held for each domain of senders; 0: any number", value: "0", check: checkQuota},
		{name: "verify", usage: "how recipients prove who they are where neither rule nor recipient says: code or account", value: "account", check: checkOneOf("code", "account")},
		{name: "device-lifetime", usage: "how long a browser stays signed in to a recipient's account", value: "30d", check: checkLifetime},
		{name: "account-reset", usage: "who can reset a recipient's account beside the administrator: the sender, or the mailbox too, by a code alone", value: "sender", check: checkOneOf("sender", "mailbox")},
		{name: "sender-mail", usage: "what senders of sealed messages get a mail of: sealed, enrolled, read, reply, expiring, expired, failure; or none", value: "enrolled expiring expired failure", many: true, check: checkOneOf(append(escrow.SenderMails(), "none")...)},
		{name: "expiring-before", usage: "how long before the end the sender of an unread message is reminded", value: "3d", check: checkLifetime},
		{name: "max-message-size", usage: "largest message taken, in bytes or with K, M, G", value: "100M", check: checkSize},
		{name: "max-reply-size", usage: "how large the files of a reply at the portal may be, together", value: "60M", check: checkSize},
		{name: "tls-floor", usage: "least TLS version that counts as TLS", value: "1.2", check: checkOneOf("1.0", "1.1", "1.2", "1.3")},
		{name: "map-dir", usage: "keep map files in this directory current, and reload Postfix"},
		{name: "map-type", usage: "type of the map files", value: "texthash", check: checkOneOf("texthash", "lmdb", "cdb", "hash")},
		{name: "map-reload", usage: "command that makes Postfix read the map files anew, words parted by spaces; it wants root's rights (default: postfix reload)"},
		{name: "forced-unreachable", usage: "forced TLS to a destination known to be without: queue, defer or reject", value: "queue", check: checkOneOf("queue", "defer", "reject")},
		{name: "notice-from", usage: "sender of notices, an address of an own domain (default: postseal@ Postfix's mydomain)", check: checkMailbox},
		{name: "language", usage: "language of mails; a rule may name another for its recipients", value: "en", check: words.Check},
		{name: "postfix-config-dir", usage: "configuration directory of the Postfix at our side", value: "/etc/postfix"},
		{name: "recipient-delimiter", usage: "Postfix's recipient_delimiter (default: asked of Postfix)", check: checkDelimiter},
		{name: "spool-dir", usage: "where messages wait, encrypted, while they are read (default: beside the database)"},
		{name: "tls-roots", usage: "certificate authorities for checking destinations (PEM; default: the system's)"},
		{name: "log-format", usage: "text or json", value: "text", check: checkOneOf("text", "json")},
	}
}

// storeSettings serve every command.
var storeSettings = []string{"db", "key-file", "postfix-config-dir", "recipient-delimiter"}

// settingFlags returns the flags of the named settings, and --config. Their
// values are read by loadSettings, which knows the other sources too.
func settingFlags(names ...string) []cli.Flag {
	flags := []cli.Flag{&cli.StringFlag{Name: "config", Usage: "settings `FILE` (TOML; default: " + defaultConfig + " where it exists)"}}
	for _, s := range settings() {
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		usage := s.usage + " [$" + s.env() + "]"
		if s.value != "" {
			usage += " (default: " + s.value + ")"
		}
		if s.many {
			flags = append(flags, &cli.StringSliceFlag{Name: s.name, Usage: usage})
			continue
		}
		flags = append(flags, &cli.StringFlag{Name: s.name, Usage: usage})
	}
	return flags
}

// resolved is the value of a setting and where it came from.
type resolved struct {
	Name   string   `json:"name"`
	Values []string `json:"values"`
	Source string   `json:"source"` // flag, environment, file, default
}

// config holds the settings in force.
type config struct {
	values map[string]resolved
	order  []string
}

// loadSettings resolves every setting: flag, environment, TOML file, default.
// A value that is not understood is an error that names its source.
func loadSettings(c *cli.Context, getenv func(string) (string, bool)) (*config, error) {
	path, explicit := c.String("config"), true
	if path == "" {
		path, explicit = getenv("POSTSEAL_CONFIG")
	}
	if path == "" {
		path, explicit = defaultConfig, false
	}
	file, err := readTOML(path)
	if errors.Is(err, fs.ErrNotExist) && !explicit {
		file, err = nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("settings file %s: %w", path, err)
	}
	cfg := &config{values: make(map[string]resolved)}
	for _, s := range settings() {
		r := resolved{Name: s.name, Source: "default"}
		if s.value != "" {
			r.Values = []string{s.value}
			if s.many {
				r.Values = strings.Fields(s.value)
			}
		}
		if v, ok := file[s.name]; ok {
			r.Values, r.Source = v, "file "+path
			if !s.many && len(v) != 1 {
				return nil, fmt.Errorf("settings file %s: %s wants one value, not a list", path, s.name)
			}
		}
		delete(file, s.name)
		if v, ok := getenv(s.env()); ok {
			r.Values, r.Source = []string{v}, "environment "+s.env()
			if s.many {
				r.Values = strings.Fields(v)
				if s.name == "secure-subject" {
					r.Values = strings.Split(v, "\n")
				}
			}
		}
		if defines(c, s) && c.IsSet(s.name) {
			r.Source = "flag --" + s.name
			if s.many {
				r.Values = c.StringSlice(s.name)
			} else {
				r.Values = []string{c.String(s.name)}
			}
		}
		if s.check != nil {
			for _, v := range r.Values {
				if err := s.check(v); err != nil {
					return nil, fmt.Errorf("%s (from %s): %w", s.name, r.Source, err)
				}
			}
		}
		cfg.values[s.name] = r
		cfg.order = append(cfg.order, s.name)
	}
	for unknown := range file {
		return nil, fmt.Errorf("settings file %s: unknown setting %q; postseal config lists them all", path, unknown)
	}
	return cfg, nil
}

// defines reports whether the command has the setting as a flag. A flag of its own
// may have the same name: --verify of a rule is not the setting verify.
func defines(c *cli.Context, s setting) bool {
	for _, f := range c.Command.Flags {
		if d, ok := f.(cli.DocGenerationFlag); ok && slices.Contains(f.Names(), s.name) {
			return strings.Contains(d.GetUsage(), "[$"+s.env()+"]")
		}
	}
	return false
}

func readTOML(path string) (map[string][]string, error) {
	var raw map[string]any
	if _, err := toml.DecodeFile(path, &raw); err != nil {
		return nil, err
	}
	m := make(map[string][]string, len(raw))
	for k, v := range raw {
		list, ok := v.([]any)
		if !ok {
			list = []any{v}
		}
		m[k] = []string{}
		for _, e := range list {
			switch e := e.(type) {
			case string:
				m[k] = append(m[k], e)
			case int64:
				m[k] = append(m[k], strconv.FormatInt(e, 10))
			case float64:
				m[k] = append(m[k], strconv.FormatFloat(e, 'f', -1, 64))
			default:
				return nil, fmt.Errorf("%s: want a string, a number or a list of strings", k)
			}
		}
	}
	return m, nil
}

func (c *config) str(name string) string {
	v := c.values[name].Values
	if len(v) == 0 {
		return ""
	}
	return v[0]
}

func (c *config) strs(name string) []string { return c.values[name].Values }

func (c *config) duration(name string) time.Duration {
	d, err := parseDuration(c.str(name))
	if err != nil {
		panic("unchecked duration " + name) // loadSettings has checked it
	}
	return d
}

func (c *config) size(name string) int64 {
	n, err := parseSize(c.str(name))
	if err != nil {
		panic("unchecked size " + name)
	}
	return n
}

// replySize returns how large the files of a reply may be, in bytes. As a message they
// are larger by more than a third, and that must be a message we take.
func replySize(cfg *config) (int64, error) {
	const (
		line, encoded = 57, 78  // bytes of a file and of the line of base64 that holds them
		rest          = 3 << 19 // text, header and what parts the files
	)
	want, most := cfg.size("max-reply-size"), cfg.size("max-message-size")
	fits := max(1, (most-rest)/encoded*line)
	switch {
	case want <= fits:
		return want, nil
	case cfg.values["max-reply-size"].Source == "default":
		return fits, nil
	}
	return 0, fmt.Errorf("max-reply-size (from %s): %d bytes make a message of more than max-message-size, %d: want at most %d",
		cfg.values["max-reply-size"].Source, want, most, fits)
}

// dbPath returns the file of the SQLite database.
func (c *config) dbPath() string { return strings.TrimPrefix(c.str("db"), "sqlite:") }

func (c *config) spoolDir() string {
	if d := c.str("spool-dir"); d != "" {
		return d
	}
	return filepath.Dir(c.dbPath())
}

// parseDuration reads a duration as Go writes it, or in days: 30d, 1d12h.
func parseDuration(s string) (time.Duration, error) {
	days, rest, hasDays := strings.Cut(s, "d")
	var d time.Duration
	if hasDays {
		n, err := strconv.ParseFloat(days, 64)
		if err != nil || n < 0 || n > 36500 || math.IsNaN(n) {
			return 0, fmt.Errorf("%q is not a duration: want something like 90m, 12h or 30d", s)
		}
		d = time.Duration(n * 24 * float64(time.Hour))
		s = rest
	}
	if s != "" || !hasDays {
		r, err := time.ParseDuration(s)
		if err != nil || r < 0 {
			return 0, fmt.Errorf("%q is not a duration: want something like 90m, 12h or 30d", s)
		}
		d += r
	}
	return d, nil
}

// parseSize reads a number of bytes, with K, M or G for powers of 1024.
func parseSize(s string) (int64, error) {
	unit := int64(1)
	num := s
	for suffix, u := range map[string]int64{"K": 1 << 10, "M": 1 << 20, "G": 1 << 30} {
		if n, ok := strings.CutSuffix(strings.ToUpper(s), suffix); ok {
			num, unit = n, u
		}
	}
	n, err := strconv.ParseInt(num, 10, 64)
	if err != nil || n <= 0 || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("%q is not a size: want bytes, or a number with K, M or G", s)
	}
	return n * unit, nil
}

func checkDuration(s string) error { _, err := parseDuration(s); return err }

// checkLifetime refuses nothing, which would end a message while it is sealed.
func checkLifetime(s string) error {
	d, err := parseDuration(s)
	if err == nil && d < time.Second {
		err = fmt.Errorf("%q: want at least a second", s)
	}
	return err
}

// checkQuota: 0 is no quota.
func checkQuota(s string) error { _, err := parseQuota(s); return err }

func parseQuota(s string) (int64, error) {
	if s == "0" {
		return 0, nil
	}
	return parseSize(s)
}

func checkSize(s string) error { _, err := parseSize(s); return err }

func checkOneOf(words ...string) func(string) error {
	return func(s string) error {
		if slices.Contains(words, s) {
			return nil
		}
		return fmt.Errorf("%q: want %s", s, strings.Join(words, ", "))
	}
}

func checkDSN(s string) error {
	if p, ok := strings.CutPrefix(s, "sqlite:"); ok && p != "" {
		return nil
	}
	return fmt.Errorf("%q: want sqlite:PATH", s)
}

func checkTCP(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || host == "unix" {
		return fmt.Errorf("%q: want HOST:PORT", s)
	}
	if n, err := strconv.Atoi(port); err != nil || n < 0 || n > 65535 {
		return fmt.Errorf("%q: port %q is not a number up to 65535", s, port)
	}
	return nil
}

func checkListen(s string) error {
	if p, ok := strings.CutPrefix(s, "unix:"); ok {
		if p == "" {
			return fmt.Errorf("%q: want unix:PATH", s)
		}
		return nil
	}
	if err := checkTCP(s); err != nil {
		return fmt.Errorf("%q: want HOST:PORT or unix:PATH", s)
	}
	return nil
}

func checkOwnDomain(s string) error {
	p, err := policy.CanonicalPattern(policy.ByRecipient, s)
	if err != nil {
		return err
	}
	if p == "*" || strings.HasPrefix(p, ".") || strings.Contains(p, "@") {
		return fmt.Errorf("%q: want a domain, each one by itself", s)
	}
	return nil
}

func checkSubject(s string) error {
	return policy.CheckSubject(s)
}

func checkMailbox(s string) error {
	if s == "" {
		return nil
	}
	a, err := mail.ParseAddress(s)
	if err != nil || !strings.Contains(a.Address, "@") {
		return fmt.Errorf("%q: want ADDRESS or NAME <ADDRESS>", s)
	}
	return nil
}

// checkDelimiter wants characters that part a local part from its extension.
func checkDelimiter(s string) error {
	if strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 127 || r == '@' || '0' <= r && r <= '9' || 'a' <= r|0x20 && r|0x20 <= 'z'
	}) {
		return fmt.Errorf("%q: want punctuation such as + or +-", s)
	}
	return nil
}

// parsePrefix reads a network, or an address as one of its own.
func parsePrefix(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("%q: want an address or a network such as 10.0.0.0/8", s)
	}
	return p, nil
}

func checkAddress(s string) error {
	if _, err := netip.ParseAddr(s); err != nil {
		return fmt.Errorf("%q: want an IP address", s)
	}
	return nil
}

func checkPrefix(s string) error { _, err := parsePrefix(s); return err }

func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf("%q: want https://HOST[:PORT][/PATH]", s)
	}
	return nil
}

func checkWebhook(s string) error {
	if s == "" {
		return nil
	}
	return alarm.CheckURL(s)
}

// lookupEnv is os.LookupEnv, but an empty variable counts as unset.
func lookupEnv(name string) (string, bool) {
	v, ok := os.LookupEnv(name)
	return v, ok && v != ""
}
