package loadtest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
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
	// Config is an admin's client config; Coordinator the coordinator's process.
	Config      string
	Coordinator int
	// Agents have Pods pods each, and those Probes probes, 1 to 3.
	Agents, Pods, Probes     int
	Period, Warmup, Duration time.Duration
	Runs                     int
	Seed                     uint64
}

// fleetSaid is a line that it writes: one of the three.
type fleetSaid struct {
	// Doing says what goes on before anything is measured.
	Doing  string        `json:",omitempty"`
	Sample *IngestSample `json:",omitempty"`
	Run    *ingestRun    `json:",omitempty"`
}

// IngestSample is how a coordinator does, told once a second.
type IngestSample struct {
	// Offered are results that the agents had in Seconds, CPU is what the coordinator used in them, in seconds.
	Offered, Seconds, CPU float64
	RSS                   int64
	WarmUp                bool
}

// ingestRun is what one run has measured.
type ingestRun struct {
	Seconds        float64
	Offered, Taken int64
	CPU            time.Duration
	// CPUSeconds is how long CPU was measured: the counts of what was taken are made around it.
	CPUSeconds float64
	RSS, Anon  int64
}

// CoordinatorPart is the process that takes results in: a coordinator in a directory of its own, whose name is the first line of in,
// and which goes with it. It writes a line once it serves, and ends with in. It is not for people to call.
func CoordinatorPart(ctx context.Context, in io.Reader, out io.Writer) error {
	signal.Ignore(syscall.SIGPIPE) // who listens may be gone: there is a directory to take away nevertheless
	var dir string
	ctx, cancel, err := told(ctx, in, &dir)
	if err != nil {
		return err
	}
	defer cancel()
	c, err := coordinator.New(coordinator.Config{
		DataDir: dir, Listen: "127.0.0.1:0", HTTPListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", Advertise: "127.0.0.1", Name: "loadtest",
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

// told reads what a part is told, one line of JSON, and returns a context that ends with in.
func told(ctx context.Context, in io.Reader, into any) (context.Context, context.CancelFunc, error) {
	lines := bufio.NewReaderSize(in, 1<<16)
	line, err := lines.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, into)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the job: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with the process: a read of stdin can't be ended
		_, _ = io.Copy(io.Discard, lines)
		cancel()
	}()
	return ctx, cancel, nil
}

// Fleet is the process of the simulated agents. It is not for people to call.
func Fleet(ctx context.Context, in io.Reader, out io.Writer) error {
	var j fleetJob
	ctx, cancel, err := told(ctx, in, &j)
	if err != nil {
		return err
	}
	defer cancel()
	enc := json.NewEncoder(out)
	f := &fleet{job: &j, tell: func(s fleetSaid) error { return enc.Encode(s) }}
	err = f.run(ctx)
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was told to end: what it has measured is told
	}
	return err
}

// fleet is a coordinator's simulated agents.
type fleet struct {
	job     *fleetJob
	tell    func(fleetSaid) error
	conn    *grpc.ClientConn
	server  string
	agents  []*simulated
	offered atomic.Int64
}

