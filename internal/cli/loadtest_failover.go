package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/cli/dev"
	"github.com/musterhq/muster/loadtest"
)

func loadtestFailoverCommand(o *options) *cobra.Command {
	cfg := loadtest.FailoverConfig{Agents: loadtest.LeastFailoverAgents, Rounds: 5, Kinds: loadtest.Losses, Seed: 1}
	page := &report{}
	cmd := &cobra.Command{
		Use: "failover", Short: "Measure how pods move off nodes that are lost", Args: cobra.NoArgs,
		Long: "Measure how long pods are away when their node is lost. A coordinator and agents are started on loopback as muster dev does\n" +
			"(lease and agent grace 5s), in a temporary directory, with a Deployment and as many single-instance pods, which write all the\n" +
			"time. Each round loses a node that has some of both, at any moment of a second, waits until they are Ready elsewhere, and has\n" +
			"the node back: kill ends agent, guard, supervisors and containers at once, as a machine that loses its power while its\n" +
			"kernel answers; hang stops them all, and lets them go on later. cut (a network of its own for each node) is not built.\n\n" +
			"All figures are from the loss on, by one clock: shown is until the API shows the node not to be Ready, bound until it shows\n" +
			"the new binding, started until the new instance itself writes, ready until the API shows the pod to be Ready, which may be\n" +
			"before that: it has no readiness probe. The p50, p95 and max are values that were measured.\n" +
			"A writer is doubled where a single-instance pod's old instance writes after its new one has; each writes every 20ms:\n" +
			"must be 0, else the exit status is 1. Ctrl-C ends early with the rounds so far, and the exit status is 1. Nothing is left,\n" +
			"also where this is killed.",
		Example: "  muster loadtest failover\n  muster loadtest failover --agents 10 --rounds 5 --kinds kill --report report.html",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runLoadtestFailover(cmd.Context(), o, cfg, page)
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Agents, "agents", cfg.Agents, fmt.Sprintf("how many agents, %d to %d", loadtest.LeastFailoverAgents, loadtest.MaxFailoverAgents))
	f.IntVar(&cfg.Pods, "pods", 0, fmt.Sprintf("how many pods of a Deployment, and how many single-instance ones, 1 to %d; 0: as many as agents", loadtest.MaxFailoverPods))
	f.IntVar(&cfg.Rounds, "rounds", cfg.Rounds, fmt.Sprintf("how many losses of each kind, 1 to %d", loadtest.MaxFailoverRounds))
	f.StringSliceVar(&cfg.Kinds, "kinds", cfg.Kinds, "how nodes are lost: "+strings.Join(loadtest.Losses, ", "))
	f.Uint64Var(&cfg.Seed, "seed", cfg.Seed, "another number loses other nodes at other moments")
	page.flag(cmd, "every move")
	o.outputFlag(cmd, "table", "json")
	return cmd
}

func runLoadtestFailover(ctx context.Context, o *options, cfg loadtest.FailoverConfig, page *report) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cfg.Argv, cfg.WriterArgv = []string{program, "loadtest", "machines"}, []string{program, "loadtest", "writer"}
	cfg.Discard = dev.Discard
	test, err := loadtest.NewFailover(cfg)
	if err != nil {
		return &usageError{err}
	}
	if err := page.open(); err != nil {
		return err
	}
	defer page.close()
	line := newLiveLine(o.world.Stderr)
	result, err := test.Run(ctx, func(p loadtest.FailoverProgress) {
		if p.Round == 0 {
			line.show(p.Doing)
			return
		}
		line.show(fmt.Sprintf("round %d/%d  %s", p.Round, p.Rounds, p.Doing))
	})
	line.clear()
	if err != nil {
		return fmt.Errorf("loadtest failover: %w", err)
	}
	if err := page.write(func(w io.Writer) error { return loadtest.FailoverReport(w, result) }); err != nil {
		return err
	}
	if err := showResult(o, result); err != nil {
		return err
	}
	if o.output != "json" {
		if _, err := io.WriteString(o.world.Stdout, result.About()); err != nil {
			return err
		}
	}
	if result.Doubled > 0 {
		return fmt.Errorf("loadtest failover: %d single-instance pods had two writers at a time", result.Doubled)
	}
	return ctx.Err()
}

// loadtestMachines is the process that has a failover test's cluster. People never call it.
func loadtestMachines(o *options) *cobra.Command {
	return loadtestPart(o.world, "machines", func(ctx context.Context, in io.Reader, out io.Writer) error {
		program, err := os.Executable()
		if err != nil {
			return err
		}
		return loadtest.FailoverPart(ctx, in, out, func(dir string, agents int, log io.Writer) (loadtest.Machines, error) {
			return dev.NewMachines(dev.Config{Program: program, Dir: dir, Nodes: agents}, log)
		}, dev.Discard)
	})
}

// loadtestWriter is what its pods run. People never call it.
func loadtestWriter(w World) *cobra.Command {
	return &cobra.Command{
		Use: "writer DIR", Hidden: true, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return loadtest.Write(cmd.Context(), args[0], w.Getenv("MUSTER_POD_UID"), w.Getenv("MUSTER_EPOCH"))
		},
	}
}
