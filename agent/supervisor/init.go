package supervisor

import (
	"errors"
	"io"
	"math/bits"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The packets between a supervisor and its container's init: a letter, then fields.
const (
	ctlGo       = 'G' // start the container: whoever sends it has seen the init's PDEATHSIG set
	ctlConn     = 'C' // serve execs on the connection that comes along
	ctlKill     = 'K' // kill every process of the container, which has no PID namespace of its own
	ctlStarted  = 'S'
	ctlRefused  = 'R' // 1: why the container cannot start
	ctlExited   = 'X' // 1: exit code, 2: signal
	maxCtl      = 8 << 10
	initCtlFD   = 3
	initConfFD  = 4
	killTimeout = 5 * time.Second
)

// initConfig is what an init is told, in a memory file.
type initConfig struct {
	StartConfig
	isolation     Isolation
	pids          pidNamespace
	hostname      string
	workDir, temp string
	// slack is the timer slack in ns that containers get: the init itself lives with more of it.
	slack int
}

func (c *initConfig) encode() []byte {
	var w body
	w.nested(1, c.StartConfig.encode)
	w.str(2, string(c.isolation))
	w.str(3, c.hostname)
	w.str(4, c.workDir)
	w.str(5, c.temp)
	w.int(6, int64(c.slack))
	w.int(7, int64(c.pids))
	return w.b
}

func (c *initConfig) decode(b []byte) error {
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case 1:
			if err := c.StartConfig.decode(f.val); err != nil {
				return err
			}
		case 2:
			c.isolation = Isolation(f.str())
		case 3:
			c.hostname = f.str()
		case 4:
			c.workDir = f.str()
		case 5:
			c.temp = f.str()
		case 6:
			c.slack = int(f.int())
		case 7:
			c.pids = pidNamespace(f.int())
		}
	}
	return f.err
}

// initProcess is the init of one container instance. Its main thread forks the container's main process and then does
// nothing but wait, with __WNOTHREAD: the kernel gives orphans to a process's main thread, and children of other threads
// (the execs) don't wake it. So an exec costs no signal and no second thread.
type initProcess struct {
	conf    initConfig
	ctl     *net.UnixConn
	forward chan os.Signal
	main    int
	// drops are the capabilities that the container must not have and the init could give.
	drops uint64

	mu      sync.Mutex
	execs   int
	execSeq int
}

type exitStatus struct {
	code, signal int32
	cpu          time.Duration
}

func statusOf(ws syscall.WaitStatus, ru *syscall.Rusage) exitStatus {
	s := exitStatus{cpu: time.Duration(ru.Utime.Nano() + ru.Stime.Nano())}
	if ws.Signaled() {
		s.signal = int32(ws.Signal())
		s.code = 128 + s.signal
	} else {
		s.code = int32(ws.ExitStatus())
	}
	return s
}

func runInit() int {
	if unix.Gettid() != os.Getpid() {
		os.Stderr.WriteString("init: not on the main thread, which the kernel gives orphans to\n")
		return 1
	}
	unix.CloseOnExec(initCtlFD)
	unix.CloseOnExec(initConfFD)
	f := os.NewFile(initCtlFD, "control")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return 1
	}
	ctl, ok := c.(*net.UnixConn)
	if !ok {
		return 1
	}
	p := &initProcess{ctl: ctl, forward: make(chan os.Signal, 16)}
	signal.Notify(p.forward, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	if err := p.prepare(); err != nil {
		p.send(ctlRefused, func(w *body) { w.str(1, err.Error()) })
		return 1
	}
	if kind, _, err := p.receive(); err != nil || kind != ctlGo {
		return 1
	}
	ignoreChildren()
	if err := p.startMain(); err != nil {
		p.send(ctlRefused, func(w *body) { w.str(1, err.Error()) })
		return 1
	}
	p.send(ctlStarted, nil)
	go p.control()
	go p.passSignals()
	return p.reap()
}

// prepare makes the container's world.
func (p *initProcess) prepare() error {
	conf := os.NewFile(initConfFD, "config")
	b, err := io.ReadAll(io.LimitReader(conf, MaxFrame))
	conf.Close()
	if err != nil {
		return errors.New("read config: " + err.Error())
	}
	if err := p.conf.decode(b); err != nil {
		return err
	}
	for n := range 64 {
		if p.conf.DropCapabilities&(1<<n) != 0 && bounded(n) {
			p.drops |= 1 << n
		}
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if p.conf.pids != pidsOfContainer {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("become subreaper", err)
		}
	}
	if p.conf.isolation == IsolationNone {
		if p.conf.ReadOnlyRoot {
			return errors.New("read-only root: needs a mount namespace")
		}
		for _, m := range p.conf.Mounts {
			if m.Source != m.Target || m.SubPath != "" {
				return errors.New("mount " + m.Target + ": needs a mount namespace")
			}
		}
		return p.filterCalls()
	}
	if h := p.conf.hostname; h != "" && p.conf.isolation == IsolationUser { // else the pod's supervisor has set it
		if err := unix.Sethostname([]byte(h)); err != nil {
			return errors.New("set host name " + h + ": " + err.Error())
		}
	}
	if err := mounts(&p.conf); err != nil {
		return err
	}
	return p.filterCalls()
}

