package supervisor

import (
	"errors"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// MaxContainers bounds the containers of a pod.
	MaxContainers = 64
	// maxConns bounds the connections that a supervisor serves at a moment; more are closed at once.
	maxConns = 256
	// startLimit is how long an init may take before its container has started or been refused.
	startLimit = 10 * time.Second
	// drainLimit is how long after a container's end its output is waited for.
	drainLimit = 200 * time.Millisecond
)

// pod is a supervisor's state.
type pod struct {
	self  []string
	data  string
	dir   string
	rec   PodRecord
	fence *podFence // nil for a pod that is not fenced
	// forks are run on the main goroutine's thread, which never ends: an init dies with the thread that started it.
	forks chan func()
	read  readBuffer
	slack int // the timer slack of containers, in ns
	conns chan struct{}

	mu       sync.Mutex
	newest   map[string]*instance
	inits    map[int]*instance
	holder   holder
	watchers map[chan struct{}]bool
	changes  int64 // of what state tells
	removing bool
	fenced   bool
}

// instance is one container instance and its init.
type instance struct {
	pod *pod
	rec ContainerRecord
	ctl *net.UnixConn
	log *logFile
	// oomFile counts the OOM kills of the container's group, oomBefore is how many there were before this instance.
	oomFile   string
	oomBefore int64
	// started is closed once the container runs, or will not; refused is why.
	started chan struct{}
	refused error
	// reaped is closed once the init has been reaped, done once the record says the end.
	reaped, done chan struct{}
	streams      sync.WaitGroup
	pipes        [2]*os.File
	watched      bool // whether watch was started; of start's goroutine

	// Under pod.mu.
	pid    int // 0 before the fork and after the reap
	status exitStatus
	told   bool // by the init: status is the main process's
	termed bool
	stored bool
}

func runPod(self []string, data, dir string) int {
	ready := os.NewFile(3, "ready")
	unix.CloseOnExec(3)
	// SIGTERM and its kin are for containers: a supervisor ends by Remove, or by SIGKILL, and then its containers end
	// with it. They are caught, not ignored, because that would be inherited.
	chld, caught := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	signal.Notify(caught, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT)
	p, l, err := newPod(self, data, dir)
	if err != nil {
		code := CodeOther
		if e := (*Error)(nil); errors.As(err, &e) {
			code = e.Code
		}
		ready.WriteString(strconv.Itoa(code) + " " + err.Error())
		return 1
	}
	ready.WriteString("ok")
	ready.Close()
	go p.accept(l)
	return p.loop(chld, caught)
}

func newPod(self []string, data, dir string) (*pod, *net.UnixListener, error) {
	unix.Umask(0o022)
	if err := os.Chdir(dir); err != nil {
		return nil, nil, err
	}
	// Held until this process ends. Who cleans up takes the lock first, and takes the record away.
	lock, err := unix.Open(LockFile, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, nil, errors.New("another process holds the pod's lock")
	}
	rec, err := ReadPodRecord(".")
	if err != nil {
		return nil, nil, err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, os.NewSyscallError("become subreaper", err)
	}
	st, err := ReadStat(os.Getpid())
	if err != nil {
		return nil, nil, err
	}
	p := &pod{
		self: self, data: data, dir: dir, rec: rec, forks: make(chan func()), conns: make(chan struct{}, maxConns),
		newest: map[string]*instance{}, inits: map[int]*instance{}, watchers: map[chan struct{}]bool{},
		changes: 1,
	}
	if p.slack, err = strconv.Atoi(os.Getenv(EnvSlack)); err != nil {
		if p.slack, err = unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil {
			return nil, nil, os.NewSyscallError("get timer slack", err)
		}
	}
	os.Remove(SocketFile)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: SocketFile, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	fenceKind := ""
	if rec.FenceSlot > 0 {
		if p.fence, err = startFence(p); err != nil {
			return nil, nil, err
		}
		fenceKind = rec.fenceKind()
	}
	if err := enterNamespaces(&rec); err != nil {
		return nil, nil, err
	}
	sr := SupervisorRecord{PID: os.Getpid(), StartTime: st.StartTime, BootID: BootID(), Fence: fenceKind, Version: Version}
	if err := sr.Write(SupervisorFile); err != nil {
		return nil, nil, err
	}
	return p, l, nil
}

