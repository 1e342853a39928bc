package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/classes"
)

// settleTime bounds how long mail for all classes may take to arrive, to be sealed or
// to be deferred twice.
var settleTime = patience * 5 / 3

// destination is a class and what came of mail for it.
type destination struct {
	classes.Class
	mails []*classMail

	policy, secure string // answers of the maps
	finger         string // output of posttls-finger
	openssl        string // output of openssl s_client, "" where it was not asked
}

// classMail is one message for a class.
type classMail struct {
	to   string
	mark string
	want classes.End
	says string

	deferred int
	reason   string // of the last try
	bounced  bool
	report   report
}

// end is what became of the message.
func (m *classMail) end(s *scene, sealed map[string]bool) classes.End {
	for _, got := range s.Received() {
		if got.Accepted && got.HasTo(m.to) && bytes.Contains(got.Data, []byte(m.mark)) {
			if got.TLS {
				return classes.ByTLS
			}
			return classes.InClear
		}
	}
	switch {
	case sealed[m.to]:
		return classes.Sealed
	case m.bounced:
		return classes.Bounces
	}
	return classes.Waits
}

var delivery = regexp.MustCompile(`to=<([^>]+)>.* status=(deferred|bounced) \((.*)\)`)

// TestDestinations sends mail to every class of destination and wants it to end as
// the table of classes says, as postseal check foretells, and as posttls-finger sees
// the destination.
func TestDestinations(t *testing.T) {
	// POSTSEAL_LAB_CLASSES, a regular expression of names, leaves the others out.
	only := regexp.MustCompile(os.Getenv("POSTSEAL_LAB_CLASSES"))
	table := slices.DeleteFunc(classes.All(), func(c classes.Class) bool { return !only.MatchString(c.Name) })
	s := newScene(t, lab.Options{
		Postfix: lab.PostfixOptions{MainCF: map[string]string{
			"inet_protocols": "all",
			// Less often than the bed's, for there is much that waits.
			"minimal_backoff_time": "3s", "maximal_backoff_time": "6s",
		}},
		Prepare: func(b *lab.Bed) error {
			if err := classes.Build(b.Internet, table); err != nil {
				return err
			}
			_, err := b.Postseal.CLIWith(classes.Rules(table), "domain", "import", "-")
			return err
		},
	})
	all := make([]*destination, len(table))
	c, err := lab.Dial(lab.LocalAddr+":25", "")
	s.check(err)
	defer c.Close()
	for i := range table {
		d := &destination{Class: table[i]}
		all[i] = d
		for _, m := range []*classMail{
			{to: "any@" + d.Domain(), want: d.Mail}, {to: "enc@" + d.Domain(), want: d.Encryption}, {to: "tls@" + d.Domain(), want: d.TLS, says: d.Says},
		} {
			if m.want == classes.None {
				continue
			}
			var data []byte
			m.mark, data = s.text("a private subject")
			if !strings.HasPrefix(m.to, "any@") {
				s.must = append(s.must, m.mark)
			}
			res, err := c.Transaction(lab.Message{From: "sender@own.example", To: []string{m.to}, Data: data})
			s.check(err)
			if !res.Accepted() {
				t.Errorf("%s: answered %+v", m.to, res)
				continue
			}
			d.mails = append(d.mails, m)
		}
	}
	start := time.Now()
	s.settle(all)
	t.Logf("%d classes: mail settled after %s", len(all), time.Since(start))
	start = time.Now()
	s.check(s.ask(all))
	n := 0
	for _, d := range all {
		if d.openssl != "" {
			n++
		}
	}
	t.Logf("checked after %s more, %d by openssl", time.Since(start), n)
	sealed := s.readEnds(all)
	for _, d := range all {
		s.run(d.Name, func(t *testing.T) {
			s.ended(d, sealed)
			s.foretold(d)
		})
	}
}

// settle waits until all mail has come to an end, and that which should wait has
// been tried often enough to see that it does.
func (s *scene) settle(all []*destination) {
	quiet := time.Now().Add(15 * time.Second)
	lab.Poll(settleTime, func() bool {
		time.Sleep(time.Second)
		s.Postfix.Flush()
		sealed := s.readEnds(all)
		done := time.Now().After(quiet)
		for _, d := range all {
			for _, m := range d.mails {
				done = done && m.end(s, sealed) == m.want && (m.want != classes.Waits || m.deferred > 1)
			}
		}
		return done
	})
}

