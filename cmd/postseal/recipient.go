package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/postseal/postseal/escrow"
)

func recipientCommand() *cli.Command {
	store := settingFlags(storeSettings...)
	return noun("recipient", "how recipients prove who they are",
		verb("list", "", "list what is set, and who has an account", with([]cli.Flag{jsonFlag()}, store), listRecipients),
		verb("show", "ADDRESS", "show what is set for one, and the account", with([]cli.Flag{jsonFlag()}, store), showRecipient),
		verb("set", "ADDRESS", "set the verification; a passphrase is read from the terminal, or a line of standard input",
			with([]cli.Flag{&cli.StringFlag{Name: "verify", Usage: "code, account or passphrase"}}, store), setRecipient),
		verb("unlock", "ADDRESS", "forget wrong tries, and the locks that they made", store, unlockRecipient),
		verb("reset", "ADDRESS", "forget what is set; delete the account, its passkeys, and sign all browsers out", store, resetRecipient),
	)
}

func listRecipients(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	_, db, vault, err := openVault(c)
	if err != nil {
		return err
	}
	defer db.Close()
	all, err := vault.Recipients(c.Context)
	if err != nil {
		return err
	}
	if all == nil {
		all = []escrow.RecipientSetting{}
	}
	return printRecipients(c, all)
}

func printRecipients(c *cli.Context, all []escrow.RecipientSetting) error {
	if c.Bool("json") {
		return printJSON(c, all)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ADDRESS\tVERIFY\tPASSPHRASE\tACCOUNT\tCHANGED")
	for _, r := range all {
		set := "-"
		if r.HasPassphrase {
			set = "set"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Address, cmp.Or(r.Verify, "-"), set, describeAccount(r.Account), r.Changed.UTC().Format(time.RFC3339))
	}
	return w.Flush()
}

func describeAccount(a *escrow.RecipientAccount) string {
	if a == nil {
		return "-"
	}
	count := func(n int, what string) string {
		if n == 1 {
			return "1 " + what
		}
		return fmt.Sprintf("%d %ss", n, what)
	}
	var has []string
	if a.Password {
		has = append(has, "password")
	}
	if a.TOTP {
		has = append(has, "totp")
	}
	if a.Passkeys > 0 {
		has = append(has, count(a.Passkeys, "passkey"))
	}
	return strings.Join(append(has, count(a.Devices, "device")), ", ")
}

func showRecipient(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one ADDRESS"); err != nil {
		return err
	}
	_, db, vault, err := openVault(c)
	if err != nil {
		return err
	}
	defer db.Close()
	r, err := vault.Recipient(c.Context, c.Args().First())
	if errors.Is(err, escrow.ErrUnknown) {
		return fmt.Errorf("nothing is set for %s", c.Args().First())
	}
	if err != nil {
		return err
	}
	return printRecipients(c, []escrow.RecipientSetting{r})
}

func setRecipient(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one ADDRESS"); err != nil {
		return err
	}
	var passphrase []byte
	switch v := c.String("verify"); v {
	case escrow.VerifyCode, escrow.VerifyAccount:
	case escrow.VerifyPassphrase:
		var err error
		if passphrase, err = readPassphrase(c.App.Reader, c.App.ErrWriter); err != nil {
			return err
		}
	default:
		return errors.New("name the verification: --verify code, --verify account or --verify passphrase")
	}
	_, db, vault, err := openVault(c)
	if err != nil {
		return err
	}
	defer db.Close()
	return vault.SetRecipient(c.Context, c.Args().First(), c.String("verify"), passphrase)
}

// readPassphrase reads a passphrase twice from a terminal, without showing it,
// or the first line of what is no terminal.
func readPassphrase(in io.Reader, prompt io.Writer) ([]byte, error) {
	f, ok := in.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		line, err := bufio.NewReader(io.LimitReader(in, 4096)).ReadBytes('\n')
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			if err == nil || err == io.EOF {
				err = errors.New("want the passphrase as a line of standard input")
			}
			return nil, err
		}
		return line, nil
	}
	ask := func(text string) ([]byte, error) {
		fmt.Fprint(prompt, text)
		p, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(prompt)
		return p, err
	}
	first, err := ask("Passphrase: ")
	if err != nil {
		return nil, err
	}
	second, err := ask("The same again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, errors.New("the two differ; nothing was set")
	}
	return first, nil
}

func unlockRecipient(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one ADDRESS"); err != nil {
		return err
	}
	_, db, vault, err := openVault(c)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := vault.Unlock(c.Context, c.Args().First()); errors.Is(err, escrow.ErrUnknown) {
		return fmt.Errorf("there are no wrong tries of %s", c.Args().First())
	} else if err != nil {
		return err
	}
	fmt.Fprintln(c.App.Writer, "Wrong tries are forgotten: the recipient can try again at once.")
	return nil
}

func resetRecipient(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one ADDRESS"); err != nil {
		return err
	}
	_, db, vault, err := openVault(c)
	if err != nil {
		return err
	}
	defer db.Close()
	address := c.Args().First()
	set, err := vault.ResetRecipient(c.Context, address)
	if err != nil {
		return err
	}
	account, err := vault.ResetAccount(c.Context, address, escrow.ResetAdministrator)
	if err != nil {
		return err
	}
	if !set && !account {
		return fmt.Errorf("nothing is set for %s, and there is no account", address)
	}
	if set {
		fmt.Fprintln(c.App.Writer, "What was set is forgotten; messages sealed already keep their passphrase.")
	}
	if account {
		fmt.Fprintln(c.App.Writer, "The account is deleted and all its browsers are signed out; the next pickup makes it anew.")
	}
	return nil
}