// loop forks and reaps, on the main thread.
func (p *pod) loop(chld, caught <-chan os.Signal) int {
	retry := time.NewTimer(time.Hour)
	for {
		select {
		case f := <-p.forks:
			f()
		case <-caught:
		case <-chld:
			p.reap()
		case <-retry.C:
		}
		if p.storeAll() {
			retry.Reset(time.Hour)
		} else {
			retry.Reset(time.Second) // the disk is full, perhaps not for ever
		}
	}
}

// reap collects every zombie. A child that is no init has lost its own init, so it is killed.
func (p *pod) reap() {
	orphans := false
	for {
		var ws syscall.WaitStatus
		var ru syscall.Rusage
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, &ru)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			break
		}
		p.mu.Lock()
		if pid == p.holder.pid {
			p.holder.close()
		} else if in := p.inits[pid]; in != nil {
			delete(p.inits, pid)
			in.pid = 0
			if !in.told {
				in.status = statusOf(ws, &ru)
			}
			close(in.reaped)
			orphans = true
		}
		p.mu.Unlock()
	}
	if orphans && p.rec.pids() != pidsOfContainer {
		killUntilNone(killTimeout, p.orphans)
	}
}

// orphans are the processes below the supervisor, or its pod's holder, that no living init answers for.
func (p *pod) orphans() []int {
	all := Stats()
	self := os.Getpid()
	p.mu.Lock()
	defer p.mu.Unlock()
	// A process whose parent is in another namespace has parent 0, as the pod's holder while there is none.
	above := map[int]bool{self: true}
	if p.holder.pid > 0 {
		above[p.holder.pid] = true
	}
	in := map[int]bool{}
	var out []int
	for grown := true; grown; {
		grown = false
		for _, s := range all {
			if !in[s.PID] && !s.Dead() && p.inits[s.PID] == nil && !above[s.PID] && (above[s.PPID] || in[s.PPID]) {
				in[s.PID], grown = true, true
				out = append(out, s.PID)
			}
		}
	}
	return out
}

// storeAll writes what has changed to disk and tells whether all is there.
func (p *pod) storeAll() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := true
	for _, in := range p.newest {
		all = in.storeLocked() && all
	}
	return all
}

func (in *instance) storeLocked() bool {
	if !in.stored {
		in.stored = in.rec.Write(".") == nil
	}
	return in.stored
}

func (p *pod) changedLocked() {
	p.changes++
	for w := range p.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// accept serves the agent.
func (p *pod) accept(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of descriptors
			continue
		}
		select {
		case p.conns <- struct{}{}:
			go func() {
				p.serve(c)
				c.Close()
				<-p.conns
			}()
		default:
			c.Close()
		}
	}
}

func (p *pod) serve(c *net.UnixConn) {
	for {
		f, err := readFrame(c)
		if err != nil {
			return
		}
		var w body
		switch f.kind {
		case reqState:
			st := p.state()
			st.encode(&w)
		case reqStart:
			var cfg StartConfig
			if err = cfg.decode(f.body); err == nil {
				var rec ContainerRecord
				if rec, err = p.start(cfg); err == nil {
					rec.encode(&w)
				}
			}
		case reqStop:
			err = p.stop(f.body)
		case reqRemove:
			p.remove()
			writeFrame(c, msgOK, nil)
			os.Exit(0)
		case reqAttach:
			if err = p.attach(f.body, c); err == nil {
				return // the init serves it now
			}
		case reqWatch:
			p.watch(c)
			return
		default:
			err = refusal(CodeUnsupported, "unknown request "+strconv.Itoa(int(f.kind)))
		}
		if err != nil {
			err = writeFrame(c, msgError, errorBody(err))
		} else {
			err = writeFrame(c, msgOK, w.b)
		}
		if err != nil {
			return
		}
	}
}

