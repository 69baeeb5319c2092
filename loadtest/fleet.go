package loadtest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/musterhq/muster/coordinator"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/identity"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// fleetJob is what the process of simulated agents is told, as an engine is its job.
type fleetJob struct {
	// Config is an admin's client config; Coordinator the coordinator's process. Given is a coordinator that is not the test's own, which
	// the agents leave as they found it.
	Config      string
	Coordinator int
	Given       *clientconfig.Context
	// Agents have Pods pods each, and those Probes probes, 1 to 3.
	Agents, Pods, Probes     int
	Period, Warmup, Duration time.Duration
	Runs                     int
	Seed                     uint64
	// Churn and Restart come after the runs: pods replaced and connections cut for Duration, and the coordinator killed.
	Churn, Restart bool
}

// fleetTold is what it is told besides: the coordinator's new process, once it serves again.
type fleetTold struct{ Coordinator int }

// fleetSaid is a line that it writes: one of these.
type fleetSaid struct {
	// Doing says what goes on before anything is measured.
	Doing string `json:",omitempty"`
	// Met is said of a given coordinator, Refused instead of that when there can be no test with it.
	Met     *Given        `json:",omitempty"`
	Refused string        `json:",omitempty"`
	Sample  *IngestSample `json:",omitempty"`
	Run     *ingestRun    `json:",omitempty"`
	// Churned is what came of it, Kill asks for the coordinator's end by force and its restart, and Restarted is what came of that.
	Churned   *churned   `json:",omitempty"`
	Kill      bool       `json:",omitempty"`
	Restarted *restarted `json:",omitempty"`
}

// IngestSample is how a coordinator does, told once a second.
type IngestSample struct {
	// Offered are results that the agents had in Seconds, CPU is what the coordinator used in them, in seconds; it and RSS are negative
	// where they are unknown.
	Offered, Seconds, CPU float64
	RSS                   int64
	WarmUp                bool
	// Changes are the changes of a verdict that a watching client was told of in them, WatcherP50 and WatcherMax how long that took,
	// in ms.
	Changes                int64
	WatcherP50, WatcherMax float64
	// At is since the first sample, in seconds, Phase what went on, Run which run, from 1, was measured; 0: none.
	At    float64
	Phase string
	Run   int
}

// ingestRun is what one run has measured. CPU, RSS and Anon are negative where they are unknown.
type ingestRun struct {
	Seconds        float64
	Offered, Taken int64
	CPU            time.Duration
	// CPUSeconds is how long CPU was measured: the counts of what was taken are made around it.
	CPUSeconds float64
	RSS, Anon  int64
	// Writes are the store's revisions.
	Writes  int64
	Watcher watcherTimes
}

// coordinatorJob is what a coordinator of a test is told. Listen is where it serves; port 0: a free one.
type coordinatorJob struct{ Dir, Listen string }

// CoordinatorPart is the process that takes results in: a coordinator in a directory of its own, which the first line of in names,
// and which goes with it. It writes a line once it serves, and ends with in. It is not for people to call.
func CoordinatorPart(ctx context.Context, in io.Reader, out io.Writer) error {
	signal.Ignore(syscall.SIGPIPE) // who listens may be gone: there is a directory to take away nevertheless
	var j coordinatorJob
	ctx, cancel, _, err := told(ctx, in, &j)
	if err != nil {
		return err
	}
	defer cancel()
	dir := j.Dir
	c, err := coordinator.New(coordinator.Config{
		DataDir: dir, Listen: j.Listen, HTTPListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", Advertise: "127.0.0.1", Name: "loadtest",
		LeaseTTL: 10 * time.Second, AgentGrace: 10 * time.Second, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.Run(ctx) })
	g.Go(func() error {
		for sleep(ctx, 20*time.Millisecond) {
			if _, err := os.Stat(filepath.Join(dir, "client.yaml")); err == nil {
				_, err := io.WriteString(out, "{}\n")
				return err
			}
		}
		return nil
	})
	return errors.Join(g.Wait(), os.RemoveAll(dir))
}

// told reads what a part is told, one line of JSON, and returns a context that ends with in, and what else is said: the newest
// line is kept for whoever reads it.
func told(ctx context.Context, in io.Reader, into any) (context.Context, context.CancelFunc, <-chan []byte, error) {
	lines := bufio.NewReaderSize(in, 1<<16)
	line, err := lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, into)
	}
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the job: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	more := make(chan []byte, 1)
	go func() { // ends with the process: a read of stdin can't be ended
		defer cancel()
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				return
			}
			select {
			case more <- line:
			default: // nobody asked
			}
		}
	}()
	return ctx, cancel, more, nil
}

