//go:build crashpoints

package main

import (
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"
)

// crash kills the program without a chance to tidy up when it comes to the
// point that POSTSEAL_CRASH_AT names. Only test builds (-tags crashpoints) have
// it.
func crash(point string) {
	want, _, _ := strings.Cut(os.Getenv("POSTSEAL_CRASH_AT"), " ")
	if want == point {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}

// testNet reports whether an address is of the test bed, which lives on loopback,
// and is to be taken for a public one. Only test builds (-tags crashpoints) know it.
func testNet(a netip.Addr) bool {
	return os.Getenv("POSTSEAL_TEST_NET") != "" && a.IsLoopback()
}

// reportClock is the clock that says which day is over, for TLS reports. In test
// builds it is fast by POSTSEAL_TEST_LATER, so that a test need not wait for the
// night.
func reportClock() time.Time {
	d, _ := time.ParseDuration(os.Getenv("POSTSEAL_TEST_LATER"))
	return time.Now().Add(d)
}
