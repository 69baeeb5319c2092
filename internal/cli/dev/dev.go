// Package dev runs a whole cluster on one machine for people who try or develop things: one coordinator and some agents,
// each a process of its own, on loopback. It can also end a node the way a machine loses its power, and take away what a
// killed cluster has left.
//
// It knows the parts by their command lines and data directories only; what they do is theirs. It restarts nothing.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/musterhq/muster/agent/cgroup"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/datadir"
)

// ContextName is the context that a cluster on this machine gets.
const ContextName = "dev"

// MaxNodes is as many nodes as one machine takes: each needs a network of its own in 127.77.0.0/16.
const MaxNodes = 100

// Config says what cluster to run.
type Config struct {
	// Program is the muster to run the parts with.
	Program string
	// Dir has the parts' data directories: coordinator, node-1, ….
	Dir string
	// Nodes is 1 to MaxNodes.
	Nodes int
	// Images is what the agents get as --images: ignore or refuse.
	Images string
	// FreePorts never takes a default port.
	FreePorts bool
	// ContextFile is the client config that gets the cluster as its current context; empty: none.
	ContextFile string
	// Files are applied once the cluster is ready.
	Files []string
	// Colour tells the parts' logs apart by colours.
	Colour bool
}

// Apply applies files to the cluster that the client config tells of.
type Apply func(ctx context.Context, clientConfig string, files []string) error

// Dev is one cluster.
type Dev struct {
	cfg            Config
	apply          Apply
	stdout, stderr *prefixed
	// ended gets every part that has ended.
	ended chan *part
	parts []*part
	// ending are the goroutines that tell ended.
	ending sync.WaitGroup
}

// part is one server.
type part struct {
	name string
	cmd  *exec.Cmd
	// err is how it ended; to be read once done is closed.
	err  error
	done chan struct{}
}

// New checks cfg. The word that the cluster is ready goes to stdout, everything else to stderr.
func New(cfg Config, apply Apply, stdout, stderr io.Writer) (*Dev, error) {
	if cfg.Nodes < 1 || cfg.Nodes > MaxNodes {
		return nil, fmt.Errorf("--nodes %d: want 1 to %d", cfg.Nodes, MaxNodes)
	}
	if cfg.Images != "ignore" && cfg.Images != "refuse" {
		return nil, fmt.Errorf("--images %s: want ignore or refuse", cfg.Images)
	}
	abs, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	cfg.Dir = abs
	for _, f := range cfg.Files {
		if _, err := os.Stat(f); f != "-" && err != nil {
			return nil, err
		}
	}
	mu := &sync.Mutex{}
	return &Dev{
		cfg: cfg, apply: apply, ended: make(chan *part, cfg.Nodes+1),
		stdout: &prefixed{mu: mu, out: stdout}, stderr: &prefixed{mu: mu, out: stderr},
	}, nil
}

// Run starts the cluster and returns once ctx has ended, or the process was told to stop, and everything is gone: parts,
// pods, supervisors and guards. Told twice, it kills. An error is a cluster that did not come up, or did not go.
func (d *Dev) Run(ctx context.Context) error {
	hold, err := datadir.Lock(d.cfg.Dir, datadir.Dev, "")
	if err != nil {
		return err
	}
	defer hold.Close()
	ctx, hurry, release := d.signals(ctx)
	defer release()
	if err := d.sweep(ctx); err != nil {
		return err
	}
	runErr := d.run(ctx, hold)
	if ctx.Err() != nil {
		runErr = nil // it was told to stop, and what that broke is no news
	}
	return errors.Join(runErr, d.stop(hurry))
}

// signals ends ctx with the first signal and hurry with the second.
func (d *Dev) signals(parent context.Context) (ctx, hurry context.Context, release func()) {
	ctx, cancel := context.WithCancel(parent)
	hurry, hurryNow := context.WithCancel(context.WithoutCancel(parent))
	got := make(chan os.Signal, 4)
	signal.Notify(got, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	finished, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 1; ; n++ {
			select {
			case <-got:
			case <-finished:
				return
			}
			if n == 1 {
				d.say("stopping; once more kills at once")
				cancel()
			} else {
				hurryNow()
			}
		}
	}()
	return ctx, hurry, func() {
		signal.Stop(got)
		close(finished)
		<-done
		cancel()
		hurryNow()
	}
}

