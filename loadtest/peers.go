package loadtest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The probers that are measured beside each other.
const (
	Muster   = "muster"
	Kubelet  = "kubelet"
	Blackbox = "blackbox_exporter"
)

// Load is what every prober is to do: so many probes of a kind, each once a period.
type Load struct {
	// Kind is KindHTTP or KindTCP.
	Kind string
	// Targets is 1 to MaxTargets.
	Targets int
	// Period is whole seconds, for the kubelet knows no others: 1 s to MaxPeriod.
	Period time.Duration
}

// ParseLoad reads a load's text, such as http:10000:10s.
func ParseLoad(text string) (Load, error) {
	kind, rest, _ := strings.Cut(text, ":")
	number, every, _ := strings.Cut(rest, ":")
	targets, err := strconv.Atoi(number)
	period, errPeriod := time.ParseDuration(every)
	if errors.Join(err, errPeriod) != nil {
		return Load{}, fmt.Errorf("load %q: want KIND:TARGETS:PERIOD, such as http:10000:10s", text)
	}
	l := Load{kind, targets, period}
	return l, l.check()
}

func (l Load) check() error {
	switch {
	case l.Kind != KindHTTP && l.Kind != KindTCP:
		return fmt.Errorf("load %v: kind %q: want %s or %s", l, l.Kind, KindHTTP, KindTCP)
	case l.Targets < 1 || l.Targets > MaxTargets:
		return fmt.Errorf("load %v: targets %d: must be 1 to %d", l, l.Targets, MaxTargets)
	case l.Period < time.Second || l.Period > MaxPeriod || l.Period%time.Second != 0:
		return fmt.Errorf("load %v: period %v: must be whole seconds, 1s to %v", l, l.Period, MaxPeriod)
	}
	return nil
}

// String is what ParseLoad reads.
func (l Load) String() string { return fmt.Sprintf("%s:%d:%s", l.Kind, l.Targets, l.Period) }

// due is how many attempts a second are to be made.
func (l Load) due() float64 { return float64(l.Targets) / l.Period.Seconds() }

// DefaultLoads are a large node and a smaller one, and more than most probers can ask on one processor.
var DefaultLoads = []Load{
	{KindHTTP, 10_000, 10 * time.Second}, {KindHTTP, 1000, 10 * time.Second},
	{KindTCP, 10_000, 10 * time.Second}, {KindTCP, 1000, 10 * time.Second},
	{KindHTTP, 10_000, time.Second},
}

// PeersConfig is a comparison of muster's prober with others.
type PeersConfig struct {
	Loads []Load
	// Rounds is how often each prober has each load, 1 to MaxRuns; Duration is how long is measured of it each time, 1 s to MaxPeriod.
	Rounds   int
	Duration time.Duration
	// Muster and Kubelet are the programs; Blackbox is one too, or its name in PATH. Without the last that peer is left out by name.
	Muster, Kubelet, Blackbox string
	// ScrapeArgv starts Scrape.
	ScrapeArgv []string
}

func (c *PeersConfig) check() error {
	switch {
	case len(c.Loads) == 0:
		return errors.New("loads: want one at least")
	case c.Rounds < 1 || c.Rounds > MaxRuns:
		return fmt.Errorf("rounds %d: must be 1 to %d", c.Rounds, MaxRuns)
	case c.Duration < time.Second || c.Duration > MaxPeriod:
		return fmt.Errorf("duration %v: must be 1s to %v", c.Duration, MaxPeriod)
	}
	for _, l := range c.Loads {
		if err := l.check(); err != nil {
			return err
		}
	}
	for _, program := range []string{c.Muster, c.Kubelet} {
		if _, err := os.Stat(program); err != nil {
			return fmt.Errorf("%w: \"make bench-peers\" builds it", err)
		}
	}
	return nil
}

// PeersResult is a comparison.
type PeersResult struct {
	Machine  Machine
	Rounds   int
	Duration time.Duration
	// Versions are those of the peers that were measured; Skipped says why another was not.
	Versions, Skipped map[string]string
	Loads             []LoadFigures
}

// LoadFigures are one load's.
type LoadFigures struct {
	Load Load
	// Of has each prober's figures by round: those with the same index were measured one after the other.
	Of map[string][]PeerFigures
}

// PeerFigures are those of one prober in one window.
type PeerFigures struct {
	Seconds float64
	// Attempts are the connections that its target has accepted.
	Attempts int64
	// CPU is user and system time of the prober's process, Others what else its processor did.
	CPU, Others time.Duration
	// RSS and Anon are the most of a look each second, in bytes.
	RSS, Anon int64
	// Told are the attempts from its start on by its own word, Failed those among them that were no success, Connections what its target
	// has seen of them.
	Told, Failed, Connections int64
	// Missed and LagP99, in ms, are of muster only; negative for others.
	Missed int64
	LagP99 float64
}

