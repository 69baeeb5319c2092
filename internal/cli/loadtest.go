package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/musterhq/muster/loadtest"
)

func loadtestCommand(o *options) *cobra.Command {
	c := parent("loadtest", "Measure how much muster does on this machine, and what it costs",
		loadtestProbesCommand(o), loadtestIngestCommand(o), loadtestFleetCommand(o), loadtestTargetCommand(o),
		loadtestPart(o.world, "engine", func(ctx context.Context, in io.Reader, out io.Writer) error {
			sparing(o.world) // as an agent is
			calm(o.world)    // as an agent's threads are
			return loadtest.Engine(ctx, in, out)
		}),
		loadtestPart(o.world, "coordinator", func(ctx context.Context, in io.Reader, out io.Writer) error {
			sparing(o.world) // as a coordinator is
			return loadtest.CoordinatorPart(ctx, in, out)
		}), loadtestPart(o.world, "agents", loadtest.Fleet))
	c.AddCommand(loadtestFailoverCommand(o), loadtestMachines(o), loadtestWriter(o.world))
	return c
}

func loadtestProbesCommand(o *options) *cobra.Command {
	cfg := loadtest.Config{Kind: loadtest.KindHTTP, Period: 10 * time.Second, Duration: 20 * time.Second, Warmup: -1, Runs: 1, SlowBy: 250 * time.Millisecond, Body: 3, Seed: 1}
	address, page := "", &report{}
	cmd := &cobra.Command{
		Use: "probes", Short: "Measure the probing of one agent", Args: cobra.NoArgs,
		Long: "Measure what an agent's probing costs and how punctual it is: the agent's own engine with all its work on a result but\n" +
			"sending it, in a process of its own. What it probes is started as another process, each probe with an address of its own\n" +
			"in 127.0.0.0/8, or given with --address.\n\n" +
			"With a period, each probe is due once a period, whether or not the engine keeps up: lag is from then to the attempt's start,\n" +
			"an attempt that has not begun a period later is missed. With --period 0 the loop is closed: every probe has the shortest\n" +
			"period that the API allows (100 ms) and there are so many that the engine always has all the attempts under way that it\n" +
			"allows itself; nothing is due, so lag and missed are null, and latencies are corrected for coordinated omission.\n\n" +
			"cpu_us_per_probe is user and system time of the engine's process over the attempts of the window; rss_bytes and anon_bytes\n" +
			"are all that it has (anon_empty_bytes before it had a probe). Of several runs each figure's median is shown, but missed\n" +
			"and failed are sums; runs and spread tell the rest. Ctrl-C ends early with the figures so far, and the exit status is 1.",
		Example: "  muster loadtest probes --kind http --period 0 --cores 1\n" +
			"  muster loadtest probes --kind http --targets 10000 --period 10s --cores 1 --runs 5 --report report.html",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runLoadtestProbes(cmd.Context(), o, cfg, address, page)
		},
	}
	f := cmd.Flags()
	f.StringVar(&cfg.Kind, "kind", cfg.Kind, "what probes ask: "+strings.Join(loadtest.Kinds, ", ")+" (exec runs \"true\" in real pods, as root)")
	f.IntVar(&cfg.Targets, "targets", 0, fmt.Sprintf("how many probes, 1 to %d; 0: 1000 (exec 100), and in a closed loop 5000 (exec 1000) for each processor", loadtest.MaxTargets))
	f.DurationVar(&cfg.Period, "period", cfg.Period, "each probe's period, 100ms to 1h; 0: a closed loop")
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "how long to measure, 100ms to 24h")
	f.DurationVar(&cfg.Warmup, "warmup", -1, "how long to probe before that, 0 to 24h; negative: a period and 2s")
	f.IntVar(&cfg.Cores, "cores", 0, "pin the engine to so many processors, and the targets to the others; 0: neither")
	f.StringVar(&address, "address", "", "probe this HOST:PORT, an IP address; one of 127.0.0.0/8 is the first probe's, and the others' follow it")
	f.IntVar(&cfg.Runs, "runs", cfg.Runs, fmt.Sprintf("how often to measure, 1 to %d", loadtest.MaxRuns))
	f.IntVar(&cfg.Slow, "slow", 0, "percentage of HTTP probes whose target answers late, 0 to 100")
	f.IntVar(&cfg.Failing, "failing", 0, "percentage of HTTP probes whose target answers with status 500, 0 to 100")
	f.DurationVar(&cfg.SlowBy, "slow-by", cfg.SlowBy, "how late those targets answer")
	f.IntVar(&cfg.Body, "body", cfg.Body, fmt.Sprintf("how many bytes HTTP and HTTPS targets answer, 0 to %d", loadtest.MaxBody))
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "another number lays the probes at other moments of their period")
	page.flag(cmd, "plots")
	f.StringVar(&cfg.Profile, "profile", "", "write a CPU profile of the last run's engine to this file, for go tool pprof")
	o.outputFlag(cmd, "table", "json")
	return cmd
}

