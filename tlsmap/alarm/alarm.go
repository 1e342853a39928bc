// Package alarm tells the administrator when a destination has lost its TLS.
package alarm