func (p *pod) state() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := State{Fenced: p.fenced, Changes: p.changes}
	if p.fence != nil {
		st.Fence = p.rec.fenceKind()
	}
	for _, in := range p.newest {
		rec := in.rec
		rec.PID = in.pid
		if rec.Running {
			rec.DroppedLines = in.log.droppedLines()
		}
		st.Containers = append(st.Containers, rec)
	}
	slices.SortFunc(st.Containers, func(a, b ContainerRecord) int { return strings.Compare(a.Name, b.Name) })
	return st
}

// watch tells the state now and after each change, until the connection ends.
func (p *pod) watch(c *net.UnixConn) {
	w := make(chan struct{}, 1)
	w <- struct{}{}
	p.mu.Lock()
	p.watchers[w] = true
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.watchers, w)
		p.mu.Unlock()
	}()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var b [1]byte
		c.Read(b[:])
	}()
	for {
		select {
		case <-w:
			var b body
			st := p.state()
			st.encode(&b)
			if writeFrame(c, msgChanged, b.b) != nil {
				return
			}
		case <-gone:
			return
		}
	}
}

// validName keeps names that become parts of a path to what the agent makes them of.
func validName(s string) bool {
	if s == "" || len(s) > 128 {
		return false
	}
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-') {
			return false
		}
	}
	return true
}

// start makes a new instance of a container and returns once its command runs, or cannot.
func (p *pod) start(cfg StartConfig) (ContainerRecord, error) {
	if !validName(cfg.Name) || !validName(cfg.Instance) {
		return ContainerRecord{}, refusal(CodeOther, "name or instance: want lower-case letters, digits and dashes")
	}
	if cfg.UID >= 0 && cfg.UID != os.Geteuid() && (os.Geteuid() != 0 || p.rec.Isolation == IsolationUser) {
		return ContainerRecord{}, refusal(CodeUnsupported, "cannot run as uid "+strconv.Itoa(cfg.UID)+": muster runs as uid "+
			strconv.Itoa(os.Geteuid())+", which may not change users")
	}
	in := &instance{
		pod: p, started: make(chan struct{}), reaped: make(chan struct{}), done: make(chan struct{}),
		rec:    ContainerRecord{Name: cfg.Name, Instance: cfg.Instance, Attempt: cfg.Attempt, Running: true, Started: time.Now()},
		stored: true,
	}
	dir := InstanceDir(cfg.Name, cfg.Instance)
	in.log = &logFile{path: filepath.Join(dir, LogFile), old: filepath.Join(dir, OldLogFile), max: MaxLogFile}
	p.mu.Lock()
	before := p.newest[cfg.Name]
	switch {
	case p.removing:
		p.mu.Unlock()
		return ContainerRecord{}, refusal(CodeNotFound, "pod is being removed")
	case p.fenced:
		p.mu.Unlock()
		return ContainerRecord{}, refusal(CodeFenced, "lease expired")
	case before != nil && before.rec.Running:
		p.mu.Unlock()
		return ContainerRecord{}, refusal(CodeOther, "container "+cfg.Name+" runs already, as instance "+before.rec.Instance)
	case before == nil && len(p.newest) >= MaxContainers:
		p.mu.Unlock()
		return ContainerRecord{}, refusal(CodeOther, "pod has "+strconv.Itoa(MaxContainers)+" containers already")
	}
	p.newest[cfg.Name] = in // from here on nobody else starts it
	p.changes++             // it is told of once it has started
	p.mu.Unlock()

	err := in.launch(cfg)
	if err == nil {
		select {
		case <-in.started:
			err = in.refused
		case <-time.After(startLimit):
			err = refusal(CodeOther, "container "+cfg.Name+" did not start within "+startLimit.String())
		}
		if err != nil {
			in.kill()
			<-in.done
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		if !in.watched {
			close(in.done)
		}
		if before != nil {
			p.newest[cfg.Name] = before
		} else {
			delete(p.newest, cfg.Name)
		}
		p.changedLocked()
		os.RemoveAll(dir)
		return ContainerRecord{}, err
	}
	p.changedLocked()
	rec := in.rec
	rec.Change = p.changes
	return rec, nil
}

// launch forks the init and lets it go on.
func (in *instance) launch(cfg StartConfig) error {
	p := in.pod
	dir := InstanceDir(cfg.Name, cfg.Instance)
	if err := prune(cfg.Name); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, tmpDir), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(dir, tmpDir), 0o1777); err != nil { //nolint:gosec // as /tmp is
		return err
	}
	if err := in.rec.Write("."); err != nil {
		return err
	}
	abs, err := os.Getwd()
	if err != nil {
		return err
	}
	cfg.Env = mergeEnv(cfg.Env, p.marks())
	conf := initConfig{
		slack: p.slack, StartConfig: cfg, isolation: p.rec.Isolation, pids: p.rec.pids(), hostname: p.rec.Hostname,
		workDir: filepath.Join(abs, WorkDir), temp: filepath.Join(abs, dir, tmpDir),
	}

	var opened []int // the init's ends
	closeOpened := func() {
		for _, fd := range opened {
			unix.Close(fd)
		}
		opened = nil
	}
	defer closeOpened()
	conffd, err := unix.MemfdCreate("muster-init", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	opened = append(opened, conffd)
	if err := writeAll(conffd, conf.encode()); err != nil {
		return err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	opened = append(opened, pair[1])
	f := os.NewFile(uintptr(pair[0]), "control")
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return err
	}
	in.ctl = c.(*net.UnixConn)
	var writers [2]int
	for i, name := range [2]string{"stdout", "stderr"} {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			in.closePipes()
			in.ctl.Close()
			return os.NewSyscallError("pipe", err)
		}
		unix.SetNonblock(fds[0], true)
		in.pipes[i], writers[i] = os.NewFile(uintptr(fds[0]), name), fds[1]
		opened = append(opened, fds[1])
	}

	forked := make(chan error)
	p.forks <- func() { forked <- in.fork(conffd, pair[1], writers) }
	err = <-forked
	closeOpened() // so that the end of the init is the end of what it held
	if err != nil {
		in.closePipes()
		in.ctl.Close()
		return err
	}
	for i, name := range [2]string{"stdout", "stderr"} {
		in.streams.Go(func() {
			(&logStream{log: in.log, name: name}).consume(in.pipes[i], &p.read)
		})
	}
	in.watched = true
	in.oomFile, in.oomBefore = cfg.OOMCount, oomKills(cfg.OOMCount)
	go in.watch()
	if err := in.enter(cfg.Cgroups); err != nil {
		in.kill()
		<-in.done
		return err
	}
	if p.fence != nil {
		if err := p.fence.mayStart(); err != nil {
			in.kill()
			<-in.done
			return err
		}
	}
	_, err = in.ctl.Write([]byte{ctlGo})
	if errors.Is(err, unix.EPIPE) {
		return nil // it has ended; what it said before is on its way
	}
	return err
}

