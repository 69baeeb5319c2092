package loadtest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// ingestConfig is a short test.
func ingestConfig() IngestConfig {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return IngestConfig{
		Agents: 3, Pods: 4, Probes: 3, Period: 100 * time.Millisecond, Warmup: time.Second, Duration: 2 * time.Second, Runs: 1, Seed: 1,
		CoordinatorArgv: []string{self, "coordinator"}, FleetArgv: []string{self, "agents"},
	}
}

func ingest(ctx context.Context, cfg IngestConfig, progress func(IngestProgress)) (*IngestResult, error) {
	t, err := NewIngest(cfg)
	if err != nil {
		return nil, err
	}
	return t.Run(ctx, progress)
}

func TestACoordinatorTakesInWhatItsAgentsOffer(t *testing.T) {
	cfg := ingestConfig()
	cfg.TempDir, cfg.Cores, cfg.Runs = t.TempDir(), 1, 2
	r, err := ingest(t.Context(), cfg, func(IngestProgress) {})
	if err != nil {
		t.Fatal(err)
	}
	// 36 probes each tenth of a second; what is on its way at the ends of the window may differ by a second's.
	if r.Offered < 250 || r.Offered > 400 || r.ResultsPerSecond < 0.5*r.Offered || r.ResultsPerSecond > 1.5*r.Offered {
		t.Errorf("%v results a second of %v offered, want about 360", r.ResultsPerSecond, r.Offered)
	}
	if *r.CPU <= 0 || *r.Busy > 4 || *r.Anon < 1<<20 || *r.RSS < *r.Anon || r.Given != nil || len(r.Runs) != 2 || len(r.CoordinatorCPUs) != 1 {
		t.Errorf("implausible: %+v", r)
	}
	if n := len(r.Series); n < 5 || r.Series[0].Run != 0 || r.Series[n-1].Run != 2 || r.Series[n-1].Changes == 0 || len(r.Curve) == 0 {
		t.Errorf("the report would have %+v, curve %v", r.Series, r.Curve)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "ingest-keys.txt"))
	if *update {
		want, err = []byte(keys(t, r)), os.WriteFile(filepath.Join("testdata", "ingest-keys.txt"), []byte(keys(t, r)), 0o644)
	}
	if err != nil || keys(t, r) != string(want) {
		t.Errorf("%v; the result has\n%s\nwant\n%s", err, keys(t, r), want)
	}
	if left, err := os.ReadDir(cfg.TempDir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestATestOfIngestThatIsEndedTellsTheRunsSoFar(t *testing.T) {
	cfg := ingestConfig()
	cfg.Duration, cfg.Runs, cfg.TempDir = time.Second, 100, t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	r, err := ingest(ctx, cfg, func(p IngestProgress) {
		if p.Run == 2 {
			cancel()
		}
	})
	if err != nil || !r.Interrupted || len(r.Runs) < 1 || len(r.Runs) > 5 {
		t.Errorf("%+v, %v", r, err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	if _, err := ingest(ctx, cfg, func(IngestProgress) { cancel() }); !errors.Is(err, ErrNothing) {
		t.Errorf("before the first: %v, want ErrNothing", err)
	}
	if left, err := os.ReadDir(cfg.TempDir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestWhatMakesNoSenseOfIngestIsRefused(t *testing.T) {
	for want, change := range map[string]func(*IngestConfig){
		"agents 0":     func(c *IngestConfig) { c.Agents = 0 },
		"pods 1001":    func(c *IngestConfig) { c.Pods = 1001 },
		"probes 4":     func(c *IngestConfig) { c.Probes = 4 },
		"100000 prob":  func(c *IngestConfig) { c.Agents, c.Pods = 1000, 100 },
		"period 99ms":  func(c *IngestConfig) { c.Period = 99 * time.Millisecond },
		"duration 1ms": func(c *IngestConfig) { c.Duration = time.Millisecond },
		"warm-up -1s":  func(c *IngestConfig) { c.Warmup = -time.Second },
		"cores 4096":   func(c *IngestConfig) { c.Cores = 4096 },
		"runs 101":     func(c *IngestConfig) { c.Runs = 101 },
	} {
		cfg := ingestConfig()
		change(&cfg)
		if _, err := NewIngest(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
