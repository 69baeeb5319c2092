package loadtest

import (
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"
)

// contender is a prober that is measured.
type contender struct {
	name  string
	start func(l Load, port, round int) (*probing, error)
}

// probing is a prober at work.
type probing struct {
	// part ends it, pid is the process that probes.
	part *part
	pid  int
	// count takes the prober's own word, after the window, and how many connections its target had seen then, as nearly as can be.
	count func(f *PeerFigures, target *part) (connections int64, err error)
}

// peerJob is what a peer's process is told, a line of JSON.
type peerJob struct {
	Kind    string
	Targets int
	Period  time.Duration
	// Base is the first probe's address, the others' follow it; Port is everyone's.
	Base netip.Addr
	Port int
}

// margin is by how much the window that muster's engine measures by itself goes beyond the one that is measured from outside.
const margin = 500 * time.Millisecond

func (p *Peers) startMuster(l Load, port, round int) (*probing, error) {
	engine, err := startPart([]string{p.cfg.Muster, "loadtest", "engine"}, []int{p.cpu})
	if err != nil {
		return nil, err
	}
	err = engine.say(&job{
		Kind: l.Kind, Targets: l.Targets, Period: l.Period, Warmup: warmUp(Muster, l) - margin, Duration: p.cfg.Duration + 2*margin,
		Seed: uint64(round + 1), Base: peersBase, Port: port,
	})
	if err != nil {
		return nil, fmt.Errorf("the engine ended early: %w", engine.died())
	}
	return &probing{engine, engine.cmd.Process.Pid, func(f *PeerFigures, target *part) (int64, error) {
		for {
			line, err := engine.lines.ReadBytes('\n')
			if err != nil {
				return 0, fmt.Errorf("hear from the engine: %w", err)
			}
			var s said
			if err := json.Unmarshal(line, &s); err != nil {
				return 0, fmt.Errorf("hear from the engine: %w", err)
			}
			if s.Run != nil { // it has ended by now
				f.Told, f.Failed, f.Missed, f.LagP99 = s.Run.All, s.Run.Failed, s.Run.Missed, s.Run.Lag.P99
				return connections(target)
			}
		}
	}}, nil
}

func (p *Peers) startKubelet(l Load, port, _ int) (*probing, error) {
	kubelet, _, err := startPeer([]string{p.cfg.Kubelet}, []int{p.cpu}, &peerJob{l.Kind, l.Targets, l.Period, peersBase, port})
	if err != nil {
		return nil, err
	}
	return &probing{kubelet, kubelet.cmd.Process.Pid, func(f *PeerFigures, target *part) (int64, error) { return askPeer(kubelet, target, f) }}, nil
}

func (p *Peers) startBlackbox(l Load, port, _ int) (*probing, error) {
	scraper, told, err := startPeer(p.cfg.ScrapeArgv, p.others, &scrapeJob{peerJob{l.Kind, l.Targets, l.Period, peersBase, port}, p.cfg.Blackbox, p.cpu})
	if err != nil {
		return nil, err
	}
	return &probing{scraper, int(told["pid"]), func(f *PeerFigures, target *part) (int64, error) { return askPeer(scraper, target, f) }}, nil
}

// startPeer starts a process that reads its job, and returns what it says once it is at work.
func startPeer(argv []string, cpus []int, job any) (*part, map[string]int64, error) {
	p, err := startPart(argv, cpus)
	if err != nil {
		return nil, nil, err
	}
	if err = p.say(job); err == nil {
		var told map[string]int64
		if told, err = p.hear(); err == nil {
			return p, told, nil
		}
	}
	return nil, nil, fmt.Errorf("%s ended early: %w", argv[0], p.died())
}

// askPeer has a peer count its attempts by their results. It goes on meanwhile, and to add them up may take it a while: the target is asked
// first.
func askPeer(p, target *part, f *PeerFigures) (int64, error) {
	seen, err := connections(target)
	if err != nil {
		return 0, err
	}
	if _, err := p.stdin.Write([]byte("\n")); err != nil {
		return 0, fmt.Errorf("ask the prober: %w", err)
	}
	told, err := p.hear()
	if err != nil {
		return 0, fmt.Errorf("ask the prober: %w", err)
	}
	for result, n := range told {
		f.Told += n
		if result != "successful" {
			f.Failed += n
		}
	}
	return seen, nil
}

// kubeletVersion is that of Kubernetes in the program that has the kubelet's prober.
func kubeletVersion(program string) (string, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "", fmt.Errorf("read what %s is made of: %w", program, err)
	}
	for _, d := range info.Deps {
		if d.Path == "k8s.io/kubernetes" {
			return fmt.Sprintf("%s, built with %s", d.Version, info.GoVersion), nil
		}
	}
	return "", fmt.Errorf("%s: k8s.io/kubernetes is not in it", program)
}

// blackboxVersion is what the exporter says of itself.
func blackboxVersion(program string) (string, error) {
	out, err := exec.Command(program, "--version").CombinedOutput() //nolint:gosec // the user has named it
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", program, err)
	}
	version := strings.Fields(string(out)) // "blackbox_exporter, version 0.23.0 (branch: …, revision: …)"
	goVersion := "an unknown Go"
	for line := range strings.Lines(string(out)) {
		if _, v, ok := strings.Cut(line, "go version:"); ok {
			goVersion = strings.TrimSpace(v)
		}
	}
	if len(version) < 3 || version[1] != "version" {
		return "", fmt.Errorf("%s --version says %q: that is no blackbox_exporter", program, out)
	}
	return fmt.Sprintf("%s, built with %s", version[2], goVersion), nil
}
