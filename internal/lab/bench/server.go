package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is a process that is asked.
type server struct {
	cmd    *exec.Cmd
	log    *os.File
	maps   string // address of the socketmap server
	policy string
	escrow string        // LMTP, requirement escrow
	ready  time.Duration // from its start to its first answer

	started time.Duration // processor time up to that
}

// startEcho runs this program as an echo server: it answers each request, which ends at
// the byte end (twice in a row where blank), with reply.
func startEcho(end byte, blank bool, reply string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s := &server{cmd: exec.Command(self, "echo", strconv.Itoa(int(end)), strconv.FormatBool(blank), reply)}
	s.cmd.Stderr = os.Stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("start the echo server: %w", err)
	}
	s.maps = strings.TrimSpace(line)
	s.policy = s.maps
	return s, nil
}

// echo is the child of startEcho.
func echo(args []string) {
	end, err := strconv.Atoi(args[0])
	if err != nil {
		panic(err)
	}
	blank, reply := args[1] == "true", args[2]
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println(ln.Addr())
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			in, out := bufio.NewReader(c), bufio.NewWriter(c)
			for {
				part, err := in.ReadSlice(byte(end))
				if err != nil {
					return
				}
				if blank && len(part) > 1 {
					continue
				}
				out.WriteString(reply)
				out.Flush()
			}
		}()
	}
}

// startPostseal runs the program on the database in dir, and waits until it is ready.
func startPostseal(ctx context.Context, s *settings, dir, resolver string, more ...string) (*server, error) {
	env := append(os.Environ(), "POSTSEAL_DB=sqlite:"+filepath.Join(dir, "postseal.db"), "POSTSEAL_KEY_FILE="+filepath.Join(dir, "postseal.key"))
	if _, err := os.Stat(filepath.Join(dir, "postseal.key")); err != nil {
		key := exec.Command(s.binary, "key", "new")
		key.Env = env
		if out, err := key.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("postseal key new: %w: %s", err, out)
		}
	}
	ports, err := freePorts(10)
	if err != nil {
		return nil, err
	}
	args := []string{"serve", "--own-domain", "own.example", "--notice-from", "postseal@own.example", "--postfix-config-dir", filepath.Join(dir, "none"), "--resolver", resolver}
	for i, name := range []string{"map", "policy", "admin", "lmtp", "lmtp-escrow", "lmtp-tls", "lmtp-decide", "fallback", "portal"} {
		args = append(args, "--"+name+"-listen", ports[i])
	}
	args = append(append(args, "--portal-url", "http://"+strings.Replace(ports[8], "127.0.0.1", "localhost", 1)), more...)
	p := &server{cmd: exec.CommandContext(ctx, s.binary, args...), maps: ports[0], policy: ports[1], escrow: ports[4]}
	if p.log, err = os.Create(filepath.Join(dir, "postseal.log")); err != nil {
		return nil, err
	}
	p.cmd.Env, p.cmd.Stderr = env, p.log // its default logging, into a file
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	for time.Since(start) < 2*time.Minute {
		r, err := http.Get("http://" + ports[2] + "/readyz")
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				p.ready, p.started = time.Since(start), p.cpu()
				return p, nil
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	p.stop()
	said, _ := os.ReadFile(p.log.Name())
	return nil, errors.New("postseal serve is not ready: " + string(said))
}

// freePorts are addresses on loopback that nothing listens on.
func freePorts(n int) (all []string, err error) {
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close()
		all = append(all, ln.Addr().String())
	}
	return all, nil
}

func (p *server) stop() {
	if p.cmd.ProcessState == nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	}
	if p.log != nil {
		p.log.Close()
	}
}

// cpu is the processor time that the process has used, in steps of 10 ms.
func (p *server) cpu() time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 everywhere
}

// resident is how much memory the process has, in bytes.
func (p *server) resident() int64 { return residentOf(p.cmd.Process.Pid) }

func residentOf(pid int) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	b, _ := io.ReadAll(f)
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