// targetAddress parses --address.
func targetAddress(text string) (netip.AddrPort, error) {
	if text == "" {
		return netip.AddrPort{}, nil
	}
	at, err := netip.ParseAddrPort(strings.Replace(text, "localhost:", "127.0.0.1:", 1))
	if err != nil {
		return at, usagef("--address %q: want an IP address with a port, such as 127.0.0.1:8080", text)
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

func runLoadtestProbes(ctx context.Context, o *options, cfg loadtest.Config, address string, page *report) (err error) {
	if cfg.Address, err = targetAddress(address); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cfg.EngineArgv, cfg.TargetArgv = []string{program, "loadtest", "engine"}, []string{program, "loadtest", "target"}
	cfg.Supervisor = []string{program, supervisorCommand().Use}
	test, err := loadtest.New(cfg)
	switch {
	case errors.Is(err, loadtest.ErrUnsupported):
		return fmt.Errorf("loadtest probes --kind %s: %w: run it as root", cfg.Kind, err)
	case err != nil:
		return &usageError{err}
	}
	if err := page.open(); err != nil {
		return err
	}
	defer page.close()
	line := newLiveLine(o.world.Stderr)
	result, err := test.Run(ctx, func(p loadtest.Progress) { line.show(liveText(p)) })
	line.clear()
	if err != nil {
		if errors.Is(err, loadtest.ErrNothing) {
			return fmt.Errorf("loadtest probes: %w", err)
		}
		return err
	}
	if err := page.write(func(w io.Writer) error { return loadtest.Report(w, result) }); err != nil {
		return err
	}
	if err := showResult(o, result); err != nil {
		return err
	}
	return ctx.Err()
}

// liveText is how a test goes, in one line.
func liveText(p loadtest.Progress) string {
	s := p.Sample
	phase := "measuring"
	if s.WarmUp {
		phase = "warming up"
	}
	return fmt.Sprintf("run %d/%d  %s %.0fs  %.0f probes/s  cpu %.0f%%  lag p99 %.1fms  latency p99 %.1fms  missed %d  failed %d  %d MiB",
		p.Run, p.Runs, phase, s.At, float64(s.Attempts)/s.Seconds, 100*s.CPU/s.Seconds, s.LagP99, s.LatencyP99, s.Missed, s.Failed, s.RSS>>20)
}

// liveLine is one line on a terminal that is drawn anew; on anything else it shows nothing.
type liveLine struct {
	out io.Writer
	fd  int
}

func newLiveLine(w io.Writer) *liveLine {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return &liveLine{}
	}
	return &liveLine{f, int(f.Fd())}
}

func (l *liveLine) show(text string) {
	if l.out == nil {
		return
	}
	if columns, _, err := term.GetSize(l.fd); err == nil && columns > 0 {
		text = text[:min(len(text), columns-1)]
	}
	fmt.Fprint(l.out, "\r\x1b[K"+text)
}

func (l *liveLine) clear() {
	if l.out != nil {
		fmt.Fprint(l.out, "\r\x1b[K")
	}
}

// showResult prints a test's result.
func showResult(o *options, r interface{ Table() [][]string }) error {
	if o.output == "json" {
		enc := json.NewEncoder(o.world.Stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	rows := r.Table()
	widths := widthsOf(rows)
	_, err := io.WriteString(o.world.Stdout, align(rows, widths))
	return err
}

func loadtestTargetCommand(o *options) *cobra.Command {
	kinds, port, delay, body, driven := loadtest.TargetKinds, 0, 250*time.Millisecond, 3, false
	cmd := &cobra.Command{
		Use: "target", Short: "Be something to probe, at every address of 127.0.0.0/8", Args: cobra.NoArgs,
		Long: "Be something to probe, at every address of 127.0.0.0/8, until it is stopped; other machines do not reach it. It says where:\n" +
			"a line for each kind. slow answers HTTP after --delay, failing answers it with status 500.",
		Example: "  muster loadtest target --kind http --port 8080\n  muster loadtest probes --address 127.0.0.1:8080",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var targets []loadtest.Target
			for i, k := range kinds {
				if !slices.Contains(loadtest.TargetKinds, k) || slices.Contains(kinds[:i], k) {
					return usagef("--kind %s: want each of %s once at most", k, strings.Join(loadtest.TargetKinds, ", "))
				}
				targets = append(targets, loadtest.Target{Kind: k, Port: port, Delay: delay, Body: body})
			}
			switch {
			case len(targets) == 0:
				return usagef("--kind: want one of %s at least", strings.Join(loadtest.TargetKinds, ", "))
			case port < 0 || port > 65535:
				return usagef("--port %d: must be 0 to 65535", port)
			case port != 0 && len(targets) > 1:
				return usagef("--port is for one kind: pass --kind too")
			case delay < 0 || delay > time.Minute:
				return usagef("--delay %v: must be 0 to 1m", delay)
			case body < 0 || body > loadtest.MaxBody:
				return usagef("--body %d: must be 0 to %d", body, loadtest.MaxBody)
			}
			if driven {
				return loadtest.Driven(cmd.Context(), targets, o.world.Stdin, o.world.Stdout)
			}
			return loadtest.Serve(cmd.Context(), targets, func(all []*loadtest.Listening) error { return showPorts(o, all) })
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&kinds, "kind", kinds, "what to be")
	f.IntVar(&port, "port", 0, "the port, for one kind; 0: a free one")
	f.IntVar(&body, "body", body, fmt.Sprintf("how many bytes http, https, slow and failing answer, 0 to %d", loadtest.MaxBody))
	f.DurationVar(&delay, "delay", delay, "after how long slow targets answer, 0 to 1m")
	f.BoolVar(&driven, "driven", false, "end with stdin, and answer each line of it with the connections so far")
	o.outputFlag(cmd, "table", "json")
	return cmd
}

// showPorts says where targets are.
func showPorts(o *options, all []*loadtest.Listening) error {
	ports, rows := map[string]int{}, [][]string{{"KIND", "ADDRESS"}}
	for _, l := range all {
		ports[l.Kind] = l.Port
		rows = append(rows, []string{l.Kind, fmt.Sprintf("127.0.0.1:%d", l.Port)})
	}
	if o.output == "json" {
		return json.NewEncoder(o.world.Stdout).Encode(ports)
	}
	_, err := io.WriteString(o.world.Stdout, align(rows, widthsOf(rows)))
	return err
}

// loadtestPart is a process of a load test. People never call it.
func loadtestPart(w World, name string, run func(ctx context.Context, in io.Reader, out io.Writer) error) *cobra.Command {
	return &cobra.Command{
		Use: name, Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), w.Stdin, w.Stdout) },
	}
}

