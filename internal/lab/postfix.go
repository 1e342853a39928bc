package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Addresses of the Postfix under test. OwnAddr is its "public" one: own domains
// have their MX there.
const (
	LocalAddr = "127.0.0.1"
	OwnAddr   = "127.0.2.1"
)

// PostfixOptions describe the instance before Postseal is set up beside it.
type PostfixOptions struct {
	Hostname   string   // myhostname; "" is mail.own.example
	OwnDomains []string // virtual mailbox domains, every address exists; nil is own.example
	// LocalDomains are in mydestination beside $myhostname; their users are the
	// system's and those of Aliases.
	LocalDomains []string
	Aliases      map[string]string // aliases(5) of local domains
	CAFile       string            // smtp_tls_CAfile
	RelayHost    string
	MainCF       map[string]string // more settings, over all others
	MasterCF     string            // lines appended to master.cf
	// Chroot runs the services in the queue directory that Debian runs there.
	Chroot bool
}

// Postfix is a complete private instance: configuration, queue, data and log
// below one directory, listening on port 25 of LocalAddr and OwnAddr.
type Postfix struct {
	Dir       string
	ConfigDir string
	QueueDir  string
	LogFile   string
	o         PostfixOptions
}

// masterCF is Debian's master.cf (3.7) without the pipe(8) examples. C is the
// chroot column of the services that Debian chroots.
const masterCF = `smtp      inet  n       -       C       -       -       smtpd
pickup    unix  n       -       C       60      1       pickup
cleanup   unix  n       -       C       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       C       1000?   1       tlsmgr
rewrite   unix  -       -       C       -       -       trivial-rewrite
bounce    unix  -       -       C       -       0       bounce
defer     unix  -       -       C       -       0       bounce
trace     unix  -       -       C       -       0       bounce
verify    unix  -       -       C       -       1       verify
flush     unix  n       -       C       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
proxywrite unix -       -       n       -       1       proxymap
smtp      unix  -       -       C       -       -       smtp
relay     unix  -       -       C       -       -       smtp
        -o syslog_name=postfix/$service_name
showq     unix  n       -       C       -       -       showq
error     unix  -       -       C       -       -       error
retry     unix  -       -       C       -       -       error
discard   unix  -       -       C       -       -       discard
local     unix  -       n       n       -       -       local
virtual   unix  -       n       n       -       -       virtual
lmtp      unix  -       -       C       -       -       lmtp
anvil     unix  -       -       C       -       1       anvil
scache    unix  -       -       C       -       1       scache
postlog   unix-dgram n  -       n       -       1       postlogd
`

