package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/internal/lab"
)

func demoCommand() *cli.Command {
	return verb("demo", "", "show the main job on a real Postfix, in a namespace of its own", []cli.Flag{
		&cli.BoolFlag{Name: "keep", Usage: "keep it running, and print a link that a browser on this machine can open"},
	}, func(c *cli.Context) error {
		if err := wantArgs(c, 0, 0, "no argument"); err != nil {
			return err
		}
		return demo(c.Context, c.App.Writer, c.Bool("keep"))
	})
}

// demoURL carries the portal's address into the namespace.
const demoURL = "POSTSEAL_DEMO_URL"

// demo runs this program again inside a namespace. Where it is kept running, a
// relay leads from a port of this machine to the portal inside.
func demo(ctx context.Context, out io.Writer, keep bool) error {
	var opts lab.EnterOptions
	if !lab.Inside() && os.Getenv(demoURL) == "" {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer ln.Close()
		os.Setenv(demoURL, "http://"+ln.Addr().String())
		opts.Outside = func(shared string) { lab.Relay(ctx, ln, "unix", filepath.Join(shared, "portal.sock")) }
	}
	code, inside, err := lab.Enter(opts)
	if err != nil {
		return err
	}
	if !inside {
		if code != 0 {
			return errShown
		}
		return nil
	}
	return demoInside(out, os.Getenv(demoURL), keep)
}

// demoRecipient is one line of the demo's table.
type demoRecipient struct{ address, what string }

func demoInside(out io.Writer, portal string, keep bool) error {
	say := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	say("A small internet, a real Postfix and Postseal start in a network namespace …")
	dir, err := lab.NewDir()
	if err != nil {
		return err
	}
	bed, err := lab.StartBed(dir, lab.Options{
		Binary: "/proc/self/exe", // whatever it is called in here
		Hosts:  map[string]lab.Kind{"bank.example": lab.NoTLS},
		Verify: "account",
		Env:    []string{"POSTSEAL_PORTAL_URL=" + portal, "POSTSEAL_PORTAL_LISTEN=" + strings.TrimPrefix(portal, "http://")},
		Rules: []string{
			"sender add @own.example --require encryption",
			"sender add noreply@own.example --require none --weaken --note newsletter",
			"domain add bank.example --require tls",
		},
	})
	if err != nil {
		return err
	}
	defer bed.Close()
	if keep {
		ln, err := lab.ListenUnix(filepath.Join(lab.Shared(), "portal.sock"))
		if err != nil {
			return err
		}
		go lab.Relay(context.Background(), ln, "tcp", strings.TrimPrefix(portal, "http://"))
	}

	say("\nThe rules:")
	for _, noun := range []string{"domain", "sender"} {
		list, err := bed.CLI(noun, "list")
		if err != nil {
			return err
		}
		say("%s", indent(list))
	}

	rcpts := []demoRecipient{
		{"anna@tls.example", "its server has TLS"},
		{"pat@plain.example", "its server has no TLS"},
		{"ben@broken.example", "its server offers TLS, and fails at it"},
		{"gil@grey.example", "its server has TLS, and greylists"},
		{"carl@own.example", "a colleague on this server"},
	}
	var to []string
	for _, r := range rcpts {
		to = append(to, r.address)
	}
	sent := lab.Text("Doc <doc@own.example>", strings.Join(to, ", "), "Your results", "Dear patient,\r\n\r\nyour results are fine. See you in May.\r\n\r\nDoc")
	say("doc@own.example sends one message to five recipients; noreply@own.example a newsletter;\ndoc@own.example one more, to a bank that must get TLS and has none.\n")
	for _, m := range []lab.Message{
		{From: "doc@own.example", To: to, Data: sent},
		{From: "noreply@own.example", To: []string{"news@plain.example"}, Data: lab.Text("noreply@own.example", "news@plain.example", "Newsletter", "Opening hours.")},
		{From: "doc@own.example", To: []string{"desk@bank.example"}, Data: lab.Text("doc@own.example", "desk@bank.example", "Invoice", "Please pay.")},
	} {
		if _, err := lab.Send(m); err != nil {
			return err
		}
	}
	rcpts = append(rcpts, demoRecipient{"news@plain.example", "no TLS; from noreply, nothing required"}, demoRecipient{"desk@bank.example", "forced TLS, and its server has none"})

	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "RECIPIENT\tDESTINATION\tWENT\tBECAUSE")
	for _, r := range rcpts {
		went, ok := demoOutcome(bed, r.address)
		sender := "doc@own.example"
		if strings.HasPrefix(r.address, "news@") {
			sender = "noreply@own.example"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.address, r.what, went, demoReason(bed, sender, r.address))
		if !ok {
			w.Flush()
			return fmt.Errorf("%s: %s\n%s", r.address, went, bed.Logs())
		}
	}
	w.Flush()

	link, err := bed.WaitNotice("pat@plain.example", 20*time.Second)
	if err != nil {
		return err
	}
	say("\nThe notice as it arrived for pat@plain.example:\n")
	notices, _ := bed.Notices("pat@plain.example")
	say("%s", indent(strings.ReplaceAll(string(notices[0].Data), "\r\n", "\n")))
	say("Pat opens the link, asks for a code, reads it in the mail, chooses a password, and gets the message …")
	got, err := bed.Pickup("pat@plain.example", link, "")
	if err != nil {
		return err
	}
	if !bytes.HasSuffix(got, sent) {
		return fmt.Errorf("what was picked up is not what was sent:\n%s", got)
	}
	say("… byte for byte as it was sent:\n\n%s", indent(strings.ReplaceAll(string(got), "\r\n", "\n")))
	list, err := bed.CLI("escrow", "list")
	if err != nil {
		return err
	}
	say("postseal escrow list:\n\n%s", indent(list))
	for _, m := range bed.Received() {
		if !m.TLS && bytes.Contains(m.Data, []byte("your results are fine")) {
			return errors.New("the message left in plaintext")
		}
	}
	say("No server outside saw the message in plaintext.")
	if keep {
		return demoKeep(out, bed, link)
	}
	return nil
}

