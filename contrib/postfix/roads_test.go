package postfix

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/policyd/policy"
)

func TestOwnDomains(t *testing.T) {
	p := config(t, "", "")
	boxes := table(t, p, "boxes", "box.example x\n")
	list := strings.TrimPrefix(table(t, p, "list", "# comment\nfile.example\n"), "texthash:")
	aliases := table(t, p, "aliases", "alias.example x\nuser@else.example y@z.example\n")
	override(t, p, "main.cf", "mydestination = $myhostname, !not.example, "+list+", localhost, Upper.Example, münchen.example, not.example\n"+
		"virtual_mailbox_domains = proxy:"+boxes+"\nvirtual_alias_maps = "+aliases+"\nrelay_domains = relay.example\nproxy_interfaces = 192.0.2.9\n")
	age(t, p)
	o := NewOwnDomains(p)
	for domain, want := range map[string]bool{
		"mail.clinic.example": true, "sub.mail.clinic.example": false, "LOCALHOST": true, "upper.example.": true,
		"box.example": true, "sub.box.example": false, "file.example": true, "not.example": false,
		"alias.example": true, "else.example": false, "relay.example": false, "xn--mnchen-3ya.example": true,
		"[127.0.0.1]": true, "[IPv6:::1]": true, "[192.0.2.9]": true, "[198.51.100.1]": false,
		"": true, "bank.example": false, "-q": false,
	} {
		got, err := o.Own(t.Context(), domain)
		if err != nil || got != want {
			t.Errorf("Own(%q) = %v, %v; want %v", domain, got, err, want)
		}
	}
}

func TestAnUnreadableTableIsNeverEmpty(t *testing.T) {
	for _, line := range []string{
		"virtual_mailbox_domains = hash:/nonexistent/x\n",
		"mydestination = /nonexistent/x\n",
		"virtual_alias_maps = socketmap:inet:127.0.0.1:9:x\n",
		"virtual_mailbox_domains = nosuchtype:/x\n",
	} {
		p := config(t, line, "")
		if own, err := NewOwnDomains(p).Own(t.Context(), "bank.example"); err == nil {
			t.Errorf("%s: Own = %v without an error", line, own)
		}
	}
	p := config(t, "transport_maps = hash:/nonexistent/x\n", "")
	if r, err := NewRoutes(p).Route(t.Context(), policy.Address{Local: "a", Domain: "bank.example"}); err == nil {
		t.Errorf("Route = %+v without an error", r)
	}
}

func TestRoutes(t *testing.T) {
	p := config(t, "", "slow unix - - n - - smtp\n")
	tr := table(t, p, "transport", `joe@bank.example smtp:[joe.example]:26
bank.example    smtp:[gw.example]
.bank.example   :[sub.example]
mx.example      smtp:
same.example    smtp:same.example
slow.example    slow:other.example
lmtp.example    lmtp:unix:private/x
err.example     error:5.1.1 no such thing
none.example    nosuch:
keep.example    :
our.example     securesmtp:[must.example]
-dash@bank.example smtp:[dash.example]
`)
	re := strings.Replace(table(t, p, "re", "/^re@re\\.example$/ smtp:[re.example]\n/^re\\.example$/ smtp:[never.example]\n"), "texthash", "regexp", 1)
	override(t, p, "main.cf", "transport_maps = socketmap:inet:127.0.0.1:8642:transport, "+tr+", "+re+"\nrelayhost = [relay.example]:587\nrelay_domains = branch.example\nrelay_transport = relay:[branch.example]\n")
	age(t, p)
	setup(t, p, options(t)) // our own map is not asked
	r := NewRoutes(p)
	for address, want := range map[string]policy.Route{
		"joe@bank.example":     {Nexthop: "[joe.example]:26"},
		"Joe+x@bank.example":   {Nexthop: "[joe.example]:26"},
		"-dash@bank.example":   {Nexthop: "[dash.example]"},
		"x@bank.example":       {Nexthop: "[gw.example]"},
		"x@a.b.bank.example":   {Nexthop: "[sub.example]"},
		"x@mx.example":         {},
		"x@same.example":       {},
		"x@slow.example":       {Nexthop: "other.example"},
		"x@keep.example":       {Nexthop: "[relay.example]:587"},
		"x@unlisted.example":   {Nexthop: "[relay.example]:587"},
		"x@branch.example":     {Nexthop: "[branch.example]"},
		"x@sub.branch.example": {Nexthop: "[branch.example]"},
		"re@re.example":        {Nexthop: "[re.example]"},
		"x@re.example":         {Nexthop: "[relay.example]:587"},
		"x@our.example":        {Nexthop: "[must.example]"},
	} {
		a, err := policy.ParseAddress(address)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Route(t.Context(), a)
		if err != nil || got != want {
			t.Errorf("Route(%s) = %+v, %v; want %+v", address, got, err, want)
		}
	}
	for _, domain := range []string{"lmtp.example", "err.example", "none.example"} {
		got, err := r.Route(t.Context(), policy.Address{Local: "x", Domain: domain})
		if err != nil || got.Blocked == "" {
			t.Errorf("Route(x@%s) = %+v, %v; want it blocked", domain, got, err)
		}
	}
}

