package e2e

import (
	"bytes"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// attack is a configuration of the administrator, or a use of it, by which a
// toy of this routing leaked, looped or lost mail. The rules below hold in each.
type attack struct {
	name    string
	postfix lab.PostfixOptions
	hosts   map[string]lab.Kind
	env     []string
	prepare func(*lab.Bed) error
	try     func(*scene)
}

var attackRules = []string{
	"sender add doc@own.example --require encryption",
	"sender add --login drsmith --require encryption",
	"domain add forced.example --require tls",
	"domain add joe@own.example --require escrow",
}

func mainCF(name string, value func(*lab.Bed) (string, error)) func(*lab.Bed) error {
	return func(b *lab.Bed) error {
		v, err := value(b)
		if err != nil {
			return err
		}
		return b.Postfix.AddMainCF(name, v)
	}
}

func texthash(name, text string) func(*lab.Bed) (string, error) {
	return func(b *lab.Bed) (string, error) {
		path, err := b.Postfix.WriteFile(name, text)
		return "texthash:" + path, err
	}
}

func all(steps ...func(*lab.Bed) error) func(*lab.Bed) error {
	return func(b *lab.Bed) error {
		for _, s := range steps {
			if err := s(b); err != nil {
				return err
			}
		}
		return nil
	}
}

func set(kv ...string) lab.PostfixOptions {
	o := lab.PostfixOptions{MainCF: map[string]string{}}
	for i := 0; i < len(kv); i += 2 {
		o.MainCF[kv[i]] = kv[i+1]
	}
	return o
}

var attacks = []attack{
	{
		name:    "an own address with a copy outside",
		prepare: mainCF("virtual_alias_maps", texthash("virtual", "c@own.example c@own.example, copy@plain.example, copy@tls.example\n")),
		try: func(s *scene) {
			m := s.send("doc@own.example", "c@own.example")
			s.mailbox(m, "c@own.example")
			s.sealed(m, "copy@plain.example")
			s.arrivesByTLS(m, "copy@tls.example")
		},
	},
	{
		name:    "a copy by sender_bcc_maps",
		hosts:   map[string]lab.Kind{"gate.example": lab.GoodTLS, "gated.example": lab.NoTLS},
		prepare: mainCF("sender_bcc_maps", texthash("bcc", "doc@own.example bcc@plain.example\n")),
		try: func(s *scene) {
			m := s.send("doc@own.example", "b@tls.example")
			s.arrivesByTLS(m, "b@tls.example")
			s.sealed(m, "bcc@plain.example")
			// The copy does not follow the recipient's next-hop.
			s.rule("domain add gated.example --require encryption --nexthop [mx.gate.example]:25")
			m = s.send("doc@own.example", "b@gated.example")
			s.arrivesByTLS(m, "b@gated.example")
			if !s.Wait(patience, func() bool {
				items, err := s.Escrowed("bcc@plain.example")
				return err == nil && len(items) == 2
			}) {
				s.t.Errorf("the second copy is not sealed; it went to another's next-hop %d times", s.count(m.mark, "bcc@plain.example"))
			}
		},
	},
	{
		name:  "postsuper -r of what a login requires",
		hosts: map[string]lab.Kind{"late.example": lab.GoodTLS},
		try: func(s *scene) {
			s.check(s.Down("late.example"))
			m := s.accepted(s.secret(lab.Message{From: "smith@own.example", Login: "drsmith", To: []string{"b@late.example"}}))
			s.waits(m, "b@late.example", "")
			s.check(s.Postfix.Postsuper("-r", "ALL"))
			if !s.Postfix.WaitLog(0, "uid=", patience) {
				s.t.Error("the message was not requeued")
			}
			s.check(s.Up("late.example"))
			s.strip("late.example")
			s.sealed(m, "b@late.example")
		},
	},
	{
		name:  "postsuper -r of what a subject requires",
		hosts: map[string]lab.Kind{"late.example": lab.GoodTLS},
		env:   []string{"POSTSEAL_SECURE_SUBJECT=[secure]"},
		try: func(s *scene) {
			s.check(s.Down("late.example"))
			mark, data := s.text("[secure] words")
			s.must = append(s.must, mark)
			m := s.accepted(s.submit(lab.Message{From: "a@own.example", Data: data, To: []string{"b@late.example"}}))
			m.mark = mark
			s.waits(m, "b@late.example", "")
			s.check(s.Postfix.Postsuper("-r", "ALL"))
			if !s.Postfix.WaitLog(0, "uid=", patience) {
				s.t.Error("the message was not requeued")
			}
			s.check(s.Up("late.example"))
			s.strip("late.example")
			s.sealed(m, "b@late.example")
		},
	},
	{
		name:    "another FILTER at DATA",
		postfix: set("smtpd_data_restrictions", "check_client_access static:{FILTER smtp:}"),
		try: func(s *scene) {
			m := s.send("doc@own.example", "b@plain.example", "b@tls.example")
			s.sealed(m, "b@plain.example")
			s.arrivesByTLS(m, "b@tls.example")
		},
	},
	{
		name: "a port with restrictions of its own",
		postfix: lab.PostfixOptions{MasterCF: `127.0.0.1:587 inet n - n - - smtpd
  -o smtpd_recipient_restrictions=permit_mynetworks,reject
  -o smtpd_relay_restrictions=permit_mynetworks,reject
  -o smtpd_data_restrictions=
  -o smtpd_end_of_data_restrictions=
`},
		try: func(s *scene) {
			m := s.accepted(s.secret(lab.Message{Addr: "127.0.0.1:587", From: "doc@own.example", To: []string{"b@plain.example", "b@tls.example"}}))
			s.sealed(m, "b@plain.example")
			s.arrivesByTLS(m, "b@tls.example")
		},
	},
	{
		name:  "sendmail to an administrator's transport and a relay domain",
		hosts: map[string]lab.Kind{"plaingate.example": lab.NoTLS, "routed.example": lab.GoodTLS, "relayed.example": lab.NoTLS},
		prepare: all(
			mainCF("transport_maps", texthash("transport", "routed.example smtp:[mx.plaingate.example]\n")),
			func(b *lab.Bed) error { return b.Postfix.AddMainCF("relay_domains", "relayed.example") },
		),
		try: func(s *scene) {
			mark, data := s.text("by sendmail")
			s.must = append(s.must, mark)
			s.check(s.Postfix.Sendmail("doc@own.example", []string{"b@routed.example", "b@relayed.example"}, bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))))
			m := mail{mark: mark, data: data}
			s.sealed(m, "b@routed.example")
			s.sealed(m, "b@relayed.example")
		},
	},
	{
		name:    "a sender that is rewritten to one with a rule",
		prepare: mainCF("sender_canonical_maps", texthash("canonical", "d.oc@own.example doc@own.example\n")),
		try: func(s *scene) {
			s.sealed(s.send("d.oc@own.example", "b@plain.example"), "b@plain.example")
		},
	},
	{
		name: "a bare local part as sender",
		try: func(s *scene) {
			s.sealed(s.send("doc", "b@plain.example"), "b@plain.example")
		},
	},
	{
		name:    "an alias of an address with a rule",
		prepare: mainCF("virtual_alias_maps", texthash("virtual", "joe@own.example out@plain.example\n")),
		try: func(s *scene) {
			s.sealed(s.send("a@own.example", "joe@own.example"), "out@plain.example")
		},
	},
	{
		name:    "a sender that smtp_generic_maps hides",
		prepare: mainCF("smtp_generic_maps", texthash("generic", "doc@own.example public@own.example\n")),
		try: func(s *scene) {
			m := s.send("doc@own.example", "b@plain.example", "b@broken.example")
			s.sealed(m, "b@plain.example")
			s.sealed(m, "b@broken.example")
		},
	},
	{
		name:    "an own alias to an own mailbox and the outside",
		prepare: mainCF("virtual_alias_maps", texthash("virtual", "team@own.example c@own.example, b@tls.example\nonly@own.example d@own.example\n")),
		try: func(s *scene) {
			m := s.send("doc@own.example", "team@own.example", "x@tls.example")
			s.mailbox(m, "c@own.example")
			s.arrivesByTLS(m, "b@tls.example")
			s.arrivesByTLS(m, "x@tls.example")
			s.mailbox(s.send("doc@own.example", "only@own.example"), "d@own.example")
		},
	},
	{
		name: "a rule for * and mail from outside",
		try: func(s *scene) {
			s.rule("domain add * --require encryption")
			m := s.accepted(s.submit(lab.Message{From: "stranger@plain.example", To: []string{"c@own.example"}, Local: "127.0.9.9", Addr: lab.OwnAddr + ":25"}))
			s.mailbox(m, "c@own.example")
		},
	},
	{
		name: "a content filter",
		postfix: lab.PostfixOptions{
			MainCF: map[string]string{"content_filter": "smtp:[127.0.0.1]:10026"},
			MasterCF: `127.0.0.1:10026 inet n - n - - smtpd
  -o content_filter=
  -o receive_override_options=no_unknown_recipient_checks,no_address_mappings
`,
		},
		try: func(s *scene) {
			m := s.send("doc@own.example", "b@plain.example", "b@tls.example", "c@own.example")
			s.sealed(m, "b@plain.example")
			s.arrivesByTLS(m, "b@tls.example")
			s.mailbox(m, "c@own.example")
			s.arrives(s.plain("a@own.example", "d@plain.example"), "d@plain.example")
		},
	},
	{
		name: "main.cf refuses what our ports must take",
		postfix: lab.PostfixOptions{
			MainCF: map[string]string{
				"smtpd_tls_security_level":       "encrypt",
				"smtpd_tls_cert_file":            "${config_directory}/smtpd.pem",
				"smtpd_tls_key_file":             "${config_directory}/smtpd.key",
				"smtpd_helo_required":            "yes",
				"smtpd_helo_restrictions":        "reject_unknown_helo_hostname",
				"smtpd_sender_restrictions":      "check_sender_access static:{REJECT not here}",
				"smtpd_relay_restrictions":       "reject",
				"smtpd_discard_ehlo_keywords":    "dsn, 8bitmime, smtputf8, xforward, chunking",
				"smtpd_recipient_limit":          "1",
				"message_size_limit":             "20000",
				"lmtp_tls_security_level":        "encrypt",
				"smtpd_end_of_data_restrictions": "",
			},
			MasterCF: `127.0.0.1:587 inet n - n - - smtpd
  -o smtpd_tls_security_level=none
  -o smtpd_helo_restrictions=
  -o smtpd_sender_restrictions=
  -o smtpd_relay_restrictions=permit_mynetworks,reject
  -o smtpd_recipient_limit=1000
`,
		},
		prepare: func(b *lab.Bed) error { return b.Certificate(b.Postfix.ConfigDir, "smtpd", "mail.own.example") },
		try: func(s *scene) {
			mark, _ := s.text("")
			s.must = append(s.must, mark)
			// The longest message that Postfix takes.
			var m mail
			var data []byte
			for lines := 280; (m.Result == nil || !m.Accepted()) && lines > 200; lines-- {
				data = lab.Text("doc@own.example", "b@plain.example", "near the limit", mark+"\r\n"+strings.Repeat(strings.Repeat("x", 70)+"\r\n", lines))
				m = s.submit(lab.Message{Addr: "127.0.0.1:587", From: "doc@own.example", Data: data,
					To: []string{"b@plain.example", "b@tls.example", "c@own.example"}})
			}
			s.accepted(m)
			m.mark, m.data = mark, data
			s.sealed(m, "b@plain.example")
			s.arrivesByTLS(m, "b@tls.example")
			s.mailbox(m, "c@own.example")
		},
	},
	{
		name: "smtp_fallback_relay of the administrator",
		// A gate with TLS: mandatory TLS alone would let the message go there.
		hosts:   map[string]lab.Kind{"forced.example": lab.NoTLS, "gate.example": lab.GoodTLS},
		postfix: set("smtp_fallback_relay", "[mx.gate.example]"),
		try: func(s *scene) {
			s.waits(s.send("a@own.example", "b@forced.example"), "b@forced.example", "TLS is required")
			s.sealed(s.send("doc@own.example", "b@plain.example"), "b@plain.example")
		},
	},
	{
		name:  "a stronger TLS policy of the administrator",
		hosts: map[string]lab.Kind{"forced.example": lab.GoodTLS, "strict.example": lab.GoodTLS},
		prepare: mainCF("smtp_tls_policy_maps", texthash("tls-policy",
			"forced.example secure match=.other.example\nstrict.example secure match=.other.example\ntls.example none\n")),
		try: func(s *scene) {
			s.waits(s.send("a@own.example", "b@forced.example"), "b@forced.example", "certificate")
			// A weaker one does not weaken what is required.
			s.arrivesByTLS(s.send("doc@own.example", "b@tls.example"), "b@tls.example")
			if got := s.arrives(s.plain("a@own.example", "c@tls.example"), "c@tls.example"); got.TLS {
				s.t.Error("the administrator's own policy for other mail is gone")
			}
		},
	},
	{
		name: "several recipients at once in the fallback",
		try: func(s *scene) {
			m := s.send("doc@own.example", "one@plain.example", "two@plain.example", "three@plain.example")
			for _, to := range []string{"one@plain.example", "two@plain.example", "three@plain.example"} {
				s.sealed(m, to)
			}
		},
	},
	{
		name: "a domain that does not exist, and one that takes no mail",
		try: func(s *scene) {
			s.check(s.Record("nomail.example", "MX", "0 ."))
			for _, to := range []string{"b@nowhere.example", "b@nomail.example"} {
				s.send("doc@own.example", to)
				if !s.Wait(patience, func() bool {
					for _, m := range s.Postfix.Mailbox("doc@own.example") {
						if bytes.Contains(m, []byte(to)) {
							return true
						}
					}
					return false
				}) {
					s.t.Errorf("%s did not bounce", to)
				}
			}
		},
	},
	{
		name:    "smtp_bind_address",
		postfix: set("smtp_bind_address", lab.OwnAddr),
		try: func(s *scene) {
			m := s.send("doc@own.example", "b@plain.example", "b@tls.example")
			s.sealed(m, "b@plain.example")
			s.arrivesByTLS(m, "b@tls.example")
		},
	},
	{
		name: "a second transaction, RSET and a refused recipient",
		try: func(s *scene) {
			c, err := lab.Dial("127.0.0.1:25", "")
			s.check(err)
			defer c.Close()
			for _, line := range []string{"MAIL FROM:<doc@own.example>", "RCPT TO:<b@tls.example>", "RSET"} {
				_, err := c.Cmd(line)
				s.check(err)
			}
			mark, data := s.text("not required")
			res, err := c.Transaction(lab.Message{From: "a@own.example", To: []string{"b@plain.example"}, Data: data})
			s.check(err)
			s.arrives(s.accepted(mail{mark, data, res}), "b@plain.example")
			mark, data = s.text("required")
			s.must = append(s.must, mark)
			res, err = c.Transaction(lab.Message{From: "doc@own.example", To: []string{"c@tls.example", "c@plain.example"}, Data: data})
			s.check(err)
			m := s.accepted(mail{mark, data, res})
			s.arrivesByTLS(m, "c@tls.example")
			s.sealed(m, "c@plain.example")
		},
	},
	{
		name:  "Postseal killed between two recipients",
		hosts: map[string]lab.Kind{"gate.example": lab.GoodTLS, "gated.example": lab.NoTLS},
		try: func(s *scene) {
			s.rule("domain add gated.example --require encryption --nexthop [mx.gate.example]:25")
			c, err := lab.Dial("127.0.0.1:25", "")
			s.check(err)
			defer c.Close()
			cmd := func(line string) string {
				r, err := c.Cmd(line)
				s.check(err)
				return r
			}
			cmd("MAIL FROM:<doc@own.example>")
			cmd("RCPT TO:<b@tls.example>")
			s.Postseal.Kill()
			s.check(s.Postseal.Start())
			second := cmd("RCPT TO:<b@gated.example>")
			mark, data := s.text("killed in between")
			s.must = append(s.must, mark)
			res := &lab.Result{}
			res.Data, err = c.Body(data, false)
			s.check(err)
			m := mail{mark, data, res}
			if !strings.HasPrefix(second, "2") {
				s.t.Errorf("the second recipient was answered %q", second)
			}
			if m.Accepted() {
				// The FILTER of the second does not take the first along.
				if got := s.arrivesByTLS(m, "b@tls.example"); got.Server != "mx.tls.example" {
					s.t.Errorf("b@tls.example went to %s", got.Server)
				}
				s.arrivesByTLS(m, "b@gated.example")
			}
		},
	},
	{
		name: "odd addresses",
		try: func(s *scene) {
			s.rule("domain add plain.example --require encryption")
			for _, to := range []string{`"odd b"@plain.example`, `x+ext@plain.example`, `UPPER@Plain.Example`} {
				m := s.send("a@own.example", to)
				s.sealed(m, to)
			}
		},
	},
}

