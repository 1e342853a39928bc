package postfix

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postseal/postseal/policyd/policy"
)

func rules(t *testing.T, rs ...*policy.Rule) *policy.Snapshot {
	t.Helper()
	s, err := policy.NewSnapshot(1, rs, "+")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func recipient(pattern string, r policy.Requirement) *policy.Rule {
	return &policy.Rule{Scope: policy.ByRecipient, Pattern: pattern, Requirement: r}
}

func sender(pattern string, r policy.Requirement) *policy.Rule {
	return &policy.Rule{Scope: policy.BySender, Pattern: pattern, Requirement: r}
}

// override adds a line behind everything in main.cf, as somebody would by hand.
func override(t *testing.T, p *Instance, name, lines string) {
	t.Helper()
	text := read(t, p, name)
	if err := os.WriteFile(filepath.Join(p.ConfigDir, name), []byte(text+lines), 0o644); err != nil {
		t.Fatal(err)
	}
}

func find(fs []Finding, id string) *Finding {
	for i := range fs {
		if fs[i].ID == id {
			return &fs[i]
		}
	}
	return nil
}

func table(t *testing.T, p *Instance, name, text string) string {
	t.Helper()
	path := filepath.Join(p.ConfigDir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return "texthash:" + path
}

func TestCheckIsContentWithWhatSetupWrites(t *testing.T) {
	const submission = "submission inet n - y - - smtpd\n  -o smtpd_tls_security_level=encrypt\n  -o smtpd_sasl_auth_enable=yes\n  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject\n  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\n  -o smtpd_data_restrictions=reject_unauth_pipelining\n"
	for name, cf := range map[string]struct{ main, master string }{
		"Debian's":                         {"", ""},
		"a submission service":             {"", submission},
		"recipient restrictions":           {"smtpd_recipient_restrictions = reject_non_fqdn_recipient, permit_mynetworks, permit_sasl_authenticated,\n  reject_rbl_client bl.example, permit\n", ""},
		"other maps and a data guard":      {"transport_maps = static:\nsmtpd_data_restrictions = reject_unauth_pipelining, permit\nsmtpd_end_of_data_restrictions = check_client_access static:DUNNO\n", ""},
		"restrictions by a parameter":      {"mua_recipient_restrictions = permit_sasl_authenticated, reject\n", "587 inet n - y - - smtpd -o smtpd_recipient_restrictions=$mua_recipient_restrictions\n  -o smtpd_client_restrictions=permit_sasl_authenticated,reject\n"},
		"a policy service of another kind": {"smtpd_recipient_restrictions = reject_unauth_destination, check_policy_service inet:127.0.0.1:10023\n", ""},
		"a default action that lets pass":  {"smtpd_policy_service_default_action = DUNNO\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := config(t, cf.main, cf.master)
			o := options(t)
			setup(t, p, o)
			fs, err := p.Check(t.Context(), CheckOptions{Options: o})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range fs {
				if f.Severity != OK {
					t.Errorf("%s (%s) %s: %s", f.Severity, f.ID, f.Where, f.What)
				}
			}
		})
	}
}

func TestCheckFindsTheWaysToLeakLoopAndLose(t *testing.T) {
	tests := []struct {
		id           string
		sev          Severity
		main, master string // added behind setup's work
		before       string // main.cf before setup
		change       func(t *testing.T, p *Instance, o *CheckOptions)
	}{
		{id: "policy-missing", sev: Leak, master: "10587 inet n - n - - smtpd -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\n"},
		{id: "policy-missing", sev: Leak, main: "smtpd_recipient_restrictions =\n"},
		{id: "policy-after-permit", sev: Leak, main: "smtpd_recipient_restrictions = permit_mynetworks, check_policy_service inet:127.0.0.1:8641\n"},
		{id: "policy-after-permit", sev: Leak, master: "10587 inet n - n - - smtpd -o smtpd_recipient_restrictions=permit_sasl_authenticated,check_policy_service,$postseal_policy,reject\n"},
		{id: "policy-after-reject", sev: Lose, main: "smtpd_recipient_restrictions = reject, check_policy_service inet:127.0.0.1:8641\n"},
		{id: "policy-after-access", sev: Warn, main: "smtpd_recipient_restrictions = check_client_access static:OK, check_policy_service $postseal_policy\n"},
		{id: "guard-missing", sev: Warn, main: "smtpd_data_restrictions =\n"},
		{id: "guard-after-permit", sev: Warn, main: "smtpd_data_restrictions = permit_mynetworks, check_policy_service $postseal_policy\n"},
		{id: "default-action", sev: Leak, main: "smtpd_policy_service_default_action = DUNNO\nsmtpd_recipient_restrictions = check_policy_service inet:127.0.0.1:8641\n"},
		{id: "strangers", sev: Warn, main: "smtpd_relay_restrictions =\nsmtpd_recipient_restrictions = check_policy_service $postseal_policy, permit_mynetworks, reject_unauth_destination\n"},
		{id: "strangers", sev: Warn, main: "smtpd_relay_before_recipient_restrictions = no\n"},
		{id: "proxy-filter", sev: Leak, main: "smtpd_proxy_filter = 127.0.0.1:10024\n"},
		{id: "content-filter", sev: Warn, main: "content_filter = amavis:[127.0.0.1]:10024\n"},
		{id: "pickup-filter", sev: Leak, before: "content_filter = amavis:[127.0.0.1]:10024\n"},
		{id: "no-header-checks", sev: Leak, main: "receive_override_options = no_header_body_checks\n"},
		{id: "milter", sev: Warn, main: "smtpd_milters = inet:127.0.0.1:8891\n"},
		{id: "pickup", sev: Leak, change: func(t *testing.T, p *Instance, _ *CheckOptions) {
			replace(t, p, "master.cf", "content_filter=escrow:inet:127.0.0.1:8649", "content_filter=")
		}},
		{id: "transport-map-missing", sev: Leak, main: "transport_maps =\n"},
		{id: "transport-map-order", sev: Leak, main: "transport_maps = static:smtp:, socketmap:inet:127.0.0.1:8642:transport\n"},
		{id: "safety-net-missing", sev: Leak, main: "sender_dependent_default_transport_maps =\n"},
		{id: "tls-policy-missing", sev: Warn, main: "smtp_tls_policy_maps =\n"},
		{id: "must-level", sev: Leak, change: inService("securesmtp", "smtp_tls_security_level=may")},
		{id: "must-level", sev: Leak, change: inService("forcedsmtp", "smtp_tls_security_level=dane")},
		{id: "must-policy", sev: Leak, change: inService("securesmtp", "smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8642:tls-policy")},
		{id: "must-policy-missing", sev: Lose, change: inService("securesmtp", "smtp_tls_policy_maps=")},
		{id: "dane-dnssec", sev: Warn, main: "smtp_dns_support_level = enabled\n"},
		{id: "dane-dnssec", sev: Warn, change: inService("forcedsmtp", "smtp_dns_support_level=")},
		{id: "dane-dnssec", sev: Warn, main: "smtp_host_lookup = native\n"},
		{id: "dane-dnssec", sev: Warn, before: "smtp_host_lookup = native\n"},
		{id: "dane-dnssec", sev: Warn, main: "ignore_mx_lookup_error = yes\n"},
		{id: "dane-dnssec", sev: Warn, main: "smtp_dns_resolver_options = res_defnames\n"},
		{id: "own-level", sev: Warn, master: "tlsonly unix - - n - - smtp -o smtp_tls_security_level=encrypt\n"},
		{id: "authorities", sev: Warn, main: "smtp_tls_CAfile =\nsmtp_tls_CApath =\n"},
		{id: "must-command", sev: Leak, change: func(t *testing.T, p *Instance, _ *CheckOptions) {
			replace(t, p, "master.cf", "securesmtp unix - - y - - smtp\n", "securesmtp unix - - y - - local\n")
		}},
		{id: "forced-fallback", sev: Leak, change: inService("forcedsmtp", "smtp_fallback_relay=[192.0.2.1]")},
		{id: "fallback-other", sev: Leak, change: inService("securesmtp", "smtp_fallback_relay=[192.0.2.1]")},
		{id: "fallback-missing", sev: Lose, change: inService("securesmtp", "smtp_fallback_relay=")},
		{id: "wrappermode", sev: Lose, change: inService("securesmtp", "smtp_tls_wrappermode=yes")},
		{id: "best-mx", sev: Lose, change: inService("securesmtp", "best_mx_transport=")},
		{id: "line-limit", sev: Warn, change: inService("escrow", "lmtp_line_length_limit=998")},
		{id: "bind-address", sev: Warn, main: "smtp_bind_address = 192.0.2.7\n"},
		{id: "ipv6-only", sev: Lose, main: "inet_protocols = ipv6\n"},
		{id: "transport-missing", sev: Lose, change: func(t *testing.T, p *Instance, _ *CheckOptions) {
			replace(t, p, "master.cf", "\nnoticesmtp unix", "\nothersmtp unix")
		}},
		{id: "notice-policy", sev: Lose, change: inService("noticesmtp", "smtp_tls_policy_maps=socketmap:inet:127.0.0.1:8642:tls-policy")},
		{id: "notice-fallback", sev: Lose, change: inService("noticesmtp", "smtp_fallback_relay=[192.0.2.1]")},
		{id: "escrow-command", sev: Lose, change: func(t *testing.T, p *Instance, _ *CheckOptions) {
			replace(t, p, "master.cf", "escrow unix - - y - - lmtp", "escrow unix - - y - - smtp")
		}},
		{id: "escrow-tls", sev: Lose, change: inService("escrow", "lmtp_tls_security_level=encrypt")},
		{id: "escrow-generic", sev: Warn, change: inService("escrow", "lmtp_generic_maps=static:x")},
		{id: "reinjection-open", sev: Leak, change: func(t *testing.T, p *Instance, _ *CheckOptions) {
			replace(t, p, "master.cf", "127.0.0.1:8651 inet", "8651 inet")
		}},
		{id: "reinjection-open", sev: Leak, change: inService("127.0.0.1:8651", "mynetworks=0.0.0.0/0")},
		{id: "reinjection-missing", sev: Lose, change: func(t *testing.T, p *Instance, _ *CheckOptions) {
			replace(t, p, "master.cf", "127.0.0.1:8654 inet", "127.0.0.1:9654 inet")
		}},
		{id: "reinjection-command", sev: Lose, change: func(t *testing.T, p *Instance, _ *CheckOptions) {
			replace(t, p, "master.cf", "127.0.0.1:8654 inet n - y - - smtpd", "127.0.0.1:8654 inet n - y - - postscreen")
		}},
		{id: "reinjection-restrictions", sev: Lose, change: inService("127.0.0.1:8651", "smtpd_sender_restrictions=reject_unknown_sender_domain")},
		{id: "reinjection-restrictions", sev: Loop, change: inService("127.0.0.1:8651", "smtpd_data_restrictions=check_policy_service,$postseal_policy")},
		{id: "reinjection-filter", sev: Loop, change: inService("127.0.0.1:8651", "content_filter=amavis:[127.0.0.1]:10024")},
		{id: "reinjection-override", sev: Leak, change: inService("127.0.0.1:8651", "receive_override_options=no_header_body_checks")},
		{id: "reinjection-override", sev: Loop, change: inService("127.0.0.1:8652", "receive_override_options=no_address_mappings")},
		{id: "reinjection-tls", sev: Lose, change: inService("127.0.0.1:8651", "smtpd_tls_security_level=encrypt")},
		{id: "reinjection-ehlo", sev: Warn, change: inService("127.0.0.1:8651", "smtpd_discard_ehlo_keywords=dsn")},
		{id: "reinjection-milters", sev: Warn, change: inService("127.0.0.1:8651", "smtpd_milters=inet:127.0.0.1:8891", "receive_override_options=no_header_body_checks,no_address_mappings")},
		{id: "reinjection-size", sev: Lose, change: inService("127.0.0.1:8651", "message_size_limit=1000")},
		{id: "reinjection-policy", sev: Loop, change: inService("127.0.0.1:8651", "smtpd_recipient_restrictions=check_policy_service,$postseal_policy,permit_mynetworks,reject")},
		{id: "reinjection-mark", sev: Leak, change: inService("127.0.0.1:8652", "smtpd_recipient_restrictions=permit_mynetworks,reject")},
		{id: "reinjection-context", sev: Loop, main: "postseal_secure_restrictions = check_client_access static:{FILTER securesmtp:}, check_policy_service $postseal_policy, permit_mynetworks, reject\n"},
		{id: "reinjection-context", sev: Loop, main: "postseal_notice_restrictions = check_client_access static:{FILTER noticesmtp:}, check_policy_service $postseal_policy, permit_mynetworks, reject\n"},
		{id: "reinjection-relay", sev: Warn, main: "relayhost = [192.0.2.1]:587\n"},
		{id: "relayhost", sev: Warn, main: "relayhost = [192.0.2.1]:587\n"},
		{id: "sender-relayhost", sev: Warn, main: "sender_dependent_relayhost_maps = static:[192.0.2.1]\n"},
		{id: "sender-transport", sev: Warn, before: "sender_dependent_default_transport_maps = static:smtp:\n"},
		{id: "default-filter-nexthop", sev: Lose, main: "default_filter_nexthop = $myhostname\n"},
		{id: "bounce-size", sev: Leak, main: "bounce_size_limit = 50000\n"},
		{id: "generic-maps", sev: Warn, main: "smtp_generic_maps = static:x@y.example\n"},
		{id: "relay-wrappermode", sev: Lose, main: "smtp_tls_wrappermode = yes\n"},
		{id: "soft-bounce", sev: Warn, main: "soft_bounce = yes\n"},
		{id: "own-road", sev: Warn, main: "virtual_transport = smtp:[192.0.2.1]\n"},
		{id: "canonical", sev: Leak, main: "sender_canonical_maps = hash:/nonexistent/canonical\n"},
		{id: "other-filter", sev: Leak, change: func(t *testing.T, p *Instance, _ *CheckOptions) {
			f := strings.Replace(table(t, p, "body", "/x/ FILTER smtp:[192.0.2.1]\n"), "texthash", "regexp", 1)
			override(t, p, "main.cf", "body_checks = "+f+"\n")
		}},
		{id: "other-recipient", sev: Warn, change: func(t *testing.T, p *Instance, _ *CheckOptions) {
			f := strings.Replace(table(t, p, "body", "/x/ REDIRECT a@b.example\n"), "texthash", "regexp", 1)
			override(t, p, "main.cf", "body_checks = "+f+"\n")
		}},
		{id: "access-filter", sev: Warn, before: "smtpd_end_of_data_restrictions = check_client_access static:{FILTER smtp:[192.0.2.1]}\n"},
		{id: "access-filter", sev: Leak, main: "smtpd_end_of_data_restrictions = check_policy_service $postseal_policy, check_client_access static:{FILTER smtp:[192.0.2.1]}\n"},
		{id: "triggers-missing", sev: Leak, main: "header_checks =\n"},
		{id: "triggers-order", sev: Leak, change: func(t *testing.T, p *Instance, _ *CheckOptions) {
			override(t, p, "main.cf", "header_checks = static:DUNNO, regexp:"+p.ConfigDir+"/"+headerChecksFile+"\n")
		}},
		{id: "triggers-unreadable", sev: Leak, change: func(t *testing.T, p *Instance, _ *CheckOptions) {
			os.Remove(filepath.Join(p.ConfigDir, headerChecksFile))
		}},
		{id: "triggers-nul", sev: Leak, main: "message_strip_characters = \\\\0\\012\n"},
		{id: "triggers-stale", sev: Leak, change: func(t *testing.T, _ *Instance, o *CheckOptions) {
			o.Triggers, _ = policy.NewTriggers([]string{"[secure]", "[secret]"}, nil, "")
		}},
		{id: "road-blocked", sev: Lose, change: func(t *testing.T, p *Instance, o *CheckOptions) {
			withTransport(t, p, o, "bank.example lmtp:unix:private/x\n", recipient("bank.example", policy.Encryption))
		}},
		{id: "road-overlap", sev: Warn, change: func(t *testing.T, p *Instance, o *CheckOptions) {
			withTransport(t, p, o, "bank.example smtp:[192.0.2.1]\n", recipient("bank.example", policy.Encryption))
		}},
		{id: "road-unreadable", sev: Lose, change: func(t *testing.T, p *Instance, o *CheckOptions) {
			override(t, p, "main.cf", "transport_maps = socketmap:inet:127.0.0.1:8642:transport, hash:/nonexistent/transport\n")
			o.Rules = rules(t, recipient("bank.example", policy.Encryption))
		}},
		{id: "default-transport", sev: Lose, main: "default_transport = uucp\n"},
		{id: "forward-entry", sev: Leak, change: func(t *testing.T, p *Instance, o *CheckOptions) {
			withTransport(t, p, o, "other.example smtp:[192.0.2.1]\n", sender("doc@clinic.example", policy.Encryption))
		}},
		{id: "forward-unlisted", sev: Warn, change: func(t *testing.T, p *Instance, o *CheckOptions) {
			override(t, p, "main.cf", "transport_maps = socketmap:inet:127.0.0.1:8642:transport, regexp:/dev/null\n")
			o.Rules = rules(t, sender("doc@clinic.example", policy.Encryption))
		}},
		{id: "forward-relay", sev: Leak, main: "relay_domains = branch.example\n", change: func(t *testing.T, _ *Instance, o *CheckOptions) {
			o.Rules = rules(t, sender("doc@clinic.example", policy.Encryption))
		}},
		{id: "own-unreadable", sev: Lose, main: "virtual_mailbox_domains = hash:/nonexistent/domains\n"},
		{id: "own-missing", sev: Loop, change: func(_ *testing.T, _ *Instance, o *CheckOptions) {
			o.Own = NewStaticDomains([]string{"mail.clinic.example", "localhost"})
		}},
		{id: "own-relay", sev: Leak, main: "relay_domains = branch.example\n", change: func(_ *testing.T, _ *Instance, o *CheckOptions) {
			o.Own = NewStaticDomains([]string{"mail.clinic.example", "localhost", "clinic.example", "branch.example"})
		}},
		{id: "notice-address", sev: Lose, change: func(_ *testing.T, _ *Instance, o *CheckOptions) { o.NoticeFrom = "nobody" }},
		{id: "notice-domain", sev: Lose, change: func(_ *testing.T, _ *Instance, o *CheckOptions) { o.NoticeFrom = "a@elsewhere.example" }},
		{id: "notice-domain", sev: Lose, main: "virtual_alias_domains = alias.example\n", change: func(_ *testing.T, _ *Instance, o *CheckOptions) { o.NoticeFrom = "a@alias.example" }},
		{id: "notice-refused", sev: Lose, main: "local_recipient_maps = unix:passwd.byname\n"},
		{id: "notice-mx", sev: Warn, change: func(_ *testing.T, _ *Instance, o *CheckOptions) {
			o.MailHosts = func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr("192.0.2.25")}, nil
			}
		}},
		{id: "bcc", sev: Warn, main: "always_bcc = archive@clinic.example\n"},
		{id: "delay-warning", sev: Warn, change: func(t *testing.T, _ *Instance, o *CheckOptions) {
			o.Rules = rules(t, recipient("bank.example", policy.ForcedTLS))
		}},
		{id: "forwards", sev: Warn, main: "alias_maps = texthash:/dev/null\n"},
		{id: "foreign-sender", sev: Warn, change: func(t *testing.T, _ *Instance, o *CheckOptions) {
			o.Rules = rules(t, sender("doc@elsewhere.example", policy.Encryption))
		}},
		{id: "list-owner", sev: Leak, change: func(t *testing.T, p *Instance, o *CheckOptions) {
			override(t, p, "main.cf", "alias_maps = "+table(t, p, "lists", "list x@y.example\nowner-list boss\n")+"\n")
			o.Rules = rules(t, sender("doc@clinic.example", policy.Encryption))
		}},
		{id: "lists-unlisted", sev: Warn, main: "alias_maps = regexp:{{/x/ y}}\n", change: func(t *testing.T, _ *Instance, o *CheckOptions) {
			o.Rules = rules(t, sender("doc@clinic.example", policy.Encryption))
		}},
		{id: "own-recipient", sev: Warn, change: func(t *testing.T, _ *Instance, o *CheckOptions) {
			o.Rules = rules(t, recipient("clinic.example", policy.Encryption))
		}},
	}
	good := config(t, "", "")
	setup(t, good, options(t))
	fine, err := good.Check(t.Context(), CheckOptions{Options: options(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.id, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			var p *Instance
			if tt.before == "" {
				p = copied(t, good)
				if f := find(fine, tt.id); f != nil {
					t.Errorf("found in the good configuration, too: %+v", *f)
				}
			} else {
				p = config(t, tt.before, "")
				setup(t, p, o)
			}
			co := CheckOptions{Options: o}
			override(t, p, "main.cf", tt.main)
			override(t, p, "master.cf", tt.master)
			if tt.change != nil {
				tt.change(t, p, &co)
			}
			age(t, p)
			bad, err := p.Check(t.Context(), co)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range bad {
				if f.ID == tt.id && f.Severity == tt.sev {
					return
				}
			}
			t.Errorf("want a %s %s, got %+v", tt.sev, tt.id, bad)
		})
	}
}

