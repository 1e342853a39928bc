// Postseal sees to it that mail which must be encrypted leaves a Postfix server
// over TLS or not in plaintext at all: where the destination has no TLS, the
// message is sealed here and the recipient picks it up on a web page.
//
// serve.go wires the servers together and is the place to start reading; the
// way of a mail is told by the comments of the packages policyd/policy, policyd,
// tlsmap, tlsmap/probe, escrow/intake, escrow, escrow/notify and escrow/portal,
// in this order.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// errShown is an error that was printed already.
var errShown = errors.New("see above")

// exitError is an error with an exit code other than 1.
type exitError struct {
	error
	code int
}

func (e exitError) Unwrap() error { return e.error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() { // a second signal ends the program at once
		<-ctx.Done()
		stop()
	}()
	if err := noCores(); err != nil {
		fmt.Fprintln(os.Stderr, "postseal:", err) // what is asked for is more important
	}
	app := newApp(os.Stdin, os.Stdout, os.Stderr)
	if err := app.RunContext(byCommand(ctx), moveFlags(app, os.Args)); err != nil {
		if !errors.Is(err, errShown) {
			fmt.Fprintln(os.Stderr, "postseal:", err)
		}
		var exit exitError
		if errors.As(err, &exit) {
			os.Exit(exit.code)
		}
		os.Exit(1)
	}
}