func (f *PeerFigures) rate() float64 { return float64(f.Attempts) / f.Seconds }

// perProbe is processor time in µs an attempt.
func (f *PeerFigures) perProbe() float64 { return float64(f.CPU) / 1000 / float64(max(f.Attempts, 1)) }

func (f *PeerFigures) anonMiB() float64 { return float64(f.Anon) / (1 << 20) }

// busy is the share of the processor that the prober used, others the share that something else did, in percent.
func (f *PeerFigures) busy() float64   { return f.CPU.Seconds() / f.Seconds * 100 }
func (f *PeerFigures) others() float64 { return f.Others.Seconds() / f.Seconds * 100 }

// PeersProgress is a window that has just been measured.
type PeersProgress struct {
	Load          Load
	Prober        string
	Round, Rounds int
	Figures       PeerFigures
}

// Peers is a comparison. Make one with NewPeers, and run it once.
type Peers struct {
	cfg PeersConfig
	// cpu is the probers' processor, others are those of what they probe.
	cpu        int
	others     []int
	contenders []contender
	result     PeersResult
}

// NewPeers checks the configuration, and finds the peers.
func NewPeers(cfg PeersConfig) (*Peers, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cpus, err := processors()
	if err != nil {
		return nil, err
	}
	if len(cpus) < 2 {
		return nil, fmt.Errorf("one processor: the probers need one of their own, beside those of what they probe: %w", ErrUnsupported)
	}
	n := len(cpus) - 1
	p := &Peers{cfg: cfg, cpu: cpus[n], others: cpus[:n], result: PeersResult{
		Machine: thisMachine(), Rounds: cfg.Rounds, Duration: cfg.Duration, Versions: map[string]string{}, Skipped: map[string]string{},
	}}
	if p.result.Versions[Kubelet], err = kubeletVersion(cfg.Kubelet); err != nil {
		return nil, err
	}
	p.contenders = []contender{{Muster, p.startMuster}, {Kubelet, p.startKubelet}}
	program, err := exec.LookPath(cfg.Blackbox)
	if err != nil {
		p.result.Skipped[Blackbox] = fmt.Sprintf("no program %s: apt-get install prometheus-blackbox-exporter, or name it with --blackbox", cfg.Blackbox)
		return p, nil
	}
	if p.cfg.Blackbox, err = filepath.Abs(program); err != nil {
		return nil, err
	}
	if p.result.Versions[Blackbox], err = blackboxVersion(p.cfg.Blackbox); err != nil {
		return nil, err
	}
	p.contenders = append(p.contenders, contender{Blackbox, p.startBlackbox})
	return p, nil
}

// Skipped says of the peers that will not be measured why not.
func (p *Peers) Skipped() map[string]string { return p.result.Skipped }

// Time is how long Run takes, about.
func (p *Peers) Time() time.Duration {
	var all time.Duration
	for _, l := range p.cfg.Loads {
		for _, of := range p.contenders {
			all += warmUp(of.name, l) + p.cfg.Duration + time.Second
		}
	}
	return all * time.Duration(p.cfg.Rounds)
}

// Run measures, and tells of each window. When it returns, nothing that it has started is left.
func (p *Peers) Run(ctx context.Context, progress func(PeersProgress)) (*PeersResult, error) {
	for _, l := range p.cfg.Loads {
		f, err := p.load(ctx, l, progress)
		if err != nil {
			return nil, err
		}
		p.result.Loads = append(p.result.Loads, *f)
	}
	p.result.Machine.LoadAfter = load()
	return &p.result, nil
}

// load measures one load: in each round one prober after the other, each time another one first, so that what changes on the
// machine meanwhile meets all alike.
func (p *Peers) load(ctx context.Context, l Load, progress func(PeersProgress)) (*LoadFigures, error) {
	f := &LoadFigures{Load: l, Of: map[string][]PeerFigures{}}
	// Each prober has a target of its own: connections that one leaves in TIME_WAIT are in no other's way.
	targets, ports := map[string]*part{}, map[string]int{}
	for _, of := range p.contenders {
		target, told, err := startTarget([]string{p.cfg.Muster, "loadtest", "target", "--kind", l.Kind, "--driven"}, p.others)
		if err != nil {
			return nil, err
		}
		defer func() { _ = target.stop() }()
		targets[of.name], ports[of.name] = target, int(told[l.Kind])
	}
	for round := range p.cfg.Rounds {
		for i := range p.contenders {
			of := p.contenders[(i+round)%len(p.contenders)]
			figures, err := p.once(ctx, of, l, targets[of.name], ports[of.name], round)
			if err != nil {
				return nil, fmt.Errorf("%s, %s, round %d: %w", l, of.name, round+1, err)
			}
			f.Of[of.name] = append(f.Of[of.name], *figures)
			progress(PeersProgress{l, of.name, round + 1, p.cfg.Rounds, *figures})
		}
	}
	return f, nil
}

