package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Postseal is the program under test.
type Postseal struct {
	Binary  string
	Env     []string // settings for every command, POSTSEAL_…
	Args    []string // of serve
	Admin   string   // where serve answers /readyz; "" is 127.0.0.1:8646
	LogFile string   // of every serve, one after the other

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
	err    error
}

// Build compiles cmd/postseal with crash points, once for this process, and
// returns the binary. POSTSEAL_BIN in the environment names one that is built.
var Build = sync.OnceValues(func() (string, error) {
	if bin := os.Getenv("POSTSEAL_BIN"); bin != "" {
		return bin, nil
	}
	root, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for !exists(filepath.Join(root, "go.mod")) {
		if root == filepath.Dir(root) {
			return "", errors.New("build postseal: not inside its source tree")
		}
		root = filepath.Dir(root)
	}
	bin := filepath.Join(Dir(), "postseal")
	cmd := exec.Command("go", "build", "-tags", "crashpoints", "-o", bin, "./cmd/postseal")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOPROXY=off") // nothing to be reached in here
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build postseal: %w\n%s", err, out)
	}
	return bin, nil
})

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Start starts serve and waits until it is ready. env is for this run only,
// such as POSTSEAL_CRASH_AT=point.
func (p *Postseal) Start(env ...string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		return errors.New("postseal serve runs already")
	}
	log, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.Binary, append([]string{"serve"}, p.Args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(append(os.Environ(), p.Env...), env...)
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	go func() {
		err := cmd.Wait()
		p.mu.Lock()
		p.cmd, p.err = nil, err
		p.mu.Unlock()
		close(exited)
	}()
	ready := Poll(30*time.Second, func() bool { return closed(exited) || p.Ready() })
	if !ready || closed(exited) {
		cmd.Process.Kill()
		return fmt.Errorf("postseal serve did not become ready:\n%s", p.Log())
	}
	return nil
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// Ready asks /readyz.
func (p *Postseal) Ready() bool {
	admin := p.Admin
	if admin == "" {
		admin = "127.0.0.1:8646"
	}
	c := http.Client{Timeout: 2 * time.Second}
	res, err := c.Get("http://" + admin + "/readyz")
	if err != nil {
		return false
	}
	defer res.Body.Close()
	io.Copy(io.Discard, res.Body)
	return res.StatusCode == http.StatusOK
}

// Metrics returns /metrics.
func (p *Postseal) Metrics() (string, error) {
	res, err := http.Get("http://127.0.0.1:8646/metrics")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return string(text), err
}

// Running reports whether serve runs.
func (p *Postseal) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil
}

// WaitExit waits until serve has ended by itself, as at a crash point.
func (p *Postseal) WaitExit(timeout time.Duration) bool {
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	select {
	case <-exited:
		return true
	case <-time.After(timeout):
		return false
	}
}

// Kill ends serve by SIGKILL.
func (p *Postseal) Kill() { p.end(syscall.SIGKILL, 10*time.Second) }

// Stop ends serve by SIGTERM. An exit code other than 0 is an error.
func (p *Postseal) Stop() error {
	if !p.end(syscall.SIGTERM, 20*time.Second) {
		p.Kill()
		return errors.New("postseal serve did not stop on SIGTERM")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

func (p *Postseal) end(s syscall.Signal, timeout time.Duration) bool {
	p.mu.Lock()
	cmd, exited := p.cmd, p.exited
	p.mu.Unlock()
	if cmd == nil {
		return true
	}
	cmd.Process.Signal(s)
	select {
	case <-exited:
		return true
	case <-time.After(timeout):
		return false
	}
}

// Log returns what serve logged so far.
func (p *Postseal) Log() string {
	text, _ := os.ReadFile(p.LogFile)
	return string(text)
}

// CLI runs another command and returns its standard output; a failure has its
// standard error in the error.
func (p *Postseal) CLI(args ...string) (string, error) { return p.CLIWith("", args...) }

// CLIWith is CLI with text on standard input.
func (p *Postseal) CLIWith(stdin string, args ...string) (string, error) {
	cmd := exec.Command(p.Binary, args...)
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("postseal %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out.String(), nil
}
