package main

import (
	"bufio"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pquerna/otp/totp"
	"github.com/rogpeppe/go-internal/testscript"
)

// The command line is tested as it is used: scripts in testdata/script run the
// program, each in a directory of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"waitfor": waitFor, "enrol": enrol},
		Setup: func(e *testscript.Env) error {
			e.Setenv("POSTSEAL_DB", "sqlite:"+e.WorkDir+"/postseal.db")
			e.Setenv("POSTSEAL_KEY_FILE", e.WorkDir+"/postseal.key")
			e.Setenv("POSTSEAL_OWN_DOMAIN", "own.example")
			e.Setenv("POSTSEAL_NOTICE_FROM", "Clinic <postseal@own.example>")
			e.Setenv("POSTSEAL_POSTFIX_CONFIG_DIR", e.WorkDir+"/no-postfix")
			e.Setenv("POSTSEAL_DANE", "off") // no DNS is there
			e.Setenv("POSTSEAL_MTA_STS", "off")
			e.Setenv("SOON", time.Now().AddDate(0, 0, 60).Format(time.DateOnly))
			return nil
		},
	})
}

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"postseal": main})
}

// enrol runs postseal admin VERB NAME FLAGS…, gives it the password in FILE, and then a
// code of the secret that it shows.
func enrol(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: enrol FILE VERB NAME FLAGS…")
	}
	var path string
	for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
		if f := filepath.Join(dir, "postseal"); path == "" {
			if _, err := os.Stat(f); err == nil {
				path = f
			}
		}
	}
	cmd := exec.Command(path, append([]string{"admin"}, args[1:]...)...)
	for _, name := range []string{"PATH", "POSTSEAL_DB", "POSTSEAL_KEY_FILE", "POSTSEAL_POSTFIX_CONFIG_DIR", "TESTSCRIPT_COMMAND"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	ts.Check(err)
	out, err := cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(cmd.Start())
	_, err = io.WriteString(in, strings.TrimSpace(ts.ReadFile(args[0]))+"\n")
	ts.Check(err)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		u, ok := strings.CutPrefix(lines.Text(), "otpauth://totp/")
		ts.Logf("%s", lines.Text())
		if !ok {
			continue
		}
		_, query, _ := strings.Cut(u, "?")
		values, err := url.ParseQuery(query)
		ts.Check(err)
		code, err := totp.GenerateCode(values.Get("secret"), time.Now())
		ts.Check(err)
		_, err = io.WriteString(in, "000000\n"+code[:3]+" "+code[3:]+"\n") // a wrong one before
		ts.Check(err)
	}
	if err := cmd.Wait(); err != nil {
		ts.Fatalf("%v: %s", err, stderr.String())
	}
}

// waitFor waits until a file exists, such as the socket of a server.
func waitFor(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: waitfor FILE")
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := os.Stat(ts.MkAbs(args[0])); err == nil {
			return
		}
	}
	ts.Fatalf("%s does not come", args[0])
}
