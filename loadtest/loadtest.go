// Package loadtest measures muster: how many probes an agent's engine makes, at which cost, and how punctually; and what their
// results cost a coordinator. The engine is the agent's own (agent.NewProbing), in a process of its own, so that what it costs is
// its own cost; what it probes is in another process, so that answering costs it nothing. So are a coordinator and the simulated
// agents that report to it, whose sessions are real ones. No process outlives the one that has started it.
package loadtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The bounds of a test.
const (
	MaxTargets  = 200_000
	MaxRuns     = 100
	MaxPeriod   = time.Hour
	MaxDuration = 24 * time.Hour
	// closedTargets is how many targets a closed loop has for each processor of the engine: at leastPeriod they are 50,000 a
	// second, far more than it can ask.
	closedTargets = 5000
)

// Kinds are those of probes.
var Kinds = []string{KindHTTP, KindHTTPS, KindTCP, KindGRPC, KindExec}

// ErrNothing means that a test ended before anything was measured.
var ErrNothing = errors.New("ended before anything was measured")

// ErrUnsupported means that the test can't be made here; the text says why.
var ErrUnsupported = errors.New("not supported")

// Config is a test of probes.
type Config struct {
	// Kind is one of Kinds.
	Kind string
	// Targets is how many probes there are, 1 to MaxTargets; 0: 1,000, or as many as a closed loop needs.
	Targets int
	// Period is 100 ms to MaxPeriod; 0 makes a closed loop: the engine asks as fast as it can.
	Period time.Duration
	// Duration is how long is measured, 100 ms to MaxDuration, after Warmup, 0 to MaxDuration; negative: a period and 2 s.
	Duration, Warmup time.Duration
	// Cores pins the engine to so many processors, and the targets to the others; 0: neither is pinned.
	Cores int
	// Address has the targets; invalid: they are started. Where it is one of loopback each probe has an address of its own, from
	// this one on.
	Address netip.AddrPort
	// Runs is how often it is measured, 1 to MaxRuns.
	Runs int
	// Slow and Failing are percentages of the probes: of them the target answers after SlowBy, or with an error. Only for HTTP
	// targets that are started.
	Slow, Failing int
	SlowBy        time.Duration
	// Body is how many bytes HTTP and HTTPS targets that are started answer, 0 to MaxBody.
	Body int
	Seed uint64
	// Profile is the file that a CPU profile of the engine's last run is written to; empty for none.
	Profile string
	// EngineArgv, TargetArgv and Supervisor start the processes; the target's flags are added. See Engine, Serve and
	// process.Config.
	EngineArgv, TargetArgv, Supervisor []string
	// TempDir is where the pods of exec probes are kept; empty: the system's.
	TempDir string
}

