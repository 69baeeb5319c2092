// Package clustertest runs whole clusters of real processes, on loopback or each on a host of its own: one coordinator and
// some agents, each with a data directory of its own below the test's, driven through the command line as people drive
// it. Its tests are the promises of docs/failover.md and of the README, kept by the real thing.
//
// The program under test is named by MUSTER_BIN (make builds it); without it the tests are skipped, and fail where
// CI is set.
package clustertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/datadir"
	"github.com/musterhq/muster/internal/hosts"
)

// Cluster is one coordinator and its agents, laid out below Dir as "muster dev" lays them out.
type Cluster struct {
	// Dir has coordinator, node-1, node-2, ….
	Dir string
	// LeaseTTL and AgentGrace are given to the coordinator.
	LeaseTTL, AgentGrace time.Duration

	t     testing.TB
	bin   string
	procs map[string]*Process
	join  string
	// env is what servers have in their environment beside the test's own.
	env []string
	// net has a host for every server, of its name; nil on loopback.
	net *hosts.Net
	// coordinatorFlags are besides the usual ones.
	coordinatorFlags []string
}

// Process is one server of the cluster.
type Process struct {
	Name string
	Log  string
	cmd  *exec.Cmd
	done chan struct{}
}

// Pid is the server's process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends s to the server alone.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Option changes a cluster before it starts.
type Option func(*Cluster)

// WithLease sets the lease and the agent grace.
func WithLease(ttl, grace time.Duration) Option {
	return func(c *Cluster) { c.LeaseTTL, c.AgentGrace = ttl, grace }
}

// WithCoordinator gives coordinators more flags.
func WithCoordinator(flags ...string) Option {
	return func(c *Cluster) { c.coordinatorFlags = flags }
}

// WithEnv gives every server variables, as os.Environ has them.
func WithEnv(env ...string) Option {
	return func(c *Cluster) { c.env = env }
}

// OnHosts runs every server on a host of its own. It skips the test where that cannot be.
func OnHosts(t testing.TB, n int) Option {
	t.Helper()
	names := []string{"coordinator"}
	for i := range n {
		names = append(names, nodeName(i))
	}
	net := hosts.New(t, names...)
	return func(c *Cluster) { c.net = net }
}

func nodeName(i int) string { return fmt.Sprintf("node-%d", i+1) }

// Binary returns the program under test, or skips the test.
func Binary(t testing.TB) string {
	t.Helper()
	bin := os.Getenv("MUSTER_BIN")
	if testing.Short() {
		t.Skip("real processes: not with -short")
	}
	if bin == "" {
		if os.Getenv("CI") != "" {
			t.Fatal("MUSTER_BIN is not set: run this through make")
		}
		t.Skip("MUSTER_BIN is not set: run this through make")
	}
	return bin
}

