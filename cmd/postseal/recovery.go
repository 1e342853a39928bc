package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/postseal/postseal/escrow"
	"github.com/postseal/postseal/escrow/seal"
	"github.com/postseal/postseal/sql"
)

func newRecovery(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	keys, db, err := openKeys(c)
	if err != nil {
		return err
	}
	defer db.Close()
	r, text, err := keys.NewRecoveryKey(c.String("note"), time.Now())
	if err != nil {
		return err
	}
	if err := db.AddRecoveryKey(c.Context, r); err != nil {
		return err
	}
	fmt.Fprintf(c.App.ErrWriter, "recovery key %s: messages sealed from now on open with it. Its private half is shown this once, and kept nowhere.\nWrite it down or print it, and lock it away from this server, its backups and who runs them:\n", r.ID)
	if _, err := fmt.Fprintln(c.App.Writer, text); err != nil {
		_, retired := db.RetireRecoveryKey(context.WithoutCancel(c.Context), r.ID, time.Now())
		return errors.Join(fmt.Errorf("the private half could not be written, so the key is retired: %w", err), retired)
	}
	return nil
}

func listRecovery(c *cli.Context) error {
	if err := wantArgs(c, 0, 0, "no argument"); err != nil {
		return err
	}
	_, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	keys, err := db.RecoveryKeys(c.Context)
	if err != nil {
		return err
	}
	counts, err := db.CountRecovery(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		type listed struct {
			ID      string     `json:"id"`
			Note    string     `json:"note"`
			Created time.Time  `json:"created"`
			Retired *time.Time `json:"retired,omitempty"`
			Items   int        `json:"items"` // that it opens now
		}
		all := []listed{}
		for _, k := range keys {
			all = append(all, listed{k.ID, k.Note, k.Created, orNil(k.Retired), counts[k.ID]})
		}
		return printJSON(c, all)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tCREATED\tRETIRED\tOPENS\tNOTE")
	for _, k := range keys {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", k.ID, timeOrDash(k.Created), timeOrDash(k.Retired), counts[k.ID], k.Note)
	}
	return w.Flush()
}

func retireRecovery(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one ID, as key recovery-list shows it"); err != nil {
		return err
	}
	_, db, err := openStore(c)
	if err != nil {
		return err
	}
	defer db.Close()
	id := c.Args().First()
	ok, err := db.RetireRecoveryKey(c.Context, id, time.Now())
	if err == nil && !ok {
		err = fmt.Errorf("there is no recovery key %q that is not retired; see postseal key recovery-list", id)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.App.Writer, "recovery key %s is retired: no new message is sealed for it. Keep its private half until recovery-list says that it opens none.\n", id)
	return nil
}

func recoverCommand() *cli.Command {
	return verb("recover", "ID", "open a message with the private half of a recovery key, from this database or a backup (--db), on any machine", with([]cli.Flag{
		&cli.StringFlag{Name: "output", Usage: "`FILE` for the message as it was sealed, which must not exist; - is standard output"},
	}, settingFlags("db")), recoverItem)
}

// recoverItem needs no key file and no Postfix: the private half and the database do.
func recoverItem(c *cli.Context) error {
	if err := wantArgs(c, 1, 1, "one ID, as escrow list shows it"); err != nil {
		return err
	}
	item, output := c.Args().First(), c.String("output")
	if output == "" {
		return errors.New("escrow recover: --output says where the message goes: a FILE, or - for standard output")
	}
	cfg, err := loadSettings(c, lookupEnv)
	if err != nil {
		return err
	}
	if output != "-" {
		if output, err = filepath.Abs(output); err != nil {
			return err
		}
		if _, err := os.Lstat(output); err == nil {
			return fmt.Errorf("%s exists: it is not replaced; name another file", output)
		}
	}
	text, err := readRecovery(c.App.Reader, c.App.ErrWriter)
	if err != nil {
		return err
	}
	private, err := seal.ParseRecoveryText(string(text))
	clear(text)
	if err != nil {
		return err
	}
	key := private.Public().ID()
	// The database is read as its owner, lest files of root's remain beside it; where the
	// message goes is the caller's.
	err = writeNew(c.App.Writer, output, func(w io.Writer) error {
		return sql.AsOwner(cfg.dbPath(), func() error {
			db, err := sql.OpenBackup(c.Context, cfg.str("db"))
			if err != nil {
				return err
			}
			defer db.Close()
			message, err := escrow.OpenRecovery(c.Context, db, private, item)
			if err != nil {
				return err
			}
			if err := noteRecovery(c, cfg, item, key); err != nil {
				return err
			}
			_, err = io.Copy(w, message)
			return err
		})
	})
	if errors.Is(err, escrow.ErrUnknown) {
		return fmt.Errorf("there is no message %q in %s", item, cfg.dbPath())
	}
	if err != nil {
		return fmt.Errorf("message %s: %w", item, err)
	}
	fmt.Fprintf(c.App.ErrWriter, "message %s is recovered with key %s; what was written is not encrypted\n", item, key)
	return nil
}

// noteRecovery logs that a message that opens is about to be read, where the database
// can be written: before, so that nothing is read unlogged. A backup that can't be written is no hindrance.
func noteRecovery(c *cli.Context, cfg *config, item, key string) error {
	err := sql.NoteRecovery(c.Context, cfg.str("db"), item, key)
	var readOnly *sql.ReadOnlyError
	if errors.As(err, &readOnly) {
		fmt.Fprintf(c.App.ErrWriter, "NOT IN THE AUDIT LOG: %v. Note by hand who opened message %s with key %s, when and why.\n", err, item, key)
		return nil
	}
	return err
}

// writeNew has f write to a new file, mode 0600, which exists only where that went well,
// or to standard output. Killed in between it leaves no plaintext: until the end the file
// has no name, where the file system can do that.
func writeNew(stdout io.Writer, path string, f func(io.Writer) error) error {
	if path == "-" {
		w := bufio.NewWriter(stdout)
		return errors.Join(f(w), w.Flush())
	}
	var from string
	fd, err := unix.Open(filepath.Dir(path), unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	part := os.NewFile(uintptr(fd), path)
	if err == nil {
		from = fmt.Sprintf("/proc/self/fd/%d", fd)
	} else {
		if part, err = os.CreateTemp(filepath.Dir(path), ".postseal-recovered-*"); err != nil {
			return err
		}
		from = part.Name()
		defer os.Remove(from)
	}
	defer part.Close()
	w := bufio.NewWriter(part)
	if err := f(w); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), part.Sync()); err != nil {
		return err
	}
	// A link, not a rename: it never replaces.
	if err := unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return part.Close()
}

// readRecovery reads a private half: from the terminal, where it is not shown, or from
// standard input, where it may be in several lines.
func readRecovery(in io.Reader, prompt io.Writer) ([]byte, error) {
	const most = 4096
	f, ok := in.(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(prompt, "Private half of the recovery key: ")
		text, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(prompt)
		return text, err
	}
	text, err := io.ReadAll(io.LimitReader(in, most))
	if err == nil && len(bytes.TrimSpace(text)) == 0 {
		err = errors.New("want the private half of a recovery key on standard input")
	}
	return text, err
}
