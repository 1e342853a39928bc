package tlsmap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/postseal/postseal/policyd/policy"
)

func fileOptions() Options {
	return Options{
		Own:    []string{"own.example", "own.corp.example"},
		Known:  []string{"absent.example", "works.example", "[known.example]:587"},
		Bounce: "postseal-bounce@notices.example",
	}
}

func fileServer(t testing.TB) *Server {
	w := standardWorld()
	w.set("absent.example", policy.Posture{State: policy.Absent, Checked: time.Now()})
	w.set("works.example", policy.Posture{State: policy.Works, Checked: time.Now()})
	s, _ := newServer(t, w, nil, append(slices.Clone(standardRules), "recipient * encryption")...)
	return s
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	s := fileServer(t)
	changed, err := s.Write(t.Context(), dir, fileOptions())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(changed, Maps()) {
		t.Errorf("changed: %v", changed)
	}
	want := map[string]string{
		MapTransport: `# transport: written by postseal, changes are lost.
*	securesmtp:
absent.example	escrow:inet:127.0.0.1:8643
alt.example	:
bank.example	forcedsmtp:
boss@vault.example	error:5.7.1 recipient rule vault.example (escrow) and sender rule boss@vault.example (tls) exclude each other
forced.example	forcedsmtp:
forcednotls.example	forcedsmtp:
free.corp.example	:
hop.example	securesmtp:[10.0.0.5]:25
hop2.example	forcedsmtp:[10.0.0.5]
info@bank.example	securesmtp:
joe@old.example	escrow:inet:127.0.0.1:8647
noreply@clinic.example	:
notls.example	escrow:inet:127.0.0.1:8643
own.corp.example	:
own.example	:
postseal-bounce@notices.example	escrow:inet:127.0.0.1:8643
relayed.example	securesmtp:[relay.example]:587
sealed.example	escrow:inet:127.0.0.1:8647
uucp.example	retry:4.7.1 mail must be encrypted, and cannot be: transport uucp?is not SMTP
vault.example	escrow:inet:127.0.0.1:8647
`,
		MapTLSPolicy: `# tls-policy: written by postseal, changes are lost.
[127.0.0.1]:8644	none
[localhost]:8644	none
absent.example	encrypt protocols=>=TLSv1.2
alt.example	may protocols=>=TLSv1.1
bank.example	secure match=.bank.example protocols=>=TLSv1.2 ciphers=high
forcednotls.example	encrypt protocols=>=TLSv1.2
hop.example	verify match=hop.example protocols=>=TLSv1.2
hop2.example	encrypt protocols=>=TLSv1.2
notls.example	encrypt protocols=>=TLSv1.2
relayed.example	encrypt protocols=>=TLSv1.2
uucp.example	encrypt protocols=>=TLSv1.2
vault.example	encrypt protocols=>=TLSv1.2
works.example	encrypt protocols=>=TLSv1.2
xn--bcher-kva.example	encrypt protocols=>=TLSv1.2
`,
		MapSecureTLSPolicy: `# secure-tls-policy: written by postseal, changes are lost.
.corp.example	encrypt protocols=>=TLSv1.3
[10.0.0.5]	verify match=hop.example protocols=>=TLSv1.2
[10.0.0.5]:25	verify match=hop.example protocols=>=TLSv1.2
[127.0.0.1]:8644	none
[192.0.2.7]	encrypt protocols=>=TLSv1.2
[known.example]:587	encrypt protocols=>=TLSv1.2
[localhost]:8644	none
absent.example	encrypt protocols=>=TLSv1.2
alt.example	encrypt protocols=>=TLSv1.2
bank.example	secure match=.bank.example protocols=>=TLSv1.2 ciphers=high
clinic.example	encrypt protocols=>=TLSv1.2
forcednotls.example	encrypt protocols=>=TLSv1.2
free.corp.example	encrypt protocols=>=TLSv1.2
hop.example	verify match=hop.example protocols=>=TLSv1.2
hop2.example	encrypt protocols=>=TLSv1.2
notls.example	encrypt protocols=>=TLSv1.2
own.example	encrypt protocols=>=TLSv1.2
relayed.example	encrypt protocols=>=TLSv1.2
uucp.example	encrypt protocols=>=TLSv1.2
vault.example	encrypt protocols=>=TLSv1.2
works.example	encrypt protocols=>=TLSv1.2
xn--bcher-kva.example	encrypt protocols=>=TLSv1.2
`,
		MapSenderTransport: `# sender-transport: written by postseal, changes are lost.
<>	DUNNO
@forced.example	forcedsmtp:
@practice.example	DUNNO
@sealed.example	escrow:inet:127.0.0.1:8647
boss@vault.example	forcedsmtp:
doc@practice.example	securesmtp:
`,
	}
	for name, text := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(text, string(got)); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	// Again, from a server of its own: the same, and nothing is written.
	changed, err = fileServer(t).Write(t.Context(), dir, fileOptions())
	if err != nil || changed != nil {
		t.Errorf("written again: %v, %v", changed, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

func TestWhatFilesCannotSay(t *testing.T) {
	own := Options{Own: []string{}}
	for name, tt := range map[string]struct {
		opts  Options
		rules []string
	}{
		"own domains unknown under *":      {Options{}, []string{"recipient * encryption"}},
		"own domains unknown under parent": {Options{}, []string{"recipient .corp.example tls"}},
		"TLS demands for *":                {own, []string{"recipient * encryption protocols=>=TLSv1.3"}},
		"a sender parent":                  {own, []string{"sender @.corp.example encryption"}},
		"every sender":                     {own, []string{"sender * encryption"}},
		"a quote in a key":                 {own, []string{`recipient a"b@odd.example encryption`}},
		"a comment for a key":              {own, []string{"recipient #a@odd.example encryption"}},
	} {
		dir := t.TempDir()
		s, _ := newServer(t, standardWorld(), nil, tt.rules...)
		_, err := s.Write(t.Context(), dir, tt.opts)
		var no *InexpressibleError
		if !errors.As(err, &no) || len(no.Reasons) == 0 {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s: wrote %v", name, left)
		}
	}
	if _, err := fileServer(t).Write(t.Context(), t.TempDir(), Options{Type: "btree"}); err == nil {
		t.Error("type btree was accepted")
	}
	if _, err := fileServer(t).Write(t.Context(), filepath.Join(t.TempDir(), "missing"), fileOptions()); err == nil {
		t.Error("a missing directory was accepted")
	}
}

func TestFailedWriteLeavesTheOldFiles(t *testing.T) {
	dir := t.TempDir()
	if _, err := fileServer(t).Write(t.Context(), dir, fileOptions()); err != nil {
		t.Fatal(err)
	}
	old, _ := os.ReadFile(filepath.Join(dir, MapTransport))
	w := standardWorld()
	w.ownErr = errors.New("table is down")
	s, _ := newServer(t, w, nil, "recipient new.example tls")
	if _, err := s.Write(t.Context(), dir, fileOptions()); err == nil {
		t.Error("written though own domains are unknown")
	}
	s, _ = newServer(t, standardWorld(), nil, "recipient new.example tls")
	o := fileOptions()
	o.Type, o.Postmap = "lmdb", "/bin/false"
	if _, err := s.Write(t.Context(), dir, o); err == nil {
		t.Error("postmap failed, and nobody noticed")
	}
	if now, _ := os.ReadFile(filepath.Join(dir, MapTransport)); string(now) != string(old) {
		t.Error("the old file is gone")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, ".*")); left != nil {
		t.Errorf("left behind: %v", left)
	}
}

// A broad file must not ask postures of names that nobody has.
func TestNoPostureOfPlaceholders(t *testing.T) {
	w := standardWorld()
	s, _ := newServer(t, w, nil, "recipient * encryption", "recipient .corp.example encryption")
	if _, err := s.Write(t.Context(), t.TempDir(), Options{Own: []string{}}); err != nil {
		t.Fatal(err)
	}
	if len(w.asked) > 0 {
		t.Errorf("asked for %v", w.asked)
	}
}

// lookup asks a file as Postfix asks an indexed transport table (transport(5)) with
// recipient_delimiter = +.
func lookup(query func(key string) string, addr string) string {
	local, domain, _ := strings.Cut(strings.ToLower(addr), "@")
	keys := []string{local + "@" + domain}
	if base, _, ok := strings.Cut(local, "+"); ok && base != "" {
		keys = append(keys, base+"@"+domain)
	}
	keys = append(keys, domain)
	for i := 1; i < len(domain); i++ {
		if domain[i] == '.' {
			keys = append(keys, domain[i:])
		}
	}
	for _, k := range append(keys, "*") {
		if v := query(k); v != "" {
			return v
		}
	}
	return ""
}

// The files say what the map server says, through Postfix's own tables of every type.
func TestFilesSayWhatTheServerSays(t *testing.T) {
	postmap := needPostmap(t)
	have, err := exec.Command("postconf", "-m").Output()
	if err != nil {
		t.Skip("no postconf here: Postfix is not installed")
	}
	s := fileServer(t)
	for _, kind := range []string{"texthash", "lmdb", "hash", "cdb"} {
		if !slices.Contains(strings.Fields(string(have)), kind) {
			t.Logf("skipped %s: this Postfix has no such tables", kind)
			continue
		}
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			o := fileOptions()
			o.Type, o.Postmap = kind, postmap
			if changed, err := s.Write(t.Context(), dir, o); err != nil || len(changed) != 4 {
				t.Fatal(changed, err)
			}
			if changed, err := s.Write(t.Context(), dir, o); err != nil || len(changed) != 0 {
				t.Fatal("written again", changed, err)
			}
			tables := make(map[string]map[string]string)
			for _, name := range Maps() {
				tables[name] = dump(t, postmap, kind, filepath.Join(dir, name), o)
			}
			for _, addr := range []string{"x@plain.example", "x@bank.example", "info@bank.example", "info+ext@bank.example", "X@CLINIC.example", "noreply@clinic.example",
				"noreply+a@clinic.example", "joe@old.example", "jane@old.example", "x@vault.example", "boss@vault.example", "x@notls.example", "x@a.corp.example", "x@b.a.corp.example", "x@corp.example",
				"x@free.corp.example", "x@own.example", "x@own.corp.example", "x@hop.example", "x@relayed.example", "x@absent.example", "x@works.example", "x@forced.example", "x@alt.example"} {
				want := strings.TrimPrefix(strings.TrimPrefix(ask(t, s, MapTransport, addr), "OK "), "NOTFOUND")
				got := lookup(func(k string) string { return tables[MapTransport][k] }, addr)
				if strings.TrimPrefix(got, ":") != want && got != want {
					t.Errorf("transport of %s: %q, the server says %q", addr, got, want)
				}
			}
			if changed, err := s.Write(t.Context(), dir, o); err != nil || changed != nil {
				t.Errorf("%v, %v", changed, err)
			}
			// A lost table is built again.
			if suffix := map[string]string{"lmdb": ".lmdb", "hash": ".db", "cdb": ".cdb"}[kind]; suffix != "" {
				os.Remove(filepath.Join(dir, MapTransport+suffix))
				if changed, err := s.Write(t.Context(), dir, o); err != nil || !slices.Equal(changed, []string{MapTransport}) {
					t.Errorf("%v, %v", changed, err)
				}
			}
		})
	}
}

