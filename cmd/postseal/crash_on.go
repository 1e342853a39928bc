//go:build crashpoints

package main

import (
	"os"
	"strings"
	"syscall"
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