// sweep ends what a killed dev has left in this directory.
func (d *Dev) sweep(ctx context.Context) error {
	n, err := kill(ctx, d.everything)
	if n > 0 {
		d.say("ended %d processes that an earlier muster dev has left", n)
	}
	return err
}

// say tells people something, on stderr.
func (d *Dev) say(format string, args ...any) {
	fmt.Fprintf(d.stderr, format+"\n", args...)
}

func (d *Dev) run(ctx context.Context, hold *datadir.Dir) error {
	addresses, err := d.startCoordinator(ctx)
	if err != nil {
		return err
	}
	if err := hold.WriteAddresses(addresses); err != nil {
		return err
	}
	target, err := d.writeContext()
	if err != nil {
		return err
	}
	conn, err := target.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	token, err := d.token(ctx, musterv1.NewClusterServiceClient(conn))
	if err != nil {
		return err
	}
	for i := range d.cfg.Nodes {
		if err := d.startAgent(nodeName(i), addresses.Listen, token); err != nil {
			return err
		}
	}
	if err := d.untilReady(ctx, musterv1.NewNodeServiceClient(conn)); err != nil {
		return err
	}
	fmt.Fprintln(d.stdout, "muster is ready")
	if d.cfg.ContextFile == "" {
		d.say("use it with MUSTER_CONFIG=%s", d.clientConfig())
	}
	if len(d.cfg.Files) > 0 {
		if err := d.apply(ctx, d.clientConfig(), d.cfg.Files); err != nil {
			// The cluster is there all the same, and the manifests can be mended.
			d.say("%v", err)
		}
	}
	return d.watch(ctx)
}

// watch says which parts have ended, until ctx does or there are none left.
func (d *Dev) watch(ctx context.Context) error {
	for left := len(d.parts); left > 0; left-- {
		select {
		case <-ctx.Done():
			return nil
		case p := <-d.ended:
			d.say("%s has ended (%v) and is not started again", p.name, p.how())
		}
	}
	return errors.New("every part has ended")
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i+1) }

func (d *Dev) dir(part string) string { return filepath.Join(d.cfg.Dir, part) }

func (d *Dev) clientConfig() string { return filepath.Join(d.cfg.Dir, "client.yaml") }

// startCoordinator starts it and returns where it listens, once it does.
func (d *Dev) startCoordinator(ctx context.Context) (datadir.Addresses, error) {
	dir := d.dir("coordinator")
	args := []string{"coordinator", "--data-dir", dir, "--lease-ttl", "5s", "--agent-grace", "5s"}
	for _, l := range []struct {
		flag, what, port string
		udp              bool
	}{{"--listen", "the API", "7700", false}, {"--http-listen", "HTTPS", "7701", false}, {"--gossip-listen", "the gossip", "7702", true}} {
		port := l.port
		if d.cfg.FreePorts {
			port = "0"
		} else if taken(l.port, l.udp) {
			d.say("port %s is taken: %s gets a free one (%s)", l.port, l.what, filepath.Join(dir, "addresses.json"))
			port = "0"
		}
		args = append(args, l.flag, net.JoinHostPort("127.0.0.1", port))
	}
	// What a killed coordinator has left names a port that this one may not have.
	if err := os.Remove(filepath.Join(dir, "addresses.json")); ignore(err, fs.ErrNotExist) != nil {
		return datadir.Addresses{}, err
	}
	p, err := d.start("coordinator", nil, args...)
	if err != nil {
		return datadir.Addresses{}, err
	}
	var addresses datadir.Addresses
	return addresses, d.until(ctx, p, func() (bool, error) {
		if addresses, err = datadir.ReadAddresses(dir); err != nil || addresses.Listen == "" {
			return false, ignore(err, fs.ErrNotExist)
		}
		_, err := os.Stat(filepath.Join(dir, "client.yaml"))
		return err == nil, ignore(err, fs.ErrNotExist)
	})
}