// demoOutcome waits until it is plain what became of a recipient.
func demoOutcome(bed *lab.Bed, rcpt string) (went string, ok bool) {
	lab.Poll(60*time.Second, func() bool {
		for _, m := range bed.Received() {
			if _, links := bed.Notices(rcpt); m.HasTo(rcpt) && m.Accepted && len(links) == 0 {
				went = "in plaintext"
				if m.TLS {
					went = "over " + m.TLSVersion
				}
				return true
			}
		}
		if items, err := bed.Escrowed(rcpt); err == nil && len(items) > 0 {
			went = "sealed, notice sent"
			return true
		}
		if len(bed.Postfix.Mailbox(rcpt)) > 0 {
			went = "delivered here"
			return true
		}
		if reason, queued := bed.Postfix.QueuedFor(rcpt); queued && strings.Contains(reason, "TLS") && strings.HasSuffix(rcpt, "@bank.example") {
			went = "waits in the queue"
			return true
		}
		_ = bed.Postfix.Flush()
		return false
	})
	if went == "" {
		return "nothing is known of it", false
	}
	return went, true
}

// demoReason returns the last of explain's reasons.
func demoReason(bed *lab.Bed, sender, rcpt string) string {
	text, err := bed.CLI("explain", "--sender", sender, "--recipient", rcpt)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.TrimPrefix(strings.TrimSpace(lines[len(lines)-1]), "- ")
}

// demoKeep prints links and the codes that arrive until it is interrupted.
func demoKeep(out io.Writer, bed *lab.Bed, link string) error {
	fmt.Fprintf(out, "\nOpen this in a browser (codes are shown here as they arrive; Ctrl-C ends it):\n\n  %s\n\n", link)
	done := make(chan os.Signal, 1)
	signal.Notify(done, os.Interrupt, syscall.SIGTERM)
	seen := len(bed.Received())
	for {
		select {
		case <-done:
			return nil
		case <-time.After(300 * time.Millisecond):
		}
		all := bed.Received()
		for _, m := range all[min(seen, len(all)):] {
			_, body, _ := bytes.Cut(m.Data, []byte("\r\n\r\n"))
			fmt.Fprintf(out, "a mail arrived at %s for %s:\n\n%s\n", m.Server, m.To[0].Address, indent(strings.ReplaceAll(string(body), "\r\n", "\n")))
		}
		seen = len(all)
	}
}

func indent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString("    " + line)
	}
	return b.String()
}
