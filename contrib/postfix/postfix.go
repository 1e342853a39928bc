// Package postfix knows the installed Postfix: it reads its settings and tables
// by Postfix's own tools, adds Postseal to them and takes it out again, and finds
// the ways in which a configuration lets mail leak, loop or get lost.
//
// The way of a mail does not pass here; its road is laid here. [Instance.Setup]
// writes the lines of main.cf and master.cf beside this file, which send each
// message past the policy service, the maps, the splitter and the fallback.
// [OwnDomains] and [Routes] tell the decision what Postfix would do of its own
// accord. [Instance.Check] reads the whole configuration, every service of master.cf
// included, as Postfix would.
//
// Nothing here starts or stops Postfix. What cannot be read is an error, never
// "empty": a domain that nobody could look up is not a foreign one.
package postfix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// Runner runs one of Postfix's tools to its end. A command that ran and ended
// with another code than 0 is no error: code says so.
type Runner func(ctx context.Context, stdin io.Reader, name string, args ...string) (stdout, stderr []byte, code int, err error)

// Instance is one Postfix, known by its configuration directory. The zero value is
// the default one, with its tools found in PATH. An Instance is used by pointer and
// by several goroutines at once.
type Instance struct {
	ConfigDir string // "" for the tools' default, /etc/postfix
	MapDir    string // of Postseal's own map files, which are not the administrator's; "" for none

	// The tools; "" finds them by name in PATH.
	Postconf, Postmap, Postsuper, Postqueue, Postfix string

	Run     Runner           // nil for os/exec
	Timeout time.Duration    // of one call of a tool; 0 for 20 s
	TTL     time.Duration    // for which answers of tools are kept; 0 for 30 s, negative for not at all
	Now     func() time.Time // nil for time.Now

	mu    sync.Mutex
	cache map[string]cached
}

type cached struct {
	at    time.Time
	value any
}

// cacheSize bounds the answers kept. One too many drops all of them: simple, and
// rare.
const cacheSize = 4096

func (p *Instance) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}

func (p *Instance) ttl() time.Duration {
	if p.TTL == 0 {
		return 30 * time.Second
	}
	return p.TTL
}

// Forget drops the answers kept: the configuration was changed.
func (p *Instance) Forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cache = nil
}

// remember returns what get returned for key within the last TTL. Errors are not
// kept.
func remember[T any](p *Instance, key string, get func() (T, error)) (T, error) {
	p.mu.Lock()
	c, ok := p.cache[key]
	p.mu.Unlock()
	if ok && p.now().Sub(c.at) < p.ttl() {
		return c.value.(T), nil
	}
	v, err := get()
	if err != nil {
		return v, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cache == nil || len(p.cache) >= cacheSize {
		p.cache = make(map[string]cached)
	}
	p.cache[key] = cached{p.now(), v}
	return v, nil
}

// outputLimit bounds what is read of a tool's output, in bytes.
const outputLimit = 8 << 20

type limited struct{ bytes.Buffer }

func (l *limited) Write(b []byte) (int, error) {
	if l.Len()+len(b) > outputLimit {
		return 0, errors.New("too much output")
	}
	return l.Buffer.Write(b)
}

func execute(ctx context.Context, stdin io.Reader, name string, args ...string) ([]byte, []byte, int, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr limited
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return stdout.Bytes(), stderr.Bytes(), exit.ExitCode(), nil
	}
	return stdout.Bytes(), stderr.Bytes(), 0, err
}

