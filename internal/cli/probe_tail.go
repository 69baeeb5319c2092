package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

func probeTailCommand(o *options) *cobra.Command {
	req, kindWord := &musterv1.WatchProbeResultsRequest{}, ""
	cmd := &cobra.Command{
		Use: "tail POD", Short: "Follow the results of a pod's probes, one line an attempt", Args: cobra.ExactArgs(1),
		Example: "  muster probe tail web\n  muster probe tail web -c main --kind liveness",
		Long: "Follow what a pod's probes answer from now on, one line an attempt, until Ctrl-C. It goes on when a container is\n" +
			"started anew, and ends when the pod does, or moves to another node. A reader that is too slow misses attempts: stderr\n" +
			"says how many.",
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if req.Pod, err = podName(args[0]); err != nil {
				return err
			}
			if req.Kind, err = parseProbeKind(kindWord); err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				req.Namespace = o.namespace
				return tailProbes(ctx, o, c, req)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&req.Container, "container", "c", "", "only this container's probes")
	f.StringVar(&kindWord, "kind", "", "only probes of this kind: liveness, readiness or startup")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	o.outputFlag(cmd, "table", "json")
	cmd.ValidArgsFunction = completePod(o)
	return cmd
}

func tailProbes(ctx context.Context, o *options, c *client, req *musterv1.WatchProbeResultsRequest) error {
	stream, err := c.probes.WatchProbeResults(ctx, req)
	if err != nil {
		return err
	}
	show := attemptLines(o.world.Stdout, o.output)
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return doomed{podKind, req.GetNamespace(), req.GetPod()}.named(err)
		}
		if n := m.GetDropped(); n > 0 {
			fmt.Fprintf(o.world.Stderr, "%d attempts dropped: what reads this is too slow\n", n)
		}
		if err := show(m.GetResults()); err != nil {
			return err
		}
		if m.GetEnded() != "" {
			fmt.Fprintln(o.world.Stderr, m.GetEnded())
		}
	}
}

// attemptWidths leave room for what is usual in each column of attempts but the last: widths can't wait for what comes.
var attemptWidths = []int{12, 12, 9, 7, 7, 8, 8, 8, 0}

// attemptLines returns what shows attempts as they come, a line each: JSON, or a table whose header the first call shows.
func attemptLines(out io.Writer, format string) func([]*musterv1.ProbeAttempt) error {
	if format == "json" {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		return func(attempts []*musterv1.ProbeAttempt) error {
			for _, a := range attempts {
				if err := enc.Encode(attemptValue(a)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	header := true
	return func(attempts []*musterv1.ProbeAttempt) error {
		var lines [][]string
		if header {
			header = false
			lines = append(lines, attemptHeader)
		}
		for _, a := range attempts {
			lines = append(lines, attemptCells(a))
		}
		_, err := io.WriteString(out, align(lines, attemptWidths))
		return err
	}
}
