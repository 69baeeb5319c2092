package guard

import (
	"errors"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/supervisor"
	"github.com/musterhq/muster/internal/atomicfile"
	"github.com/musterhq/muster/internal/fence"
)

// The files in a data directory.
const (
	lockFile   = "guard.lock"
	guardFile  = "guard"
	numberFile = "node-number"
)

const (
	// linger is how long a guard goes on without agent and supervisors.
	linger = 30 * time.Second
	// round is how often it looks at the node.
	round = time.Second
	// answerLimit bounds a connection to the port, maxAnswers how many there are at a moment; more wait in the backlog.
	answerLimit = 500 * time.Millisecond
	maxAnswers  = 32
	// maxClients bounds the connections on the socket; more are closed at once. A node has at most 1,000 supervisors,
	// which hold theirs for a moment each.
	maxClients = 1100
	// numberPort is the UDP port by which a node number is held.
	numberPort = 7704
	// MaxNode is the largest node number.
	MaxNode = 254
)

// server is the guard.
type server struct {
	data   string
	linger time.Duration
	lock   int
	page   int
	mem    *supervisor.MappedPage
	me     supervisor.SupervisorRecord

	mu     sync.Mutex
	agent  supervisor.SupervisorRecord
	listen net.Listener
	number int
	hold   *net.UDPConn
}

// Tiny runs any command of the tiny binary and returns its exit status: the guard, or what supervisor.Main knows. self is
// how this binary is called up to args.
func Tiny(self, args []string) int {
	if len(args) > 0 && args[0] == "guard" {
		return Main(args[1:])
	}
	return supervisor.Main(self, args)
}

// Main runs "guard DATA LISTEN [LINGER]" and returns its exit status: args are what follows "guard". It says "ok", "busy"
// when another guard has the directory, or what is wrong on descriptor 3, and closes it. LINGER replaces the 30 s.
func Main(args []string) int {
	if len(args) != 2 && len(args) != 3 {
		os.Stderr.WriteString("usage: muster-supervisor guard DATA LISTEN [LINGER]\n")
		return 2
	}
	ready := os.NewFile(3, "ready")
	unix.CloseOnExec(3)
	stop := make(chan os.Signal, 1)
	hup := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM)
	signal.Notify(hup, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT) // a terminal's are not for us
	s := &server{data: args[0], linger: linger}
	if len(args) == 3 {
		d, err := time.ParseDuration(args[2])
		if err != nil {
			ready.WriteString(err.Error())
			return 2
		}
		s.linger = d
	}
	l, err := s.begin(args[1])
	if err != nil {
		ready.WriteString(err.Error())
		return 1
	}
	ready.WriteString("ok")
	ready.Close()
	go s.serve(l)
	return s.watch(stop)
}

var errBusy = errors.New("busy")