// run runs a tool with -c ConfigDir before args.
func (p *Instance) run(ctx context.Context, stdin, tool, path string, args ...string) (stdout, stderr string, code int, err error) {
	timeout := p.Timeout
	if timeout == 0 {
		timeout = 20 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if path == "" {
		path = tool
	}
	if p.ConfigDir != "" {
		args = append([]string{"-c", p.ConfigDir}, args...)
	}
	run := p.Run
	if run == nil {
		run = execute
	}
	out, errs, code, err := run(ctx, strings.NewReader(stdin), path, args...)
	if err != nil {
		return "", "", 0, fmt.Errorf("run %s: %w", tool, err)
	}
	return string(out), string(errs), code, nil
}

func (p *Instance) postconf(ctx context.Context, args ...string) (string, error) {
	return remember(p, "postconf\x00"+strings.Join(args, "\x00"), func() (string, error) {
		out, errs, code, err := p.run(ctx, "", "postconf", p.Postconf, args...)
		if err == nil && code != 0 {
			err = fmt.Errorf("postconf %s: %s", strings.Join(args, " "), complaint(errs))
		}
		return out, err
	})
}

// complaint returns the last line that a tool wrote to standard error.
func complaint(stderr string) string {
	lines := strings.Split(strings.TrimSpace(stderr), "\n")
	if l := lines[len(lines)-1]; l != "" {
		return l
	}
	return "ended with an error, and said nothing"
}

// Params returns the values of parameters, expanded ($name replaced). A parameter
// that this Postfix does not know is missing from the map.
func (p *Instance) Params(ctx context.Context, names ...string) (map[string]string, error) {
	return p.params(ctx, true, names...)
}

// RawParams is Params without expansion.
func (p *Instance) RawParams(ctx context.Context, names ...string) (map[string]string, error) {
	return p.params(ctx, false, names...)
}

func (p *Instance) params(ctx context.Context, expand bool, names ...string) (map[string]string, error) {
	args := names
	if expand {
		args = append([]string{"-x"}, names...)
	}
	out, err := p.postconf(ctx, args...)
	if err != nil {
		return nil, err
	}
	m := make(map[string]string, len(names))
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(line, "="); ok {
			m[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return m, nil
}

// Param returns the value of one parameter, expanded, and "" where this Postfix
// does not know it.
func (p *Instance) Param(ctx context.Context, name string) (string, error) {
	m, err := p.Params(ctx, name)
	return m[name], err
}

// Version is a version of Postfix.
type Version struct{ Major, Minor, Patch int }

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch) }

// Before reports whether v is older than major.minor.
func (v Version) Before(major, minor int) bool {
	return v.Major < major || v.Major == major && v.Minor < minor
}

// Version returns the version of the installed Postfix.
func (p *Instance) Version(ctx context.Context) (Version, error) {
	s, err := p.Param(ctx, "mail_version")
	if err != nil {
		return Version{}, err
	}
	var v Version
	if n, _ := fmt.Sscanf(s, "%d.%d.%d", &v.Major, &v.Minor, &v.Patch); n < 2 {
		return Version{}, fmt.Errorf("postfix has the odd version %q", s)
	}
	return v, nil
}

// Service is one line of master.cf.
type Service struct {
	Name, Type string
	Chroot     string // y, n or -
	Command    string // smtpd, smtp, lmtp, pipe …
	Args       []string
	// Options are the -o overrides, the last of each name, not expanded.
	Options map[string]string
}

// String returns the name by which postconf -P knows the service.
func (s Service) String() string { return s.Name + "/" + s.Type }

// Services returns the services of master.cf in their order.
func (p *Instance) Services(ctx context.Context) ([]Service, error) {
	out, err := p.postconf(ctx, "-M")
	if err != nil {
		return nil, err
	}
	var services []Service
	for line := range strings.Lines(out) {
		if s, ok := parseService(line); ok {
			services = append(services, s)
		}
	}
	return services, nil
}

// parseService reads a logical line of master.cf (master(5)).
func parseService(line string) (Service, bool) {
	f := splitBraces(line, " \t\r\n")
	if len(f) < 8 {
		return Service{}, false
	}
	s := Service{Name: f[0], Type: f[1], Chroot: f[4], Command: f[7], Args: f[8:], Options: make(map[string]string)}
	for i := 0; i < len(s.Args); i++ {
		a := s.Args[i]
		if a != "-o" || i+1 == len(s.Args) {
			if rest, ok := strings.CutPrefix(a, "-o"); ok && rest != "" {
				s.option(rest)
			}
			continue
		}
		i++
		s.option(s.Args[i])
	}
	return s, true
}

func (s *Service) option(o string) {
	if strings.HasPrefix(o, "{") {
		o = strings.TrimSuffix(o[1:], "}")
	}
	if name, value, ok := strings.Cut(o, "="); ok {
		s.Options[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
}

// splitBraces splits s at any byte of sep outside {braces}, as Postfix's
// mystrtokq; empty parts are dropped.
func splitBraces(s, sep string) []string {
	var parts []string
	depth, start := 0, -1
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case depth == 0 && strings.IndexByte(sep, c) >= 0:
			if start >= 0 {
				parts = append(parts, s[start:i])
				start = -1
			}
			continue
		case c == '{':
			depth++
		case c == '}' && depth > 0:
			depth--
		}
		if start < 0 {
			start = i
		}
	}
	if start >= 0 {
		parts = append(parts, s[start:])
	}
	return parts
}

// splitList splits a list as Postfix does, at commas and white space.
func splitList(s string) []string { return splitBraces(s, ", \t\r\n") }