func ignore(err, which error) error {
	if errors.Is(err, which) {
		return nil
	}
	return err
}

// taken tells whether somebody listens on the port already.
func taken(port string, udp bool) bool {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return true
	}
	l.Close()
	if !udp {
		return false
	}
	c, err := net.ListenPacket("udp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return true
	}
	c.Close()
	return false
}

func (d *Dev) startAgent(name, join, token string) error {
	args := []string{
		"agent", "--data-dir", d.dir(name), "--node", name, "--join", join, "--advertise", "127.0.0.1",
		"--gossip-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0", "--guard-listen", "127.0.0.1:0",
		"--images", d.cfg.Images, "--allow-privileged-pods",
	}
	if os.Geteuid() == 0 {
		args = append(args, "--run-as", "root")
	}
	// Not among the arguments, which everybody on the machine can read.
	_, err := d.start(name, []string{"MUSTER_AGENT_TOKEN=" + token}, args...)
	return err
}

func (d *Dev) start(name string, env []string, args ...string) (*part, error) {
	cmd := exec.Command(d.cfg.Program, args...)
	cmd.Env = append(os.Environ(), env...)
	// In a group of its own: Ctrl-C is for dev, which stops the parts in their order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	log := d.stderr.named(name, len(d.parts), d.cfg.Colour)
	cmd.Stdout, cmd.Stderr = log, log
	// What an agent leaves behind may hold its stderr open.
	cmd.WaitDelay = 200 * time.Millisecond
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &part{name: name, cmd: cmd, done: make(chan struct{})}
	d.parts = append(d.parts, p)
	d.ending.Go(func() { // ends with the part, for which stop waits
		p.err = cmd.Wait()
		log.flush()
		close(p.done)
		d.ended <- p
	})
	return p, nil
}

// how is how it ended.
func (p *part) how() string {
	if p.err == nil || errors.Is(p.err, exec.ErrWaitDelay) {
		return "exit status 0"
	}
	return p.err.Error()
}

// until polls until cond holds, the part ends, or ctx does.
func (d *Dev) until(ctx context.Context, p *part, cond func() (bool, error)) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := cond(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.done:
			return fmt.Errorf("%s did not start (%s): its last lines say why", p.name, p.how())
		case <-tick.C:
		}
	}
}

// writeContext hands the coordinator's client config on.
func (d *Dev) writeContext() (clientconfig.Context, error) {
	conf, err := clientconfig.Load(filepath.Join(d.dir("coordinator"), "client.yaml"))
	if err != nil {
		return clientconfig.Context{}, err
	}
	target, err := conf.Context("")
	if err != nil {
		return target, err
	}
	target.Name = ContextName
	own := &clientconfig.Config{CurrentContext: ContextName, Contexts: []clientconfig.Context{target}}
	if err := own.Save(d.clientConfig()); err != nil || d.cfg.ContextFile == "" {
		return target, err
	}
	users, err := clientconfig.Load(d.cfg.ContextFile)
	if errors.Is(err, fs.ErrNotExist) {
		users, err = &clientconfig.Config{}, nil
	}
	if err != nil {
		return target, err
	}
	users.Set(target)
	users.CurrentContext = ContextName
	if err := users.Save(d.cfg.ContextFile); err != nil {
		return target, err
	}
	d.say("context %q in %s is the current one", ContextName, d.cfg.ContextFile)
	return target, nil
}

// token makes one token for all agents, as soon as there is a leader.
func (d *Dev) token(ctx context.Context, c musterv1.ClusterServiceClient) (token string, err error) {
	return token, d.until(ctx, d.parts[0], func() (bool, error) {
		callCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		r, err := c.CreateToken(callCtx, &musterv1.CreateTokenRequest{
			Role: musterv1.Role_ROLE_NODE, Uses: int32(d.cfg.Nodes), Ttl: durationpb.New(10 * time.Minute),
		})
		if code := status.Code(err); code == codes.Unavailable || code == codes.DeadlineExceeded {
			return false, nil
		}
		token = r.GetToken()
		return err == nil, err
	})
}