func TestAttacks(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			s := newScene(t, lab.Options{Postfix: a.postfix, Hosts: a.hosts, Env: a.env, Prepare: a.prepare, Rules: attackRules})
			a.try(s)
		})
	}
}

// TestUndo is that Postseal is not taken out under mail that needs it.
func TestUndo(t *testing.T) {
	s := newScene(t, lab.Options{Rules: attackRules, Hosts: map[string]lab.Kind{"forced.example": lab.NoTLS}})
	s.waits(s.send("a@own.example", "b@forced.example"), "b@forced.example", "TLS is required")
	if _, err := s.CLI("postfix", "undo", "--config-dir", s.Postfix.ConfigDir); err == nil {
		t.Error("undo was done though required mail is queued")
	}
	_, err := s.CLI("postfix", "undo", "--hold", "--config-dir", s.Postfix.ConfigDir)
	s.check(err)
	s.check(s.Postfix.Reload())
	q, err := s.Postfix.Queue()
	s.check(err)
	for _, m := range q {
		if m.QueueName != "hold" {
			t.Errorf("%s is in the queue %s, want hold", m.QueueID, m.QueueName)
		}
	}
	s.arrives(s.plain("a@own.example", "c@plain.example"), "c@plain.example")
}

// TestCheckFinds is that postfix check sees what leaks and can only be warned of.
func TestCheckFinds(t *testing.T) {
	tests := []struct {
		name    string
		postfix lab.PostfixOptions
		hosts   map[string]lab.Kind
		prepare func(*lab.Bed) error // before setup
		after   func(*lab.Bed) error
		want    string
	}{
		{name: "smtpd_proxy_filter", postfix: set("smtpd_proxy_filter", "127.0.0.1:10025"), want: "smtpd_proxy_filter"},
		{name: "a FILTER in header_checks", prepare: func(b *lab.Bed) error {
			path, err := b.Postfix.WriteFile("checks", "/^X-Spam/ FILTER smtp:[127.0.0.1]:9\n")
			if err != nil {
				return err
			}
			return b.Postfix.AddMainCF("header_checks", "regexp:"+path)
		}, want: "header_checks"},
		{name: "a port past the policy service, added after setup", after: func(b *lab.Bed) error {
			return b.Postfix.AddMasterCF(`127.0.0.1:587 inet n - n - - smtpd
  -o smtpd_recipient_restrictions=permit_mynetworks,reject
  -o smtpd_data_restrictions=
  -o smtpd_end_of_data_restrictions=
`)
		}, want: "no call of the policy service"},
		{name: "default_filter_nexthop", postfix: set("default_filter_nexthop", "$myhostname"), want: "default_filter_nexthop"},
		{name: "always_bcc", postfix: set("always_bcc", "x@elsewhere.example"), want: "always_bcc"},
		{name: "a content filter", postfix: set("content_filter", "smtp:[127.0.0.1]:10026"), want: "content_filter"},
		{name: "a relayhost", postfix: lab.PostfixOptions{RelayHost: "[mx.tls.example]"}, want: "relayhost"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := lab.NewBed(t, lab.Options{Postfix: tt.postfix, Hosts: tt.hosts, Prepare: tt.prepare, Rules: attackRules, NoSetup: true})
			// Setup may refuse some of these already, which is as good.
			said, refused := b.CLI("postfix", "setup", "--config-dir", b.Postfix.ConfigDir)
			if i := strings.Index(said, "note:"); i >= 0 { // what setup remarks, not what it writes
				said = said[i:]
			} else {
				said = ""
			}
			if tt.after != nil {
				if err := tt.after(b); err != nil {
					t.Fatal(err)
				}
			}
			out, err := b.CLI("postfix", "check", "--config-dir", b.Postfix.ConfigDir)
			said += out
			if err != nil {
				said += err.Error()
			}
			if refused != nil {
				said += refused.Error()
			}
			if !strings.Contains(said, tt.want) {
				t.Errorf("neither setup nor check says anything of %s:\n%s", tt.want, said)
			}
		})
	}
	t.Run("nothing where there is nothing", func(t *testing.T) {
		b := lab.NewBed(t, lab.Options{Rules: []string{"domain add tls.example --require tls"}})
		if out, err := b.CLI("postfix", "check", "--config-dir", b.Postfix.ConfigDir); err != nil {
			t.Errorf("a plain Postfix after setup: %v\n%s", err, out)
		}
	})
}
