package main

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// noCores forbids core dumps of this process: they would hold keys and the text of
// messages. Both are needed: the limit is not heeded where kernel.core_pattern names
// a program (core(5)), and programs that are run from here inherit the limit alone.
// Where it may not be dumped, /proc/PID is root's, so that other processes of the same
// user can't read its memory either (PR_SET_DUMPABLE in prctl(2), ptrace(2)).
func noCores() error {
	none := unix.Rlimit{}
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &now); err != nil || now != none { // systemd may have done it, and forbidden the call
		if err := unix.Setrlimit(unix.RLIMIT_CORE, &none); err != nil {
			return fmt.Errorf("core dumps: setrlimit: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("core dumps: prctl: %w", err)
	}
	return nil
}
