package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/boombuler/barcode/qr"
	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/postseal/postseal/escrow/account"
	"github.com/postseal/postseal/internal/adminlogin"
)

func adminCommand() *cli.Command {
	store := settingFlags(storeSettings...)
	role := &cli.StringFlag{Name: "role", Usage: "viewer, who looks, or operator, who may also change what the pages let one change"}
	return noun("admin", "who may sign in to the pages of the admin port",
		verb("add", "NAME", "make an account, of a viewer unless --role says otherwise; the password is read from the terminal or a line of standard input, then a code of the authenticator app",
			with([]cli.Flag{role}, store), func(c *cli.Context) error { return setAdmin(c, false) }),
		verb("reset", "NAME", "set another password and app, and sign all browsers out; the role stays, unless --role says otherwise",
			with([]cli.Flag{role}, store), func(c *cli.Context) error { return setAdmin(c, true) }),
		verb("list", "", "list the accounts", with([]cli.Flag{jsonFlag()}, store), listAdmins),
		verb("remove", "NAME", "delete an account, and sign its browsers out", store, removeAdmin),
	)
}

// setAdmin makes an account, or resets one. It counts, and what it had before goes, only
// when a code has proved that the app has the secret.
func setAdmin(c *cli.Context, reset bool) error {
	if err := wantArgs(c, 1, 1, "one NAME"); err != nil {
		return err
	}
	cred := adminlogin.Credentials{Role: adminlogin.RoleViewer}
	var err error
	if cred.Name, err = adminlogin.ParseName(c.Args().First()); err != nil {
		return err
	}
	keys, db, err := openKeys(c)
	if err != nil {
		return err
	}
	defer db.Close()
	switch had, err := db.Admin(c.Context, cred.Name); {
	case err != nil && !errors.Is(err, adminlogin.ErrUnknown):
		return err
	case reset && had == nil:
		return fmt.Errorf("there is no administrator %s; postseal admin list shows all", cred.Name)
	case !reset && had != nil:
		return fmt.Errorf("there is an administrator %s already; to set another password: postseal admin reset %s", cred.Name, cred.Name)
	case reset:
		cred.Role = had.Role
	}
	if s := c.String("role"); s != "" {
		if cred.Role, err = adminlogin.ParseRole(s); err != nil {
			return err
		}
	}
	ask := newAsker(c.App.Reader, c.App.ErrWriter)
	if cred.Password, err = ask.password(); err != nil {
		return err
	}
	if err := adminlogin.CheckPassword(cred.Password, cred.Name); err != nil {
		return err
	}
	if cred.Secret, cred.Step, err = enrolApp(c, ask, cred.Name); err != nil {
		return err
	}
	accounts := &adminlogin.Accounts{Store: db, Keys: keys.Admin(), Now: time.Now}
	if reset {
		if err := accounts.Reset(c.Context, cred); err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "%s (%s) has another password and app; all browsers are signed out.\n", cred.Name, cred.Role)
		return nil
	}
	if err := accounts.Add(c.Context, cred); err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "%s (%s) can sign in to the admin pages.\n", cred.Name, cred.Role)
	return nil
}

// codeTries is how often a wrong code may be typed.
const codeTries = 5

// enrolApp shows a new TOTP secret until a code of it comes back, and returns it with the
// step that the code has used.
func enrolApp(c *cli.Context, ask *asker, name string) (secret string, step int64, err error) {
	label := name
	if host, err := os.Hostname(); err == nil {
		label += "@" + host
	}
	key, err := account.NewTOTP("Postseal", label)
	if err != nil {
		return "", 0, err
	}
	out := c.App.Writer
	fmt.Fprintln(out, "Add this account to an authenticator app (TOTP). It is shown this once:")
	if err := printQR(out, key.URL); err != nil {
		return "", 0, err
	}
	fmt.Fprintf(out, "%s\n", key.URL)
	for range codeTries {
		code, err := ask.line("Code that the app shows: ")
		if err != nil {
			return "", 0, fmt.Errorf("nothing was changed: %w", err)
		}
		if step, ok := account.MatchTOTP(key.Secret, code, time.Now()); ok {
			return key.Secret, step, nil
		}
		fmt.Fprintln(c.App.ErrWriter, "That is not the code. Are the clocks of this machine and of the app right?")
	}
	return "", 0, errors.New("nothing was changed: the app does not have the secret")
}

