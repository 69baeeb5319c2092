package loadtest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// Times of a test of failover.
const (
	// failoverLease is the lease that Machines give their coordinator.
	failoverLease = 5 * time.Second
	// readyLimit is how long all nodes and pods may take to be Ready, moveLimit how long a lost node's pods may take to be it
	// elsewhere.
	readyLimit = 2 * time.Minute
	moveLimit  = time.Minute
	// wokenFor is how long an old instance that was woken with its node is looked out for, once all is Ready.
	wokenFor = 500 * time.Millisecond
	// lookEvery is how often files and what watches have told are looked at.
	lookEvery = 10 * time.Millisecond
)

// Machines is a cluster on this machine, node-1 and so on, whose nodes can be lost.
type Machines interface {
	// Start returns, once all nodes are Ready, an admin's client config.
	Start(ctx context.Context) (config string, err error)
	// Kill and Hang take a node away. They call first just before anything is done to it.
	Kill(ctx context.Context, node string, first func()) error
	Hang(ctx context.Context, node string, first func()) error
	// Boot undoes Kill, Wake undoes Hang.
	Boot(node string) error
	Wake(node string) error
	// Mend starts agents again that have ended by themselves.
	Mend() error
	// Stop ends everything, also where Start has failed.
	Stop(ctx context.Context) error
}

// failoverJob is what the process that has the cluster is told.
type failoverJob struct {
	Dir                  string
	Agents, Pods, Rounds int
	Kinds                []string
	Seed                 uint64
	Writer               []string
}

// failoverSaid is a line that it writes.
type failoverSaid struct {
	Doing string `json:",omitempty"`
	Round int    `json:",omitempty"`
	Loss  *Loss  `json:",omitempty"`
}

// FailoverPart is the process that has the cluster and loses its nodes. It ends with in, and takes everything with it, its directory
// too. It is not for people to call.
func FailoverPart(ctx context.Context, in io.Reader, out io.Writer, machines func(dir string, agents int, log io.Writer) (Machines, error), discard func(context.Context, string) error) (err error) {
	pipe := make(chan os.Signal, 1)
	// Who listens may be gone: there is a cluster to take away nevertheless. Not ignored, which its processes would inherit.
	signal.Notify(pipe, syscall.SIGPIPE)
	var j failoverJob
	ctx, cancel, _, err := told(ctx, in, &j)
	if err != nil {
		return err
	}
	defer cancel()
	defer func() { err = errors.Join(err, discard(ctx, j.Dir)) }()
	log := &lockedTail{}
	m, err := machines(j.Dir, j.Agents, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Stop(ctx)) }()
	enc := json.NewEncoder(out)
	f := &failover{job: &j, machines: m, tell: func(s failoverSaid) error { return enc.Encode(s) }, pods: map[string]*watched{}, nodes: map[string]*musterv1.Node{}}
	err = f.run(ctx)
	switch {
	case ctx.Err() != nil:
		return nil //nolint:nilerr // it was told to end: what it has measured is told
	case err != nil:
		return fmt.Errorf("%w; the cluster's log ends with\n%s", err, log.text())
	}
	return nil
}

// lockedTail is a tail for several writers.
type lockedTail struct {
	mu sync.Mutex
	tail
}

func (t *lockedTail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tail.Write(b)
}

// text is its last lines, so few that the process that hears of an error has room for them.
func (t *lockedTail) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.last[max(0, len(t.last)-2048):])
}

// watched is a pod as watches and its own file tell of it.
type watched struct {
	name, class, node string
	epoch             int64
	ready             bool
	// bound is when the epoch was first seen, readyAt when it was Ready.
	bound, readyAt time.Duration
	journal        journal
}

// failover is a test under way.
type failover struct {
	job      *failoverJob
	machines Machines
	tell     func(failoverSaid) error
	conn     *grpc.ClientConn

	mu sync.Mutex
	// pods are by uid.
	pods  map[string]*watched
	nodes map[string]*musterv1.Node
	// lost is the node that is lost, shown when it was first shown not to be Ready; 0: not yet.
	lost  string
	shown time.Duration
	// doubled are the second writers of fenced pods that were told.
	doubled int
}