// copied returns a configuration like p in a directory of its own.
func copied(t *testing.T, p *Instance) *Instance {
	t.Helper()
	to := &Instance{ConfigDir: t.TempDir()}
	for _, name := range []string{"main.cf", "master.cf", headerChecksFile, noticeFile, stateFile} {
		text := strings.ReplaceAll(read(t, p, name), p.ConfigDir, to.ConfigDir)
		if err := os.WriteFile(filepath.Join(to.ConfigDir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func replace(t *testing.T, p *Instance, name, old, new string) {
	t.Helper()
	text := read(t, p, name)
	if !strings.Contains(text, old) {
		t.Fatalf("%s has no %q", name, old)
	}
	if err := os.WriteFile(filepath.Join(p.ConfigDir, name), []byte(strings.ReplaceAll(text, old, new)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// inService puts options at the end of one of our services.
func inService(name string, opts ...string) func(*testing.T, *Instance, *CheckOptions) {
	return func(t *testing.T, p *Instance, _ *CheckOptions) {
		t.Helper()
		lines, es := entries(read(t, p, "master.cf"))
		for _, e := range es {
			if !strings.HasPrefix(e.text, name+" ") {
				continue
			}
			for _, o := range opts {
				lines[e.to-1] += "  -o " + o + "\n"
			}
			if err := os.WriteFile(filepath.Join(p.ConfigDir, "master.cf"), []byte(strings.Join(lines, "")), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Fatalf("no service %s", name)
	}
}

func withTransport(t *testing.T, p *Instance, o *CheckOptions, text string, r *policy.Rule) {
	t.Helper()
	override(t, p, "main.cf", "transport_maps = socketmap:inet:127.0.0.1:8642:transport, "+table(t, p, "transport", text)+"\n")
	o.Rules = rules(t, r)
}

func TestALostTLSRequiredSettingIsALeak(t *testing.T) {
	c := &checker{main: map[string]string{"tls_required_enable": "yes", "bounce_size_limit": "1", "default_filter_nexthop": ""}, p: config(t, "", ""), ctx: t.Context()}
	c.checkSettings()
	if f := find(c.found, "tls-required"); f == nil || f.Severity != Leak {
		t.Errorf("Postfix 3.10 with tls_required_enable = yes: %+v", c.found)
	}
}

// A list whose owner has a rule is no leak.
func TestCheckListOwner(t *testing.T) {
	p := config(t, "", "")
	setup(t, p, options(t))
	override(t, p, "main.cf", "alias_maps = "+table(t, p, "lists", "list x@y.example\nowner-list boss\nowner-nobody x\n")+"\n")
	age(t, p)
	origin, err := p.Origin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string]bool{"doc@" + origin: true, origin: false, "owner-list@" + origin: false} {
		fs, err := p.Check(t.Context(), CheckOptions{Options: options(t), Rules: rules(t, sender(pattern, policy.Encryption))})
		if err != nil {
			t.Fatal(err)
		}
		if got := find(fs, "list-owner") != nil; got != want {
			t.Errorf("with a rule for %s: found %v, want %v", pattern, got, want)
		}
	}
}