// run joins the agents, gives them their pods, and measures.
func (f *fleet) run(ctx context.Context) error {
	conf, err := clientconfig.Load(f.job.Config)
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
	f.server = target.Server
	if err := f.tell(fleetSaid{Doing: fmt.Sprintf("joining %d agents", f.job.Agents)}); err != nil {
		return err
	}
	if err := f.join(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for _, a := range f.agents {
		g.Go(func() error { return a.session.Run(ctx) })
	}
	g.Go(func() error {
		defer cancel()
		if err := f.tell(fleetSaid{Doing: fmt.Sprintf("placing %d pods", f.job.Agents*f.job.Pods)}); err != nil {
			return err
		}
		if err := f.place(ctx); err != nil {
			return err
		}
		for i, a := range f.agents {
			ids, _ := a.pods.probes()
			g.Go(func() error {
				a.feed(ctx, ids, f.job.Period, f.job.Seed+uint64(i), func(n int) { f.offered.Add(int64(n)) })
				return nil
			})
		}
		if _, err := f.watch(ctx, f.job.Warmup, true); err != nil {
			return err
		}
		for range f.job.Runs {
			if err := f.measure(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	return g.Wait()
}

// join gets each agent its certificate, as a node that comes with a token does.
func (f *fleet) join(ctx context.Context) error {
	made, err := musterv1.NewClusterServiceClient(f.conn).CreateToken(ctx, &musterv1.CreateTokenRequest{
		Role: musterv1.Role_ROLE_NODE, Ttl: durationpb.New(time.Hour), Uses: int32(f.job.Agents),
	})
	if err != nil {
		return fmt.Errorf("create a token: %w", err)
	}
	token, err := identity.ParseToken(made.GetToken())
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("passthrough:///"+f.server, grpc.WithTransportCredentials(credentials.NewTLS(identity.JoinTLS(token))))
	if err != nil {
		return err
	}
	defer conn.Close()
	for i := range f.job.Agents {
		node := fmt.Sprintf("node-%d", i)
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
		f.agents = append(f.agents, newSimulated(node, f.job.Pods, f.server, creds))
	}
	return nil
}

// pod is one of the pods: its probes are never made.
func (f *fleet) pod(i int) *spec.Pod {
	c := spec.Container{Name: "main", Command: []string{"sleep", "1000000"}}
	for n, at := range []**spec.Probe{&c.Readiness, &c.Liveness, &c.Startup}[:f.job.Probes] {
		*at = &spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{Port: spec.PortRef{Number: int32(80 + n)}}}, Period: f.job.Period, Timeout: timeout}
	}
	return &spec.Pod{Meta: spec.Meta{Namespace: "loadtest", Name: fmt.Sprintf("pod-%d", i)}, Spec: spec.PodSpec{Containers: []spec.Container{c}}}
}

// place makes the pods, and waits until every agent has its share: they take no more than that.
func (f *fleet) place(ctx context.Context) error {
	all := f.job.Agents * f.job.Pods
	g, creating := errgroup.WithContext(ctx)
	g.SetLimit(16)
	client := musterv1.NewPodServiceClient(f.conn)
	for i := range all {
		g.Go(func() error {
			if _, err := client.CreatePod(creating, &musterv1.CreatePodRequest{Pod: wire.PodToProto(f.pod(i))}); err != nil {
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
		held := 0
		for _, a := range f.agents {
			_, pods := a.pods.probes()
			held += pods
		}
		switch {
		case held == all:
			return nil
		case time.Now().After(limit):
			return fmt.Errorf("place the pods: %d of %d are assigned", held, all)
		case !sleep(ctx, 50*time.Millisecond):
			return ctx.Err()
		}
	}
}

// watch tells samples for so long, and returns the most memory that the coordinator had, in bytes.
func (f *fleet) watch(ctx context.Context, d time.Duration, warmUp bool) (most procMemory, err error) {
	end := time.Now().Add(d)
	at, offered := time.Now(), f.offered.Load()
	used, err := processorTimeOf(f.job.Coordinator)
	if err != nil {
		return most, err
	}
	for left := d; left > 0; left = time.Until(end) {
		if !sleep(ctx, min(left, sampleEvery)) {
			return most, ctx.Err()
		}
		now, n := time.Now(), f.offered.Load()
		cpu, err := processorTimeOf(f.job.Coordinator)
		if err != nil {
			return most, err
		}
		m, err := memoryOf(f.job.Coordinator)
		if err != nil {
			return most, err
		}
		most = procMemory{max(most.rss, m.rss), max(most.anon, m.anon)}
		s := &IngestSample{Offered: float64(n - offered), Seconds: now.Sub(at).Seconds(), CPU: (cpu - used).Seconds(), RSS: m.rss, WarmUp: warmUp}
		if err := f.tell(fleetSaid{Sample: s}); err != nil {
			return most, err
		}
		at, offered, used = now, n, cpu
	}
	return most, nil
}

// measure makes one run. What was taken is counted before and after the window of the processor time, as counting costs.
func (f *fleet) measure(ctx context.Context) error {
	before, err := f.taken(ctx)
	if err != nil {
		return err
	}
	counted, offered := time.Now(), f.offered.Load()
	cpu, err := processorTimeOf(f.job.Coordinator)
	if err != nil {
		return err
	}
	from := time.Now()
	most, err := f.watch(ctx, f.job.Duration, false)
	if err != nil {
		return err
	}
	after, err := processorTimeOf(f.job.Coordinator)
	if err != nil {
		return err
	}
	r := &ingestRun{CPU: after - cpu, CPUSeconds: time.Since(from).Seconds(), RSS: most.rss, Anon: most.anon}
	taken, err := f.taken(ctx)
	if err != nil {
		return err
	}
	r.Taken, r.Offered, r.Seconds = taken-before, f.offered.Load()-offered, time.Since(counted).Seconds()
	return f.tell(fleetSaid{Run: r})
}

// taken is how many results the coordinator has taken in: none ever failed, so that is each probe's unbroken run of them.
func (f *fleet) taken(ctx context.Context) (n int64, err error) {
	client := musterv1.NewProbeServiceClient(f.conn)
	for page := ""; ; {
		r, err := client.ListProbes(ctx, &musterv1.ListProbesRequest{PageSize: 5000, PageToken: page})
		if err != nil {
			return 0, fmt.Errorf("count what was taken in: %w", err)
		}
		for _, p := range r.GetProbes() {
			n += int64(p.GetRunLength())
		}
		if page = r.GetNextPageToken(); page == "" {
			return n, nil
		}
	}
}