// check says what is wrong with the configuration, and puts in what is derived.
func (c *Config) check(engineCPUs int) error {
	between := func(name string, v, least, most time.Duration) error {
		if v < least || v > most {
			return fmt.Errorf("%s %v: must be %v to %v", name, v, least, most)
		}
		return nil
	}
	if !slices.Contains(Kinds, c.Kind) {
		return fmt.Errorf("kind %q: want %s", c.Kind, strings.Join(Kinds, ", "))
	}
	if c.Period != 0 {
		if err := between("period", c.Period, leastPeriod, MaxPeriod); err != nil {
			return fmt.Errorf("%w, or 0 for a closed loop", err)
		}
	}
	if c.Targets == 0 {
		switch {
		case c.Period == 0 && c.Kind == KindExec:
			c.Targets = closedTargets / 5 * engineCPUs
		case c.Period == 0:
			c.Targets = closedTargets * engineCPUs
		case c.Kind == KindExec:
			c.Targets = maxPods
		default:
			c.Targets = 1000
		}
	}
	if c.Warmup < 0 {
		c.Warmup = 2*time.Second + c.Period
	}
	switch {
	case c.Targets < 1 || c.Targets > MaxTargets:
		return fmt.Errorf("targets %d: must be 1 to %d", c.Targets, MaxTargets)
	case c.Runs < 1 || c.Runs > MaxRuns:
		return fmt.Errorf("runs %d: must be 1 to %d", c.Runs, MaxRuns)
	case c.Slow < 0 || c.Failing < 0 || c.Slow+c.Failing > 100:
		return fmt.Errorf("slow %d and failing %d: must be percentages, 100 at most together", c.Slow, c.Failing)
	case c.Slow+c.Failing > 0 && (c.Kind != KindHTTP || c.Address.IsValid()):
		return errors.New("slow and failing targets are HTTP ones that are started")
	case c.Body < 0 || c.Body > MaxBody:
		return fmt.Errorf("body %d: must be 0 to %d bytes", c.Body, MaxBody)
	case c.Kind == KindExec && c.Address.IsValid():
		return errors.New("exec probes have no address")
	case c.Address.IsValid() && c.Address.Port() == 0:
		return errors.New("address: the port must be 1 to 65535")
	case c.Address.Addr().Is6() && c.Address.Addr().IsLoopback() && c.Targets > 1:
		return errors.New("address: there is one IPv6 loopback address only; use 127.0.0.1")
	case c.Address.Addr().Is4() && c.Address.Addr().IsLoopback() && !last(c.Address.Addr(), c.Targets).IsLoopback():
		return fmt.Errorf("address %v: there are not %d addresses of 127.0.0.0/8 from it on", c.Address.Addr(), c.Targets)
	}
	return errors.Join(between("duration", c.Duration, leastPeriod, MaxDuration), between("warm-up", c.Warmup, 0, MaxDuration))
}

