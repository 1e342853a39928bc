package main

import (
	"os"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The command line is tested as it is used: scripts in testdata/script run the
// program, each in a directory of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"waitfor": waitFor},
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