func (f *failover) writers() string { return filepath.Join(f.job.Dir, "writers") }

func (f *failover) run(ctx context.Context) error {
	if err := os.Chmod(f.job.Dir, 0o711); err != nil { //nolint:gosec // pods go through it
		return err
	}
	if err := os.Mkdir(f.writers(), 0o777); err != nil { //nolint:gosec // any user's pod may write
		return err
	}
	if err := os.Chmod(f.writers(), 0o777); err != nil { //nolint:gosec // whatever the umask
		return err
	}
	if err := f.tell(failoverSaid{Doing: fmt.Sprintf("starting %d agents", f.job.Agents)}); err != nil {
		return err
	}
	file, err := f.machines.Start(ctx)
	if err != nil {
		return err
	}
	conf, err := clientconfig.Load(file)
	if err != nil {
		return err
	}
	target, err := conf.Context("")
	if err != nil {
		return err
	}
	if f.conn, err = target.Dial(); err != nil {
		return err
	}
	defer f.conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return f.watchNodes(ctx) })
	g.Go(func() error { return f.watchPods(ctx) })
	g.Go(func() error {
		defer cancel()
		return f.measure(ctx)
	})
	return g.Wait()
}

func (f *failover) measure(ctx context.Context) error {
	if err := f.tell(failoverSaid{Doing: fmt.Sprintf("starting %d pods", 2*f.job.Pods)}); err != nil {
		return err
	}
	if err := f.create(ctx); err != nil {
		return err
	}
	if err := f.settle(ctx); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(f.job.Seed, 0)) //nolint:gosec // it is to be the same each time
	round := 0
	for range f.job.Rounds {
		for _, kind := range f.job.Kinds {
			round++
			loss, err := f.round(ctx, r, round, kind)
			if err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
			if err := f.tell(failoverSaid{Loss: loss}); err != nil {
				return err
			}
		}
	}
	return nil
}

// pod is what all pods are.
func (f *failover) pod() spec.PodSpec {
	return spec.PodSpec{
		Containers: []spec.Container{{
			Name: "writer", Command: append(slices.Clone(f.job.Writer), f.writers()), Mounts: []spec.Mount{{Volume: "writers", Path: f.writers()}},
		}},
		Volumes:          []spec.Volume{{Name: "writers", HostPath: f.writers(), HostPathType: "Directory"}},
		TerminationGrace: time.Second,
	}
}

func (f *failover) create(ctx context.Context) error {
	labels := map[string]string{"app": "fast"}
	_, err := musterv1.NewDeploymentServiceClient(f.conn).CreateDeployment(ctx, &musterv1.CreateDeploymentRequest{Deployment: wire.DeploymentToProto(&spec.Deployment{
		Meta: spec.Meta{Namespace: "default", Name: "fast"},
		Spec: spec.DeploymentSpec{Replicas: int32(f.job.Pods), Selector: spec.Selector{Labels: labels}, Template: spec.PodTemplate{Labels: labels, Spec: f.pod()}}, //nolint:gosec // within its bounds
	})})
	if err != nil {
		return fmt.Errorf("create a Deployment: %w", err)
	}
	for i := range f.job.Pods {
		_, err := musterv1.NewPodServiceClient(f.conn).CreatePod(ctx, &musterv1.CreatePodRequest{Pod: wire.PodToProto(&spec.Pod{
			Meta: spec.Meta{Namespace: "default", Name: fmt.Sprintf("fenced-%d", i+1)}, Spec: f.pod(),
		})})
		if err != nil {
			return fmt.Errorf("create a pod: %w", err)
		}
	}
	return nil
}

