package lab

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The stages of Enter, in the environment variable stageVar.
const (
	stageVar  = "POSTSEAL_LAB_STAGE"
	dirVar    = "POSTSEAL_LAB_DIR"
	stageInit = "init"   // first process of the new namespaces
	stageIn   = "inside" // the program itself
)

// Resolver is where DNS is served inside.
const Resolver = "127.0.0.53:53"

// Inside reports whether this process runs in a namespace made by [Enter].
func Inside() bool { return os.Getenv(stageVar) == stageIn }

// Dir is a directory for the files of the test bed, gone when the namespace
// ends. It is in memory, invisible from outside. Below Shared, files and unix
// sockets are seen by the process that called Enter, too.
func Dir() string { return filepath.Join(os.Getenv(dirVar), "work") }

// Shared is a directory that inside and outside see; see [Dir].
func Shared() string { return filepath.Join(os.Getenv(dirVar), "shared") }

// NewDir makes a directory below [Dir], open to all users, with a short path.
func NewDir() (string, error) {
	dir, err := os.MkdirTemp(Dir(), "bed")
	if err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o755)
}

// EnterOptions are the options of [Enter].
type EnterOptions struct {
	// Args replace the arguments of this program, os.Args[1:].
	Args []string
	// Outside, if set, runs in the calling process while the namespace lives,
	// with the directory that inside is Shared().
	Outside func(shared string)
}

// Enter runs the current program again, with the same arguments, in network,
// mount and process namespaces of its own, and returns its exit code. Loopback is
// up, /etc/resolv.conf points to [Resolver], and all processes end when the
// program ends or the caller dies. In the program so run, Enter returns at once
// with inside set.
func Enter(o EnterOptions) (code int, inside bool, err error) {
	switch os.Getenv(stageVar) {
	case stageIn:
		return 0, true, nil
	case stageInit:
		code, err = initNamespace()
		return code, false, err
	}
	if err := Missing(); err != nil {
		return 1, false, err
	}
	dir, err := os.MkdirTemp("", "postseal-lab-")
	if err != nil {
		return 1, false, err
	}
	defer os.RemoveAll(dir)
	for _, d := range []string{"", "work", "shared"} {
		d = filepath.Join(dir, d)
		if err := os.MkdirAll(d, 0o755); err != nil {
			return 1, false, err
		}
		if err := os.Chmod(d, 0o755); err != nil { // whatever the umask: Postfix's own user goes through here
			return 1, false, err
		}
	}
	args := o.Args
	if args == nil {
		// The test cache only knows what this process reads, not what the
		// programs under test are made of: without the file nothing is cached.
		args = slices.DeleteFunc(slices.Clone(os.Args[1:]), func(a string) bool {
			return strings.HasPrefix(a, "-test.testlogfile=")
		})
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stageVar+"="+stageInit, dirVar+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	// Pdeathsig is sent when the thread ends that forked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, false, fmt.Errorf("make namespaces: %w", err)
	}
	go func() {
		for s := range signals {
			cmd.Process.Signal(s)
		}
	}()
	if o.Outside != nil {
		go o.Outside(filepath.Join(dir, "shared"))
	}
	err = cmd.Wait()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), false, nil
	}
	if err != nil {
		return 1, false, fmt.Errorf("run in namespaces: %w", err)
	}
	return 0, false, nil
}

// initNamespace is the first process inside: it sets the namespace up, runs
// the program as its child and reaps all orphans, as process 1 must.
func initNamespace() (int, error) {
	if err := setUp(); err != nil {
		return 1, fmt.Errorf("set up namespace: %w", err)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, stageVar+"=") }),
		stageVar+"="+stageIn)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return 1, fmt.Errorf("run inside namespace: %w", err)
	}
	child := cmd.Process.Pid
	go func() {
		for s := range signals {
			syscall.Kill(child, s.(syscall.Signal))
		}
	}()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 1, fmt.Errorf("wait inside namespace: %w", err)
		case pid == child && status.Exited():
			return status.ExitStatus(), nil
		case pid == child && status.Signaled():
			return 128 + int(status.Signal()), nil
		}
	}
}

func setUp() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", Dir(), "tmpfs", 0, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	host, _, _ := net.SplitHostPort(Resolver)
	conf := filepath.Join(Dir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver "+host+"\noptions timeout:1 attempts:2\n"), 0o644); err != nil {
		return err
	}
	target, err := filepath.EvalSymlinks("/etc/resolv.conf")
	if err != nil {
		return fmt.Errorf("find /etc/resolv.conf: %w", err)
	}
	if err := unix.Mount(conf, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount /etc/resolv.conf: %w", err)
	}
	return loopbackUp()
}

// loopbackUp starts loopback and gives it OwnAddr as an address of its own:
// Postfix only takes interfaces' addresses for its own, and all of 127.0.0.0/8
// answers anyway.
func loopbackUp() error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"},
		{"address", "add", OwnAddr + "/8", "dev", "lo"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}
