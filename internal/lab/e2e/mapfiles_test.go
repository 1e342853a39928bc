package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postseal/postseal/internal/lab"
)

// TestMapFiles is Postfix with files in the place of the map server: they are kept
// current, Postfix is reloaded once for a burst of changes, and mail is then routed
// differently.
func TestMapFiles(t *testing.T) {
	dir, err := lab.NewDir()
	if err != nil {
		t.Fatal(err)
	}
	reloads := filepath.Join(dir, "reloads")
	reload := filepath.Join(dir, "reload.sh")
	s := newScene(t, lab.Options{
		Serve: []string{"--map-dir", dir, "--map-type", "lmdb", "--map-reload", reload},
		Prepare: func(b *lab.Bed) error {
			script := "#!/bin/sh\necho reload >>" + reloads + "\nexec postfix -c " + b.Postfix.ConfigDir + " reload\n"
			return os.WriteFile(reload, []byte(script), 0o755)
		},
	})
	// What setup wrote, with the files in the place of the map server.
	main, err := os.ReadFile(filepath.Join(s.Postfix.ConfigDir, "main.cf"))
	s.check(err)
	master, err := os.ReadFile(filepath.Join(s.Postfix.ConfigDir, "master.cf"))
	s.check(err)
	for name, text := range map[string]string{"main.cf": string(main), "master.cf": string(master)} {
		text = strings.ReplaceAll(text, "socketmap:inet:127.0.0.1:8642:", "lmdb:"+dir+"/")
		s.check(os.WriteFile(filepath.Join(s.Postfix.ConfigDir, name), []byte(text), 0o644))
	}
	if !s.Wait(patience, func() bool { _, err := os.Stat(filepath.Join(dir, "secure-tls-policy.lmdb")); return err == nil }) {
		t.Fatal("no map files were written")
	}
	s.check(s.Postfix.Reload())

	if got := s.arrives(s.plain("a@own.example", "b@plain.example"), "b@plain.example"); got.TLS {
		t.Error("plain.example has no TLS")
	}
	count := func() int {
		b, _ := os.ReadFile(reloads)
		return strings.Count(string(b), "reload")
	}
	before := count()
	for _, d := range []string{"tls.example", "plain.example", "broken.example", "one.example", "two.example"} {
		_, err := s.CLI("domain", "add", d, "--require", "encryption")
		s.check(err)
	}
	if !s.Wait(patience, func() bool { return count() > before }) {
		t.Fatal("Postfix was not reloaded")
	}
	m := s.send("a@own.example", "c@plain.example")
	s.sealed(m, "c@plain.example")
	s.arrivesByTLS(s.send("a@own.example", "c@tls.example"), "c@tls.example")
	// The looks at both destinations may have changed the files once more.
	if n := count() - before; n > 3 {
		t.Errorf("Postfix was reloaded %d times for one burst of five changes", n)
	}
}