func (f *failover) watchNodes(ctx context.Context) error {
	stream, err := musterv1.NewNodeServiceClient(f.conn).WatchNodes(ctx, &musterv1.WatchNodesRequest{})
	for err == nil {
		var r *musterv1.WatchNodesResponse
		if r, err = stream.Recv(); err == nil && r.GetNode() != nil {
			f.nodeIs(r.GetNode(), monotonic())
		}
	}
	return watchEnded(ctx, "nodes", err)
}

func (f *failover) watchPods(ctx context.Context) error {
	stream, err := musterv1.NewPodServiceClient(f.conn).WatchPods(ctx, &musterv1.WatchPodsRequest{})
	for err == nil {
		var r *musterv1.WatchPodsResponse
		if r, err = stream.Recv(); err == nil && r.GetPod() != nil {
			f.podIs(r.GetPod(), r.GetType() == musterv1.ChangeType_CHANGE_TYPE_DELETED, monotonic())
		}
	}
	return watchEnded(ctx, "pods", err)
}

func watchEnded(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watch the %s: %w", what, err)
}

func (f *failover) nodeIs(n *musterv1.Node, at time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := n.GetMeta().GetName()
	f.nodes[name] = n
	if name == f.lost && f.shown == 0 && n.GetStatus().GetVerdict() != musterv1.NodeVerdict_NODE_VERDICT_READY {
		f.shown = at
	}
}

func (f *failover) podIs(p *musterv1.Pod, deleted bool, at time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	uid := p.GetMeta().GetUid()
	if deleted {
		delete(f.pods, uid)
		return
	}
	w := f.pods[uid]
	if w == nil {
		w = &watched{name: p.GetMeta().GetName(), class: ClassFenced, journal: journal{path: filepath.Join(f.writers(), uid)}}
		if p.GetFailoverClass() == musterv1.FailoverClass_FAILOVER_CLASS_FAST {
			w.class = ClassFast
		}
		f.pods[uid] = w
	}
	if p.GetEpoch() != w.epoch {
		w.epoch, w.node, w.bound, w.readyAt = p.GetEpoch(), p.GetNode(), at, 0
	}
	w.ready = slices.ContainsFunc(p.GetStatus().GetConditions(), func(c *musterv1.Condition) bool {
		return c.GetType() == "Ready" && c.GetStatus() == "True"
	})
	if w.ready && w.readyAt == 0 {
		w.readyAt = at
	}
}

// until looks again and again whether cond finds nothing amiss any more.
func (f *failover) until(ctx context.Context, limit time.Duration, what string, cond func() (amiss string, err error)) error {
	end := time.Now().Add(limit)
	for {
		f.mu.Lock()
		amiss, err := cond()
		f.mu.Unlock()
		switch {
		case err != nil || amiss == "":
			return err
		case time.Now().After(end):
			why := ""
			if s, err := musterv1.NewClusterServiceClient(f.conn).GetStatus(ctx, &musterv1.GetStatusRequest{}); err == nil && s.GetFrozen() {
				why = "; failover is frozen: " + s.GetFrozenReason()
			}
			return fmt.Errorf("%s: not after %v: %s%s", what, limit, amiss, why)
		case !sleep(ctx, lookEvery):
			return ctx.Err()
		}
	}
}

// settle waits until all nodes and pods are Ready, and all that was written is read.
func (f *failover) settle(ctx context.Context) error {
	return f.until(ctx, readyLimit, "all nodes and pods are Ready", func() (string, error) {
		var amiss []string
		if err := f.machines.Mend(); err != nil {
			return "", err
		}
		ready := 0
		for name, n := range f.nodes {
			if n.GetSessionUp() && n.GetStatus().GetVerdict() == musterv1.NodeVerdict_NODE_VERDICT_READY {
				ready++
			} else {
				amiss = append(amiss, "node "+name)
			}
		}
		if ready < f.job.Agents {
			amiss = append(amiss, fmt.Sprintf("%d of %d nodes are", ready, f.job.Agents))
		}
		for _, p := range f.pods {
			if err := p.journal.read(); err != nil {
				return "", err
			}
			if !p.ready || len(p.journal.past) == 0 {
				amiss = append(amiss, "pod "+p.name)
			}
		}
		if len(f.pods) != 2*f.job.Pods {
			amiss = append(amiss, fmt.Sprintf("there are %d pods", len(f.pods)))
		}
		return strings.Join(amiss, ", "), nil
	})
}