// filterCalls puts the container's filter on every thread, for whichever forks, a command has it from there. The init needs no
// call that a container's processes would not be allowed.
func (p *initProcess) filterCalls() error {
	program := p.conf.Seccomp
	if len(program) == 0 {
		return nil
	}
	if err := p.confine(); err != nil {
		return err
	}
	const size = int(unsafe.Sizeof(unix.SockFilter{}))
	if len(program)%size != 0 || len(program)/size > unix.BPF_MAXINSNS {
		return errors.New("seccomp: not a filter")
	}
	instructions := make([]unix.SockFilter, len(program)/size)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&instructions[0])), len(program)), program)
	prog := unix.SockFprog{Len: uint16(len(instructions)), Filter: &instructions[0]}
	thread, _, e := syscall.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(instructions)
	switch {
	case e == syscall.EACCES:
		return errors.New("seccomp: without allowPrivilegeEscalation: false only an agent with mount namespaces may set a filter")
	case e != 0:
		return os.NewSyscallError("set seccomp filter", e)
	case thread != 0:
		return errors.New("set seccomp filter: thread " + strconv.Itoa(int(thread)) + " would not take it")
	}
	return nil
}

// confine takes from the calling thread, and so from what it forks, what the container's processes must not have. It is
// the thread that forks that must call it: a program that is linked with C has no way to reach all of them.
func (p *initProcess) confine() error {
	c := &p.conf
	if c.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("set no_new_privs", err)
		}
	}
	if c.isolation == IsolationUser { // what was kept over exec for the mounts
		return os.NewSyscallError("drop ambient capabilities", unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
	}
	// From the highest down: a thread that lacks the lowest has lost them all.
	lowest := bits.TrailingZeros64(p.drops)
	if p.drops == 0 || !bounded(lowest) {
		return nil
	}
	for n := 63; n >= lowest; n-- {
		if p.drops&(1<<n) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0); err != nil {
			return os.NewSyscallError("drop capability "+strconv.Itoa(n), err)
		}
	}
	return nil
}

// bounded tells whether a capability is in the calling thread's bounding set, which what it starts inherits.
func bounded(n int) bool {
	has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(n), 0, 0, 0)
	return err == nil && has == 1
}

// startMain starts the container's main process from this goroutine's thread, which never ends.
func (p *initProcess) startMain() error {
	c := &p.conf
	sys := &syscall.SysProcAttr{Setsid: true}
	if c.pids != pidsOfContainer {
		sys.Pdeathsig = syscall.SIGKILL
	}
	pid, err := p.fork(c.Argv, c.Env, [3]uintptr{0, 1, 2}, sys)
	if err != nil {
		return err
	}
	p.main = pid
	// The pipes belong to the container alone from here on.
	unix.Dup3(0, 1, 0)
	unix.Dup3(0, 2, 0)
	return nil
}

// fork starts a command with the container's directory and user.
func (p *initProcess) fork(argv, env []string, files [3]uintptr, sys *syscall.SysProcAttr) (int, error) {
	c := &p.conf
	if len(argv) == 0 {
		return 0, errors.New("no command")
	}
	dir := c.WorkingDir
	if dir == "" {
		dir = "/"
	}
	path, err := lookPath(argv[0], dir, env)
	if err != nil {
		return 0, err
	}
	if c.UID >= 0 && (c.UID != os.Geteuid() || c.GID != os.Getegid()) || len(c.Groups) > 0 {
		sys.Credential = &syscall.Credential{Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}
		if c.UID >= 0 {
			sys.Credential.Uid, sys.Credential.Gid = uint32(c.UID), uint32(c.GID)
		}
		for _, g := range c.Groups {
			sys.Credential.Groups = append(sys.Credential.Groups, uint32(g))
		}
	}
	for n := range uintptr(64) {
		if c.AmbientCapabilities&(1<<n) != 0 {
			sys.AmbientCaps = append(sys.AmbientCaps, n)
		}
	}
	// The slack is the thread's, and a child has that of the thread that forked it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.confine(); err != nil {
		return 0, err
	}
	unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(c.slack), 0, 0, 0)
	pid, err := syscall.ForkExec(path, argv, &syscall.ProcAttr{Dir: dir, Env: env, Files: files[:], Sys: sys})
	if err != nil {
		if fi, serr := os.Stat(dir); serr != nil {
			return 0, errors.New("working directory: " + serr.Error())
		} else if !fi.IsDir() {
			return 0, errors.New("working directory " + dir + ": not a directory")
		}
		return 0, errors.New("exec " + strconv.Quote(argv[0]) + ": " + err.Error())
	}
	return pid, nil
}

