package escrow

import "io"

// Classify is classify, for the fuzzer.
func Classify(from string, report io.Reader) string { return classify(from, report).String() }

// CleanName is cleanName for a device.
func CleanName(s string) string { return cleanName(s, maxDeviceName) }