// startTarget starts a process that answers, and returns its ports by kind.
func startTarget(argv []string, cpus []int) (*part, map[string]int64, error) {
	target, err := startPart(argv, cpus)
	if err != nil {
		return nil, nil, err
	}
	ports, err := target.hear()
	if err != nil {
		return nil, nil, fmt.Errorf("start the targets: %w", target.died())
	}
	return target, ports, nil
}

// once starts a prober, waits until it goes evenly, and measures it from outside.
func (p *Peers) once(ctx context.Context, of contender, l Load, target *part, port, round int) (f *PeerFigures, err error) {
	first, err := connections(target)
	if err != nil {
		return nil, err
	}
	r, err := of.start(l, port, round)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, r.part.ask)()
	defer func() { err = errors.Join(err, r.part.stop()) }()
	if !sleep(ctx, warmUp(of.name, l)) {
		return nil, ctx.Err()
	}
	from, err := p.look(target, r.pid)
	if err != nil {
		return nil, err
	}
	f = &PeerFigures{Missed: -1, LagP99: -1}
	for to := from; ; {
		left := p.cfg.Duration - to.at.Sub(from.at)
		if left <= 0 {
			f.Seconds, f.Attempts, f.CPU = to.at.Sub(from.at).Seconds(), to.connections-from.connections, to.cpu-from.cpu
			f.Others = max(0, to.processor-from.processor-f.CPU)
			break
		}
		if !sleep(ctx, min(left, sampleEvery)) {
			return nil, ctx.Err()
		}
		if to, err = p.look(target, r.pid); err != nil {
			return nil, err
		}
		f.RSS, f.Anon = max(f.RSS, to.memory.rss), max(f.Anon, to.memory.anon)
	}
	if f.Attempts == 0 {
		return nil, errors.New("no probe reached its target")
	}
	last, err := r.count(f, target)
	f.Connections = last - first
	return f, err
}

// looked is what was seen of a prober at one moment.
type looked struct {
	at          time.Time
	connections int64
	// cpu is what the prober has used, processor what its processor has done, to 10 ms.
	cpu, processor time.Duration
	memory         procMemory
}

func (p *Peers) look(target *part, pid int) (l looked, err error) {
	if l.connections, err = connections(target); err != nil {
		return l, err
	}
	l.at = time.Now()
	if l.cpu, err = processorClock(pid); err != nil {
		return l, err
	}
	if l.processor, err = processorBusy(p.cpu); err != nil {
		return l, err
	}
	l.memory, err = memoryOf(pid)
	return l, err
}

// processorClock is the processor time of all threads that another process has and had, by its clock, to the ns.
func processorClock(pid int) (time.Duration, error) {
	const scheduled = 2 // the kernel's CPUCLOCK_SCHED: user and system time, as the scheduler has it
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|scheduled), &t); err != nil {
		return 0, fmt.Errorf("read the processor time of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// processorBusy is how long a processor has not been idle.
func processorBusy(cpu int) (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return busyIn(string(b), cpu)
}

func busyIn(stat string, cpu int) (time.Duration, error) {
	name := fmt.Sprintf("cpu%d", cpu)
	for line := range strings.Lines(stat) {
		fields := strings.Fields(line)
		if len(fields) < 9 || fields[0] != name {
			continue
		}
		var ticks int64
		for _, i := range []int{1, 2, 3, 6, 7, 8} { // user, nice, system, irq, softirq, steal; the 4th is idle, the 5th waits
			n, err := strconv.ParseInt(fields[i], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/stat: %w", err)
			}
			ticks += n
		}
		return time.Duration(ticks) * time.Second / ticksPerSecond, nil
	}
	return 0, fmt.Errorf("/proc/stat has no %s", name)
}

// peersBase is the first probe's address.
var peersBase = netip.MustParseAddr("127.80.0.1")

// warmUp is how long a prober has until it is measured: all spread their probes over the first period, but for the scraper, which
// goes evenly at once.
func warmUp(name string, l Load) time.Duration {
	if name == Blackbox {
		return 2 * time.Second
	}
	return max(l.Period+time.Second, 3*time.Second)
}

// names are those of the probers that were measured, muster first.
func (r *PeersResult) names() []string {
	return slices.DeleteFunc([]string{Muster, Kubelet, Blackbox}, func(n string) bool { return n != Muster && r.Versions[n] == "" })
}

// String is the window in a line.
func (p PeersProgress) String() string {
	f := &p.Figures
	return fmt.Sprintf("%s  round %d/%d  %-17s  %4.0f µs a probe  %s of %s a second  %3.0f %% of a processor, %.0f %% others  %4.0f MiB  connections an attempt %.3f  failed %d",
		p.Load, p.Round, p.Rounds, p.Prober, f.perProbe(), thousands(f.rate()), thousands(p.Load.due()), f.busy(), f.others(), f.anonMiB(),
		float64(f.Connections)/float64(max(f.Told, 1)), f.Failed)
}