// untilReady waits until every node is Ready with a session of this run.
func (d *Dev) untilReady(ctx context.Context, c musterv1.NodeServiceClient) error {
	for i, p := range d.parts[1:] {
		err := d.until(ctx, p, func() (bool, error) {
			callCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			r, err := c.GetNode(callCtx, &musterv1.GetNodeRequest{Name: nodeName(i)})
			switch status.Code(err) {
			case codes.OK:
				n := r.GetNode()
				return n.GetSessionUp() && n.GetStatus().GetVerdict() == musterv1.NodeVerdict_NODE_VERDICT_READY, nil
			case codes.NotFound, codes.Unavailable, codes.DeadlineExceeded:
				return false, d.alive(d.parts[0])
			}
			return false, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// alive is an error once the part has ended.
func (d *Dev) alive(p *part) error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended (%s)", p.name, p.how())
	default:
		return nil
	}
}

// Times that stopping may take before what is left is killed: together well below 10 s.
const (
	agentStopTime       = 4 * time.Second
	podStopTime         = 2 * time.Second
	coordinatorStopTime = 2 * time.Second
)

// stop ends everything: the agents, so that nothing is restarted, then the pods, then the coordinator and what is left.
// What does not end in time, or once hurry has ended, is killed.
func (d *Dev) stop(hurry context.Context) error {
	agents := d.parts
	if len(d.parts) > 0 {
		agents = d.parts[1:]
		defer func() {
			for _, p := range d.parts {
				<-p.done
			}
		}()
	}
	terminate(hurry, agents, agentStopTime)
	d.stopPods(hurry)
	if len(d.parts) > 0 {
		terminate(hurry, d.parts[:1], coordinatorStopTime)
	}
	if _, err := kill(context.WithoutCancel(hurry), d.everything); err != nil {
		return err
	}
	return dropGroups(d.cfg.Dir)
}

// terminate sends SIGTERM and waits, at most as long as that.
func terminate(hurry context.Context, parts []*part, atMost time.Duration) {
	ctx, cancel := context.WithTimeout(hurry, atMost)
	defer cancel()
	for _, p := range parts {
		select {
		case <-p.done: // its number may be somebody else's by now
		default:
			_ = p.cmd.Process.Signal(syscall.SIGTERM) // it has ended in between
		}
	}
	for _, p := range parts {
		select {
		case <-p.done:
		case <-ctx.Done():
		}
	}
}

// stopPods asks the containers to end, through their inits, and waits for a while.
func (d *Dev) stopPods(hurry context.Context) {
	ctx, cancel := context.WithTimeout(hurry, podStopTime)
	defer cancel()
	asked := map[int]bool{}
	for {
		found, err := d.everything()
		if err != nil {
			return // kill, which comes next, meets the same error and tells it
		}
		supervisors := map[int]bool{}
		for _, p := range found {
			supervisors[p.pid] = p.isSupervisor()
		}
		left := 0
		for _, p := range found {
			if !supervisors[p.parent] {
				continue
			}
			left++
			if !asked[p.pid] {
				asked[p.pid] = true
				_ = p.signal(syscall.SIGTERM) // what cannot be asked is killed
			}
		}
		if left == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// isSupervisor tells whether the process supervises a pod.
func (p process) isSupervisor() bool {
	for i := 1; i <= 2 && i < len(p.argv); i++ {
		if p.argv[i] == "pod" {
			return true
		}
	}
	return false
}

// everything finds the processes of all parts below the directory.
func (d *Dev) everything() ([]process, error) { return below(d.cfg.Dir) }

// below finds the processes of every server whose data directory is directly below dir.
func below(dir string) ([]process, error) {
	parts, err := partsOf(dir)
	if err != nil {
		return nil, err
	}
	for i := range parts {
		parts[i] = filepath.Join(dir, parts[i])
	}
	return owned(claimBelow(dir), parts...)
}

// partsOf names the servers that have a data directory directly below dir.
func partsOf(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, ignore(err, fs.ErrNotExist)
	}
	var parts []string
	for _, e := range entries {
		if e.IsDir() && (e.Name() == "coordinator" || strings.HasPrefix(e.Name(), "node-")) {
			parts = append(parts, e.Name())
		}
	}
	return parts, nil
}

// dropGroups takes away the control groups that the nodes' pods have left.
func dropGroups(dir string) error {
	parts, err := partsOf(dir)
	if err != nil {
		return err
	}
	for _, p := range parts {
		groups, err := cgroup.New(cgroup.Config{DataDir: filepath.Join(dir, p)})
		if err != nil {
			return err
		}
		_, err = groups.Sweep(func(string) bool { return false }, 2*time.Second)
		groups.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// Kill ends a node of the cluster in dir as a machine that loses its power: agent, guard, supervisors and containers at
// once, without a word. It returns how many processes that were.
func Kill(ctx context.Context, dir, node string) (int, error) {
	parts, err := partsOf(dir)
	if err != nil {
		return 0, err
	}
	var nodes []string
	for _, p := range parts {
		if p == "coordinator" {
			continue
		}
		nodes = append(nodes, p)
		if p == node {
			return kill(ctx, func() ([]process, error) {
				return owned(claimOne(filepath.Join(dir, node)), filepath.Join(dir, node))
			})
		}
	}
	if len(nodes) == 0 {
		return 0, fmt.Errorf("no nodes in %s: pass the directory of a running muster dev with --data-dir", dir)
	}
	return 0, fmt.Errorf("no node %q in %s: there is %s", node, dir, strings.Join(nodes, ", "))
}

// Cleanup takes away what a killed dev has left: its processes, its directory, and its context in contextFile (empty:
// none). It refuses while a dev runs there, and leaves files that are not muster's.
func Cleanup(ctx context.Context, dir, contextFile string) (processes int, err error) {
	if _, err := os.Stat(dir); err != nil {
		return 0, ignore(err, fs.ErrNotExist)
	}
	if _, err := os.Stat(filepath.Join(dir, "muster.json")); err != nil {
		return 0, fmt.Errorf("%s is no directory of muster dev: nothing was touched", dir)
	}
	hold, err := datadir.Lock(dir, datadir.Dev, "")
	if errors.Is(err, datadir.ErrInUse) {
		return 0, fmt.Errorf("a muster dev is running there: stop it with Ctrl-C or SIGTERM (%w)", err)
	}
	if err != nil {
		return 0, err
	}
	defer hold.Close()
	if processes, err = kill(ctx, func() ([]process, error) { return below(dir) }); err != nil {
		return processes, err
	}
	if err := forget(dir, contextFile); err != nil {
		return processes, err
	}
	if err := dropGroups(dir); err != nil {
		return processes, err
	}
	parts, err := partsOf(dir)
	if err != nil {
		return processes, err
	}
	for _, name := range append(parts, "client.yaml", "muster.json", "pid", "addresses.json", "lock") {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return processes, err
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EBUSY) {
		return processes, err
	}
	return processes, nil
}

// forget takes the cluster's context out of the user's config, where it is this cluster's.
func forget(dir, contextFile string) error {
	own, err := clientconfig.Load(filepath.Join(dir, "client.yaml"))
	if err != nil || contextFile == "" {
		return ignore(err, fs.ErrNotExist)
	}
	users, err := clientconfig.Load(contextFile)
	if err != nil {
		return ignore(err, fs.ErrNotExist)
	}
	mine, err := own.Context("")
	if err != nil {
		return err
	}
	if theirs, err := users.Context(ContextName); err != nil || theirs.CA != mine.CA {
		return nil // another cluster's, or none
	}
	users.Remove(ContextName)
	return users.Save(contextFile)
}