// NewPostfix writes an instance below dir, which must be open to Postfix's own
// user, and does not start it. The path must be short: it becomes that of unix
// sockets.
func NewPostfix(dir string, o PostfixOptions) (*Postfix, error) {
	if len(dir) > 80 {
		return nil, fmt.Errorf("%s: too long for Postfix's unix sockets", dir)
	}
	if o.Hostname == "" {
		o.Hostname = "mail.own.example"
	}
	if o.OwnDomains == nil {
		o.OwnDomains = []string{"own.example"}
	}
	p := &Postfix{
		Dir: dir, o: o,
		ConfigDir: filepath.Join(dir, "etc"),
		QueueDir:  filepath.Join(dir, "queue"),
		LogFile:   filepath.Join(dir, "mail.log"),
	}
	uid, gid, err := postfixUser()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(
		makeDir(p.ConfigDir, 0o755, 0, 0),
		makeDir(p.QueueDir, 0o755, 0, 0),
		makeDir(filepath.Join(dir, "data"), 0o700, uid, gid),
		makeDir(filepath.Join(dir, "mailboxes"), 0o755, nobody, nobody),
		makeDir(filepath.Join(dir, "spool"), 0o777|fs.ModeSticky, 0, 0),
		p.makeQueue(uid, gid),
	); err != nil {
		return nil, err
	}
	chroot := "n"
	if o.Chroot {
		chroot = "y"
		if err := p.fillChroot(); err != nil {
			return nil, err
		}
	}
	master := strings.ReplaceAll(masterCF, " C ", " "+chroot+" ") + o.MasterCF
	if o.MasterCF != "" && !strings.HasSuffix(master, "\n") {
		master += "\n"
	}
	var aliases strings.Builder
	for _, k := range slices.Sorted(maps.Keys(o.Aliases)) {
		fmt.Fprintf(&aliases, "%s %s\n", k, o.Aliases[k])
	}
	files := map[string]string{
		"master.cf": master,
		"main.cf":   p.mainCF(),
		"aliases":   aliases.String(),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(p.ConfigDir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return p, p.age()
}

const nobody = 65534

func (p *Postfix) mainCF() string {
	// Timers are short, so that waiting and retrying take seconds; nothing else
	// differs from what a mail server has.
	s := [][2]string{
		{"compatibility_level", "3.6"},
		{"queue_directory", p.QueueDir},
		{"data_directory", filepath.Join(p.Dir, "data")},
		{"maillog_file", p.LogFile},
		{"maillog_file_prefixes", p.Dir},
		{"myhostname", p.o.Hostname},
		{"mydomain", "own.example"},
		{"myorigin", "$mydomain"},
		{"mydestination", strings.Join(append([]string{"$myhostname", "localhost"}, p.o.LocalDomains...), ", ")},
		{"mynetworks", "127.0.0.0/24"},
		{"inet_interfaces", LocalAddr + ", " + OwnAddr},
		{"inet_protocols", "ipv4"},
		{"smtpd_authorized_xclient_hosts", "127.0.0.0/24"},
		{"smtpd_relay_restrictions", "permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination"},
		{"recipient_delimiter", "+"},
		{"relayhost", p.o.RelayHost},
		{"alias_maps", "texthash:" + filepath.Join(p.ConfigDir, "aliases")},
		{"alias_database", ""},
		{"mail_spool_directory", filepath.Join(p.Dir, "spool") + "/"},
		{"virtual_mailbox_domains", strings.Join(p.o.OwnDomains, ", ")},
		{"virtual_mailbox_base", filepath.Join(p.Dir, "mailboxes")},
		{"virtual_mailbox_maps", "static:all/"},
		{"virtual_uid_maps", "static:" + strconv.Itoa(nobody)},
		{"virtual_gid_maps", "static:" + strconv.Itoa(nobody)},
		{"smtp_tls_security_level", "may"},
		{"smtp_tls_loglevel", "1"},
		{"smtp_tls_CAfile", p.o.CAFile},
		{"biff", "no"},
		{"in_flow_delay", "0"},
		{"smtpd_error_sleep_time", "0"},
		{"minimal_backoff_time", "1s"},
		{"maximal_backoff_time", "2s"},
		{"queue_run_delay", "1s"},
		{"transport_retry_time", "1s"},
		{"smtp_connect_timeout", "2s"},
		{"smtp_helo_timeout", "3s"},
		{"smtp_starttls_timeout", "3s"},
		{"smtpd_client_connection_count_limit", "0"},
	}
	var b strings.Builder
	for _, kv := range s {
		if _, over := p.o.MainCF[kv[0]]; !over {
			fmt.Fprintf(&b, "%s = %s\n", kv[0], kv[1])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(p.o.MainCF)) {
		fmt.Fprintf(&b, "%s = %s\n", k, p.o.MainCF[k])
	}
	return b.String()
}

func postfixUser() (uid, gid int, err error) {
	u, err := user.Lookup("postfix")
	if err != nil {
		return 0, 0, err
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

// fillChroot copies what a chrooted service needs into the queue directory, as
// Debian's configure-instance.sh does.
func (p *Postfix) fillChroot() error {
	files := []string{"etc/localtime", "etc/services", "etc/resolv.conf", "etc/hosts", "etc/nsswitch.conf", "etc/host.conf"}
	for _, pattern := range []string{"/lib/*/libnss_*so*", "/lib/*/libresolv*so*", "/usr/lib/*/libnss_*so*"} {
		m, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, f := range m {
			files = append(files, f[1:])
		}
	}
	for _, f := range files {
		text, err := os.ReadFile("/" + f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		to := filepath.Join(p.QueueDir, f)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(to, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// run runs one of Postfix's commands with this instance's configuration.
func (p *Postfix) run(stdin []byte, name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "MAIL_CONFIG="+p.ConfigDir)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()+out.String()))
	}
	return out.String(), nil
}

// Start starts the instance and waits until it takes connections. It runs
// master(8) as postfix start does, without that command's checks, which take
// seconds.
func (p *Postfix) Start() error {
	if err := p.age(); err != nil {
		return err
	}
	daemons, err := p.Postconf("daemon_directory")
	if err != nil {
		return err
	}
	if out, err := p.run(nil, filepath.Join(daemons, "master"), "-w", "-c", p.ConfigDir); err != nil {
		return fmt.Errorf("%w\n%s\n%s", err, out, p.Log())
	}
	return nil
}

// age makes the configuration files look old: Postfix reads a file that changed
// within the last second again and again until it has not.
func (p *Postfix) age() error {
	files, err := filepath.Glob(p.ConfigDir + "/*")
	if err != nil {
		return err
	}
	then := time.Now().Add(-time.Minute)
	for _, f := range files {
		if err := os.Chtimes(f, then, then); err != nil {
			return err
		}
	}
	return nil
}

// makeQueue makes the queue directory as postfix-files(5) says.
func (p *Postfix) makeQueue(uid, gid int) error {
	out, err := exec.Command("postconf", "-d", "-h", "setgid_group").Output()
	if err != nil {
		return fmt.Errorf("ask for setgid_group: %w", err)
	}
	g, err := user.LookupGroup(strings.TrimSpace(string(out)))
	if err != nil {
		return err
	}
	postdrop, err := strconv.Atoi(g.Gid)
	if err != nil {
		return err
	}
	for _, d := range []string{"active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"} {
		if err := makeDir(filepath.Join(p.QueueDir, d), 0o700, uid, 0); err != nil {
			return err
		}
	}
	return errors.Join(
		makeDir(filepath.Join(p.QueueDir, "maildrop"), 0o730|fs.ModeSticky, uid, postdrop),
		makeDir(filepath.Join(p.QueueDir, "public"), 0o710|fs.ModeSetgid, uid, postdrop),
		makeDir(filepath.Join(p.QueueDir, "pid"), 0o755, 0, 0),
	)
}

func makeDir(dir string, mode fs.FileMode, uid, gid int) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// In this order, and whatever the umask: chown clears the setgid bit.
	return errors.Join(os.Chown(dir, uid, gid), os.Chmod(dir, mode))
}

func (p *Postfix) masterPID() int {
	text, err := os.ReadFile(filepath.Join(p.QueueDir, "pid/master.pid"))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

// Stop ends this instance's master and, through it, all its processes.
func (p *Postfix) Stop() error {
	pid := p.masterPID()
	if pid <= 1 {
		return nil
	}
	// The pid file outlives its process: make sure that it is ours.
	if cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || !bytes.Contains(cmdline, []byte("master")) {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop postfix: %w", err)
	}
	if !Poll(10*time.Second, func() bool { return syscall.Kill(pid, 0) != nil && !p.running() }) {
		return fmt.Errorf("postfix (master %d) did not stop", pid)
	}
	return nil
}

// running reports whether a process of this instance is left: each has its
// queue directory as working directory.
func (p *Postfix) running() bool {
	procs, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, cwd := range procs {
		if d, err := os.Readlink(cwd); err == nil && (d == p.QueueDir || strings.HasPrefix(d, p.QueueDir+"/")) {
			return true
		}
	}
	return false
}

// Reload makes the running instance read its configuration again.
func (p *Postfix) Reload() error {
	if err := p.age(); err != nil {
		return err
	}
	n := strings.Count(p.Log(), ": reload -- ")
	if _, err := p.run(nil, "postfix", "-c", p.ConfigDir, "reload"); err != nil {
		return err
	}
	if !Poll(5*time.Second, func() bool { return strings.Count(p.Log(), ": reload -- ") > n }) {
		return errors.New("postfix did not reload")
	}
	return nil
}

// Flush tries all queued mail now.
func (p *Postfix) Flush() error {
	_, err := p.run(nil, "postqueue", "-c", p.ConfigDir, "-f")
	return err
}

// Postsuper runs postsuper(1), such as Postsuper("-r", "ALL"). After a requeue it
// wakes pickup(8), which else looks once a minute.
func (p *Postfix) Postsuper(args ...string) error {
	if _, err := p.run(nil, "postsuper", append([]string{"-c", p.ConfigDir}, args...)...); err != nil {
		return err
	}
	if !slices.Contains(args, "-r") {
		return nil
	}
	var err error
	Poll(10*time.Second, func() bool { // pickup may just be closing what postkick writes to
		_, err = p.run(nil, "postkick", "-c", p.ConfigDir, "public", "pickup", "W")
		return err == nil
	})
	return err
}

// Sendmail submits by sendmail(1).
func (p *Postfix) Sendmail(from string, to []string, data []byte) error {
	_, err := p.run(data, "sendmail", append([]string{"-C", p.ConfigDir, "-i", "-f", from, "--"}, to...)...)
	return err
}

// Postconf returns the value of a main.cf setting.
func (p *Postfix) Postconf(name string) (string, error) {
	out, err := p.run(nil, "postconf", "-c", p.ConfigDir, "-h", name)
	return strings.TrimSpace(out), err
}

// AddMainCF changes a setting of main.cf. It counts after Reload.
func (p *Postfix) AddMainCF(name, value string) error {
	_, err := p.run(nil, "postconf", "-c", p.ConfigDir, "-e", name+"="+value)
	return errors.Join(err, p.age())
}

// AddMasterCF appends lines to master.cf. They count after Reload.
func (p *Postfix) AddMasterCF(lines string) error {
	f, err := os.OpenFile(filepath.Join(p.ConfigDir, "master.cf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(strings.TrimRight(lines, "\n") + "\n")
	return errors.Join(err, f.Close(), p.age())
}

// WriteFile writes a file, such as a table, into the configuration directory
// and returns its path.
func (p *Postfix) WriteFile(name, text string) (string, error) {
	path := filepath.Join(p.ConfigDir, name)
	return path, errors.Join(os.WriteFile(path, []byte(text), 0o644), p.age())
}

// Log returns all of the mail log.
func (p *Postfix) Log() string {
	text, err := os.ReadFile(p.LogFile)
	if err != nil {
		return ""
	}
	return string(text)
}

// WaitLog waits for text in the part of the log after offset bytes, and reports
// whether it came.
func (p *Postfix) WaitLog(offset int, text string, timeout time.Duration) bool {
	return Poll(timeout, func() bool {
		log := p.Log()
		return len(log) > offset && strings.Contains(log[offset:], text)
	})
}

// Queued is one message in the queue, as postqueue -j shows it.
type Queued struct {
	QueueName  string `json:"queue_name"`
	QueueID    string `json:"queue_id"`
	Sender     string `json:"sender"`
	Recipients []struct {
		Address     string `json:"address"`
		DelayReason string `json:"delay_reason"`
	} `json:"recipients"`
}

// Queue lists the queue.
func (p *Postfix) Queue() ([]Queued, error) {
	out, err := p.run(nil, "postqueue", "-c", p.ConfigDir, "-j")
	if err != nil {
		return nil, err
	}
	var q []Queued
	for line := range strings.Lines(out) {
		var m Queued
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			return nil, fmt.Errorf("read queue: %w", err)
		}
		q = append(q, m)
	}
	return q, nil
}

// QueuedFor returns the reason for the delay of a queued recipient, and whether
// there is one.
func (p *Postfix) QueuedFor(address string) (reason string, queued bool) {
	q, err := p.Queue()
	if err != nil {
		return err.Error(), false
	}
	for _, m := range q {
		for _, r := range m.Recipients {
			if strings.EqualFold(r.Address, address) {
				return r.DelayReason, true
			}
		}
	}
	return "", false
}

// Mailbox returns the messages that were delivered to an address of an own
// domain, or of a local one. address is the final one, after aliases.
func (p *Postfix) Mailbox(address string) [][]byte {
	local, _, _ := strings.Cut(address, "@")
	var files []string
	for _, dir := range []string{filepath.Join(p.Dir, "mailboxes/all"), filepath.Join(p.Dir, "spool", local)} {
		m, _ := filepath.Glob(dir + "/new/*")
		files = append(files, m...)
	}
	mark := "\nDelivered-To: " + strings.ToLower(address) + "\n"
	var out [][]byte
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err == nil && strings.Contains(strings.ToLower(string(text)), strings.ToLower(mark)) {
			out = append(out, text)
		}
	}
	return out
}