func loadtestIngestCommand(o *options) *cobra.Command {
	cfg := loadtest.IngestConfig{Agents: 100, Pods: 30, Probes: 3, Period: 10 * time.Second, Duration: 20 * time.Second, Warmup: 5 * time.Second, Runs: 1, Seed: 1}
	page := &report{}
	cmd := &cobra.Command{
		Use: "ingest", Short: "Measure how many results of probes a coordinator takes in", Args: cobra.NoArgs,
		Long: "Measure what a coordinator spends on the results of its agents' probes. A coordinator is started, in a process and a\n" +
			"temporary directory of its own, and in another process simulated agents: each with a certificate, a session and renewals as\n" +
			"an agent has them, over TLS, but with pods that it only says to run and results that it makes up.\n\n" +
			"results_per_second is what the coordinator has taken in, by its own table of probes; cpu_us_per_result is all that its process\n" +
			"used over that, store and renewals included. Results come with an agent's next renewal, once a second: a short run's rate is that\n" +
			"inexact. change_to_watcher_ms is from an agent's word that a verdict has changed, ten a second in all, until a client that watches\n" +
			"all probes has it. Of several runs, on the same fleet, medians are shown. Ctrl-C ends early with the runs so far, and the exit status\n" +
			"is 1.\n\n" + givenHelp,
		Example: "  muster loadtest ingest --agents 100 --cores 1\n  muster loadtest ingest --agents 10 --context staging\n  muster loadtest ingest --agents 50 --pods 100 --period 100ms --cores 1 --report report.html",
		RunE: func(cmd *cobra.Command, _ []string) error {
			program, err := os.Executable()
			if err != nil {
				return err
			}
			cfg.CoordinatorArgv, cfg.FleetArgv = []string{program, "loadtest", "coordinator"}, []string{program, "loadtest", "agents"}
			if cfg.Given, err = o.given(); err != nil {
				return err
			}
			test, err := loadtest.NewIngest(cfg)
			if err != nil {
				return &usageError{err}
			}
			if err := page.open(); err != nil {
				return err
			}
			defer page.close()
			line := newLiveLine(o.world.Stderr)
			result, err := test.Run(cmd.Context(), func(p loadtest.IngestProgress) { line.show(ingestText(p)) })
			line.clear()
			if err != nil {
				return fmt.Errorf("loadtest ingest: %w", err)
			}
			if err := page.write(func(w io.Writer) error { return loadtest.ReportIngest(w, result) }); err != nil {
				return err
			}
			if err := showResult(o, result); err != nil {
				return err
			}
			return cmd.Context().Err()
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Agents, "agents", cfg.Agents, fmt.Sprintf("how many agents, 1 to %d", loadtest.MaxAgents))
	f.IntVar(&cfg.Pods, "pods", cfg.Pods, fmt.Sprintf("how many pods each of them has, 1 to %d", loadtest.MaxAgentPods))
	f.IntVar(&cfg.Probes, "probes", cfg.Probes, fmt.Sprintf("how many probes each pod has, 1 to 3; %d in all at most", loadtest.MaxAllProbes))
	f.DurationVar(&cfg.Period, "period", cfg.Period, "each probe's period, 100ms to 1h")
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "how long to measure, 1s to 24h")
	f.DurationVar(&cfg.Warmup, "warmup", cfg.Warmup, "how long results come before that, 0 to 24h")
	f.IntVar(&cfg.Cores, "cores", 0, "pin the coordinator to so many processors, and the agents to the others; 0: neither")
	f.IntVar(&cfg.Runs, "runs", cfg.Runs, fmt.Sprintf("how often to measure, 1 to %d", loadtest.MaxRuns))
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "another number lays the probes at other moments of their period")
	page.flag(cmd, "plots")
	o.givenFlags(cmd)
	o.outputFlag(cmd, "table", "json")
	return cmd
}