// quiet is the white margin that a QR code needs, in modules (ISO/IEC 18004).
const quiet = 4

// printQR prints a QR code, two rows a line, as light on dark terminals show it: light is
// drawn. Where w is a terminal, its colours are set.
func printQR(w io.Writer, text string) error {
	code, err := qr.Encode(text, qr.L, qr.Auto)
	if err != nil {
		return fmt.Errorf("QR code: %w", err)
	}
	on, off := "", ""
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		on, off = "\x1b[97;40m", "\x1b[0m" // white on black
	}
	size := code.Bounds().Dx()
	light := func(x, y int) bool {
		if x < 0 || y < 0 || x >= size || y >= size {
			return true
		}
		r, _, _, _ := code.At(x, y).RGBA()
		return r != 0
	}
	var b strings.Builder
	for y := -quiet; y < size+quiet; y += 2 {
		b.WriteString(on)
		for x := -quiet; x < size+quiet; x++ {
			upper, lower := light(x, y), light(x, y+1)
			switch {
			case upper && lower:
				b.WriteRune('█')
			case upper:
				b.WriteRune('▀')
			case lower:
				b.WriteRune('▄')
			default:
				b.WriteRune(' ')
			}
		}
		b.WriteString(off + "\n")
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// asker reads answers: from a terminal, or lines of what is none.
type asker struct {
	terminal *os.File // nil: none
	lines    *bufio.Reader
	prompt   io.Writer
}

func newAsker(in io.Reader, prompt io.Writer) *asker {
	a := &asker{lines: bufio.NewReader(io.LimitReader(in, 1<<16)), prompt: prompt}
	if f, ok := in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		a.terminal = f
	}
	return a
}

// password reads a password, twice from a terminal, which does not show it.
func (a *asker) password() (string, error) {
	if a.terminal == nil {
		p, err := a.line("")
		if err == nil && p == "" || errors.Is(err, io.EOF) {
			err = errors.New("want the password as a line of standard input")
		}
		return p, err
	}
	var typed [2][]byte
	for i, text := range []string{"Password: ", "The same again: "} {
		fmt.Fprint(a.prompt, text)
		var err error
		typed[i], err = term.ReadPassword(int(a.terminal.Fd()))
		fmt.Fprintln(a.prompt)
		if err != nil {
			return "", err
		}
	}
	if !bytes.Equal(typed[0], typed[1]) {
		return "", errors.New("the two differ; nothing was changed")
	}
	return string(typed[0]), nil
}

// line reads a line.
func (a *asker) line(prompt string) (string, error) {
	fmt.Fprint(a.prompt, prompt)
	s, err := a.lines.ReadString('\n')
	if errors.Is(err, io.EOF) && s != "" {
		err = nil
	}
	return strings.TrimRight(s, "\r\n"), err
}

func listAdmins(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	_, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	all, err := db.Admins(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		type listed struct {
			Name    string          `json:"name"`
			Role    adminlogin.Role `json:"role"`
			Created time.Time       `json:"created"`
			Changed time.Time       `json:"changed"`
			Used    *time.Time      `json:"last_signed_in,omitempty"`
		}
		out := []listed{}
		for _, a := range all {
			out = append(out, listed{a.Name, a.Role, a.Created, a.Changed, orNil(a.Used)})
		}
		return printJSON(c, out)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tROLE\tCREATED\tCHANGED\tLAST SIGNED IN")
	for _, a := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", a.Name, a.Role, timeOrDash(a.Created), timeOrDash(a.Changed), timeOrDash(a.Used))
	}
	return w.Flush()
}

func removeAdmin(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one NAME"); err != nil {
		return err
	}
	name, err := adminlogin.ParseName(c.Args().First())
	if err != nil {
		return err
	}
	_, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	removed, err := db.RemoveAdmin(c.Context, name)
	if err == nil && !removed {
		err = fmt.Errorf("there is no administrator %s; postseal admin list shows all", name)
	}
	return err
}