// fork starts the init; it runs on the main thread.
func (in *instance) fork(conffd, ctlfd int, out [2]int) error {
	p := in.pod
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	attr := &syscall.ProcAttr{
		Files: []uintptr{uintptr(null), uintptr(out[0]), uintptr(out[1]), uintptr(ctlfd), uintptr(conffd)},
		Env:   append(slices.Clip(RuntimeEnv), p.marks()...),
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	pids := p.rec.pids()
	if pids == pidsOfContainer {
		// In the node's namespace the init lives on for the moment that it needs to kill what it has started; in the pod's it
		// dies with the holder.
		attr.Sys.Pdeathsig = syscall.SIGKILL
	}
	p.rec.Isolation.namespaces(attr.Sys, pids == pidsOfContainer)
	// Go's own monitor thread sleeps 20 µs at a time while anything goes on; an init with coarse timers spends half as
	// much on an exec. The container gets the slack that this process was given.
	unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(Slack), 0, 0, 0)
	argv := append(slices.Clip(p.self), "init", p.data, p.rec.UID, in.rec.Name)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fenced || p.removing {
		return refusal(CodeFenced, "lease expired")
	}
	var pid int
	if pids == pidsOfPod {
		pid, err = p.holder.fork(p.self, func() (int, error) { return syscall.ForkExec(selfExe, argv, attr) })
	} else {
		pid, err = syscall.ForkExec(selfExe, argv, attr)
	}
	if err != nil {
		return errors.New("start init: " + err.Error())
	}
	in.pid = pid
	p.inits[pid] = in
	return nil
}

