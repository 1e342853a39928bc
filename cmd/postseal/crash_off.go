//go:build !crashpoints

package main

// crash marks the points at which the crash tests kill the program. In the
// program as it is shipped it does nothing.
func crash(string) {}
