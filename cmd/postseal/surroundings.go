package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postseal/postseal/contrib/postfix"
	"github.com/postseal/postseal/policyd/policy"
	"github.com/postseal/postseal/sql"
	"github.com/postseal/postseal/tlsmap"
	"github.com/postseal/postseal/tlsmap/probe"
)

// surroundings is what the Postfix at our side tells of itself.
type surroundings struct {
	instance       *postfix.Instance
	own            policy.OwnDomains
	routes         policy.Router
	delimiters     policy.Delimiters
	origin         string // appended to a bare local part
	helo           string
	client         postfix.Client // how it connects to destinations
	tlsLevel       string         // smtp_tls_security_level
	ownTLSLevel    string         // the strongest that an SMTP client has of its own
	stsOff         string         // why Postfix can't verify as MTA-STS policies demand; "" where it can
	addsRecipients bool
	daneOff        string // why Postfix can't verify by TLSA records; "" where it can
	requeueUID     string
}

// askPostfix asks the Postfix at our side for what we must know of it. Where
// --own-domain is given, a Postfix that is not there is no error: its defaults are
// taken, with a warning. One that is there and can't be asked is.
func askPostfix(ctx context.Context, cfg *config, log *slog.Logger) (*surroundings, error) {
	p := &postfix.Instance{ConfigDir: cfg.str("postfix-config-dir"), MapDir: cfg.str("map-dir")}
	s := &surroundings{instance: p, own: ownDomains(cfg), routes: postfix.NewRoutes(p), delimiters: policy.Delimiters(cfg.str("recipient-delimiter"))}
	given := cfg.strs("own-domain")
	if err := postfixThere(ctx, cfg, p); err != nil {
		if len(given) == 0 || !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("ask Postfix for its own domains (or name them by --own-domain): %w", err)
		}
		log.Warn("Postfix can't be asked: no relayhost, transport entries or aliases are known", "error", err)
		s.routes = noRoutes{}
		s.origin = given[0]
		s.helo, _ = os.Hostname()
		s.addsRecipients = true // nobody knows: take the careful road
		return s, nil
	}
	var err error
	ask := func(what string, f func() error) {
		if err == nil {
			if e := f(); e != nil {
				err = fmt.Errorf("ask Postfix for its %s: %w", what, e)
			}
		}
	}
	ask("recipient_delimiter", func() (e error) {
		if s.delimiters == "" {
			s.delimiters, e = p.Delimiters(ctx)
		}
		return e
	})
	ask("myorigin", func() (e error) { s.origin, e = p.Origin(ctx); return e })
	ask("smtp_helo_name", func() (e error) { s.helo, e = p.Param(ctx, "smtp_helo_name"); return e })
	ask("SMTP client", func() (e error) { s.client, e = p.Client(ctx); return e })
	ask("smtp_tls_security_level", func() (e error) { s.tlsLevel, e = p.Param(ctx, "smtp_tls_security_level"); return e })
	ask("SMTP clients", func() (e error) { s.ownTLSLevel, e = p.OwnTLSLevel(ctx, postfixHop(cfg.str("map-listen"))); return e })
	ask("bcc maps", func() (e error) { s.addsRecipients, e = p.AddsRecipients(ctx); return e })
	ask("DNSSEC", func() (e error) { s.daneOff, e = p.DANEOff(ctx, postfixHop(cfg.str("map-listen"))); return e })
	ask("certificate authorities", func() (e error) { s.stsOff, e = p.STSOff(ctx, postfixHop(cfg.str("map-listen"))); return e })
	ask("mail_owner", func() error {
		uid, err := p.MailOwnerUID(ctx)
		s.requeueUID = strconv.Itoa(uid)
		return err
	})
	ask("own domains", func() (e error) { _, e = s.own.Own(ctx, s.origin); return e })
	return s, err
}

// ownDomains knows the domains that this server delivers itself: as set, else of
// Postfix, which is asked when they are asked for.
func ownDomains(cfg *config) policy.OwnDomains {
	if given := cfg.strs("own-domain"); len(given) > 0 {
		return postfix.NewStaticDomains(given)
	}
	return postfix.NewOwnDomains(&postfix.Instance{ConfigDir: cfg.str("postfix-config-dir"), MapDir: cfg.str("map-dir")})
}

