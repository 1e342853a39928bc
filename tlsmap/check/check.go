// Package check is the TLS checker: what postseal check and the admin page say of a
// destination, one or a hundred thousand.
package check
