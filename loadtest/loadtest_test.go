package loadtest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/container/containertest"
)

// TestMain makes this binary the processes of a test too, by its first argument.
func TestMain(m *testing.M) {
	part := ""
	if len(os.Args) > 2 && os.Args[1] == "loadtest" { // as muster's own parts are called
		os.Args = slices.Delete(os.Args, 1, 2)
	}
	if len(os.Args) > 1 {
		part = os.Args[1]
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var err error
	switch part {
	case "engine":
		err = Engine(ctx, os.Stdin, os.Stdout)
	case "target":
		f := flag.NewFlagSet("target", flag.ExitOnError)
		kinds, delay, body := f.String("kind", "", ""), f.Duration("delay", 0, ""), f.Int("body", 0, "")
		f.Bool("driven", false, "")
		_ = f.Parse(os.Args[2:])
		var targets []Target
		for k := range strings.SplitSeq(*kinds, ",") {
			targets = append(targets, Target{Kind: k, Delay: *delay, Body: *body})
		}
		err = Driven(ctx, targets, os.Stdin, os.Stdout)
	case "coordinator":
		err = CoordinatorPart(ctx, os.Stdin, os.Stdout)
	case "agents":
		err = Fleet(ctx, os.Stdin, os.Stdout)
	case "ingester":
		cfg := ingestConfig()
		cfg.Duration, cfg.TempDir = time.Hour, os.Args[2]
		_, err = ingest(ctx, cfg, func(p IngestProgress) {
			if p.Sample != nil {
				fmt.Println("runs")
			}
		})
	case "scrape":
		runtime.LockOSThread()
		err = Scrape(ctx, os.Stdin, os.Stdout)
	case "--config.file", "--version":
		err = standInExporter(os.Args[1:])
	case "tester":
		cfg := config(os.Args[2])
		cfg.Duration, cfg.TempDir, cfg.Supervisor = time.Hour, os.Args[3], os.Args[4:]
		_, err = start(ctx, cfg, func(Progress) { fmt.Println("runs") })
	default:
		code := m.Run()
		containertest.RemoveSupervisor()
		os.Exit(code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// config is a short test.
func config(kind string) Config {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Config{
		Kind: kind, Targets: 20, Period: 100 * time.Millisecond, Duration: 700 * time.Millisecond, Warmup: 300 * time.Millisecond, Runs: 1, Seed: 1,
		SlowBy: 50 * time.Millisecond, EngineArgv: []string{self, "engine"}, TargetArgv: []string{self, "target"},
	}
}

func start(ctx context.Context, cfg Config, progress func(Progress)) (*Result, error) {
	t, err := New(cfg)
	if err != nil {
		return nil, err
	}
	return t.Run(ctx, progress)
}

// probes runs a test that must succeed.
func probes(t *testing.T, cfg Config) *Result {
	t.Helper()
	r, err := start(t.Context(), cfg, func(Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEveryKindIsProbedAtItsRate(t *testing.T) {
	for _, kind := range []string{KindHTTP, KindHTTPS, KindTCP, KindGRPC} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			r := probes(t, config(kind))
			if r.ProbesPerSecond < 50 || r.ProbesPerSecond > 220 || r.Failed != 0 {
				t.Errorf("%v probes a second, %d failed; want about 200, none", r.ProbesPerSecond, r.Failed)
			}
			if r.CPU < 1 || r.CPU > 50_000 || r.Anon < 1<<20 || r.Anon > 1<<30 || r.RSS < r.Anon || *r.Latency.P50 <= 0 || *r.Latency.Max > 5000 {
				t.Errorf("implausible: cpu %v µs, anon %d, rss %d, latency %s", r.CPU, r.Anon, r.RSS, r.Latency.text())
			}
			if seen := *r.ConnectionsPerAttempt; seen < 0.9 || seen > 1.2 {
				t.Errorf("the targets have seen %v connections an attempt", seen)
			}
			if *r.Lag.Max < *r.Lag.P50 || *r.SlotMaxOverMean < 1 || r.EnginePeriod != 0.1 {
				t.Errorf("implausible: lag %s, spread %v, period %v", r.Lag.text(), *r.SlotMaxOverMean, r.EnginePeriod)
			}
		})
	}
}

func TestAClosedLoopAsksMoreThanAnyPeriodWould(t *testing.T) {
	t.Parallel()
	cfg := config(KindTCP)
	cfg.Period, cfg.Targets, cfg.Cores, cfg.Runs, cfg.Duration = 0, 0, 1, 3, 300*time.Millisecond
	r := probes(t, cfg)
	if r.ProbesPerSecond < 200 || !r.ClosedLoop || r.Targets != closedTargets || len(r.EngineCPUs) != 1 {
		t.Errorf("%+v", r)
	}
	if r.Missed != nil || r.Lag.P99 != nil || r.SlotMaxOverMean != nil {
		t.Errorf("missed %v, lag %v: nothing is due in a closed loop", r.Missed, r.Lag)
	}
	if s := r.Spread["probes_per_second"]; len(r.Runs) != 3 || s.Least > r.ProbesPerSecond || s.Most < r.ProbesPerSecond || s.Least <= 0 {
		t.Errorf("median %v of %d runs, spread %+v", r.ProbesPerSecond, len(r.Runs), s)
	}
}

func TestSlowAndFailingTargetsAreSeen(t *testing.T) {
	t.Parallel()
	cfg := config(KindHTTP)
	cfg.Slow, cfg.Failing = 50, 25
	r := probes(t, cfg)
	all := float64(r.Runs[0].Duration * r.ProbesPerSecond)
	if share := float64(r.Failed) / all; share < 0.1 || share > 0.4 {
		t.Errorf("%d of %v failed, want a quarter", r.Failed, all)
	}
	if *r.Latency.P99 < 49 || r.Curves[0][0].Latency > 45 {
		t.Errorf("latency %s, from %v ms on; want half 50 ms or more", r.Latency.text(), r.Curves[0][0].Latency)
	}
}

func TestGivenTargetsAreProbedAtTheirAddresses(t *testing.T) {
	t.Parallel()
	target, err := Target{Kind: KindTCP}.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- target.run(ctx) }()
	cfg := config(KindTCP)
	cfg.TargetArgv = []string{"/nonexistent"}
	cfg.Address = netip.AddrPortFrom(netip.MustParseAddr("127.90.0.1"), uint16(target.Port))
	if r := probes(t, cfg); r.Failed != 0 || r.ProbesPerSecond < 50 || r.ConnectionsPerAttempt != nil {
		t.Errorf("%v probes a second, %d failed, connections %v", r.ProbesPerSecond, r.Failed, r.ConnectionsPerAttempt)
	}
	if n := target.Connections(); n < 50 {
		t.Errorf("%d connections", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestExecProbesRunInRealPodsThatAreGoneAfterwards(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the supervisor")
	}
	cfg := config(KindExec)
	cfg.Targets, cfg.TempDir = 4, t.TempDir()
	if os.Geteuid() != 0 {
		if _, err := New(cfg); !errors.Is(err, ErrUnsupported) {
			t.Errorf("as an ordinary user: %v, want it refused", err)
		}
		return
	}
	if err := os.Chmod(filepath.Dir(cfg.TempDir), 0o711); err != nil {
		t.Fatal(err)
	}
	cfg.Supervisor = []string{containertest.BuildSupervisor(t)}
	r := probes(t, cfg)
	if r.Failed != 0 || r.ProbesPerSecond < 5 || r.CPUCommands == nil || *r.CPUCommands < 10 {
		t.Errorf("%v probes a second, %d failed, commands %v", r.ProbesPerSecond, r.Failed, r.CPUCommands)
	}
	if left, err := os.ReadDir(cfg.TempDir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if left := mentioning(t, cfg.TempDir); len(left) != 0 {
		t.Errorf("processes are left: %v", left)
	}
}

func TestATestThatIsEndedTellsWhatItHas(t *testing.T) {
	cfg := config(KindHTTP)
	cfg.Duration, cfg.Runs = time.Hour, 3
	ctx, cancel := context.WithCancel(t.Context())
	n := 0
	r, err := start(ctx, cfg, func(p Progress) {
		if n++; !p.Sample.WarmUp {
			cancel()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !r.Interrupted || len(r.Runs) != 1 || r.Duration <= 0 || r.Duration > 60 || r.ProbesPerSecond < 10 {
		t.Errorf("%+v", r)
	}
	if left := children(t, os.Getpid(), "engine"); len(left) != 0 {
		t.Errorf("processes are left: %v", left)
	}
}

func TestATestThatIsEndedInItsWarmUpHasMeasuredNothing(t *testing.T) {
	t.Parallel()
	cfg := config(KindHTTP)
	cfg.Warmup = time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := start(ctx, cfg, func(Progress) { cancel() }); !errors.Is(err, ErrNothing) {
		t.Errorf("%v, want ErrNothing", err)
	}
}

func TestNothingOutlivesATesterThatIsKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	args := map[string][]string{KindHTTP: {"tester", KindHTTP, dir}, "ingest": {"ingester", dir}}
	if os.Geteuid() == 0 && !testing.Short() {
		args[KindExec] = []string{"tester", KindExec, dir, containertest.BuildSupervisor(t)}
	}
	for kind, args := range args {
		cmd := exec.Command(self, args...)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		parts := slices.Concat(children(t, cmd.Process.Pid, "engine"), children(t, cmd.Process.Pid, "target"), children(t, cmd.Process.Pid, "coordinator"),
			children(t, cmd.Process.Pid, "agents"), mentioning(t, dir+"/muster-loadtest-"))
		if len(parts) < 2 {
			t.Fatalf("%s: its processes are %v, want an engine and targets", kind, parts)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		end := time.Now().Add(20 * time.Second)
		for slices.ContainsFunc(parts, alive) {
			if time.Now().After(end) {
				t.Fatalf("%s: of %v some live on", kind, parts)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s: left behind: %v, %v", kind, left, err)
		}
	}
}

// alive tells whether a process runs, and is no zombie that nobody collects.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// children are the processes that a process has started with that first argument.
func children(t *testing.T, parent int, arg string) (pids []int) {
	t.Helper()
	each(t, func(pid int, argv []string) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); err == nil && len(f) > 1 && f[1] == strconv.Itoa(parent) && len(argv) > 1 && argv[1] == arg {
			pids = append(pids, pid)
		}
	})
	return pids
}

// mentioning are the processes that have a text in their command line.
func mentioning(t *testing.T, text string) (pids []int) {
	t.Helper()
	each(t, func(pid int, argv []string) {
		if strings.Contains(strings.Join(argv, " "), text) && alive(pid) {
			pids = append(pids, pid)
		}
	})
	return pids
}

func each(t *testing.T, see func(pid int, argv []string)) {
	t.Helper()
	all, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if pid, err := strconv.Atoi(d.Name()); err == nil {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil {
				see(pid, strings.Split(strings.TrimRight(string(b), "\x00"), "\x00"))
			}
		}
	}
}

func TestWhatMakesNoSenseIsRefused(t *testing.T) {
	for want, change := range map[string]func(*Config){
		`kind "udp"`:       func(c *Config) { c.Kind = "udp" },
		"targets -1":       func(c *Config) { c.Targets = -1 },
		"targets 200001":   func(c *Config) { c.Targets = MaxTargets + 1 },
		"period 99ms":      func(c *Config) { c.Period = 99 * time.Millisecond },
		"period 2h0m0s":    func(c *Config) { c.Period = 2 * time.Hour },
		"duration 0s":      func(c *Config) { c.Duration = 0 },
		"warm-up 25h0m0s":  func(c *Config) { c.Warmup = 25 * time.Hour },
		"cores -1":         func(c *Config) { c.Cores = -1 },
		"cores 4096":       func(c *Config) { c.Cores = 4096 },
		"runs 0":           func(c *Config) { c.Runs = 0 },
		"slow 60":          func(c *Config) { c.Slow, c.Failing = 60, 50 },
		"body 10241":       func(c *Config) { c.Body = MaxBody + 1 },
		"are HTTP ones":    func(c *Config) { c.Kind, c.Slow = KindTCP, 1 },
		"have no address":  func(c *Config) { c.Kind, c.Address = KindExec, netip.MustParseAddrPort("127.0.0.1:1") },
		"port must be":     func(c *Config) { c.Address = netip.MustParseAddrPort("127.0.0.1:0") },
		"one IPv6":         func(c *Config) { c.Address = netip.MustParseAddrPort("[::1]:80") },
		"20 addresses of":  func(c *Config) { c.Address = netip.MustParseAddrPort("127.255.255.250:80") },
		"1h0m0s, or 0 for": func(c *Config) { c.Period = -1 },
	} {
		cfg := config(KindHTTP)
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestAPartThatDiesIsToldWithItsWords(t *testing.T) {
	dying := []string{"/bin/sh", "-c", "echo no luck >&2; exit 3"}
	for want, change := range map[string]func(*Config){
		"the engine ended early: exit status 3: no luck":  func(c *Config) { c.EngineArgv = dying },
		"the engine ended early: it said nothing":         func(c *Config) { c.EngineArgv = []string{"/bin/sh", "-c", "read job"} },
		"start the targets: exit status 3: no luck":       func(c *Config) { c.TargetArgv = dying },
		"start [/no/such/engine]: fork/exec /no/such/eng": func(c *Config) { c.EngineArgv = []string{"/no/such/engine"} },
	} {
		cfg := config(KindTCP)
		change(&cfg)
		if _, err := start(t.Context(), cfg, func(Progress) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// update writes testdata anew.
var update = flag.Bool("update", false, "write testdata anew")

func TestTheResultHasTheSameKeysAlways(t *testing.T) {
	t.Parallel()
	open, cfg := probes(t, config(KindTCP)), config(KindTCP)
	cfg.Period, cfg.Targets = 0, 10
	closed := probes(t, cfg)
	if asked := closed.ProbesPerSecond; closed.Saturated != (asked < 95) { // a busy machine may be too slow for ten probes
		t.Errorf("saturated %v at %v of 100 probes a second", closed.Saturated, asked)
	}
	if keys(t, open) != keys(t, closed) {
		t.Errorf("an open loop has\n%s\na closed one\n%s", keys(t, open), keys(t, closed))
	}
	golden := filepath.Join("testdata", "keys.txt")
	if *update {
		if err := os.WriteFile(golden, []byte(keys(t, open)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if keys(t, open) != string(want) {
		t.Errorf("%s has\n%s\nthe result has\n%s", golden, want, keys(t, open))
	}
}

// keys are the paths of all the keys of a value's JSON, a line each.
func keys(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var value any
	if err := json.Unmarshal(b, &value); err != nil {
		t.Fatal(err)
	}
	var all []string
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, below := range v {
				walk(path+"."+k, below)
			}
		case []any:
			for _, below := range v {
				walk(path+"[]", below)
			}
		default:
			all = append(all, path+"\n")
		}
	}
	walk("", value)
	slices.Sort(all)
	return strings.Join(slices.Compact(all), "")
}

func TestTheReportNeedsNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	cfg := config(KindHTTP)
	cfg.Runs = 2
	r := probes(t, cfg)
	var page bytes.Buffer
	if err := Report(&page, r); err != nil {
		t.Fatal(err)
	}
	text := page.String()
	for _, never := range []string{" src=", "<link", "@import", "url(", "fetch(", "XMLHttpRequest", "ZgotmplZ"} {
		if strings.Contains(text, never) {
			t.Errorf("the page has %q", never)
		}
	}
	for _, want := range []string{"var uPlot=", "Leon Sorokin", "default-src 'none'", r.Machine.Kernel, r.Version, `"lag_p99_ms"`, `"percentile":99.9`, "probes a second"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
}

func TestATargetAnswersAtEveryLoopbackAddress(t *testing.T) {
	for _, kind := range []string{KindHTTP, KindFailing, KindSlow} {
		target, err := Target{Kind: kind, Delay: 20 * time.Millisecond, Body: 2048}.Listen()
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- target.run(ctx) }()
		for _, host := range []string{"127.0.0.1", "127.200.3.4", "127.255.255.254"} {
			begun := time.Now()
			conn, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(target.Port)))
			if err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			for _, part := range []string{"GET / HTTP/1.1\r\nHo", "st: x\r\n\r\n"} { // in two segments
				if _, err := io.WriteString(conn, part); err != nil {
					t.Fatal(err)
				}
			}
			answer, err := io.ReadAll(conn)
			conn.Close()
			if status := map[string]string{KindFailing: "500"}[kind]; err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 "+cmp.Or(status, "200")) || !strings.HasSuffix(string(answer), "\r\n\r\n"+strings.Repeat("ok\n", 683)[:2048]) {
				t.Errorf("%s at %s answers %q, %v", kind, host, answer, err)
			}
			if took := time.Since(begun); kind == KindSlow && took < 20*time.Millisecond {
				t.Errorf("slow after %v", took)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestATargetThatCanNotBeIsRefused(t *testing.T) {
	if _, err := (Target{Kind: "udp"}).Listen(); err == nil {
		t.Error("a kind that there is not is served")
	}
	taken, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, kind := range []string{KindHTTP, KindHTTPS} {
		if _, err := (Target{Kind: kind, Port: taken.Addr().(*net.TCPAddr).Port}).Listen(); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s at a port that is taken: %v", kind, err)
		}
	}
}