// marks are the variables by which the pod's processes are found again.
func (p *pod) marks() []string {
	return []string{EnvPodUID + "=" + p.rec.UID, EnvPodDir + "=" + p.rec.WorkDir}
}

// Slack is the timer slack that supervisors and inits are started with: no timer of theirs has to be kept better, but those of the
// kernel that fence, which know no slack. Threads that start a command take on the container's. EnvSlack tells a supervisor which
// that is, in ns; without it, it is the one that it was started with.
const (
	Slack    = 10 * time.Millisecond
	EnvSlack = "MUSTER_TIMER_SLACK"
)

// RuntimeEnv is the environment of the tiny binary: one thread of Go code, whatever control groups say, a small heap, and nothing
// kept for profiles that nobody takes or for who reads the names of its mappings.
var RuntimeEnv = []string{
	"GOMAXPROCS=1", "GOGC=25",
	"GODEBUG=containermaxprocs=0,updatemaxprocs=0,memprofilerate=0,profstackdepth=1,decoratemappings=0",
}

// watch follows an instance to its end.
func (in *instance) watch() {
	p := in.pod
	var b [maxCtl]byte
	for {
		n, err := in.ctl.Read(b[:])
		if errors.Is(err, unix.ECONNRESET) {
			continue // it has ended with words of ours unread; its own are still to be read
		}
		if err != nil || n == 0 {
			break
		}
		f := fields{rest: b[1:n]}
		switch b[0] {
		case ctlStarted:
			in.begun(nil)
		case ctlRefused:
			text := "no reason given"
			for f.next() {
				if f.tag == 1 {
					text = f.str()
				}
			}
			in.begun(refusal(CodeCannotStart, text))
		case ctlExited:
			var s exitStatus
			for f.next() {
				switch f.tag {
				case 1:
					s.code = int32(f.int())
				case 2:
					s.signal = int32(f.int())
				}
			}
			p.mu.Lock()
			in.status, in.told = s, true
			p.mu.Unlock()
		}
	}
	<-in.reaped
	in.ctl.Close()
	in.begun(refusal(CodeOther, "its init ended before it could start"))
	drained := make(chan struct{})
	go func() {
		in.streams.Wait()
		close(drained)
	}()
	select {
	case <-drained:
	case <-time.After(drainLimit): // a process that escaped holds them
		in.closePipes()
		<-drained
	}
	in.log.close()
	p.mu.Lock()
	r := &in.rec
	r.Running, r.Finished, r.ExitCode, r.Signal = false, time.Now(), in.status.code, in.status.signal
	r.DroppedLines = in.log.droppedLines()
	switch {
	case p.fenced:
		r.Reason = ReasonLeaseExpired
	case r.ExitCode == 0:
		r.Reason = ReasonCompleted
	case r.Signal == int32(unix.SIGKILL) && oomKills(in.oomFile) > in.oomBefore:
		r.Reason = ReasonOOMKilled
	default:
		r.Reason = ReasonError
	}
	in.stored = false
	in.storeLocked()
	p.changedLocked()
	close(in.done)
	p.mu.Unlock()
	select {
	case p.forks <- func() {}: // have the loop try again should the disk be full
	case <-time.After(time.Second):
	}
	os.RemoveAll(filepath.Join(InstanceDir(r.Name, r.Instance), tmpDir))
}

func (in *instance) begun(err error) {
	in.pod.mu.Lock()
	defer in.pod.mu.Unlock()
	select {
	case <-in.started:
	default:
		in.refused = err
		close(in.started)
	}
}

func (in *instance) closePipes() {
	for _, f := range in.pipes {
		if f != nil {
			f.Close()
		}
	}
}

// term asks the container to end, once.
func (in *instance) term() {
	in.pod.mu.Lock()
	defer in.pod.mu.Unlock()
	if in.pid > 0 && !in.termed {
		in.termed = true
		unix.Kill(in.pid, unix.SIGTERM) // the init passes it on
	}
}

