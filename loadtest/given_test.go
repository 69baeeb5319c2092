package loadtest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// someonesCoordinator is one that no test of ingest has started, with a pod that waits for a node.
type someonesCoordinator struct {
	target clientconfig.Context
	pods   musterv1.PodServiceClient
	nodes  musterv1.NodeServiceClient
	tokens musterv1.ClusterServiceClient
}

func startSomeones(t *testing.T) *someonesCoordinator {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "data")
	test := &IngestTest{cfg: ingestConfig()}
	c, err := test.startCoordinator(coordinatorJob{dir, "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.stop(); err != nil {
			t.Error(err)
		}
	})
	conf, err := clientconfig.Load(filepath.Join(dir, "client.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s := &someonesCoordinator{}
	if s.target, err = conf.Context(""); err != nil {
		t.Fatal(err)
	}
	conn, err := s.target.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	s.pods, s.nodes, s.tokens = musterv1.NewPodServiceClient(conn), musterv1.NewNodeServiceClient(conn), musterv1.NewClusterServiceClient(conn)
	other := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "other"}, Spec: spec.PodSpec{Containers: []spec.Container{{Name: "main", Command: []string{"true"}}}}}
	if _, err := s.pods.CreatePod(t.Context(), &musterv1.CreatePodRequest{Pod: wire.PodToProto(other)}); err != nil {
		t.Fatal(err)
	}
	return s
}

// leftAsFound fails the test where something of a test of ingest is there.
func (s *someonesCoordinator) leftAsFound(t *testing.T) {
	t.Helper()
	pods, err := s.pods.ListPods(t.Context(), &musterv1.ListPodsRequest{})
	if err != nil || len(pods.GetPods()) != 1 || pods.GetPods()[0].GetMeta().GetName() != "other" {
		t.Errorf("pods are left: %v, %v", pods.GetPods(), err)
	}
	nodes, err := s.nodes.ListNodes(t.Context(), &musterv1.ListNodesRequest{})
	if err != nil || len(nodes.GetNodes()) != 0 {
		t.Errorf("nodes are left: %v, %v", nodes.GetNodes(), err)
	}
	tokens, err := s.tokens.ListTokens(t.Context(), &musterv1.ListTokensRequest{})
	if err != nil || len(tokens.GetTokens()) != 0 {
		t.Errorf("tokens are left: %v, %v", tokens.GetTokens(), err)
	}
}

func TestAGivenCoordinatorIsMeasuredAndLeftAsItWasFound(t *testing.T) {
	t.Parallel()
	s := startSomeones(t)
	cfg := ingestConfig()
	cfg.Given, cfg.CoordinatorArgv, cfg.TempDir = &s.target, []string{"/no/such/coordinator"}, t.TempDir()
	looked := false
	r, err := ingest(t.Context(), cfg, func(p IngestProgress) {
		if p.Sample == nil || looked {
			return
		}
		looked = true
		got, err := s.pods.GetPod(t.Context(), &musterv1.GetPodRequest{Namespace: "default", Name: "other"})
		if err != nil || got.GetPod().GetNode() != "" {
			t.Errorf("another's pod is on %q, %v", got.GetPod().GetNode(), err)
		}
		if _, err := ingest(t.Context(), cfg, func(IngestProgress) {}); err == nil || !strings.HasPrefix(err.Error(), "node loadtest-0 is there already") {
			t.Errorf("a second test beside the first: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range r.Table() {
		t.Log(strings.Join(row, " | "))
	}
	if !looked || r.ResultsPerSecond < 100 || r.CPU == nil || *r.CPU <= 0 || r.RSS == nil || *r.RSS < 1<<20 || r.Anon != nil || r.ChangeToWatcher == nil {
		t.Errorf("%+v", r)
	}
	if r.Given == nil || r.Given.Server != s.target.Server || r.Given.Version == "" || r.Given.Unmeasured != "" {
		t.Errorf("given: %+v", r.Given)
	}
	s.leftAsFound(t)
}

func TestATestThatIsEndedLeavesAGivenCoordinatorAsItWasFound(t *testing.T) {
	t.Parallel()
	s := startSomeones(t)
	cfg := ingestConfig()
	cfg.Given, cfg.Duration, cfg.TempDir = &s.target, time.Hour, t.TempDir()
	for _, at := range []string{"joining", "placing", ""} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := ingest(ctx, cfg, func(p IngestProgress) {
			if at == "" && p.Sample != nil || at != "" && strings.HasPrefix(p.Doing, at) {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, ErrNothing) {
			t.Errorf("ended while %s: %v", at, err)
		}
		s.leftAsFound(t)
	}
}

func TestAFleetOfAGivenCoordinatorIsNotRestarted(t *testing.T) {
	t.Parallel()
	s := startSomeones(t)
	cfg := ingestConfig()
	cfg.Given, cfg.TempDir = &s.target, t.TempDir()
	test, err := NewFleet(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := test.Run(t.Context(), func(IngestProgress) {})
	if err != nil {
		t.Fatal(err)
	}
	if r.Restart != nil || r.LastAck != nil || r.Churn == nil || r.Churn.Replaced < 1 || r.Churn.Cuts != 0 || r.CPUCores == nil || len(r.Failures) != 0 {
		t.Errorf("%+v", r)
	}
	if text := tableText(r.Table()); !strings.Contains(text, "a rollout, nodes lost, and the coordinator killed and restarted: it was given") {
		t.Error(text)
	}
	s.leftAsFound(t)
}

func tableText(rows [][]string) string {
	var b strings.Builder
	for _, row := range rows {
		b.WriteString(strings.Join(row, " | ") + "\n")
	}
	return b.String()
}

func TestWhatIsNotKnownOfAGivenCoordinatorIsNullAndSaid(t *testing.T) {
	r := aGivenIngestResult()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"cpu_us_per_result":null`, `"busy_cores":null`, `"rss_bytes":null`, `"anon_bytes":null`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the result lacks %s: %s", want, b)
		}
	}
	text := tableText(r.Table())
	for _, want := range []string{"cpu a result | unknown", "memory | unknown", "nothing is known: read the coordinator's metrics: refused"} {
		if !strings.Contains(text, want) {
			t.Errorf("the table lacks %q:\n%s", want, text)
		}
	}
}

func TestMetricsThatCanNotBeReadAreAnError(t *testing.T) {
	s := startSomeones(t)
	status, err := s.tokens.GetStatus(t.Context(), &musterv1.GetStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := metricsOf(&s.target, status.GetAddresses())
	if err != nil {
		t.Fatal(err)
	}
	before, err := m.use(t.Context())
	if err != nil || before.CPU <= 0 || before.RSS < 1<<20 || before.Anon >= 0 {
		t.Errorf("%+v, %v", before, err)
	}
	for want, change := range map[string]func(*scraped){
		"lack those":  func(m *scraped) { m.url = strings.TrimSuffix(m.url, "metrics") + "healthz" },
		"404":         func(m *scraped) { m.url += "/no/such" },
		"certificate": func(m *scraped) { m.client = http.DefaultClient },
	} {
		changed := *m
		change(&changed)
		if u, err := changed.use(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v, %v, want %q", u, err, want)
		}
	}
	if _, err := metricsOf(&s.target, nil); err == nil {
		t.Error("metrics without an address")
	}
}