// givenHelp is what loadtest ingest and fleet say of a coordinator that they do not start.
const givenHelp = "With --config or --context a coordinator that runs already is measured, as its admin. Its processor time and memory come from its\n" +
	"/metrics, read once a second; where they can't be read they are null. The agents are nodes loadtest-N, tainted before they take a\n" +
	"pod, and their pods are in the namespace loadtest: both must be free. All that was made is taken away at the end, after Ctrl-C too;\n" +
	"events stay for their hour, and what a cluster keeps of every token and node. Meanwhile the brake on failover counts these nodes\n" +
	"among the others, and one that is late for more than a second is lost, for nobody hears it. Should all be killed at once, failover may\n" +
	"freeze, and the next test tells how to take away what is left: measure no cluster that others depend on."

func loadtestFleetCommand(o *options) *cobra.Command {
	cfg := loadtest.IngestConfig{Agents: 5000, Pods: 30, Probes: 3, Period: 10 * time.Second, Duration: 20 * time.Second, Warmup: 10 * time.Second, Runs: 1, Seed: 1}
	page := &report{}
	cmd := &cobra.Command{
		Use: "fleet", Short: "Measure a coordinator with thousands of agents, and restart it under them", Args: cobra.NoArgs,
		Long: "Measure what a coordinator spends on a large fleet. It is started as loadtest ingest starts it, with simulated agents: each with a\n" +
			"certificate, a session and renewals as an agent has them, but they run nothing and take no part in the gossip.\n\n" +
			"First the fleet is steady: no write to the store is meant to happen then. Then there is churn, for as long as one run: each second one\n" +
			"pod in a thousand is deleted and another created, and one agent in a thousand loses its connection. Then the coordinator is\n" +
			"killed (SIGKILL) and started again, and all agents come back at once. Each must have an acknowledgement within the default lease of\n" +
			"10s, every verdict must be right within a period, counted from the kill, and none may flip: whatever is not so is told, and the\n" +
			"exit status is 1. The figures are those of loadtest ingest, but above 100000 probes results are counted at the agents.\n\n" +
			givenHelp + "\nNo connection is cut there, and the coordinator is not killed: that is left out. Writes to the store are anyone's, and no failure.",
		Example: "  muster loadtest fleet --agents 1000\n  muster loadtest fleet --report fleet.html\n  muster loadtest fleet --agents 100 --context staging",
		RunE: func(cmd *cobra.Command, _ []string) error {
			program, err := os.Executable()
			if err != nil {
				return err
			}
			cfg.CoordinatorArgv, cfg.FleetArgv = []string{program, "loadtest", "coordinator"}, []string{program, "loadtest", "agents"}
			if cfg.Given, err = o.given(); err != nil {
				return err
			}
			test, err := loadtest.NewFleet(cfg)
			if err != nil {
				return &usageError{err}
			}
			if err := page.open(); err != nil {
				return err
			}
			defer page.close()
			line := newLiveLine(o.world.Stderr)
			result, err := test.Run(cmd.Context(), func(p loadtest.IngestProgress) { line.show(ingestText(p)) })
			line.clear()
			if err != nil {
				return fmt.Errorf("loadtest fleet: %w", err)
			}
			if err := page.write(func(w io.Writer) error { return loadtest.ReportFleet(w, result) }); err != nil {
				return err
			}
			if err := showResult(o, result); err != nil {
				return err
			}
			if n := len(result.Failures); n > 0 {
				return fmt.Errorf("loadtest fleet: %s", strings.Join(result.Failures, "; "))
			}
			return cmd.Context().Err()
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Agents, "agents", cfg.Agents, fmt.Sprintf("how many agents, 1 to %d", loadtest.MaxFleetAgents))
	f.IntVar(&cfg.Pods, "pods", cfg.Pods, fmt.Sprintf("how many pods each of them has, 1 to %d", loadtest.MaxAgentPods))
	f.IntVar(&cfg.Probes, "probes", cfg.Probes, fmt.Sprintf("how many probes each pod has, 1 to 3; %d in all at most", loadtest.MaxFleetProbes))
	f.DurationVar(&cfg.Period, "period", cfg.Period, "each probe's period, 100ms to 1h")
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "how long to measure, 1s to 24h")
	f.DurationVar(&cfg.Warmup, "warmup", cfg.Warmup, "how long results come before that, 0 to 24h")
	f.IntVar(&cfg.Cores, "cores", 0, "pin the coordinator to so many processors, and the agents to the others; 0: neither")
	f.IntVar(&cfg.Runs, "runs", cfg.Runs, fmt.Sprintf("how often to measure the steady fleet, 1 to %d", loadtest.MaxRuns))
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "another number lays the probes at other moments of their period")
	page.flag(cmd, "plots")
	o.givenFlags(cmd)
	o.outputFlag(cmd, "table", "json")
	return cmd
}

// ingestText is how a test of ingest goes, in one line.
func ingestText(p loadtest.IngestProgress) string {
	s := p.Sample
	if s == nil {
		return p.Doing
	}
	text := fmt.Sprintf("run %d/%d  %s  %.0f results/s offered", p.Run, p.Runs, s.Phase, s.Offered/s.Seconds)
	if s.CPU >= 0 && s.RSS >= 0 {
		text += fmt.Sprintf("  coordinator cpu %.0f%%  %d MiB", 100*s.CPU/s.Seconds, s.RSS>>20)
	}
	return text
}
