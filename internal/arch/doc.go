// Package arch holds no code, only the test of which package may import which.
package arch