// last is the address of the last of n probes.
func last(base netip.Addr, n int) netip.Addr {
	b := base.As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += uint32(n - 1)
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// base is the first probe's address where targets are started.
var base = netip.MustParseAddr("127.80.0.1")

// Progress is how a test goes.
type Progress struct {
	// Run is the run under way, from 1, of Runs.
	Run, Runs int
	Sample    Sample
}

// Test is a test of probes. Make one with New, and run it once.
type Test struct {
	cfg                   Config
	engineCPUs, otherCPUs []int
}

// New checks the configuration, and that the test can be made here.
func New(cfg Config) (*Test, error) {
	cpus, err := processors()
	if err != nil {
		return nil, err
	}
	if cfg.Cores < 0 || cfg.Cores > len(cpus) {
		return nil, fmt.Errorf("cores %d: must be 0 to %d, as many processors as this process may use", cfg.Cores, len(cpus))
	}
	t := &Test{cfg: cfg}
	n := len(cpus)
	if cfg.Cores > 0 {
		n = cfg.Cores
		t.engineCPUs, t.otherCPUs = cpus[len(cpus)-n:], cpus[:len(cpus)-n]
	}
	if err := t.cfg.check(n); err != nil {
		return nil, err
	}
	if cfg.Kind == KindExec && os.Geteuid() != 0 {
		return nil, fmt.Errorf("exec probes run in real pods, for which this user has not the rights: %w", ErrUnsupported)
	}
	return t, nil
}

// Run measures, and tells progress once a second. The end of ctx ends it early: the result then has what was measured so
// far, or the error is ErrNothing. When it returns, nothing that it has started is left.
func (t *Test) Run(ctx context.Context, progress func(Progress)) (*Result, error) {
	cfg := &t.cfg
	j := job{
		Kind: cfg.Kind, Targets: cfg.Targets, Period: cfg.Period, Warmup: cfg.Warmup, Duration: cfg.Duration, Seed: cfg.Seed,
		Base: base, Slow: cfg.Targets * cfg.Slow / 100, Failing: cfg.Targets * cfg.Failing / 100, Supervisor: cfg.Supervisor,
	}
	result := &Result{machine: thisMachine()}
	var target *part
	switch {
	case cfg.Address.IsValid():
		j.Base, j.Port = cfg.Address.Addr(), int(cfg.Address.Port())
	case cfg.Kind == KindExec:
		dir, err := os.MkdirTemp(cfg.TempDir, "muster-loadtest-")
		if err != nil {
			return nil, err
		}
		if err := os.Chmod(dir, 0o711); err != nil { //nolint:gosec // containers run as another user, and go through it
			return nil, err
		}
		j.DataDir = dir
		defer os.RemoveAll(dir)
	default:
		var ports map[string]int64
		var err error
		if target, ports, err = t.target(); err != nil {
			return nil, err
		}
		defer func() { _ = target.stop() }()
		j.Port, j.SlowPort, j.FailingPort = int(ports[cfg.Kind]), int(ports[KindSlow]), int(ports[KindFailing])
	}
	var runs []run
	var series [][]Sample
	for i := range cfg.Runs {
		if i == cfg.Runs-1 {
			j.Profile = cfg.Profile
		}
		before, err := connections(target)
		if err != nil {
			return nil, err
		}
		r, samples, err := t.once(ctx, &j, func(s Sample) { progress(Progress{i + 1, cfg.Runs, s}) })
		if err != nil {
			return nil, err
		}
		after, err := connections(target)
		if err != nil {
			return nil, err
		}
		if r.Connections = after - before; target == nil {
			r.Connections = -1
		}
		// A run that was ended early counts only where there is no whole one.
		if r.Ended || len(runs) == 0 && r.Attempts > 0 {
			runs, series = append(runs, *r), append(series, samples)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if len(runs) == 0 {
		return nil, ErrNothing
	}
	result.machine.LoadAfter = load()
	result.fill(t, runs, series, ctx.Err() != nil)
	return result, nil
}

// target starts the process that answers.
func (t *Test) target() (*part, map[string]int64, error) {
	kinds := []string{t.cfg.Kind}
	if t.cfg.Kind == KindHTTP {
		kinds = append(kinds, KindSlow, KindFailing)
	}
	argv := append(slices.Clone(t.cfg.TargetArgv), "--kind", strings.Join(kinds, ","), "--delay", t.cfg.SlowBy.String(), "--body", strconv.Itoa(t.cfg.Body), "--driven")
	p, err := startPart(argv, t.otherCPUs)
	if err != nil {
		return nil, nil, err
	}
	ports, err := p.hear()
	if err != nil {
		return nil, nil, fmt.Errorf("start the targets: %w", p.died())
	}
	return p, ports, nil
}

// connections is how many the targets have seen; 0 where they are not ours.
func connections(target *part) (n int64, err error) {
	if target == nil {
		return 0, nil
	}
	if _, err := target.stdin.Write([]byte("\n")); err != nil {
		return 0, fmt.Errorf("ask the targets: %w", err)
	}
	told, err := target.hear()
	if err != nil {
		return 0, fmt.Errorf("ask the targets: %w", err)
	}
	for _, of := range told {
		n += of
	}
	return n, nil
}

// once makes one run, with an engine of its own.
func (t *Test) once(ctx context.Context, j *job, sampled func(Sample)) (r *run, samples []Sample, err error) {
	p, err := startPart(t.cfg.EngineArgv, t.engineCPUs)
	if err != nil {
		return nil, nil, err
	}
	defer context.AfterFunc(ctx, p.ask)()
	defer func() {
		if stopped := p.stop(); stopped != nil && err == nil {
			err = fmt.Errorf("the engine: %w", stopped)
		}
		if j.DataDir != "" { // an engine that was killed has left its pods
			err = errors.Join(err, removePods(j.DataDir, j.Supervisor))
		}
	}()
	if p.say(j) != nil {
		return nil, nil, fmt.Errorf("the engine ended early: %w", p.died())
	}
	for {
		line, err := p.lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if ctx.Err() != nil { // before it had begun
				return &run{}, samples, nil
			}
			return nil, nil, fmt.Errorf("the engine ended early: %w", p.died())
		}
		if err != nil {
			return nil, nil, fmt.Errorf("hear from the engine: %w", err)
		}
		var s said
		if err := json.Unmarshal(line, &s); err != nil {
			return nil, nil, fmt.Errorf("hear from the engine: %w", err)
		}
		switch {
		case s.Run != nil:
			return s.Run, samples, nil
		case s.Sample != nil:
			samples = append(samples, *s.Sample)
			sampled(*s.Sample)
		}
	}
}
