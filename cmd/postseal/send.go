package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/postseal/postseal/escrow/compose"
	"github.com/postseal/postseal/escrow/header"
	"github.com/postseal/postseal/escrow/notify"
	"github.com/postseal/postseal/escrow/submit"
)

// maxSendText is how much text escrow send reads from standard input, in bytes.
const maxSendText = submit.MaxText

func escrowSend() *cli.Command {
	return verb("send", "", "send a message: its subject and text are read from standard input, as SUBJECT: …, an empty line, and the text",
		with([]cli.Flag{
			jsonFlag(),
			&cli.StringFlag{Name: "from", Usage: "the sender, `ADDRESS` or NAME <ADDRESS>"},
			&cli.StringSliceFlag{Name: "to", Usage: "a recipient; repeatable"},
			&cli.StringSliceFlag{Name: "cc", Usage: "a recipient of a copy; repeatable"},
			&cli.StringSliceFlag{Name: "bcc", Usage: "a recipient whom the others don't see; repeatable"},
			&cli.StringSliceFlag{Name: "attach", Usage: "attach a `FILE`; repeatable"},
			&cli.StringFlag{Name: "html", Usage: "the text once more, as HTML, from a `FILE`"},
			&cli.StringFlag{Name: "require", Usage: "encryption: TLS where the destination has it, else sealed; or escrow: always sealed", Value: "encryption"},
		}, settingFlags("lmtp-listen", "lmtp-escrow-listen", "notice-from", "own-domain", "postfix-config-dir")), sendMessage)
}

// sendMessage composes a message and gives it to the running postseal serve. What is
// confidential never stands among the arguments, which every user of the machine can
// see.
func sendMessage(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument; the text comes from standard input"); err != nil {
		return err
	}
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return err
	}
	l, err := letter(c)
	if err != nil {
		return err
	}
	from, err := noticeFrom(c.Context, cfg)
	if err != nil {
		return err
	}
	_, own, err := notify.ParseFrom(from)
	if err != nil {
		return err
	}
	l.Date, l.Boundary = time.Now(), compose.NewBoundary()
	l.MessageID = l.Boundary + "@" + own.Domain
	var field *submit.FieldError
	if err := l.Check(); errors.As(err, &field) {
		return fmt.Errorf("--%s %s", field.Field, field.Problem)
	}
	results, err := newSubmitter(cfg, own.Domain).Send(c.Context, l)
	if err != nil {
		return fmt.Errorf("%w; is postseal serve running?", err)
	}
	if c.Bool("json") {
		if err := printJSON(c, results); err != nil {
			return err
		}
	} else {
		w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
		for _, r := range results {
			fmt.Fprintf(w, "%s\t%s\t%s\n", r.Address, r.Outcome, r.Detail)
		}
		if err := w.Flush(); err != nil {
			return err
		}
	}
	for _, r := range results {
		if r.Outcome == submit.Deferred || r.Outcome == submit.Refused {
			return errNotTaken
		}
	}
	return nil
}

func letter(c *cli.Context) (*submit.Letter, error) {
	l := &submit.Letter{}
	var err error
	if l.Require, err = submit.ParseRequire(c.String("require")); err != nil {
		return nil, fmt.Errorf("--require %w", err)
	}
	if c.String("from") == "" {
		return nil, errors.New("name the sender: --from ADDRESS")
	}
	if l.From, err = submit.ParseMailbox(c.String("from")); err != nil {
		return nil, fmt.Errorf("--from %w", err)
	}
	for _, f := range []struct {
		flag string
		to   *[]compose.Address
	}{{"to", &l.To}, {"cc", &l.Cc}, {"bcc", &l.Bcc}} {
		for _, s := range c.StringSlice(f.flag) {
			a, err := submit.ParseMailbox(s)
			if err != nil {
				return nil, fmt.Errorf("--%s %w", f.flag, err)
			}
			*f.to = append(*f.to, a)
		}
	}
	for _, name := range c.StringSlice("attach") {
		fi, err := os.Stat(name)
		if err != nil {
			return nil, fmt.Errorf("--attach: %w", err)
		}
		if !fi.Mode().IsRegular() {
			return nil, fmt.Errorf("--attach %s: is not a file", name)
		}
		l.Attachments = append(l.Attachments, compose.File{
			Name: filepath.Base(name), MediaType: mime.TypeByExtension(filepath.Ext(name)),
			Open: func() (io.ReadCloser, error) { return os.Open(name) },
		})
	}
	if name := c.String("html"); name != "" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("--html: %w", err)
		}
		defer f.Close()
		if l.HTML, err = readText(f, "--html"); err != nil {
			return nil, err
		}
	}
	text, err := readText(c.App.Reader, "standard input")
	if err != nil {
		return nil, err
	}
	l.Subject, l.Text = subjectAndText(text)
	if l.Subject == "" && l.Text == "" && l.HTML == "" && len(l.Attachments) == 0 {
		return nil, errors.New("standard input is empty: want Subject: …, an empty line, and the text")
	}
	return l, nil
}

func readText(r io.Reader, what string) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxSendText+1))
	if err != nil {
		return "", fmt.Errorf("%s: %w", what, err)
	}
	if len(b) > maxSendText {
		return "", fmt.Errorf("%s: longer than %d bytes: attach it as a file", what, maxSendText)
	}
	return string(bytes.ToValidUTF8(b, []byte("\uFFFD"))), nil
}

// subjectAndText parts a Subject field, where the text begins with one, from what
// follows the empty line after it.
func subjectAndText(s string) (subject, text string) {
	first, _ := bufio.NewReader(strings.NewReader(s)).ReadString('\n')
	if len(first) < 8 || !strings.EqualFold(first[:8], "subject:") {
		return "", s
	}
	s = strings.ReplaceAll(s, "\r\n", "\n")
	head, text, _ := strings.Cut(s, "\n\n")
	h, err := header.Read(strings.NewReader(head + "\n\n"))
	if err != nil {
		return "", s
	}
	return h.Text("Subject", 2000), text
}
