package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Commands that root runs leave nothing of root's beside the service's database.
func TestCommandsOfRootLeaveNoFilesOfRoot(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI runs the tests as root")
		}
		t.Skip("only root can act for another user")
	}
	const service = 65534 // nobody
	bin := filepath.Join(t.TempDir(), "postseal")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir, err := os.MkdirTemp("/tmp", "postseal-owner-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chown(dir, service, service); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		cmd := exec.Command(bin, args...)
		cmd.Env = append(os.Environ(), "POSTSEAL_DB=sqlite:"+dir+"/postseal.db", "POSTSEAL_KEY_FILE="+dir+"/postseal.key",
			"POSTSEAL_OWN_DOMAIN=own.example", "POSTSEAL_NOTICE_FROM=p@own.example", "POSTSEAL_POSTFIX_CONFIG_DIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("postseal %v: %v: %s", args, err, out)
		}
	}
	run("key", "new")
	run("domain", "add", "a.example", "--require", "tls")
	run("trigger", "add", "--subject", "[secure]", "--require", "encryption")
	run("trigger", "list")
	run("escrow", "list")
	run("explain", "--sender", "a@b.example", "--recipient", "c@a.example")
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 2 {
		t.Fatalf("only %d files", len(files))
	}
	for _, f := range files {
		fi, err := f.Info()
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != service {
			t.Errorf("%s belongs to user %d, want %d", f.Name(), st.Uid, service)
		}
	}
}
