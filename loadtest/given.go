package loadtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

const (
	// simulatedLabel is on the nodes and pods of a test, and the taint of its nodes on a cluster that others use: no other pods are
	// placed on them, and none of its own elsewhere.
	simulatedLabel = "muster.dev/loadtest"
	// calls are how many requests to the API are under way at most.
	calls = 16
	// cleanAPod is how long it may take to take away one more pod.
	cleanAPod = 20 * time.Millisecond
)

// cleanLimit is how long it may take to take so many pods and their nodes away.
func cleanLimit(pods int) time.Duration { return time.Minute + time.Duration(pods)*cleanAPod }

// Given is a coordinator that a test did not start.
type Given struct {
	// Server is where it was reached, Version what it runs.
	Server  string `json:"server"`
	Version string `json:"version"`
	// Unmeasured is why nothing is known of its process; empty where its metrics tell.
	Unmeasured string `json:"unmeasured"`
}

// use is what a process has used, and has. What is unknown is negative.
type use struct {
	CPU       time.Duration
	RSS, Anon int64
}

var unknownUse = use{-1, -1, -1}

// since is the processor time that came after another look.
func (u use) since(before use) time.Duration {
	if u.CPU < 0 || before.CPU < 0 {
		return -1
	}
	return u.CPU - before.CPU
}

func useOf(pid int) (u use, err error) {
	if u.CPU, err = processorTimeOf(pid); err != nil {
		return u, err
	}
	m, err := memoryOf(pid)
	u.RSS, u.Anon = m.rss, m.anon
	return u, err
}

// used is what the coordinator has used so far.
func (f *fleet) used(ctx context.Context) (use, error) {
	switch {
	case f.job.Given == nil:
		return useOf(f.job.Coordinator)
	case f.metrics == nil:
		return unknownUse, nil
	}
	return f.metrics.use(ctx)
}

// scraped are the metrics of a coordinator.
type scraped struct {
	client *http.Client
	url    string
}

// metricsOf are those of the target's coordinator, which says itself at which port they are.
func metricsOf(target *clientconfig.Context, addresses map[string]string) (*scraped, error) {
	_, port, err := net.SplitHostPort(addresses["http"])
	if err != nil {
		return nil, errors.New("it does not say where its metrics are")
	}
	host, _, err := net.SplitHostPort(target.Server)
	if err != nil {
		return nil, err
	}
	conf, err := target.TLS()
	if err != nil {
		return nil, err
	}
	return &scraped{&http.Client{Timeout: scrapeTimeout, Transport: &http.Transport{TLSClientConfig: conf}}, "https://" + net.JoinHostPort(host, port) + "/metrics"}, nil
}

func (s *scraped) use(ctx context.Context) (use, error) {
	u := unknownUse
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return u, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return u, fmt.Errorf("read the coordinator's metrics: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return u, fmt.Errorf("read the coordinator's metrics: %s: %s", s.url, resp.Status)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		name, text, _ := strings.Cut(lines.Text(), " ")
		value, err := strconv.ParseFloat(text, 64)
		switch {
		case err != nil:
		case name == "process_cpu_seconds_total":
			u.CPU = time.Duration(value * float64(time.Second))
		case name == "process_resident_memory_bytes":
			u.RSS = int64(value)
		}
	}
	if err := lines.Err(); err != nil {
		return u, fmt.Errorf("read the coordinator's metrics: %w", err)
	}
	if u.CPU < 0 || u.RSS < 0 {
		return u, fmt.Errorf("the coordinator's metrics lack those of its process: %s", s.url)
	}
	return u, nil
}

// meet finds out what can be known of a given coordinator, and makes sure that nothing on it has the names of what the test makes.
func (f *fleet) meet(ctx context.Context) error {
	r, err := musterv1.NewClusterServiceClient(f.conn).GetStatus(ctx, &musterv1.GetStatusRequest{})
	if err != nil {
		return fmt.Errorf("ask the coordinator how it is: %w", err)
	}
	met := &Given{Server: f.target.Server, Version: r.GetVersion()}
	if f.metrics, err = metricsOf(&f.target, r.GetAddresses()); err == nil {
		_, err = f.metrics.use(ctx)
	}
	if err != nil {
		f.metrics, met.Unmeasured = nil, err.Error()
	}
	nodes := map[string]bool{}
	for i := range f.job.Agents {
		nodes[f.node(i)] = true
	}
	for page := ""; ; {
		r, err := musterv1.NewNodeServiceClient(f.conn).ListNodes(ctx, &musterv1.ListNodesRequest{PageSize: 5000, PageToken: page})
		if err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
		for _, n := range r.GetNodes() {
			if name := n.GetMeta().GetName(); nodes[name] {
				return fmt.Errorf("node %s is there already: another test is under way, or one was killed; then \"muster resume\", \"muster delete pods -n %s -l %s\" "+
					"and \"muster delete nodes -l %s\" take away what it has left", name, testNamespace, simulatedLabel, simulatedLabel)
			}
		}
		if page = r.GetNextPageToken(); page == "" {
			break
		}
	}
	pods, err := musterv1.NewPodServiceClient(f.conn).ListPods(ctx, &musterv1.ListPodsRequest{PageSize: 1, Filter: &musterv1.PodFilter{Namespace: testNamespace}})
	switch {
	case err != nil:
		return fmt.Errorf("list pods: %w", err)
	case len(pods.GetPods()) > 0:
		return fmt.Errorf("pod %s/%s is there already: the test needs this namespace for itself", testNamespace, pods.GetPods()[0].GetMeta().GetName())
	}
	return f.tell(fleetSaid{Met: met})
}