// Start runs a coordinator and n agents named node-1 … and returns once all nodes are Ready. Everything is gone when
// the test ends.
func Start(t testing.TB, n int, opts ...Option) *Cluster {
	t.Helper()
	c := &Cluster{
		t: t, bin: Binary(t),
		LeaseTTL: 5 * time.Second, AgentGrace: 5 * time.Second,
		procs: map[string]*Process{},
	}
	for _, o := range opts {
		o(c)
	}
	// Not t.TempDir: its long names do not fit into the address of a unix socket when a test's name is long.
	dir, err := os.MkdirTemp("", "muster-")
	if err != nil {
		t.Fatal(err)
	}
	c.Dir = dir
	// A directory of "muster dev" is one that its cleanup takes away.
	mark, err := datadir.Lock(dir, datadir.Dev, "")
	if err == nil {
		err = mark.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	c.StartCoordinator()
	for i := range n {
		c.StartAgent(nodeName(i))
	}
	c.Eventually(30*time.Second, "all nodes are Ready", func() bool { return len(c.ReadyNodes()) == n })
	return c
}

// StartCoordinator starts the coordinator on its data directory and waits until it answers.
func (c *Cluster) StartCoordinator() *Process {
	c.t.Helper()
	anyPort := c.host("coordinator") + ":0"
	listen := anyPort
	if c.join != "" {
		listen = c.join // back on the address that the agents know
	}
	p := c.startCoordinator("coordinator", listen)
	c.Eventually(20*time.Second, "the coordinator answers", func() bool {
		if p.exited() {
			c.t.Fatalf("the coordinator has ended:\n%s", tail(p.Log))
		}
		addr := c.Address("coordinator", "listen")
		if addr == "" {
			return false
		}
		c.join = addr
		_, err := c.Try("status")
		return err == nil
	})
	return p
}

// startCoordinator starts one and does not wait.
func (c *Cluster) startCoordinator(name, listen string) *Process {
	c.t.Helper()
	anyPort := c.host("coordinator") + ":0"
	return c.start(name, append([]string{"coordinator", "--data-dir", c.dataDir(name), "--listen", listen,
		"--http-listen", anyPort, "--gossip-listen", anyPort,
		"--lease-ttl", c.LeaseTTL.String(), "--agent-grace", c.AgentGrace.String()}, c.coordinatorFlags...)...)
}

// StartAgent starts an agent, with a new token when its directory has no identity yet. It does not wait.
func (c *Cluster) StartAgent(name string, more ...string) *Process {
	c.t.Helper()
	anyPort := c.host(name) + ":0"
	args := []string{
		"agent", "--data-dir", c.dataDir(name), "--node", name, "--join", c.join,
		"--gossip-listen", anyPort, "--http-listen", anyPort, "--guard-listen", anyPort,
		"--advertise", c.host(name), "--images", "ignore", "--allow-privileged-pods",
	}
	if _, err := os.Stat(c.dataDir(name)); err != nil {
		args = append(args, "--token", strings.TrimSpace(c.Muster("token", "create")))
	}
	if os.Geteuid() == 0 {
		args = append(args, "--run-as", "root")
	}
	return c.start(name, append(args, more...)...)
}

func (c *Cluster) start(name string, args ...string) *Process {
	c.t.Helper()
	log := filepath.Join(c.Dir, name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command(c.bin, args...)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.Env = append(os.Environ(), c.env...)
	if err := c.launch(name, cmd); err != nil {
		c.t.Fatal(err)
	}
	p := &Process{Name: name, Log: log, cmd: cmd, done: make(chan struct{})}
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(p.done)
	}()
	c.procs[name] = p
	return p
}

// launch starts a command where the server of that name is.
func (c *Cluster) launch(name string, cmd *exec.Cmd) error {
	if c.net != nil {
		return c.net.Start(name, cmd)
	}
	return cmd.Start()
}

// client runs a command of a client to its end.
func (c *Cluster) client(cmd *exec.Cmd) error {
	if err := c.launch("coordinator", cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// host is the address of the server of that name.
func (c *Cluster) host(name string) string {
	if c.net != nil {
		return c.net.Address(name)
	}
	return "127.0.0.1"
}

func (p *Process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Wait waits until the server has ended.
func (p *Process) Wait(t testing.TB, timeout time.Duration) {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(timeout):
		t.Fatalf("%s has not ended within %v:\n%s", p.Name, timeout, tail(p.Log))
	}
}

// Process returns a server that was started.
func (c *Cluster) Process(name string) *Process { return c.procs[name] }

// Address is one of the addresses that a server has written down, empty before.
func (c *Cluster) Address(name, which string) string {
	b, err := os.ReadFile(filepath.Join(c.dataDir(name), "addresses.json"))
	if err != nil {
		return ""
	}
	var m map[string]string
	if json.Unmarshal(b, &m) != nil {
		return ""
	}
	return m[which]
}

func (c *Cluster) dataDir(name string) string { return filepath.Join(c.Dir, name) }

// Muster runs a client command that must succeed and returns what it wrote to stdout.
func (c *Cluster) Muster(args ...string) string {
	c.t.Helper()
	out, err := c.Try(args...)
	if err != nil {
		c.t.Fatalf("muster %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// Try runs a client command with a bound of 60 s.
func (c *Cluster) Try(args ...string) (string, error) { return c.run("", args...) }

func (c *Cluster) run(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env = append(os.Environ(), "MUSTER_CONFIG="+filepath.Join(c.dataDir("coordinator"), "client.yaml"))
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := c.client(cmd); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// Apply applies a manifest.
func (c *Cluster) Apply(manifest string) string {
	c.t.Helper()
	out, err := c.run(manifest, "apply", "-f", "-")
	if err != nil {
		c.t.Fatalf("apply: %v\n%s", err, manifest)
	}
	return out
}

// JSON runs a client command with -o json and decodes its answer.
func (c *Cluster) JSON(into any, args ...string) error {
	out, err := c.Try(append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal([]byte(out), into)
}

// Pod is what the tests look at in a pod.
type Pod struct {
	Metadata struct {
		Name, UID         string
		DeletionTimestamp string
	}
	Spec   struct{ NodeName string }
	Status struct {
		Phase, PodIP      string
		Conditions        []Condition
		ContainerStatuses []struct {
			Name           string
			Ready, Started bool
			RestartCount   int
			ContainerID    string
			State          map[string]json.RawMessage
			LastState      struct {
				Terminated *struct {
					ExitCode int
					Reason   string
				}
			}
		}
	}
}

// Condition is one condition of a pod or node.
type Condition struct{ Type, Status, Reason, Message string }

// Ready tells whether the condition Ready is True.
func (p *Pod) Ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

// Restarts is the restart count of the first container.
func (p *Pod) Restarts() int {
	if len(p.Status.ContainerStatuses) == 0 {
		return 0
	}
	return p.Status.ContainerStatuses[0].RestartCount
}

// Pods lists the pods that match the selector; none while the coordinator does not answer.
func (c *Cluster) Pods(selector string) []Pod {
	var list struct{ Items []Pod }
	args := []string{"get", "pods"}
	if selector != "" {
		args = append(args, "-l", selector)
	}
	if err := c.JSON(&list, args...); err != nil {
		return nil
	}
	return list.Items
}

// Pod returns one pod; the zero Pod while it is not there.
func (c *Cluster) Pod(name string) Pod {
	var p Pod
	if err := c.JSON(&p, "get", "pod", name); err != nil {
		var list struct{ Items []Pod }
		if c.JSON(&list, "get", "pod", name) == nil && len(list.Items) == 1 {
			return list.Items[0]
		}
		return Pod{}
	}
	if p.Metadata.Name == "" {
		var list struct{ Items []Pod }
		if c.JSON(&list, "get", "pod", name) == nil && len(list.Items) == 1 {
			return list.Items[0]
		}
	}
	return p
}

// ReadyNodes names the nodes whose condition Ready is True.
func (c *Cluster) ReadyNodes() []string {
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Status   struct{ Conditions []Condition }
		}
	}
	if c.JSON(&list, "get", "nodes") != nil {
		return nil
	}
	var names []string
	for _, n := range list.Items {
		for _, cond := range n.Status.Conditions {
			if cond.Type == "Ready" && cond.Status == "True" {
				names = append(names, n.Metadata.Name)
			}
		}
	}
	return names
}

// Eventually polls until cond holds and returns how long that took.
func (c *Cluster) Eventually(timeout time.Duration, what string, cond func() bool) time.Duration {
	c.t.Helper()
	poll := 50 * time.Millisecond
	if c.net != nil {
		poll *= 5 // several clusters share the machine
	}
	start := time.Now()
	for {
		if cond() {
			return time.Since(start)
		}
		if time.Since(start) > timeout {
			c.dump()
			c.t.Fatalf("not within %v: %s", timeout, what)
		}
		time.Sleep(poll)
	}
}

// Throughout checks that cond holds all the while.
func (c *Cluster) Throughout(d time.Duration, what string, cond func() bool) {
	c.t.Helper()
	for start := time.Now(); time.Since(start) < d; time.Sleep(100 * time.Millisecond) {
		if !cond() {
			c.dump()
			c.t.Fatalf("after %v no longer: %s", time.Since(start).Round(time.Millisecond), what)
		}
	}
}

func (c *Cluster) dump() {
	out, err := c.Try("get", "pods,nodes", "-o", "wide")
	c.t.Logf("pods and nodes: %s %v", out, err)
	for _, p := range c.procs {
		c.t.Logf("%s (pid %d):\n%s", p.Name, p.Pid(), tail(p.Log))
	}
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-6000):])
}

// KillMachine kills everything of a node at once, as a machine that loses its power: agent, guard, supervisors and
// containers.
func (c *Cluster) KillMachine(node string) {
	c.t.Helper()
	if c.net != nil {
		c.net.Kill(node)
		return
	}
	c.Muster("dev", "kill", node, "--data-dir", c.Dir)
}

// Supervisors are the pids of a node's pod supervisors.
func (c *Cluster) Supervisors(node string) []int {
	return c.find(func(argv []string) bool {
		return len(argv) > 1 && argv[1] == "pod" && mentions(argv, c.dataDir(node))
	})
}

// Guard is the pid of a node's guard, 0 without one.
func (c *Cluster) Guard(node string) int {
	pids := c.find(func(argv []string) bool {
		return len(argv) > 1 && argv[1] == "guard" && mentions(argv, c.dataDir(node))
	})
	if len(pids) == 0 {
		return 0
	}
	return pids[0]
}

func mentions(argv []string, dir string) bool {
	for _, a := range argv[1:] {
		if a == dir || strings.HasPrefix(a, dir+"/") || strings.HasSuffix(a, "="+dir) {
			return true
		}
	}
	return false
}

func (c *Cluster) find(match func(argv []string) bool) []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var pids []int
	for _, d := range dirs {
		b, err := os.ReadFile(d + "/cmdline")
		if err != nil || len(b) == 0 {
			continue
		}
		if match(strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")) {
			if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// stop ends every server, then whatever of the cluster still runs, and checks that this left nothing.
func (c *Cluster) stop() {
	if c.t.Failed() {
		c.dump()
	}
	for _, p := range c.procs {
		_ = p.Signal(syscall.SIGCONT)
		if err := p.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			c.t.Errorf("kill %s: %v", p.Name, err)
		}
		<-p.done
	}
	if c.net != nil {
		for name := range c.procs {
			c.net.Kill(name)
		}
		c.net = nil // what follows looks at what is left on the machine itself
	}
	if out, err := c.Try("dev", "cleanup", "--data-dir", c.Dir); err != nil {
		c.t.Errorf("cleanup: %v %s", err, out)
	}
	left := func() []int {
		return c.find(func(argv []string) bool { return mentions(append([]string{""}, argv...), c.Dir) })
	}
	for range 50 {
		if len(left()) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if pids := left(); len(pids) > 0 {
		c.t.Errorf("processes %v still run after cleanup", pids)
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		c.t.Errorf("remove the cluster's directory: %v", err)
	}
}