// postfixThere reports whether there is a Postfix that can be asked. It looks for
// main.cf by itself, since postconf takes a second to say that there is none.
func postfixThere(ctx context.Context, cfg *config, p *postfix.Instance) error {
	if _, err := os.Stat(filepath.Join(cfg.str("postfix-config-dir"), "main.cf")); err != nil {
		return err
	}
	_, err := p.Version(ctx)
	return err
}

// noRoutes is the router where there is no Postfix to ask: everything goes to
// the MX.
type noRoutes struct{}

func (noRoutes) Route(context.Context, policy.Address) (policy.Route, error) {
	return policy.Route{}, nil
}

// standalone reports whether there is no Postfix to ask.
func (s *surroundings) standalone() bool {
	_, none := s.routes.(noRoutes)
	return none
}

// tlsVersions are the words of tls-floor.
var tlsVersions = map[string]uint16{"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}

// tlsRoots is what tls-roots names; nil: the system's.
func tlsRoots(cfg *config) (*x509.CertPool, error) {
	file := cfg.str("tls-roots")
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("tls-roots: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls-roots: no certificate in %s", file)
	}
	return roots, nil
}

// newProber makes the prober; change may alter its options. s may be nil: nothing is
// known of a Postfix then.
func newProber(cfg *config, s *surroundings, log *slog.Logger, reg prometheus.Registerer, change ...func(*probe.Options)) (*probe.Prober, error) {
	resolver, err := probe.NewResolver(cfg.strs("resolver"))
	if err != nil {
		return nil, err
	}
	roots, err := tlsRoots(cfg)
	if err != nil {
		return nil, err
	}
	if s == nil {
		s = &surroundings{}
	}
	o := probe.Options{
		Resolver: resolver, HELO: cmp.Or(s.client.HELO, s.helo), TLSFloor: tlsVersions[cfg.str("tls-floor")], Roots: roots, Log: log, Registerer: reg,
	}
	if err := s.connectAsPostfix(cfg, &o, log); err != nil {
		return nil, err
	}
	if cfg.str("dane") != "off" && s.daneOff == "" {
		o.Trusts = probe.TrustResolvers(cfg.strs("trusted-resolver"))
	}
	for _, f := range change {
		f(&o)
	}
	return probe.NewProber(o)
}

// warnOff says where DANE or MTA-STS is off although nobody switched it off.
func warnOff(cfg *config, s *surroundings, p *probe.Prober, log *slog.Logger) {
	if cfg.str("mta-sts") != "off" && s.stsOff != "" {
		log.Warn("MTA-STS is off: Postfix can't verify certificates. See postseal postfix check", "reason", s.stsOff)
	}
	if cfg.str("dane") == "off" {
		return
	}
	if s.daneOff != "" {
		log.Warn("DANE is off: Postfix can't verify by TLSA records. See postseal postfix check", "reason", s.daneOff)
	} else if server := p.Distrusted(); server != "" {
		log.Warn("DANE is off: a resolver is neither on loopback nor named by trusted-resolver. See postseal postfix check", "resolver", server)
	}
}

// remembered is the postures in the database, for commands, which do not look
// at destinations by themselves.
type remembered struct {
	byDest map[string]kept
	floor  uint16
}

// kept is a posture by the floor alone, and the JSON of the look behind it.
type kept struct {
	policy.Posture
	result []byte
}

// Posture judges the last look by demand.
func (r remembered) Posture(dest string, demand policy.TLSParams) policy.Posture {
	k, ok := r.byDest[dest]
	if !ok {
		return policy.Posture{}
	}
	p := k.Posture
	var res probe.Result
	if json.Unmarshal(k.result, &res) != nil || res.Dest != dest {
		return p // of an older version: what is published is not known
	}
	p.Published, p.RuleMet = res.Published(), res.RuleMet(demand, r.floor)
	if demand.Level >= policy.LevelVerify || demand.Protocols != "" {
		p.State = res.Judge(demand, r.floor)
	}
	return p
}