// Fleet is the process of the simulated agents. It is not for people to call.
func Fleet(ctx context.Context, in io.Reader, out io.Writer) error {
	signal.Ignore(syscall.SIGPIPE) // who listens may be gone: a given coordinator is left as it was nevertheless
	var j fleetJob
	ctx, cancel, more, err := told(ctx, in, &j)
	if err != nil {
		return err
	}
	defer cancel()
	enc := json.NewEncoder(out)
	f := &fleet{job: &j, label: rand.Text(), more: more, tell: func(s fleetSaid) error { return enc.Encode(s) }}
	err = f.run(ctx)
	if ctx.Err() != nil { // it was told to end: what it has measured is told
		err = nil
	}
	switch {
	case f.met:
		err = errors.Join(err, f.clean(ctx))
	case j.Given != nil && err != nil:
		err = f.tell(fleetSaid{Refused: err.Error()})
	}
	f.end()
	return err
}

// end ends the agents' sessions.
func (f *fleet) end() {
	all := slices.Concat(f.agents, f.lost)
	for _, a := range all {
		if a.stop != nil {
			a.stop()
		}
	}
	for _, a := range all {
		a.end()
	}
	if f.conn != nil {
		f.conn.Close()
	}
}

// fleet is a coordinator's simulated agents.
type fleet struct {
	job     *fleetJob
	more    <-chan []byte
	watcher *watcher
	// changing are the probes whose verdicts change, by agent, and counted as no results.
	changing map[*simulated]spec.ProbeID
	order    []*simulated
	quiet    atomic.Bool
	tell     func(fleetSaid) error
	conn     *grpc.ClientConn
	target   clientconfig.Context
	agents   []*simulated
	// lost are those that were.
	lost []*simulated
	// label is what simulatedLabel is on the nodes and pods: another one in each test.
	label string
	// tokens are those that the test has made.
	tokens []string
	// metrics are a given coordinator's; nil: unknown. met is whether what it has with the test's names is the test's.
	metrics *scraped
	met     bool
	offered atomic.Int64
}

