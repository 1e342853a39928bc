package postfix

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postseal/postseal/policyd/policy"
)

// need skips where Postfix's tools are missing, except in CI.
func need(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"postconf", "postmap"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing", tool)
			}
			t.Skipf("%s is missing: install Postfix to run this test", tool)
		}
	}
}

const debianMain = "/usr/share/postfix/main.cf.debian"
const debianMaster = "/usr/share/postfix/master.cf.dist"

// config makes a configuration directory like Debian's, with more lines of main.cf
// and master.cf.
func config(t *testing.T, mainCF, masterCF string) *Instance {
	t.Helper()
	need(t)
	dir := t.TempDir()
	for name, f := range map[string]struct{ from, add string }{"main.cf": {debianMain, mainCF}, "master.cf": {debianMaster, masterCF}} {
		b, err := os.ReadFile(f.from)
		if err != nil {
			t.Fatal(err)
		}
		text := string(b)
		if name == "main.cf" {
			text += "compatibility_level = 3.6\nmyhostname = mail.clinic.example\nmydestination = $myhostname, clinic.example, localhost\nrecipient_delimiter = +\nsmtpd_relay_restrictions = permit_mynetworks permit_sasl_authenticated defer_unauth_destination\nmynetworks = 127.0.0.0/8\nsmtp_tls_CApath = /etc/ssl/certs\nalias_maps =\nalias_database =\nforward_path =\nqueue_directory = " + dir + "/queue\ndata_directory = " + dir + "/data\n"
			text = strings.Replace(text, "compatibility_level = 3.6\n", "", 1)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+f.add), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	p := &Instance{ConfigDir: dir}
	age(t, p)
	return p
}

func setup(t *testing.T, p *Instance, o Options) {
	t.Helper()
	if err := p.Setup(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	age(t, p)
}

func read(t *testing.T, p *Instance, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(p.ConfigDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func options(t *testing.T) Options {
	t.Helper()
	o := DefaultOptions()
	s, err := policy.NewTriggers([]string{"[secure]"}, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	o.Triggers, o.NoticeFrom, o.Out = s, "postseal@clinic.example", t.Output()
	return o
}

func TestSetupTwiceWritesTheSameBytes(t *testing.T) {
	p := config(t, "", "")
	setup(t, p, options(t))
	m, s, st := read(t, p, "main.cf"), read(t, p, "master.cf"), read(t, p, stateFile)
	setup(t, p, options(t))
	if read(t, p, "main.cf") != m || read(t, p, "master.cf") != s || read(t, p, stateFile) != st {
		t.Error("a second setup changed something")
	}
}

func TestUndoGivesBackEveryByte(t *testing.T) {
	for name, cf := range map[string]struct{ main, master string }{
		"Debian's":                  {"", ""},
		"no newline at the end":     {"# end", "# end"},
		"settings in several lines": {"transport_maps = static:smtp:,\n# a comment\n\n  hash:/x\n\ttexthash:/y\nheader_checks =\n", "587 inet n - y - - smtpd\n  -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\n\n# a comment\n  -o syslog_name=x"},
		"a setting twice":           {"relayhost = [a.example]\ntransport_maps = static:x:\ntransport_maps = static:y:\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := config(t, cf.main, cf.master)
			m, s := read(t, p, "main.cf"), read(t, p, "master.cf")
			setup(t, p, options(t))
			if read(t, p, "main.cf") == m || read(t, p, "master.cf") == s {
				t.Fatal("setup changed nothing")
			}
			if err := p.Undo(t.Context(), UndoOptions{}); err != nil {
				t.Fatal(err)
			}
			if got := read(t, p, "main.cf"); got != m {
				t.Errorf("main.cf is now %q, was %q", got, m)
			}
			if got := read(t, p, "master.cf"); got != s {
				t.Errorf("master.cf is now %q, was %q", got, s)
			}
			left, err := filepath.Glob(filepath.Join(p.ConfigDir, "postseal*"))
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestUndoLeavesWhatTheAdministratorChangedMeanwhile(t *testing.T) {
	p := config(t, "transport_maps = static:old:\n", "")
	m, s := read(t, p, "main.cf"), read(t, p, "master.cf")
	setup(t, p, options(t))
	override(t, p, "main.cf", "message_size_limit = 1000000\n")
	override(t, p, "master.cf", "slow unix - - n - - smtp\n")
	replace(t, p, "main.cf", "socketmap:inet:127.0.0.1:8642:transport, static:old:", "socketmap:inet:127.0.0.1:8642:transport, static:new:")
	age(t, p)
	if err := p.Undo(t.Context(), UndoOptions{}); err != nil {
		t.Fatal(err)
	}
	want := strings.Replace(m, "transport_maps = static:old:\n", "", 1) + "message_size_limit = 1000000\ntransport_maps = static:new:\n"
	if got := read(t, p, "main.cf"); got != want {
		t.Errorf("main.cf is now %q, want %q", got, want)
	}
	if got := read(t, p, "master.cf"); got != s+"slow unix - - n - - smtp\n" {
		t.Errorf("master.cf is now %q", got)
	}
}

func TestSetupAgainKeepsWhatTheAdministratorChangedMeanwhile(t *testing.T) {
	p := config(t, "", "")
	setup(t, p, options(t))
	override(t, p, "main.cf", "relayhost = [relay.example]:587\n")
	age(t, p)
	setup(t, p, options(t))
	text := read(t, p, "main.cf")
	if strings.Count(text, beginMark) != 1 || !strings.Contains(text, "\nrelayhost = [relay.example]:587\n") {
		t.Errorf("main.cf is now %s", text)
	}
	if !strings.Contains(text, "FILTER securesmtp:[relay.example]:587}") {
		t.Error("the new relayhost is not in the FILTER of the re-injection port")
	}
}

func TestUndoRefusesWhileRequiredMailIsQueued(t *testing.T) {
	queue := `{"queue_name": "deferred", "queue_id": "A1", "sender": "doc@clinic.example", "recipients": [{"address": "x@bank.example"}]}
{"queue_name": "hold", "queue_id": "A2", "sender": "doc@clinic.example", "recipients": [{"address": "x@bank.example"}]}
{"queue_name": "active", "queue_id": "A3", "sender": "MAILER-DAEMON", "recipients": [{"address": "y@other.example"}]}
`
	var held string
	p := config(t, "", "")
	setup(t, p, options(t))
	if err := os.MkdirAll(filepath.Join(p.ConfigDir, "queue", "deferred"), 0o755); err != nil {
		t.Fatal(err)
	}
	before := read(t, p, "main.cf")
	p.Run = func(ctx context.Context, in io.Reader, name string, args ...string) ([]byte, []byte, int, error) {
		switch name {
		case "postqueue":
			return []byte(queue), nil, 0, nil
		case "postsuper":
			b, err := io.ReadAll(in)
			held += string(b)
			queue = ""
			return nil, nil, 0, err
		}
		return execute(ctx, in, name, args...)
	}
	required := func(_ context.Context, sender, recipient string) (bool, error) {
		return strings.HasSuffix(recipient, "@bank.example"), nil
	}
	err := p.Undo(t.Context(), UndoOptions{Required: required})
	var queued *QueuedError
	if !errors.As(err, &queued) || len(queued.IDs) != 1 || queued.IDs[0] != "A1" {
		t.Fatalf("got %v, want a QueuedError for A1", err)
	}
	if read(t, p, "main.cf") != before {
		t.Error("a refused undo changed main.cf")
	}
	if err := p.Undo(t.Context(), UndoOptions{Required: required, Hold: true}); err != nil {
		t.Fatal(err)
	}
	if held != "A1\n" {
		t.Errorf("put on hold: %q, want A1", held)
	}
	if strings.Contains(read(t, p, "main.cf"), beginMark) {
		t.Error("main.cf still has our lines")
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	p := config(t, "", "")
	m, s := read(t, p, "main.cf"), read(t, p, "master.cf")
	o := options(t)
	var shown strings.Builder
	o.DryRun, o.Out = true, &shown
	setup(t, p, o)
	if read(t, p, "main.cf") != m || read(t, p, "master.cf") != s {
		t.Error("a dry run changed a file")
	}
	if !strings.Contains(shown.String(), "+transport_maps = socketmap:inet:127.0.0.1:8642:transport\n") {
		t.Errorf("shown: %s", shown.String())
	}
}

func TestTheSMTPTransportsCopyTheOptionsOfSMTP(t *testing.T) {
	p := config(t, "", "")
	replace(t, p, "master.cf", "smtp      unix  -       -       y       -       -       smtp\n",
		"smtp      unix  -       -       n       -       -       smtp -v\n  -o smtp_helo_name=out.clinic.example -o { smtp_tls_loglevel = 1 }\n  -o smtp_tls_security_level=may\n")
	age(t, p)
	setup(t, p, options(t))
	services, err := p.Services(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range services {
		switch s.Name {
		case "securesmtp", "forcedsmtp", "noticesmtp":
			if s.Options["smtp_helo_name"] != "out.clinic.example" || s.Options["smtp_tls_loglevel"] != "1" || s.Chroot != "n" {
				t.Errorf("%s has options %v, chroot %s", s, s.Options, s.Chroot)
			}
			if s.Name != "noticesmtp" && s.Options["smtp_tls_security_level"] != "encrypt" {
				t.Errorf("%s: the level of smtp came through: %v", s, s.Options)
			}
		}
	}
}

func TestThePolicyServiceStandsBeforeTheFirstPermit(t *testing.T) {
	call := []string{"check_policy_service", "$p"}
	for list, want := range map[string]string{
		"":                          "check_policy_service $p",
		"permit_mynetworks, reject": "check_policy_service $p, permit_mynetworks, reject",
		"reject_unauth_destination reject_rbl_client a.example permit": "reject_unauth_destination, reject_rbl_client a.example, check_policy_service $p, permit",
		"warn_if_reject reject_unknown_client_hostname, permit":        "warn_if_reject, reject_unknown_client_hostname, check_policy_service $p, permit",
		"reject_non_fqdn_sender, check_client_access hash:/x, reject":  "reject_non_fqdn_sender, check_policy_service $p, check_client_access hash:/x, reject",
		"reject": "check_policy_service $p, reject",
		"sleep 1, defer_unauth_destination, check_policy_service { inet:a:1 }": "sleep 1, defer_unauth_destination, check_policy_service $p, check_policy_service { inet:a:1 }",
		"$mua_recipient_restrictions":                                          "check_policy_service $p, $mua_recipient_restrictions",
	} {
		if got := insertPolicy(list, call, ", "); got != want {
			t.Errorf("insertPolicy(%q) = %q, want %q", list, got, want)
		}
	}
}

func TestSetupRefuses(t *testing.T) {
	for name, change := range map[string]func(*Options){
		"a port that breaks out of its line": func(o *Options) { o.Policy = "inet:127.0.0.1:1\nx = y" },
		"a re-injection port for everybody":  func(o *Options) { o.Plain = "0.0.0.0:8651" },
		"a socket that a chroot hides":       func(o *Options) { o.Maps = "unix:/run/postseal/maps" },
		"a notice address without a domain":  func(o *Options) { o.NoticeFrom = "postseal" },
	} {
		t.Run(name, func(t *testing.T) {
			p := config(t, "", "")
			m := read(t, p, "main.cf")
			o := options(t)
			change(&o)
			if err := p.Setup(t.Context(), o); err == nil {
				t.Error("accepted")
			}
			if read(t, p, "main.cf") != m {
				t.Error("main.cf was changed")
			}
		})
	}
}

// TestPostfixChecksWhatSetupWrites runs Postfix's own check on a configuration in a
// namespace of its own; it starts nothing.
func TestPostfixChecksWhatSetupWrites(t *testing.T) {
	p := config(t, "", "587 inet n - y - - smtpd -o smtpd_recipient_restrictions=permit_sasl_authenticated,reject\n")
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("not root")
		}
		t.Skip("postfix check needs root")
	}
	setup(t, p, options(t))
	for _, d := range []string{"queue", "data"} {
		if err := os.MkdirAll(filepath.Join(p.ConfigDir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("unshare", "-m", "-n", "sh", "-c", `ip link set lo up && chown postfix "$1/data" && script -qec "postfix -c $1 check" /dev/null`, "sh", p.ConfigDir)
	out, err := cmd.CombinedOutput()
	if err != nil || strings.Contains(string(out), "fatal") || strings.Contains(string(out), "unused parameter") {
		t.Errorf("postfix check: %v\n%s", err, out)
	}
	if warn, _ := exec.Command("postconf", "-c", p.ConfigDir, "-n").CombinedOutput(); strings.Contains(string(warn), "warning") {
		t.Errorf("postconf -n: %s", warn)
	}
}

func FuzzStripAndParse(f *testing.F) {
	f.Add("a = b\n" + beginLine + "x = y\n" + endMark + "\n" + kept + "c = d\n")
	f.Add("smtp inet n - y - - smtpd\n  -o { a = b c }\n -ox=y\n")
	f.Add("{ a }} , b{")
	f.Fuzz(func(t *testing.T, s string) {
		parseService(s)
		splitList(s)
		lines, es := entries(s)
		if strings.Join(lines, "") != s {
			t.Fatal("lines got lost")
		}
		for _, e := range es {
			if e.from < 0 || e.to > len(lines) || e.from >= e.to {
				t.Fatalf("entry %v of %d lines", e, len(lines))
			}
		}
		if theirs, _, err := strip(s); err == nil && !strings.Contains(s, kept) && !strings.Contains(s, beginMark) && theirs != s {
			t.Fatalf("strip(%q) = %q", s, theirs)
		}
		if !strings.Contains(s, kept) && !strings.Contains(s, beginMark) && !strings.Contains(s, endMark) {
			back, _, err := strip(retire(s, parameters(s)))
			if err != nil || back != s {
				t.Fatalf("retire and strip: %q, %v; want %q", back, err, s)
			}
		}
	})
}