// lookPath finds a command as a shell would, in the command's own PATH and directory.
func lookPath(name, dir string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil // the kernel resolves it in the working directory
	}
	path := ""
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	denied := false
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			d = filepath.Join(dir, d)
		}
		file := filepath.Join(d, name)
		fi, err := os.Stat(file)
		if err != nil || fi.IsDir() {
			continue
		}
		if fi.Mode()&0o111 != 0 {
			return file, nil
		}
		denied = true
	}
	if denied {
		return "", errors.New("exec " + strconv.Quote(name) + ": permission denied")
	}
	return "", errors.New("exec " + strconv.Quote(name) + ": executable file not found in $PATH")
}

// reap collects what becomes a zombie until the main process does, and kills what is left.
func (p *initProcess) reap() int {
	for {
		var ws syscall.WaitStatus
		var ru syscall.Rusage
		pid, err := syscall.Wait4(-1, &ws, unix.WNOTHREAD, &ru)
		if err != nil && err != syscall.EINTR {
			return 1 // without children there is nothing to be init of
		}
		if pid != p.main || err != nil {
			continue
		}
		if p.conf.pids != pidsOfContainer {
			p.killAll()
		}
		s := statusOf(ws, &ru)
		p.send(ctlExited, func(w *body) {
			w.int(1, int64(s.code))
			w.int(2, int64(s.signal))
		})
		return 0 // and with PID 1 goes its whole namespace
	}
}

// ignoreChildren leaves SIGCHLD to the kernel, which does nothing with it: who waits for a child needs no signal, and the main
// thread would be woken by it for each exec.
func ignoreChildren() {
	var byDefault [4]uintptr // a struct sigaction: handler, flags, restorer, mask
	// A handler that stays costs time, nothing else.
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(unix.SIGCHLD), uintptr(unsafe.Pointer(&byDefault)), 0, 8, 0, 0)
}

// passSignals hands what this process is sent to the container's main process, which is not reaped before this
// process ends.
func (p *initProcess) passSignals() {
	for s := range p.forward {
		if sig, ok := s.(syscall.Signal); ok {
			unix.Kill(p.main, sig)
		}
	}
}

// killAll kills everything below this subreaper.
func (p *initProcess) killAll() {
	self := os.Getpid()
	killUntilNone(killTimeout, func() []int { return descendants(self) })
}

// control does what the supervisor says; without a supervisor nothing of the container goes on.
func (p *initProcess) control() {
	for {
		kind, fd, err := p.receive()
		if err != nil {
			if p.conf.pids != pidsOfContainer {
				unix.Kill(p.main, unix.SIGKILL)
				p.killAll()
			}
			os.Exit(1)
		}
		switch kind {
		case ctlConn:
			if fd >= 0 {
				go p.serve(fd)
			}
		case ctlKill:
			p.killAll()
		}
	}
}

func (p *initProcess) send(kind byte, fill func(*body)) {
	w := body{b: []byte{kind}}
	if fill != nil {
		fill(&w)
	}
	if len(w.b) > maxCtl {
		w = body{b: []byte{kind}}
	}
	p.ctl.Write(w.b)
}

// receive takes one packet and the descriptor that came along, -1 without one.
func (p *initProcess) receive() (kind byte, fd int, err error) {
	var b [16]byte
	var oob [32]byte
	n, oobn, _, _, err := p.ctl.ReadMsgUnix(b[:], oob[:])
	if err != nil {
		return 0, -1, err
	}
	if n == 0 {
		return 0, -1, io.EOF
	}
	return b[0], takeFD(oob[:oobn]), nil
}

// takeFD returns the descriptor in a control message, closed on exec, or -1.
func takeFD(oob []byte) int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return -1
	}
	fd := -1
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, f := range fds {
			unix.CloseOnExec(f)
			if fd < 0 {
				fd = f
			} else {
				unix.Close(f)
			}
		}
	}
	return fd
}