func (s *server) begin(listen string) (*net.UnixListener, error) {
	unix.Umask(0o077)
	if err := os.Chdir(s.data); err != nil {
		return nil, err
	}
	var err error
	if s.lock, err = unix.Open(lockFile, unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err != nil {
		return nil, &os.PathError{Op: "open", Path: lockFile, Err: err}
	}
	if err := unix.Flock(s.lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errBusy
	}
	st, err := supervisor.ReadStat(os.Getpid())
	if err != nil {
		return nil, err
	}
	s.me = supervisor.SupervisorRecord{PID: st.PID, StartTime: st.StartTime, BootID: supervisor.BootID(), Version: supervisor.Version}
	if s.page, err = takePage(supervisors()); err != nil {
		return nil, err
	}
	if s.mem, err = supervisor.MapPage(s.page); err != nil {
		return nil, err
	}
	if err := s.relisten(listen); err != nil {
		return nil, err
	}
	os.Remove(supervisor.GuardSocket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: supervisor.GuardSocket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	return l, s.me.Write(guardFile)
}

// pod is a pod of the data directory with its supervisor, which may be dead.
type pod struct {
	supervisor.PodRecord
	sup supervisor.SupervisorRecord
}

// inventory is what was last read of the data directory.
type inventory struct {
	pods []pod
	// changed is when the directory had last changed by then; zero if it has to be read again in any case.
	changed time.Time
}

// settled is how long a directory has to be unchanged for the time of its last change to tell whether there was another one.
const settled = time.Second

// look reads the directory unless nothing in it has changed: a pod that comes, goes, or is made anew changes it.
func (i *inventory) look() []pod {
	now := time.Now()
	fi, err := os.Stat(podsDir)
	if err != nil {
		*i = inventory{}
		return nil
	}
	if fi.ModTime().Equal(i.changed) {
		return i.pods
	}
	pods, whole := readPods()
	*i = inventory{pods: pods}
	if whole && now.Sub(fi.ModTime()) > settled {
		i.changed = fi.ModTime()
	}
	return pods
}

const podsDir = "pods"

// readPods lists the pods; whole is false when one is only being made.
func readPods() (pods []pod, whole bool) {
	entries, err := os.ReadDir(podsDir)
	if err != nil {
		return nil, false
	}
	whole = true
	for _, e := range entries {
		dir := filepath.Join(podsDir, e.Name())
		sup, err := supervisor.ReadSupervisorRecord(dir)
		if err != nil {
			whole = false
			continue
		}
		rec, err := supervisor.ReadPodRecord(dir)
		if err != nil {
			whole = false
			continue
		}
		pods = append(pods, pod{rec, sup})
	}
	return pods, whole
}

// supervisors lists the living ones.
func supervisors() (alive []supervisor.SupervisorRecord) {
	pods, _ := readPods()
	for i := range pods {
		if pods[i].sup.Alive() {
			alive = append(alive, pods[i].sup)
		}
	}
	return alive
}

// watch looks at the node until nobody needs a guard any more.
func (s *server) watch(stop <-chan os.Signal) int {
	needed := time.Now()
	var known inventory
	tick := time.NewTicker(min(round, s.linger))
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return 0
		case <-tick.C:
		}
		pods := known.look()
		for i := range pods {
			if pods[i].sup.Fence == supervisor.FenceBestEffort {
				s.enforce(&pods[i])
			}
		}
		s.mu.Lock()
		agent := s.agent
		s.mu.Unlock()
		if agent.Alive() || slices.ContainsFunc(pods, func(p pod) bool { return p.sup.Alive() }) {
			needed = time.Now()
		} else if time.Since(needed) > s.linger {
			return 0
		}
	}
}

// enforce does for a pod without namespaces what the kernel does for others.
func (s *server) enforce(p *pod) {
	if p.sup.Alive() && !s.mem.Expired(p.FenceSlot, p.Epoch) {
		return
	}
	p.sup.Kill()
	supervisor.KillPod(p.PodRecord, round)
}

// relisten moves the port to addr, unless it is there already.
func (s *server) relisten(addr string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listen != nil {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			return err
		}
		h, p, err := net.SplitHostPort(s.listen.Addr().String())
		if err == nil && (port == "0" || port == p) && (host == h || host == "") {
			return nil
		}
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if s.listen != nil {
		s.listen.Close()
	}
	s.listen = l
	go s.answer(l)
	return nil
}

// answer serves the port.
func (s *server) answer(l net.Listener) {
	busy := make(chan struct{}, maxAnswers)
	for {
		busy <- struct{}{}
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			<-busy
			time.Sleep(50 * time.Millisecond) // out of descriptors
			continue
		}
		go func() {
			defer func() { c.Close(); <-busy }()
			c.SetDeadline(time.Now().Add(answerLimit))
			io.WriteString(c, s.line())
			// What the peer has sent is taken before closing, or the answer might be lost in a reset.
			c.(*net.TCPConn).CloseWrite()
			var b [512]byte
			for range 16 {
				if _, err := c.Read(b[:]); err != nil {
					break
				}
			}
		}()
	}
}