// run joins the agents, gives them their pods, and measures.
func (f *fleet) run(ctx context.Context) error {
	if err := f.dial(); err != nil {
		return err
	}
	if f.job.Given != nil {
		if err := f.meet(ctx); err != nil {
			return err
		}
		f.met = true
	}
	if err := f.tell(fleetSaid{Doing: fmt.Sprintf("joining %d agents", f.job.Agents)}); err != nil {
		return err
	}
	if err := f.join(ctx); err != nil {
		return err
	}
	for _, a := range f.agents {
		a.start(ctx)
	}
	if f.job.Given != nil {
		if err := f.fence(ctx); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	f.watcher = &watcher{target: f.target, took: newHistogram(), lately: newHistogram()}
	g.Go(func() error {
		defer cancel()
		if err := f.tell(fleetSaid{Doing: fmt.Sprintf("placing %d pods", f.job.Agents*f.job.Pods)}); err != nil {
			return err
		}
		if err := f.place(ctx); err != nil {
			return err
		}
		f.pickChanging()
		g.Go(func() error { return f.watcher.run(ctx, f.watcher.probes) })
		g.Go(func() error { return f.watcher.run(ctx, f.watcher.nodes) })
		if err := f.settle(ctx); err != nil {
			return err
		}
		g.Go(func() error { return f.change(ctx) })
		for i, a := range f.agents {
			var skip *spec.ProbeID
			if id, ok := f.changing[a]; ok {
				skip = &id
			}
			g.Go(func() error {
				a.feed(ctx, skip, f.job.Period, f.job.Seed+uint64(i), func(n int) { f.offered.Add(int64(n)) })
				return nil
			})
		}
		if _, err := f.watch(ctx, f.job.Warmup, true); err != nil {
			return err
		}
		for range f.job.Runs {
			r, err := f.measure(ctx, f.job.Agents*f.job.Pods*f.job.Probes <= MaxAllProbes)
			if err != nil {
				return err
			}
			if err := f.tell(fleetSaid{Run: r}); err != nil {
				return err
			}
		}
		if f.job.Churn {
			if err := f.churn(ctx); err != nil {
				return err
			}
		}
		if f.job.Restart {
			return f.restart(ctx)
		}
		return nil
	})
	return g.Wait()
}

// dial connects to the coordinator as its admin.
func (f *fleet) dial() (err error) {
	if f.job.Given != nil {
		f.target = *f.job.Given
	} else {
		conf, err := clientconfig.Load(f.job.Config)
		if err != nil {
			return err
		}
		if f.target, err = conf.Context(""); err != nil {
			return err
		}
	}
	f.conn, err = f.target.Dial()
	return err
}

// testNamespace has the pods.
const testNamespace = "loadtest"

// node is an agent's.
func (f *fleet) node(i int) string { return fmt.Sprintf("loadtest-%d", i) }

// join gets each agent its certificate, as a node that comes with a token does.
func (f *fleet) join(ctx context.Context) error {
	for from := 0; from < f.job.Agents; from += tokenUses {
		if err := f.joinSome(ctx, from, min(f.job.Agents, from+tokenUses)); err != nil {
			return err
		}
	}
	return nil
}

// tokenUses are the most that one token has.
const tokenUses = 1000

func (f *fleet) joinSome(ctx context.Context, from, to int) error {
	var made *musterv1.CreateTokenResponse
	err := uninterrupted(ctx, func(ctx context.Context) (err error) {
		made, err = musterv1.NewClusterServiceClient(f.conn).CreateToken(ctx, &musterv1.CreateTokenRequest{
			Role: musterv1.Role_ROLE_NODE, Ttl: durationpb.New(time.Hour), Uses: int32(to - from),
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("create a token: %w", err)
	}
	token, err := identity.ParseToken(made.GetToken())
	if err != nil {
		return err
	}
	f.tokens = append(f.tokens, token.ID)
	conn, err := grpc.NewClient("passthrough:///"+f.target.Server, grpc.WithTransportCredentials(credentials.NewTLS(identity.JoinTLS(token))))
	if err != nil {
		return err
	}
	defer conn.Close()
	for i := from; i < to; i++ {
		node := f.node(i)
		key, err := identity.NewKey()
		if err != nil {
			return err
		}
		csr, err := identity.Request(key, node)
		if err != nil {
			return err
		}
		resp, err := agentv1.NewAgentServiceClient(conn).Join(ctx, &agentv1.JoinRequest{TokenId: token.ID, Secret: token.Secret, Node: node, Csr: csr})
		if err != nil {
			return fmt.Errorf("join as %s: %w", node, err)
		}
		creds, err := identity.NewCredentials(key, resp.GetCertificate(), resp.GetCa())
		if err != nil {
			return fmt.Errorf("join as %s: %w", node, err)
		}
		guard := "" // the others have none, and are never lost
		if i >= f.job.Agents-f.losing() {
			guard = closedPort
		}
		f.agents = append(f.agents, newSimulated(node, f.label, f.room(), f.job.Given == nil, guard, f.target.Server, creds))
	}
	return nil
}

// pod is one of the pods: its probes are never made.
func (f *fleet) pod(i int) *spec.Pod {
	c := spec.Container{Name: "main", Command: []string{"sleep", "1000000"}}
	for n, at := range []**spec.Probe{&c.Readiness, &c.Liveness, &c.Startup}[:f.job.Probes] {
		*at = &spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{Port: spec.PortRef{Number: int32(80 + n)}}}, Period: f.job.Period, Timeout: timeout}
	}
	p := &spec.Pod{
		Meta: spec.Meta{Namespace: testNamespace, Name: fmt.Sprintf("pod-%d", i), Labels: map[string]string{simulatedLabel: f.label}},
		Spec: spec.PodSpec{Containers: []spec.Container{c}},
	}
	if f.job.Given != nil { // it has other nodes
		p.Spec.NodeSelector = map[string]string{simulatedLabel: f.label}
		p.Spec.Tolerations = []spec.Toleration{{Key: simulatedLabel, Operator: spec.TolerationExists}}
	}
	return p
}

// place makes the pods, and waits until the agents have them all.
func (f *fleet) place(ctx context.Context) error {
	all := f.job.Agents * f.job.Pods
	if err := f.deploy(ctx, "1"); err != nil {
		return fmt.Errorf("create a Deployment: %w", err)
	}
	g, creating := errgroup.WithContext(ctx)
	g.SetLimit(calls)
	for i := range all - f.rolling() {
		g.Go(func() error {
			if err := f.create(creating, i); err != nil {
				return fmt.Errorf("create a pod: %w", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	limit := time.Now().Add(time.Minute + time.Duration(all)*20*time.Millisecond)
	for {
		held := f.held()
		switch {
		case held == all:
			return nil
		case time.Now().After(limit):
			return fmt.Errorf("place the pods: %d of %d are assigned", held, all)
		case !sleep(ctx, 100*time.Millisecond):
			return ctx.Err()
		}
	}
}

// create makes a pod.
func (f *fleet) create(ctx context.Context, i int) error {
	return uninterrupted(ctx, func(ctx context.Context) error {
		_, err := musterv1.NewPodServiceClient(f.conn).CreatePod(ctx, &musterv1.CreatePodRequest{Pod: wire.PodToProto(f.pod(i))})
		return err
	})
}

// uninterrupted makes a request that makes something, unless ctx has ended. It is not given up half way: it might make that after all else was
// taken away.
func uninterrupted(ctx context.Context, request func(context.Context) error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestLimit)
	defer cancel()
	return request(ctx)
}

// requestLimit is how long that may take.
const requestLimit = 30 * time.Second

// held is how many pods the agents have.
func (f *fleet) held() (n int) {
	for _, a := range f.agents {
		n += a.pods.count()
	}
	return n
}

// watch tells samples for so long, and returns the most memory that the coordinator had.
func (f *fleet) watch(ctx context.Context, d time.Duration, warmUp bool) (most use, err error) {
	most = unknownUse
	end := time.Now().Add(d)
	at, offered := time.Now(), f.offered.Load()
	before, err := f.used(ctx)
	if err != nil {
		return most, err
	}
	for left := d; left > 0; left = time.Until(end) {
		if !sleep(ctx, min(left, sampleEvery)) {
			return most, ctx.Err()
		}
		now, n := time.Now(), f.offered.Load()
		u, err := f.used(ctx)
		if err != nil {
			return most, err
		}
		most.RSS, most.Anon = max(most.RSS, u.RSS), max(most.Anon, u.Anon)
		s := &IngestSample{Offered: float64(n - offered), Seconds: now.Sub(at).Seconds(), CPU: u.since(before).Seconds(), RSS: u.RSS, WarmUp: warmUp}
		f.watcher.sample(s)
		if err := f.tell(fleetSaid{Sample: s}); err != nil {
			return most, err
		}
		at, offered, before = now, n, u
	}
	return most, nil
}

// measure makes one run. What was taken is counted before and after the window of the processor time, as counting costs.
// Without count that is not done.
func (f *fleet) measure(ctx context.Context, count bool) (*ingestRun, error) {
	f.watcher.begin()
	writes, err := f.revision(ctx)
	if err != nil {
		return nil, err
	}
	before, err := f.taken(ctx, count)
	if err != nil {
		return nil, err
	}
	counted, offered := time.Now(), f.offered.Load()
	was, err := f.used(ctx)
	if err != nil {
		return nil, err
	}
	from := time.Now()
	most, err := f.watch(ctx, f.job.Duration, false)
	if err != nil {
		return nil, err
	}
	is, err := f.used(ctx)
	if err != nil {
		return nil, err
	}
	r := &ingestRun{CPU: is.since(was), CPUSeconds: time.Since(from).Seconds(), RSS: most.RSS, Anon: most.Anon}
	taken, err := f.taken(ctx, count)
	if err != nil {
		return nil, err
	}
	r.Taken, r.Offered, r.Seconds = taken-before, f.offered.Load()-offered, time.Since(counted).Seconds()
	now, err := f.revision(ctx)
	r.Writes, r.Watcher = now-writes, f.watcher.times()
	return r, err
}

// taken is how many results the coordinator has taken in: none ever failed, so that is each probe's unbroken run of them.
func (f *fleet) taken(ctx context.Context, count bool) (n int64, err error) {
	if !count {
		return f.offered.Load(), nil
	}
	skip := map[string]musterv1.ProbeKind{}
	for _, id := range f.changing {
		skip[id.PodUID] = wire.ProbeKindToProto(id.Kind)
	}
	client := musterv1.NewProbeServiceClient(f.conn)
	for page := ""; ; {
		r, err := client.ListProbes(ctx, &musterv1.ListProbesRequest{Filter: &musterv1.ProbeFilter{Namespace: testNamespace}, PageSize: 5000, PageToken: page})
		if err != nil {
			return 0, fmt.Errorf("count what was taken in: %w", err)
		}
		for _, p := range r.GetProbes() {
			if kind, ok := skip[p.GetPod().GetUid()]; !ok || kind != p.GetKind() {
				n += int64(p.GetRunLength())
			}
		}
		if page = r.GetNextPageToken(); page == "" {
			return n, nil
		}
	}
}
