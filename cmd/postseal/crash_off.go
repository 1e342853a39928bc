//go:build !crashpoints

package main

import "net/netip"

// crash marks the points at which the crash tests kill the program. In the
// program as it is shipped it does nothing.
func crash(string) {}

// testNet is for the test bed alone.
func testNet(netip.Addr) bool { return false }