func TestLookup(t *testing.T) {
	p := config(t, "", "")
	tab := table(t, p, "t", "a 1\n-q 2\n- 3\n\"x y\"@z.example 4\n")
	age(t, p)
	for key, want := range map[string]string{"a": "1", "-q": "2", "-": "3", "A": "1", `"x y"@z.example`: "4", "b": ""} {
		v, found, err := p.Lookup(t.Context(), tab, key)
		if key == "A" && !found {
			continue // the key comes back folded or not, by the table's type
		}
		if err != nil || v != want || found != (want != "") {
			t.Errorf("Lookup(%q) = %q, %v, %v; want %q", key, v, found, err, want)
		}
	}
	for _, key := range []string{"", "a\nb", strings.Repeat("x", 3000)} {
		if _, _, err := p.Lookup(t.Context(), tab, key); err == nil {
			t.Errorf("Lookup(%.10q) has no error", key)
		}
	}
}

func TestCanonical(t *testing.T) {
	p := config(t, "", "")
	s := table(t, p, "s", "joe doctor@clinic.example\n@old.example @new.example\nbob@x.example bobby@y.example\n")
	both := table(t, p, "c", "doctor@clinic.example dr@clinic.example\n")
	override(t, p, "main.cf", "sender_canonical_maps = "+s+"\ncanonical_maps = "+both+"\nmasquerade_domains = !keep.new.example new.example\n")
	age(t, p)
	for _, tt := range []struct {
		in, want string
		sender   bool
	}{
		{"joe@clinic.example", "dr@clinic.example", true},
		{"joe@clinic.example", "joe@clinic.example", false},
		{"doctor@clinic.example", "dr@clinic.example", false},
		{"joe@bank.example", "joe@bank.example", true},
		{"a@old.example", "a@new.example", true},
		{"bob+ext@x.example", "bobby+ext@y.example", true},
		{"a@host.new.example", "a@new.example", true},
		{"a@keep.new.example", "a@keep.new.example", true},
		{"", "", true},
	} {
		a, _ := policy.ParseAddress(tt.in)
		got, err := p.Canonical(t.Context(), a, tt.sender)
		if err != nil || got.String() != tt.want {
			t.Errorf("Canonical(%s, %v) = %s, %v; want %s", tt.in, tt.sender, got, err, tt.want)
		}
	}
}

func TestSettings(t *testing.T) {
	p := config(t, "maximal_queue_lifetime = 36h\nbounce_queue_lifetime = 1d\n", "")
	tab := table(t, p, "tls", "bank.example secure match=.bank.example\n.clinic.example verify\n[gw.example]:26 encrypt\n")
	override(t, p, "main.cf", "smtp_tls_policy_maps = "+tab+"\nmyorigin = Origin.Example\n")
	age(t, p)
	setup(t, p, options(t))
	if d, err := p.QueueLifetime(t.Context()); err != nil || d != 36*time.Hour {
		t.Errorf("QueueLifetime = %v, %v", d, err)
	}
	if o, err := p.Origin(t.Context()); err != nil || o != "origin.example" {
		t.Errorf("Origin = %q, %v", o, err)
	}
	if d, err := p.Delimiters(t.Context()); err != nil || d != "+" {
		t.Errorf("Delimiters = %q, %v", d, err)
	}
	if v, err := p.Version(t.Context()); err != nil || v.Before(3, 5) {
		t.Errorf("Version = %v, %v", v, err)
	}
	for nexthop, want := range map[string]string{
		"bank.example": "secure match=.bank.example", "x.bank.example": "", "a.b.clinic.example": "verify",
		"[gw.example]:26": "encrypt", "[gw.example]": "",
	} {
		if got, err := p.AdminTLSPolicy(t.Context(), nexthop); err != nil || got != want {
			t.Errorf("AdminTLSPolicy(%s) = %q, %v; want %q", nexthop, got, err, want)
		}
	}
	if adds, err := p.AddsRecipients(t.Context()); err != nil || adds {
		t.Errorf("AddsRecipients = %v, %v", adds, err)
	}
	override(t, p, "master.cf", "cleanup2 unix n - y - 0 cleanup -o always_bcc=a@b.example\n")
	age(t, p)
	if adds, err := p.AddsRecipients(t.Context()); err != nil || !adds {
		t.Errorf("AddsRecipients with always_bcc in master.cf = %v, %v", adds, err)
	}
}

