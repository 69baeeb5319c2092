package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/agent/guard"
	"github.com/musterhq/muster/internal/cli/dev"
)

func serverCommands(w World) []*cobra.Command {
	return []*cobra.Command{devCommand(w), coordinatorCommand(w), agentCommand(w)}
}

// supervisorCommand is the tiny binary's code in this one, for builds that do not carry the tiny binary. People never
// call it.
func supervisorCommand() *cobra.Command {
	self := []string{"muster", "pod-supervisor"}
	return &cobra.Command{
		Use: "pod-supervisor", Hidden: true, DisableFlagParsing: true,
		Run: func(_ *cobra.Command, args []string) {
			os.Exit(guard.Tiny(self, args))
		},
	}
}

// devDir is where "muster dev" keeps its data.
func devDir(w World) string {
	if state := w.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "muster", "dev")
	}
	if home := w.Getenv("HOME"); home != "" {
		return filepath.Join(home, ".local", "state", "muster", "dev")
	}
	return ""
}

func devCommand(w World) *cobra.Command {
	cfg := dev.Config{Dir: devDir(w), Nodes: 3, Images: "ignore"}
	noContext, ports := false, "default"
	cmd := &cobra.Command{
		Use:     "dev",
		Short:   "Run a whole cluster on this machine",
		Example: "  muster dev\n  muster dev --nodes 5 -f web.yaml\n  muster dev --data-dir /tmp/cluster --no-context     # beside another",
		Long: "Run one coordinator and some agents (node-1, node-2, …) on loopback, each as its own process. Says \"muster is ready\"\n" +
			"on stdout once all nodes are Ready. Ctrl-C or SIGTERM stops everything, pods included. Nothing is restarted:\n" +
			"killing a part (muster dev kill NODE) is how to see a failover.",
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cfg.Dir == "" {
				return usagef("--data-dir is required where there is no HOME")
			}
			switch ports {
			case "default", "free":
				cfg.FreePorts = ports == "free"
			default:
				return usagef("--ports %s: want default or free", ports)
			}
			if !noContext {
				cfg.ContextFile = defaultConfig(w.Getenv)
			}
			var err error
			if cfg.Program, err = os.Executable(); err != nil {
				return err
			}
			cfg.Colour = w.Getenv("NO_COLOR") == "" && isTerminal(w.Stderr)
			apply := func(ctx context.Context, config string, files []string) error {
				o := &options{world: w, config: config}
				return runApply(ctx, o, applyFlags{files: files, dryRun: "none"})
			}
			d, err := dev.New(cfg, apply, w.Stdout, w.Stderr)
			if err != nil {
				return &usageError{err}
			}
			return d.Run(cmd.Context())
		},
	}
	f := cmd.Flags()
	f.IntVar(&cfg.Nodes, "nodes", cfg.Nodes, fmt.Sprintf("how many agents, 1 to %d", dev.MaxNodes))
	f.StringSliceVarP(&cfg.Files, "filename", "f", nil, "apply this file or directory once the cluster is ready (may be repeated)")
	f.StringVar(&cfg.Images, "images", cfg.Images, "what to do with pods that name an image: ignore it and run the command, or refuse the pod")
	f.BoolVar(&noContext, "no-context", false, "leave the user's client config alone")
	f.StringVar(&ports, "ports", ports, "default: 7700 to 7702 where they are free; free: any free ones")
	cmd.PersistentFlags().StringVar(&cfg.Dir, "data-dir", cfg.Dir, "the cluster's directory")

	kill := &cobra.Command{
		Use: "kill NODE", Short: "End a node as a machine that loses its power: agent, guard, supervisors and containers", Args: cobra.ExactArgs(1),
		Example: "  muster dev kill node-2\n  muster get pods -w        # see them move",
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := dev.Kill(cmd.Context(), cfg.Dir, args[0])
			if err != nil {
				return err
			}
			if n == 0 {
				fmt.Fprintf(w.Stderr, "nothing of %s was running\n", args[0])
				return nil
			}
			fmt.Fprintf(w.Stdout, "%s killed: %d processes\n", args[0], n)
			return nil
		},
	}
	cleanup := &cobra.Command{
		Use: "cleanup --data-dir DIR", Short: "Take away what a killed muster dev has left: its processes and its directory", Args: cobra.NoArgs,
		Example: "  muster dev cleanup --data-dir ~/.local/state/muster/dev",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("data-dir") {
				return usagef("--data-dir is required, since everything in it is deleted")
			}
			n, err := dev.Cleanup(cmd.Context(), cfg.Dir, defaultConfig(w.Getenv))
			if err == nil {
				fmt.Fprintf(w.Stdout, "%s is gone, and %d processes\n", cfg.Dir, n)
			}
			return err
		},
	}
	cmd.AddCommand(kill, cleanup)
	return cmd
}

// isTerminal tells whether the writer is one.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}