func (s *server) line() string {
	s.mu.Lock()
	agent := s.agent
	s.mu.Unlock()
	a := fence.GuardAnswer{BootID: supervisor.BootID(), Agent: fence.AgentDead, Supervisors: len(supervisors())}
	switch {
	case !agent.Alive():
	case agent.Stopped():
		a.Agent = fence.AgentStopped
	default:
		a.Agent = fence.AgentRunning
	}
	return a.String() + "\n"
}

// serve speaks with agents and supervisors on the socket. A request is a line:
//
//	page                          answered with the page's descriptor and "ok"
//	agent PID START LOOPBACK LISTEN   registers the agent; LOOPBACK is 1 for an address that needs a node number
//	ping
//
// The answer is a line: "ok …", or "error TEXT".
func (s *server) serve(l *net.UnixListener) {
	clients := make(chan struct{}, maxClients)
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			time.Sleep(50 * time.Millisecond) // out of descriptors
			continue
		}
		select {
		case clients <- struct{}{}:
			go func() {
				defer func() { c.Close(); <-clients }()
				for s.request(c) {
				}
			}()
		default:
			c.Close()
		}
	}
}

func (s *server) request(c *net.UnixConn) bool {
	line, err := readLine(c)
	if err != nil {
		return false
	}
	f := strings.Fields(line)
	reply, fd := "error unknown request", -1
	switch {
	case len(f) == 1 && f[0] == "ping":
		reply = "ok"
	case len(f) == 1 && f[0] == "page":
		reply, fd = "ok", s.page
	case len(f) == 5 && f[0] == "agent":
		if reply, err = s.register(f[1], f[2], f[3] == "1", f[4]); err != nil {
			reply = "error " + err.Error()
		}
	}
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	_, _, err = c.WriteMsgUnix([]byte(strings.ReplaceAll(reply, "\n", " ")+"\n"), rights, nil)
	return err == nil
}

func (s *server) register(pid, start string, loopback bool, listen string) (string, error) {
	n, err := strconv.Atoi(pid)
	if err != nil {
		return "", errors.New("pid: want a number")
	}
	ticks, err := strconv.ParseUint(start, 10, 64)
	if err != nil {
		return "", errors.New("start: want a number")
	}
	agent := supervisor.SupervisorRecord{PID: n, StartTime: ticks, BootID: supervisor.BootID()}
	if !agent.Alive() {
		return "", errors.New("no such agent")
	}
	if err := s.relisten(listen); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agent = agent
	if loopback && s.hold == nil {
		if err := s.takeNumberLocked(); err != nil {
			return "", err
		}
	}
	return "ok " + pidText(s.me) + " " + s.listen.Addr().String() + " " + strconv.Itoa(s.number), nil
}

func pidText(r supervisor.SupervisorRecord) string {
	return strconv.Itoa(r.PID) + " " + strconv.FormatUint(r.StartTime, 10)
}

// takeNumberLocked binds the address of the number that this directory had, or of the first that is free.
func (s *server) takeNumberLocked() error {
	try := make([]int, 0, MaxNode+1)
	if b, err := os.ReadFile(numberFile); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && n >= 1 && n <= MaxNode {
			try = append(try, n)
		}
	}
	for n := 1; n <= MaxNode; n++ {
		try = append(try, n)
	}
	var last error
	for _, n := range try {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 77, byte(n), 0), Port: numberPort})
		if err != nil {
			last = err
			continue
		}
		if err := atomicfile.Write(numberFile, []byte(strconv.Itoa(n)+"\n"), 0o600); err != nil {
			c.Close()
			return err
		}
		s.hold, s.number = c, n
		return nil
	}
	return errors.New("no node number from 1 to " + strconv.Itoa(MaxNode) + " is free: " + last.Error())
}

// maxLine bounds a request or an answer on the socket, in bytes.
const maxLine = 512

// readLine reads up to a newline, byte by byte: lines are short and rare, and a descriptor may follow.
func readLine(c io.Reader) (string, error) {
	var b [maxLine]byte
	for n := range b {
		if _, err := io.ReadFull(c, b[n:n+1]); err != nil {
			return "", err
		}
		if b[n] == '\n' {
			return string(b[:n]), nil
		}
	}
	return "", errors.New("line too long")
}
