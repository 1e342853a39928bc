package escrow_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/postseal/postseal/escrow"
)

func TestKeyFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "keys")
	if err := escrow.NewKeyFile(path); err != nil {
		t.Fatal(err)
	}
	if fi, _ := os.Stat(path); fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", fi.Mode())
	}
	if _, err := escrow.LoadKeys(path); err != nil {
		t.Fatal(err)
	}
	good, _ := os.ReadFile(path)
	if err := escrow.NewKeyFile(path); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("over an old one: %v", err)
	}
	if now, _ := os.ReadFile(path); string(now) != string(good) {
		t.Fatal("the old keys are gone")
	}
	if err := escrow.NewKeyFile(filepath.Join(dir, "no", "keys")); err == nil {
		t.Error("in no directory")
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o601} {
		os.Chmod(path, mode)
		if _, err := escrow.LoadKeys(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
	os.Chmod(path, 0o440)
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if _, err := escrow.LoadKeys(path); err != nil {
		t.Errorf("as a credential: %v", err)
	}
	os.Chmod(path, 0o600)
	for name, content := range map[string]string{
		"empty": "", "text": "hello", "json": "{}", "cut": string(good[:len(good)/2]),
		"newer":   strings.Replace(string(good), `"postseal_keys": 1`, `"postseal_keys": 2`, 1),
		"no keys": `{"postseal_keys":1,"aead":{},"prf":{}}`, "swapped": strings.NewReplacer(`"aead"`, `"prf"`, `"prf"`, `"aead"`).Replace(string(good)),
	} {
		os.WriteFile(path, []byte(content), 0o600)
		_, err := escrow.LoadKeys(path)
		if err == nil {
			t.Errorf("%s: taken", name)
		} else if strings.Contains(err.Error(), "keyValue") || len(err.Error()) > 300 {
			t.Errorf("%s: the error quotes the file: %v", name, err)
		}
	}
	if _, err := escrow.LoadKeys(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "postseal key new") {
		t.Error(err)
	}
	if _, err := escrow.LoadKeys(dir); err == nil {
		t.Error("a directory was taken")
	}
}
