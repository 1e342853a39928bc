// Package lab is the test bed: a small internet and a real Postfix in a network
// namespace of their own, for postseal demo, for tests and for benchmarks.
//
// [Enter] runs the current program again inside a namespace where nothing but
// loopback exists, so that ports 25 and 53 are free, nothing can reach the
// outside, and nothing on the host changes. There, [Internet] is DNS and the
// destinations, [Postfix] a complete private instance, [Postseal] the process
// under test, and [Bed] ties them together:
//
//	sender --SMTP--> Postfix <--> Postseal
//	                    |
//	                    +--> tls.example, plain.example, broken.example, …
//
// What arrived, and whether over TLS, is read from the destinations
// (internal/lab/fakesmtp).
package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// TB is what the test bed needs of testing.TB, so that programs can use it too.
type TB interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
	Cleanup(func())
	Failed() bool
	Name() string
}

// Missing says what this machine lacks for the test bed; nil if nothing.
func Missing() error {
	if os.Getuid() != 0 {
		return errors.New("the test bed makes network namespaces: run as root")
	}
	for _, p := range []string{"postfix", "postconf", "ip"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("the test bed runs a real Postfix in a network namespace: %s not found (internal/lab/setup.sh test installs it)", p)
		}
	}
	return nil
}

// Main is TestMain of a package whose tests need the test bed: it runs them
// inside a namespace and exits. Where the machine lacks something the tests run
// outside, and [Require] skips them; with CI=true that is a failure.
func Main(m interface{ Run() int }) {
	if Inside() {
		os.Exit(m.Run())
	}
	if err := Missing(); err != nil {
		if os.Getenv("CI") == "true" {
			fmt.Fprintln(os.Stderr, "FAIL:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, inside, err := Enter(EnterOptions{})
	switch {
	case err != nil:
		fmt.Fprintln(os.Stderr, "FAIL:", err)
		os.Exit(1)
	case inside:
		code = m.Run()
	}
	os.Exit(code)
}

// Require skips a test that is not inside a namespace, and says why.
func Require(t TB) {
	t.Helper()
	if Inside() {
		return
	}
	if err := Missing(); err != nil {
		t.Skipf("%v", err)
	}
	t.Fatalf("TestMain of this package must call lab.Main")
}

// Poll calls done every few milliseconds until it returns true, or timeout is
// over, and reports whether it did.
func Poll(timeout time.Duration, done func() bool) bool {
	end := time.Now().Add(timeout)
	for {
		if done() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
}