// readEnds reads Postfix's log and the escrow.
func (s *scene) readEnds(all []*destination) (sealed map[string]bool) {
	mails := make(map[string]*classMail)
	for _, d := range all {
		for _, m := range d.mails {
			mails[m.to] = m
			m.deferred, m.bounced = 0, false
		}
	}
	for line := range strings.Lines(s.Postfix.Log()) {
		f := delivery.FindStringSubmatch(line)
		if f == nil || mails[f[1]] == nil {
			continue
		}
		m := mails[f[1]]
		m.reason = f[3]
		if m.bounced = f[2] == "bounced"; !m.bounced {
			m.deferred++
		}
	}
	items, err := s.AllEscrowed()
	if err != nil {
		s.t.Fatal(err)
	}
	sealed = make(map[string]bool)
	for _, i := range items {
		sealed[i.Recipient] = true
	}
	return sealed
}

// ended holds what became of mail against the table.
func (s *scene) ended(d *destination, sealed map[string]bool) {
	for _, m := range d.mails {
		end := m.end(s, sealed)
		switch {
		case end != m.want:
			s.t.Errorf("mail for %s: %s, want it %s (%d times deferred, last for %q)", m.to, end, m.want, m.deferred, m.reason)
		case end == classes.Waits && m.deferred < 2:
			s.t.Errorf("mail for %s: deferred %d times, want at least 2", m.to, m.deferred)
		case m.says != "" && end != classes.ByTLS && !strings.Contains(m.reason, m.says):
			s.t.Errorf("mail for %s: %s for %q, want %q", m.to, end, m.reason, m.says)
		}
	}
}

// report is what the tests read of postseal check --json.
type report struct {
	Asked string `json:"asked"`
	State string `json:"state"`
	DANE  string `json:"dane"`
	STS   *struct {
		State string `json:"state"`
	} `json:"mta_sts"`
	Decision struct {
		Channel   string `json:"channel"`
		TLSPolicy string `json:"tls_policy"`
		Outcome   string `json:"outcome"`
		Line      string `json:"line"`
	} `json:"decision"`
}

// ask asks postseal check, the maps and posttls-finger about every class.
func (s *scene) ask(all []*destination) error {
	args := []string{"check", "--json", "--quick"}
	mails := make(map[string]*classMail)
	for _, d := range all {
		for _, m := range d.mails {
			args, mails[m.to] = append(args, m.to), m
		}
	}
	var g errgroup.Group
	g.SetLimit(6)
	g.Go(func() error {
		out, err := s.CLI(args...)
		if err != nil {
			return err
		}
		var reports []report
		if err := json.Unmarshal([]byte(out), &reports); err != nil {
			return fmt.Errorf("check: %w", err)
		}
		for _, r := range reports {
			mails[r.Asked].report = r
		}
		return nil
	})
	for _, d := range all {
		var err error
		if d.policy, err = lab.QueryMap("tls-policy", d.Domain()); err != nil {
			return err
		}
		if d.secure, err = lab.QueryMap("secure-tls-policy", d.Domain()); err != nil {
			return err
		}
		g.Go(func() error {
			d.finger = s.finger(d.Domain(), d.secure)
			var err error
			d.openssl, err = s.openssl(&d.Class)
			return err
		})
	}
	return g.Wait()
}

// finger runs posttls-finger(1) at the level of a policy.
func (s *scene) finger(domain, policy string) string {
	args := []string{"-c", "-L", "summary", "-t", "3", "-T", "3", "-F", s.CA.File, "-o", "smtp_dns_support_level=dnssec", "-o", "inet_protocols=all"}
	var names []string
	for i, f := range strings.Fields(policy) {
		name, value, _ := strings.Cut(f, "=")
		switch {
		case i == 0:
			args = append(args, "-l", f)
		case name == "protocols":
			args = append(args, "-p", value)
		case name == "match":
			names = strings.Split(value, ":")
		case name == "servername":
			args = append(args, "-s", value)
		}
	}
	out, _ := exec.Command("posttls-finger", append(append(args, domain), names...)...).CombinedOutput() // a failed connection is an answer
	return string(out)
}