// dump asks Postfix for every key that the file has.
func dump(t *testing.T, postmap, kind, path string, _ Options) map[string]string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for l := range strings.Lines(string(text)) {
		if !strings.HasPrefix(l, "#") {
			key, _, _ := strings.Cut(l, "\t")
			keys = append(keys, key)
		}
	}
	cmd := exec.Command(postmap, "-q", "-", kind+":"+path)
	cmd.Stdin = strings.NewReader(strings.Join(keys, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	table := make(map[string]string)
	for l := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(l, "\n"), "\t")
		table[key] = value
	}
	if len(table) != len(keys) {
		t.Fatalf("%s:%s has %d of %d keys: %s", kind, path, len(table), len(keys), out)
	}
	return table
}

func TestKeeper(t *testing.T) {
	dir := t.TempDir()
	w := standardWorld()
	s, book := newServer(t, w, nil, "recipient a.example encryption", "recipient soon.example tls until=1s")
	var reloads atomic.Int64
	reloaded := make(chan struct{}, 100)
	var fail atomic.Bool
	var log logged
	k, err := NewKeeper(KeeperConfig{
		Server: s, Dir: dir, Debounce: 30 * time.Millisecond, Retry: 30 * time.Millisecond, Log: log.logger(),
		Options: func(context.Context) (Options, error) { return fileOptions(), nil },
		Reload: func(context.Context) error {
			if fail.Load() {
				return errors.New("postfix is not running")
			}
			reloads.Add(1)
			reloaded <- struct{}{}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- k.Run(ctx) }()
	wait := func(what string) {
		t.Helper()
		select {
		case <-reloaded:
		case <-time.After(20 * time.Second):
			t.Fatalf("no reload: %s\n%s", what, log.String())
		}
	}
	transport := func() string {
		b, err := os.ReadFile(filepath.Join(dir, MapTransport))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	wait("at the start")
	if !strings.Contains(transport(), "a.example\tsecuresmtp:\n") || !strings.Contains(transport(), "soon.example\t") {
		t.Error(transport())
	}
	wait("a rule ends by itself")
	if strings.Contains(transport(), "soon.example\t") {
		t.Error(transport())
	}
	before := reloads.Load()
	for i := range 20 { // a burst
		book.set(t, fmt.Sprintf("recipient b%d.example encryption", i))
		k.Notify()
	}
	wait("a burst")
	if !strings.Contains(transport(), "b19.example\t") {
		t.Error(transport())
	}
	if n := reloads.Load() - before; n != 1 {
		t.Errorf("%d reloads for one burst", n)
	}
	k.Notify() // nothing has changed
	time.Sleep(150 * time.Millisecond)
	if n := reloads.Load() - before; n != 1 {
		t.Errorf("%d reloads, the last without a change", n)
	}
	w.set("b19.example", policy.Posture{State: policy.Absent, Checked: time.Now()})
	k.Notify()
	wait("a posture")
	if !strings.Contains(transport(), "b19.example\tescrow:") {
		t.Error(transport())
	}
	fail.Store(true)
	book.set(t, "recipient c.example encryption")
	k.Notify()
	log.waitFor(t, "postfix is not running")
	fail.Store(false)
	wait("a failed reload is made up for, though the files are written")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestKeeperWaitsForTheEndOfABurst(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, book := newServer(t, standardWorld(), nil, "recipient a.example encryption")
		var reloads atomic.Int64
		k, err := NewKeeper(KeeperConfig{
			Server: s, Dir: dir,
			Options: func(context.Context) (Options, error) { return fileOptions(), nil },
			Reload:  func(context.Context) error { reloads.Add(1); return nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go k.Run(ctx)
		time.Sleep(time.Second)
		change := func(times int) {
			for i := range times {
				book.set(t, fmt.Sprintf("recipient b%d.example encryption", i))
				k.Notify()
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(time.Second)
		}
		for _, tt := range []struct {
			times int
			want  int64
		}{{0, 1}, {20, 1}, {70, 2}} { // 7 seconds are too long to wait
			if tt.times > 0 {
				reloads.Store(0)
			}
			change(tt.times)
			if n := reloads.Load(); n != tt.want {
				t.Errorf("%d changes in a row: %d reloads, want %d", tt.times, n, tt.want)
			}
		}
	})
}

// Map files know what destinations publish as of the last look; where mail must wait the
// line is a policy that no certificate meets.
func TestFilesOfVerifiedTLS(t *testing.T) {
	w := &world{postures: map[string]policy.Posture{}}
	known := []string{"never.example"}
	for dest, p := range published {
		if !strings.ContainsAny(dest, "[:") {
			w.postures[dest] = policy.Posture{State: policy.Works, Published: p}
			known = append(known, dest)
		}
	}
	asked := 0
	s, _ := newServer(t, w, func(c *Config) {
		c.Published = func(context.Context, string) policy.Published { asked++; return policy.Published{} }
	}, verifiedRules...)
	dir := t.TempDir()
	if _, err := s.Write(t.Context(), dir, Options{Own: []string{"own.example"}, Known: known}); err != nil {
		t.Fatal(err)
	}
	if asked > 0 {
		t.Errorf("%d lookups for a file", asked)
	}
	const floor = " protocols=>=TLSv1.2"
	for name, want := range map[string][]string{
		MapTLSPolicy: {"dane.example\tdane-only", "partial.example\tdane", "sts.example\tsecure match=mx.sts.example:.backup.example servername=hostname",
			"broken.example\tmay", "clash.example\t" + waiting},
		MapSecureTLSPolicy: {"dane.example\tdane-only" + floor, "broken.example\tdane-only" + floor, "bogus.example\tdane-only" + floor,
			"stsfailed.example\t" + waiting, "clash.example\t" + waiting, "named.example\t" + waiting,
			"unknown.example\tencrypt" + floor, "never.example\tencrypt" + floor},
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range want {
			if !strings.Contains(string(text), "\n"+line+"\n") {
				t.Errorf("%s has no line %q:\n%s", name, line, text)
			}
		}
		for _, no := range []string{"testing.example\tdane", "never.example\tdane"} {
			if strings.Contains(string(text), no) {
				t.Errorf("%s has %q", name, no)
			}
		}
	}
}

// An override ends by itself.
func TestOverrideEnds(t *testing.T) {
	s, book := newServer(t, &world{}, func(c *Config) { c.Published = lookUp }, "recipient dane.example none override until=24h")
	if got := ask(t, s, MapTLSPolicy, "dane.example"); got != "OK may" {
		t.Errorf("in force: %q", got)
	}
	book.set(t, "recipient dane.example none override until=-1s")
	if got := ask(t, s, MapTLSPolicy, "dane.example"); got != "OK dane-only" {
		t.Errorf("over: %q", got)
	}
}