// STS is the MTA-STS policy of the last look.
func (r remembered) STS(dest string) *probe.STSResult {
	var res probe.Result
	if json.Unmarshal(r.byDest[probe.Key(dest)].result, &res) != nil {
		return nil
	}
	return res.STS
}

// reportAttributes has the maps tell Postfix what its own TLS reports need, where that
// is asked for. An older Postfix would take each such answer for a mistake, and mail
// would wait.
func reportAttributes(ctx context.Context, cfg *config, s *surroundings, maps *tlsmap.Config, sts func(dest string) *probe.STSResult) error {
	if cfg.str("tlsrpt-attributes") != "on" {
		return nil
	}
	if s.standalone() {
		return errors.New("tlsrpt-attributes: on wants a Postfix that can be asked for its version")
	}
	v, err := s.instance.Version(ctx)
	if err != nil {
		return fmt.Errorf("tlsrpt-attributes: %w", err)
	}
	if err := reportsAt(v); err != nil {
		return err
	}
	maps.STS = sts
	return nil
}

// reportsAt reports whether a Postfix knows the attributes.
func reportsAt(v postfix.Version) error {
	if v.Major < 3 || v.Major == 3 && v.Minor < 10 {
		return fmt.Errorf("tlsrpt-attributes: on needs Postfix 3.10 or later, and this is %d.%d.%d, which would take every such answer for a mistake and let the mail wait: set it off", v.Major, v.Minor, v.Patch)
	}
	return nil
}

func loadRemembered(ctx context.Context, cfg *config, db *sql.DB) (remembered, error) {
	m := remembered{make(map[string]kept), tlsVersions[cfg.str("tls-floor")]}
	err := db.LoadPostures(ctx, func(r probe.Record) error {
		m.byDest[r.Dest] = kept{policy.Posture{State: r.State, Checked: r.Checked, Worked: r.Worked, Lost: r.Lost, Since: r.Since, Alarmed: r.Alarmed()}, r.Result}
		return nil
	})
	return m, err
}

// verifies reports whether anything that destinations publish is heeded at all.
func verifies(cfg *config) bool { return cfg.str("dane") != "off" || cfg.str("mta-sts") != "off" }

// publishedBy returns what destinations publish, as of the last look where there was
// one, and else looked up: the answers of a server that has just been asked.
func publishedBy(cfg *config, old remembered, prober *probe.Prober, policies *policyKeeper) func(ctx context.Context, dest string) policy.Published {
	if !verifies(cfg) {
		return nil
	}
	live := probe.NewManager(prober, nil, probe.ManagerOptions{FactsWait: 10 * time.Second})
	return func(ctx context.Context, dest string) policy.Published {
		dest = probe.Key(dest)
		p := policies.heed(dest, old.Posture(dest, policy.TLSParams{}).Published)
		if p.DANE == policy.DANEUnknown || p.STS == policy.STSUnknown {
			p = live.Published(ctx, dest)
		}
		return p
	}
}

// newEngine makes the engine that every server and explain answer by.
func newEngine(cfg *config, s *surroundings, rules func() *policy.Snapshot, postures policy.Postures) *policy.Engine {
	return &policy.Engine{
		Rules: rules, Own: s.own, Routes: s.routes, Postures: postures,
		Grace: cfg.duration("grace"), Now: time.Now,
	}
}

// loadRules makes a snapshot of the rules and triggers in the database, and of the
// subjects of the settings. have is the one before, if there is one.
func loadRules(ctx context.Context, cfg *config, db *sql.DB, d policy.Delimiters, have *policy.Snapshot) (*policy.Snapshot, error) {
	p, err := db.Policy(ctx, d, have)
	if err != nil {
		return nil, err
	}
	t, err := policy.NewTriggers(cfg.strs("secure-subject"), p.Triggers, d)
	if err != nil {
		return nil, err
	}
	return p.Rules.WithTriggers(t), nil
}