func TestAliased(t *testing.T) {
	p := config(t, "recipient_delimiter = +\n", "")
	v := table(t, p, "virtual", "joe@bank.example x@y.example\n@moved.example @y.example\n@xn--mnchen-3ya.example @y.example\n")
	override(t, p, "main.cf", "virtual_alias_maps = "+v+", regexp:{{/^odd@.*/ x@y.example}}\n")
	age(t, p)
	for a, want := range map[string]bool{
		"joe@bank.example": true, "Joe+ext@Bank.example": true, "ann@bank.example": false,
		"any@moved.example": true, "any@sub.moved.example": false, "a@münchen.example": true, "odd@x.example": true,
	} {
		addr, err := policy.ParseAddress(a)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := p.Aliased(t.Context(), addr); err != nil || got != want {
			t.Errorf("Aliased(%s) = %v, %v; want %v", a, got, err, want)
		}
	}
	override(t, p, "main.cf", "virtual_alias_maps = hash:/nonexistent/x\n")
	age(t, p)
	p.Forget()
	if _, err := p.Aliased(t.Context(), policy.Address{Local: "a", Domain: "b.example"}); err == nil {
		t.Error("a table that can't be read says nothing")
	}
}

// Aliases makes of a recipient what cleanup(8) does.
func TestAliases(t *testing.T) {
	p := config(t, "recipient_delimiter = +\nmyorigin = own.example\nmydestination = own.example\n", "")
	v := table(t, p, "virtual", "info@own.example doc@own.example, nurse\nnurse@own.example nurse@own.example copy@far.example\n"+
		"doc@own.example d@mail.example\na@own.example b@own.example\nb@own.example a@own.example\n@moved.example @own.example\nshort x@own.example\n")
	override(t, p, "main.cf", "virtual_alias_maps = "+v+"\n")
	age(t, p)
	for a, want := range map[string]string{
		"info@own.example":     "[nurse@own.example d@mail.example copy@far.example]",
		"Info+ext@own.example": "[nurse+ext@own.example d+ext@mail.example copy+ext@far.example]",
		"nobody@own.example":   "[nobody@own.example]",
		"any@far.example":      "[any@far.example]",
		"info@moved.example":   "[nurse@own.example d@mail.example copy@far.example]",
		"short@own.example":    "[x@own.example]",
		"a@own.example":        "", // a circle: Postfix gives up, too
	} {
		addr, err := policy.ParseAddress(a)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Aliases(t.Context(), addr)
		if s := fmt.Sprint(got); (err != nil) != (want == "") || want != "" && s != want {
			t.Errorf("Aliases(%s) = %s, %v; want %s", a, s, err, want)
		}
	}
}

// What Postseal wrote into a file is not taken for the administrator's: it would stay
// for ever, and a file that is not there yet would never be written.
func TestOurMapFilesAreNotTheirs(t *testing.T) {
	p := config(t, "", "")
	theirs := table(t, p, "theirs", "other.example smtp:[gw.example]\n")
	tls := table(t, p, "tls", "other.example verify\n")
	p.MapDir = t.TempDir() + "/"
	override(t, p, "main.cf", "transport_maps = lmdb:"+p.MapDir+"transport, "+theirs+"\nsmtp_tls_policy_maps = proxy:lmdb:"+p.MapDir+"tls-policy, "+tls+"\n")
	age(t, p)
	keys, err := p.AdminTLSKeys(t.Context())
	if err != nil || len(keys) != 1 || keys[0] != "other.example" {
		t.Errorf("AdminTLSKeys = %q, %v", keys, err)
	}
	if got, err := p.AdminTLSPolicy(t.Context(), "other.example"); err != nil || got != "verify" {
		t.Errorf("AdminTLSPolicy = %q, %v", got, err)
	}
	if r, err := NewRoutes(p).Route(t.Context(), policy.Address{Local: "a", Domain: "other.example"}); err != nil || r.Nexthop != "[gw.example]" {
		t.Errorf("Route = %+v, %v", r, err)
	}
	if p.isOurFile("lmdb:"+p.MapDir+"other") || p.isOurFile("lmdb:/elsewhere/transport") {
		t.Error("another file is taken for ours")
	}
}
