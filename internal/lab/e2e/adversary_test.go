package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/postseal/postseal/internal/lab"
)

// adversary holds what leaked, looped or got lost when somebody set out to make it:
// each was seen to before its guard was there.
var adversary = []attack{
	{
		name:    "typed sender and an encoded subject",
		env:     []string{"POSTSEAL_SECURE_SUBJECT=[secure]"},
		prepare: mainCF("sender_canonical_maps", texthash("canonical", "doc@own.example public@own.example\n")),
		try: func(s *scene) {
			mark, data := s.text("=?utf-8?Q?gr=C3=BC=C3=9Fe?=")
			s.must = append(s.must, mark)
			m := s.accepted(s.submit(lab.Message{From: "doc@own.example", To: []string{"b@plain.example"}, Data: data}))
			m.mark = mark
			s.sealed(m, "b@plain.example")
		},
	},
	{
		name:    "typed sender and postsuper -r",
		hosts:   map[string]lab.Kind{"late.example": lab.GoodTLS},
		prepare: mainCF("sender_canonical_maps", texthash("canonical", "doc@own.example public@own.example\n")),
		try: func(s *scene) {
			s.check(s.Down("late.example"))
			m := s.send("doc@own.example", "b@late.example")
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
		name:    "recipient_canonical_maps of a recipient with a rule",
		prepare: mainCF("recipient_canonical_maps", texthash("rcanonical", "@bank.example @plain.example\n")),
		try: func(s *scene) {
			s.rule("domain add bank.example --require encryption")
			m := s.send("a@own.example", "b@bank.example")
			s.sealed(m, "b@plain.example")
		},
	},
	{
		name:    "virtual_alias_maps of a foreign recipient with a rule",
		prepare: mainCF("virtual_alias_maps", texthash("virtual", "@bank.example @plain.example\n")),
		try: func(s *scene) {
			s.rule("domain add bank.example --require encryption")
			m := s.send("a@own.example", "b@bank.example")
			s.sealed(m, "b@plain.example")
		},
	},
	{
		name:    "postsuper -r of an alias of an address with a rule",
		hosts:   map[string]lab.Kind{"late.example": lab.GoodTLS},
		prepare: mainCF("virtual_alias_maps", texthash("virtual", "joe@own.example out@late.example\nann@own.example out2@late.example\n")),
		try: func(s *scene) {
			s.rule("domain add ann@own.example --require encryption")
			s.check(s.Down("late.example"))
			m := s.send("a@own.example", "ann@own.example")
			s.waits(m, "out2@late.example", "")
			s.check(s.Postfix.Postsuper("-r", "ALL"))
			if !s.Postfix.WaitLog(0, "uid=", patience) {
				s.t.Error("the message was not requeued")
			}
			s.check(s.Up("late.example"))
			s.strip("late.example")
			s.sealed(m, "out2@late.example")
		},
	},
	{
		name:    "postsuper -r of an alias of an address with a rule, with an ORCPT",
		hosts:   map[string]lab.Kind{"late.example": lab.GoodTLS},
		prepare: mainCF("virtual_alias_maps", texthash("virtual", "joe@own.example out@late.example\nann@own.example out2@late.example\n")),
		try: func(s *scene) {
			s.rule("domain add ann@own.example --require encryption")
			s.check(s.Down("late.example"))
			m := s.accepted(s.secret(lab.Message{From: "a@own.example", To: []string{"ann@own.example"}, ToParams: map[string]string{"ann@own.example": "ORCPT=rfc822;someone@else.example"}}))
			s.waits(m, "out2@late.example", "")
			s.check(s.Postfix.Postsuper("-r", "ALL"))
			if !s.Postfix.WaitLog(0, "uid=", patience) {
				s.t.Error("the message was not requeued")
			}
			s.check(s.Up("late.example"))
			s.strip("late.example")
			s.sealed(m, "out2@late.example")
		},
	},
	{
		name: "a notice to a relay domain whose road is not SMTP",
		prepare: all(
			mainCF("transport_maps", texthash("transport", "relayed.example lmtp:[127.0.0.1]:9\n")),
			func(b *lab.Bed) error { return b.Postfix.AddMainCF("relay_domains", "relayed.example") },
			func(b *lab.Bed) error { return b.Record("relayed.example", "MX", "10 mail.own.example.") },
		),
		try: func(s *scene) {
			s.rule("sender add a@own.example --require escrow")
			s.rule("domain add relayed.example --require escrow")
			s.send("a@own.example", "b@relayed.example")
			// The notice can't go anywhere, and is not sealed: the sender is told.
			if !s.Wait(patience, func() bool { return len(s.Postfix.Mailbox("a@own.example")) > 0 }) {
				s.t.Error("the sender was not told")
			}
			items, err := s.Escrowed("b@relayed.example")
			s.check(err)
			if len(items) != 1 {
				s.t.Errorf("sealed %d times, want once", len(items))
			}
		},
	},
	{
		name:  "a notice to a relay domain whose MX is this host",
		hosts: map[string]lab.Kind{"inner.example": lab.NoTLS},
		prepare: all(
			mainCF("transport_maps", texthash("transport", "relayed.example smtp:[mx.inner.example]\n")),
			func(b *lab.Bed) error { return b.Postfix.AddMainCF("relay_domains", "relayed.example") },
			func(b *lab.Bed) error { return b.Record("relayed.example", "MX", "10 mail.own.example.") },
		),
		try: func(s *scene) {
			s.rule("sender add @own.example --require encryption")
			m := s.send("a@own.example", "b@relayed.example")
			s.sealed(m, "b@relayed.example")
		},
	},
	{
		name: "a domain that becomes our own while its recipient is pinned",
		try: func(s *scene) {
			// Sealed, the reply lost, and no retry comes.
			s.Postseal.Kill()
			s.check(s.Postseal.Start("POSTSEAL_CRASH_AT=after-seal"))
			s.send("doc@own.example", "b@plain.example")
			if !s.Postseal.WaitExit(patience) {
				s.t.Fatal("the program never came to this point")
			}
			s.check(s.Postfix.Postsuper("-d", "ALL"))
			s.check(s.Postfix.AddMainCF("virtual_mailbox_domains", "own.example, plain.example"))
			s.check(s.Postseal.Start())
			s.check(s.Postfix.Reload())
			s.mailbox(s.plain("a@own.example", "b@plain.example"), "b@plain.example")
		},
	},
	{
		name: "a rule that ends while its mail is queued, and one that is gone before DATA",
		try: func(s *scene) {
			s.check(s.Down("tls.example"))
			s.rule("sender add brief@own.example --require encryption --until " + time.Now().Add(4*time.Second).UTC().Format(time.RFC3339))
			m := s.send("brief@own.example", "b@tls.example", "c@tls.example")
			time.Sleep(5 * time.Second)
			s.check(s.Up("tls.example"))
			s.strip("tls.example")
			s.sealed(m, "b@tls.example")
			s.sealed(m, "c@tls.example")
			m = s.accepted(s.secret(lab.Message{From: "doc@own.example", To: []string{"b@plain.example", "c@plain.example"}, Between: func() {
				s.rule("sender remove doc@own.example")
			}}))
			s.sealed(m, "b@plain.example")
			s.sealed(m, "c@plain.example")
		},
	},
	{
		name: "success DSNs, hold and release",
		try: func(s *scene) {
			m := s.accepted(s.secret(lab.Message{From: "doc@own.example", To: []string{"b@plain.example", "b@tls.example"}, FromParams: "RET=FULL ENVID=x",
				ToParams: map[string]string{"b@plain.example": "NOTIFY=SUCCESS,FAILURE", "b@tls.example": "NOTIFY=SUCCESS,DELAY"}}))
			s.sealed(m, "b@plain.example")
			s.arrivesByTLS(m, "b@tls.example")
			s.check(s.Down("tls.example"))
			m = s.send("doc@own.example", "c@tls.example")
			s.waits(m, "c@tls.example", "")
			s.check(s.Postfix.Postsuper("-h", "ALL"))
			s.check(s.Postfix.Postsuper("-H", "ALL"))
			s.check(s.Up("tls.example"))
			s.strip("tls.example")
			s.check(s.Postfix.Flush())
			s.sealed(m, "c@tls.example")
			for _, dsn := range s.Postfix.Mailbox("doc@own.example") {
				if strings.Contains(string(dsn), "The text.") {
					s.t.Errorf("a delivery report carries the text:\n%s", dsn)
				}
			}
		},
	},
	{
		name: "a login, at a port with restrictions of its own",
		postfix: lab.PostfixOptions{MasterCF: `127.0.0.1:587 inet n - n - - smtpd
  -o smtpd_recipient_restrictions=permit_mynetworks,reject
  -o smtpd_relay_restrictions=permit_mynetworks,reject
`},
		try: func(s *scene) {
			m := s.accepted(s.secret(lab.Message{Addr: "127.0.0.1:587", Login: "drsmith", From: "a@own.example", To: []string{"b@plain.example", "b@tls.example"}}))
			s.sealed(m, "b@plain.example")
			s.arrivesByTLS(m, "b@tls.example")
		},
	},
	{
		name:    "check_recipient_access OK before the policy service",
		postfix: set("smtpd_recipient_restrictions", "check_recipient_access static:OK, permit_mynetworks, reject", "smtpd_relay_restrictions", "permit_mynetworks, reject"),
		prepare: mainCF("virtual_alias_maps", texthash("virtual", "joe@own.example out@plain.example\n")),
		try: func(s *scene) {
			m := s.send("a@own.example", "joe@own.example")
			s.sealed(m, "out@plain.example")
		},
	},
}

// TestAdversary is that nothing of this does any harm any more.
func TestAdversary(t *testing.T) {
	for _, a := range adversary {
		t.Run(a.name, func(t *testing.T) {
			s := newScene(t, lab.Options{Postfix: a.postfix, Hosts: a.hosts, Env: a.env, Prepare: a.prepare, Rules: attackRules})
			a.try(s)
		})
	}
}