// foretold holds what check, the maps and posttls-finger say against the table.
func (s *scene) foretold(d *destination) {
	t := s.t
	if got := bare(d.policy); got != d.Policy && !(d.Policy == classes.Nothing && strings.HasPrefix(got, "TEMP ")) {
		t.Errorf("the map tls-policy answers %q, want %q", got, d.Policy)
	}
	secure := d.Secure
	if secure == "" {
		secure = "encrypt"
	}
	if got := bare(d.secure); got != secure && !(secure == classes.Nothing && strings.HasPrefix(got, "TEMP ")) {
		t.Errorf("the map secure-tls-policy answers %q, want %q", got, secure)
	}
	for _, m := range d.mails {
		r := &m.report
		sts := "none"
		if r.STS != nil {
			sts = r.STS.State
		}
		if got, want := [3]string{r.State, r.DANE, sts}, [3]string{d.State, cmp.Or(d.DANE, "none"), cmp.Or(d.STS, "none")}; got != want {
			t.Errorf("check %s: state, DANE, MTA-STS %v, want %v", m.to, got, want)
		}
		answered := d.secure
		if strings.HasPrefix(m.to, "any@") {
			answered = d.policy
		}
		if strings.HasPrefix(answered, "TEMP ") {
			answered = ""
		}
		if r.Decision.Channel != "escrow" && r.Decision.TLSPolicy != answered {
			t.Errorf("check %s: TLS policy %q, and the map answered %q", m.to, r.Decision.TLSPolicy, answered)
		}
		if d.Unforeseen == "" && r.Decision.Outcome != string(m.want) {
			t.Errorf("check %s foretells %q, want %q (%s)", m.to, r.Decision.Outcome, m.want, r.Decision.Line)
		}
	}
	if got := fingered(d.finger); d.Finger != "" && got != d.Finger {
		t.Errorf("posttls-finger at %q: %s, want %s:\n%s", d.secure, got, d.Finger, d.finger)
	}
	if d.openssl != "" && strings.Contains(d.openssl, "Verification: OK") != (d.Finger == classes.Verified) {
		t.Errorf("openssl, with the TLSA records: want %s:\n%s", d.Finger, d.openssl)
	}
}

// openssl has OpenSSL hold the usual host of a class against its TLSA records; "" where
// there are none that count, or several hosts or names do.
func (s *scene) openssl(c *classes.Class) (string, error) {
	host := s.Host("mx." + c.Domain())
	if c.DANE != "full" || c.Finger == "" || c.Finger == classes.Fails || host == nil || c.Name == "dane-ta-domain-name" {
		return "", nil // of that one the name of the domain counts, which s_client can't be told
	}
	q := new(dns.Msg).SetQuestion("_25._tcp."+host.Name+".", dns.TypeTLSA)
	r, _, err := (&dns.Client{Net: "tcp"}).Exchange(q, lab.Resolver)
	if err != nil {
		return "", err
	}
	args := []string{"s_client", "-brief", "-starttls", "smtp", "-connect", host.IP + ":25", "-dane_tlsa_domain", host.Name, "-dane_ee_no_namechecks"}
	for _, rr := range r.Answer {
		if t, ok := rr.(*dns.TLSA); ok {
			args = append(args, "-dane_tlsa_rrdata", fmt.Sprintf("%d %d %d %s", t.Usage, t.Selector, t.MatchingType, t.Certificate))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "openssl", args...).CombinedOutput()
	return string(out), nil
}

// bare is a policy without the TLS floor, which is the same for all.
func bare(policy string) string { return strings.Replace(policy, " protocols=>=TLSv1.2", "", 1) }

var established = regexp.MustCompile(`(?m)^posttls-finger: (Verified|Trusted|Untrusted|Anonymous) TLS connection established`)

// fingered reads what posttls-finger printed.
func fingered(out string) classes.Finger {
	if f := established.FindStringSubmatch(out); f != nil {
		return classes.Finger(strings.ToLower(f[1]))
	}
	return classes.Fails
}