// fence taints the nodes before they take pods: they come with room for none.
func (f *fleet) fence(ctx context.Context) error {
	client := musterv1.NewNodeServiceClient(f.conn)
	limit := time.Now().Add(time.Minute + time.Duration(len(f.agents))*cleanAPod)
	err := f.each(ctx, func(ctx context.Context, i int, a *simulated) error {
		for {
			r, err := client.GetNode(ctx, &musterv1.GetNodeRequest{Name: f.node(i)})
			if err == nil {
				n := r.GetNode()
				n.Taints = wire.TaintsToProto([]spec.Taint{{Key: simulatedLabel, Effect: spec.NoSchedule}})
				err = uninterrupted(ctx, func(ctx context.Context) error {
					_, err := client.UpdateNode(ctx, &musterv1.UpdateNodeRequest{Node: n})
					return err
				})
			}
			switch code := status.Code(err); {
			case err == nil:
				a.admit(ctx)
				return nil
			case code != codes.NotFound && code != codes.Aborted || time.Now().After(limit):
				return fmt.Errorf("taint node %s: %w", f.node(i), err)
			case !sleep(ctx, 50*time.Millisecond):
				return ctx.Err()
			}
		}
	})
	return err
}

// each does something for every agent, some at a time.
func (f *fleet) each(ctx context.Context, do func(ctx context.Context, i int, a *simulated) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(calls)
	for i, a := range f.agents {
		g.Go(func() error { return do(ctx, i, a) })
	}
	return g.Wait()
}

// clean takes away what the test has made on a given cluster; ctx may have ended.
func (f *fleet) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit(f.job.Agents*f.job.Pods))
	defer cancel()
	_ = f.tell(fleetSaid{Doing: "taking pods and nodes away"}) // who listens may be gone
	err := f.deletePods(ctx)
	var mu sync.Mutex
	var left []error
	_ = f.each(ctx, func(ctx context.Context, i int, a *simulated) error {
		a.end()
		if err := f.deleteNode(ctx, f.node(i)); err != nil {
			mu.Lock()
			defer mu.Unlock()
			left = append(left, err)
		}
		return nil
	})
	if len(left) == 0 { // one whose session was about to open has come since
		left = append(left, f.deleteLate(ctx)...)
	}
	if len(left) > 0 {
		err = errors.Join(err, fmt.Errorf("%d nodes are left: %w", len(left), left[0]))
	}
	for _, id := range f.tokens {
		if _, revoked := musterv1.NewClusterServiceClient(f.conn).RevokeToken(ctx, &musterv1.RevokeTokenRequest{Id: id}); revoked != nil && status.Code(revoked) != codes.NotFound {
			err = errors.Join(err, fmt.Errorf("revoke token %s: %w", id, revoked))
		}
	}
	if err != nil {
		return fmt.Errorf("take away what the test has made: %w", err)
	}
	return nil
}

// deletePods deletes the test's pods, and waits until they are gone.
func (f *fleet) deletePods(ctx context.Context) error {
	client := musterv1.NewPodServiceClient(f.conn)
	for {
		r, err := client.ListPods(ctx, &musterv1.ListPodsRequest{PageSize: 5000, Filter: &musterv1.PodFilter{Namespace: testNamespace, LabelSelector: simulatedLabel + "=" + f.label}})
		if err != nil {
			return fmt.Errorf("list pods: %w", err)
		}
		if len(r.GetPods()) == 0 {
			return nil
		}
		g, each := errgroup.WithContext(ctx)
		g.SetLimit(calls)
		for _, p := range r.GetPods() {
			m := p.GetMeta()
			if m.GetDeleteTime() != nil {
				continue
			}
			g.Go(func() error {
				_, err := client.DeletePod(each, &musterv1.DeletePodRequest{Namespace: m.GetNamespace(), Name: m.GetName(), Uid: m.GetUid(), Grace: durationpb.New(0)})
				if err != nil && !slices.Contains([]codes.Code{codes.NotFound, codes.Aborted}, status.Code(err)) {
					return fmt.Errorf("delete pod %s: %w", m.GetName(), err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if !sleep(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%d pods are left: %w", len(r.GetPods()), ctx.Err())
		}
	}
}

// deleteLate forgets the nodes that there still are.
func (f *fleet) deleteLate(ctx context.Context) (left []error) {
	r, err := musterv1.NewNodeServiceClient(f.conn).ListNodes(ctx, &musterv1.ListNodesRequest{LabelSelector: simulatedLabel + "=" + f.label, PageSize: 5000})
	if err != nil {
		return []error{fmt.Errorf("list nodes: %w", err)}
	}
	for _, n := range r.GetNodes() {
		if err := f.deleteNode(ctx, n.GetMeta().GetName()); err != nil {
			left = append(left, err)
		}
	}
	return left
}

// deleteNode forgets a node once its session has ended.
func (f *fleet) deleteNode(ctx context.Context, name string) error {
	for {
		_, err := musterv1.NewNodeServiceClient(f.conn).DeleteNode(ctx, &musterv1.DeleteNodeRequest{Name: name})
		switch code := status.Code(err); {
		case err == nil, code == codes.NotFound: // it had no session yet
			return nil
		case code != codes.FailedPrecondition && code != codes.Aborted || !sleep(ctx, 50*time.Millisecond):
			return fmt.Errorf("delete node %s: %w", name, err)
		}
	}
}
