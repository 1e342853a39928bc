package e2e

import (
	"bytes"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
	"github.com/postseal/postseal/internal/lab/fakeidp"
)

const (
	secretsProxy = "127.0.0.1:8700"
	byCode       = "code@plain.example"
	byPhrase     = "phrase@plain.example"
	byAccount    = "account@plain.example"
	byTrigger    = "trigger@nosec.example"
)

// TestNoSecretAnywhere runs all of Postseal once, on a real Postfix, and looks for each
// secret that was used, in every form, where none may be: the logs, the metrics and the
// pages of the admin port, the mail log, the database and its journal, the spool
// directory, arguments and environments of all processes. The log of a web server in
// front has links, as docs/security.md says, and no more. No
// core is dumped.
func TestNoSecretAnywhere(t *testing.T) {
	t.Run("each form of a secret is found", needlesAreFound)
	spool := t.TempDir()
	w := newWitness(t, secretsProxy, spool)
	web := httptest.NewServer(nil)
	web.Close() // nobody answers at the webhook
	const token = "hook-token-9f31c2"
	w.secret("webhook's URL", token)
	settings := filepath.Join(spool, "..", filepath.Base(spool)+".toml")
	t.Cleanup(func() { os.Remove(settings) })
	if err := os.WriteFile(settings, []byte("alarm-webhook = \""+web.URL+"/"+token+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	provider := fakeidp.New("postseal", adminSecret)
	defer provider.Close()
	provider.SignedIn(fakeidp.User{Subject: "1", Email: "olga@own.example", Verified: true})
	providerSecret := settings + ".secret"
	t.Cleanup(func() { os.Remove(providerSecret) })
	if err := os.WriteFile(providerSecret, []byte(adminSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newScene(t, lab.Options{
		Hosts: map[string]lab.Kind{"nosec.example": lab.NoTLS},
		Rules: []string{
			"domain add plain.example --require encryption", "domain add tls.example --require encryption",
			"trigger add --subject [sealed] --require encryption --sender @own.example --remove",
		},
		Env: []string{
			"POSTSEAL_CONFIG=" + settings, "POSTSEAL_SPOOL_DIR=" + spool, "POSTSEAL_PORTAL_URL=" + w.base, "POSTSEAL_ALARM_AFTER=0s",
			"POSTSEAL_ADMIN_URL=" + adminURL, "POSTSEAL_OIDC_ISSUER=" + provider.URL, "POSTSEAL_OIDC_CLIENT_ID=postseal",
			"POSTSEAL_OIDC_CLIENT_SECRET_FILE=" + providerSecret, "POSTSEAL_OIDC_ADMINS=olga@own.example=operator",
			"POSTSEAL_SENDER_MAIL=sealed enrolled read reply expiring expired failure", "POSTSEAL_MESSAGE_LIFETIME=10m", "POSTSEAL_EXPIRING_BEFORE=1m",
		},
	})
	u := &user{scene: s, w: w}
	u.keys(filepath.Join(s.Dir, "postseal.key"))
	phase := func(name string, f func()) {
		t.Helper()
		f()
		w.database("after "+name, filepath.Join(s.Dir, "postseal.db"))
	}
	paper := u.recoveryKey()
	phase("a pickup by code", u.pickupByCode)
	phase("a pickup by passphrase", u.pickupByPassphrase)
	phase("a subject that seals", u.sealedBySubject)
	s.check(s.Postseal.Stop())
	text := s.Postseal.Log()
	s.check(s.Postseal.Start("POSTSEAL_LOG_FORMAT=json"))
	s.check(s.Postfix.Reload()) // trivial-rewrite(8) remembers that the map was down
	phase("an account", u.account)
	phase("what a sender does", u.senderPage)
	phase("a message by the API", u.byAPI)
	phase("an alarm", u.alarm)
	phase("a rotation", u.rotation)
	phase("a recovery", func() { u.recovers(byPhrase, paper) })
	phase("expiry", u.expiry)
	phase("administrators", func() { u.adminPort(provider) })
	u.commands()
	u.cores()

	all := s.Postseal.Log()
	if !strings.HasPrefix(all, text) || !strings.Contains(all[len(text):], `"msg":"ready"`) {
		t.Error("the log is not in both formats")
	}
	w.keep("the log", []byte(all))
	// Postfix logs the field that a trigger finds (header_checks(5)), which nobody can
	// keep it from: that is the one subject that its log may hold.
	maillog, matched := s.Postfix.Log(), 0
	for line := range strings.Lines(maillog) {
		if strings.Contains(line, "filter: header Subject: [sealed] ") {
			maillog = strings.Replace(maillog, line, "", 1)
			matched++
		}
	}
	if matched != 1 {
		t.Errorf("Postfix logged %d subjects that a trigger found", matched)
	}
	w.keep("the mail log", []byte(maillog))
	w.keep("arguments and environments of processes", w.processes())
	for _, ran := range [][]string{{"serve"}, {"recipient", "set"}, {"escrow", "send"}, {"api-key", "new"}, {"key", "rotate"}, {"escrow", "recover"}, {"admin", "add"}} {
		if !w.ran(ran...) {
			t.Errorf("%q was not seen while it ran", ran)
		}
	}
	t.Logf("%d secrets in %d places; files were seen in the spool directory %d times", len(w.secrets.names), len(w.places), w.spooled)
	for place, data := range w.places {
		for _, f := range w.secrets.in(data) {
			t.Errorf("%s holds a secret, %s, %s: %q", place, f.name, f.how, f.value)
		}
	}
	// The search finds what is there: by a web server's log whoever reads it has the links.
	kinds := make(map[string]int)
	for _, f := range w.secrets.in(w.access.Bytes()) {
		kinds[f.name]++
		if f.name != "link" && f.name != "sender's link" {
			t.Errorf("the log of the web server in front holds a secret, %s, %s: %q", f.name, f.how, f.value)
		}
	}
	if kinds["link"] < 5 || kinds["sender's link"] < 2 {
		t.Errorf("found in the log of the web server in front: %v", kinds)
	}
	var mails bytes.Buffer
	for _, m := range s.Received() {
		if !m.TLS { // by TLS goes what needs no sealing
			mails.Write(m.Data)
		}
	}
	kinds = make(map[string]int)
	for _, f := range w.secrets.in(mails.Bytes()) {
		kinds[f.name]++
		if f.name != "link" && f.name != "answer" {
			t.Errorf("mail in plaintext holds a secret, %s, %s: %q", f.name, f.how, f.value)
		}
	}
	if kinds["link"] < 5 || kinds["answer"] < 3 {
		t.Errorf("found in mail in plaintext: %v", kinds)
	}
	used := make(map[string]int)
	for _, name := range w.secrets.names {
		used[name]++
	}
	for name, least := range map[string]int{
		"link": 6, "sender's link": 2, "answer": 6, "password": 3, "old": 1, "totp": 3, "TOTP secret": 1, "cookie": 6, "phrase": 1, "response": 3, "ceremony": 3,
		"API key": 1, "key of the key file": 6, "recovery key": 1, "text": 8, "subject": 5, "name of a file": 4, "a file": 3, "webhook's URL": 1,
		"administrator's password": 2, "administrator's TOTP secret": 2, "administrator's cookie": 2, "ID token": 1, "secret of the identity provider": 1,
	} {
		if used[name] < least {
			t.Errorf("%d secrets of the kind %q were used, want %d at least", used[name], name, least)
		}
	}
}