// victim is a node that has pods of both classes, or else of one.
func (f *failover) victim(r *rand.Rand) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	classes := map[string]map[string]bool{}
	for _, p := range f.pods {
		if classes[p.node] == nil {
			classes[p.node] = map[string]bool{}
		}
		classes[p.node][p.class] = true
	}
	most, nodes := 0, []string{}
	for node, has := range classes {
		if len(has) > most {
			most, nodes = len(has), nil
		}
		if len(has) == most {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes) // else the seed would not tell which
	return nodes[r.IntN(len(nodes))]
}

// round loses a node, follows its pods, and has it back.
func (f *failover) round(ctx context.Context, r *rand.Rand, n int, kind string) (*Loss, error) {
	node := f.victim(r)
	// Renewals come once a second: a loss is at any moment between them.
	if !sleep(ctx, time.Duration(r.Int64N(int64(time.Second)))) {
		return nil, ctx.Err()
	}
	if err := f.tell(failoverSaid{Doing: kind + " " + node, Round: n}); err != nil {
		return nil, err
	}
	var begun time.Duration
	type moving struct {
		*watched
		was     int64
		doubled int
		started time.Duration
	}
	var moves []*moving
	first := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, p := range f.pods {
			if p.node == node {
				p.journal.began = nil
				moves = append(moves, &moving{watched: p, was: p.epoch, doubled: len(p.journal.double)})
			}
		}
		f.lost, f.shown, begun = node, 0, monotonic()
	}
	lose, back := f.machines.Kill, f.machines.Boot
	if kind == LossHang {
		lose, back = f.machines.Hang, f.machines.Wake
	}
	if err := lose(ctx, node, first); err != nil {
		return nil, fmt.Errorf("%s %s: %w", kind, node, err)
	}
	err := f.until(ctx, moveLimit, "the pods of "+node+" run elsewhere", func() (string, error) {
		var amiss []string
		for _, m := range moves {
			if err := m.journal.read(); err != nil {
				return "", err
			}
			for _, b := range m.journal.began {
				if b.epoch > m.was && m.started == 0 {
					m.started = b.at
				}
			}
			m.journal.began = nil
			if m.epoch == m.was || m.started == 0 || !m.ready {
				amiss = append(amiss, m.name)
			}
		}
		if f.shown == 0 {
			amiss = append(amiss, node+" is shown Ready")
		}
		return strings.Join(amiss, ", "), nil
	})
	if err != nil {
		return nil, err
	}
	since := func(at time.Duration) float64 { return float64(at-begun) / float64(time.Millisecond) }
	loss := &Loss{Kind: kind, Node: node}
	f.mu.Lock()
	loss.Shown = since(f.shown)
	f.lost = ""
	for _, m := range moves {
		loss.Moves = append(loss.Moves, Move{Pod: m.name, Class: m.class, To: m.node, Bound: since(m.bound), Started: since(m.started), Ready: since(m.readyAt)})
	}
	f.mu.Unlock()
	if err := back(node); err != nil {
		return nil, fmt.Errorf("have %s back: %w", node, err)
	}
	if err := f.settle(ctx); err != nil {
		return nil, err
	}
	// An old instance that was woken has its time to write.
	if !sleep(ctx, wokenFor) {
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	double := 0
	for _, p := range f.pods {
		if err := p.journal.read(); err != nil {
			return nil, err
		}
		if p.class == ClassFenced {
			double += len(p.journal.double)
		}
	}
	loss.Doubled, f.doubled = double-f.doubled, double
	for i, m := range moves {
		loss.Moves[i].Doubled = len(m.journal.double) > m.doubled
	}
	slices.SortFunc(loss.Moves, func(a, b Move) int { return cmp.Compare(a.Pod, b.Pod) })
	return loss, nil
}