// kill ends every process of the instance.
func (in *instance) kill() {
	p := in.pod
	if p.rec.pids() != pidsOfContainer {
		if in.ctl != nil {
			in.ctl.Write([]byte{ctlKill})
		}
		select {
		case <-in.done:
			return
		case <-time.After(time.Second): // a stopped init: do its work
		}
		p.mu.Lock()
		pid := in.pid
		p.mu.Unlock()
		if pid > 0 {
			killUntilNone(killTimeout, func() []int { return descendants(pid) })
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if in.pid > 0 {
		unix.Kill(in.pid, unix.SIGKILL)
	}
}

func (p *pod) find(name, inst string) (*instance, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	in := p.newest[name]
	if in == nil || in.rec.Instance != inst {
		return nil, refusal(CodeNotFound, "no instance "+inst+" of container "+name)
	}
	return in, nil
}

func decodeTarget(b []byte) (name, inst string, grace time.Duration, err error) {
	f := fields{rest: b}
	for f.next() {
		switch f.tag {
		case 1:
			name = f.str()
		case 2:
			inst = f.str()
		case 3:
			grace = time.Duration(f.int())
		}
	}
	return name, inst, grace, f.err
}

// stop ends an instance. Each call has its own grace, so the shortest one counts.
func (p *pod) stop(b []byte) error {
	name, inst, grace, err := decodeTarget(b)
	if err != nil {
		return err
	}
	in, err := p.find(name, inst)
	if err != nil {
		return err
	}
	select {
	case <-in.done:
		return nil
	default:
	}
	if grace > 0 {
		in.term()
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-in.done:
			return nil
		case <-timer.C:
		}
	}
	in.kill()
	<-in.done
	return nil
}

// remove kills all that is left; the caller ends the process.
func (p *pod) remove() {
	p.mu.Lock()
	p.removing = true
	all := make([]*instance, 0, len(p.newest))
	for _, in := range p.newest {
		all = append(all, in)
	}
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, in := range all {
		wg.Go(func() {
			select {
			case <-in.done:
			default:
				in.kill()
				<-in.done
			}
		})
	}
	wg.Wait()
	p.endHolder()
}

// attach hands the connection to the instance's init, which serves execs on it. An instance that is starting is waited for: its
// record says from the start on that it runs, and who follows the records may ask before the init has told of it.
func (p *pod) attach(b []byte, c *net.UnixConn) error {
	name, inst, _, err := decodeTarget(b)
	if err != nil {
		return err
	}
	in, err := p.find(name, inst)
	if err != nil {
		return err
	}
	select {
	case <-in.done:
	case <-in.started: // within startLimit
	}
	select {
	case <-in.done:
		return refusal(CodeNotRunning, "container "+name+" has ended")
	default:
	}
	rc, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := rc.Control(func(fd uintptr) {
		_, _, serr = in.ctl.WriteMsgUnix([]byte{ctlConn}, unix.UnixRights(int(fd)), nil)
	}); err != nil {
		return err
	}
	if serr != nil {
		return refusal(CodeNotRunning, "container "+name+" has ended")
	}
	return nil
}

// prune removes the instances of a container but the newest, so that with the next one there are two.
func prune(name string) error {
	entries, err := os.ReadDir(ContainersDir)
	if err != nil {
		if os.IsNotExist(err) {
			return nil
		}
		return err
	}
	var old []string
	var newest string
	var newestTime time.Time
	for _, e := range entries {
		if n, _, ok := strings.Cut(e.Name(), "_"); !ok || n != name {
			continue
		}
		r, err := readRecord(filepath.Join(ContainersDir, e.Name(), StateFile))
		if err == nil && r.time("started").After(newestTime) {
			newest, newestTime = e.Name(), r.time("started")
		}
		old = append(old, e.Name())
	}
	for _, o := range old {
		if o != newest {
			if err := os.RemoveAll(filepath.Join(ContainersDir, o)); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeAll(fd int, b []byte) error {
	for off := 0; off < len(b); {
		n, err := unix.Pwrite(fd, b[off:], int64(off))
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		off += n
	}
	return nil
}
