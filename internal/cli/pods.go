package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/reason"
)

func logsCommand(o *options) *cobra.Command {
	req := &musterv1.ReadPodLogsRequest{}
	tail, since := int32(-1), time.Duration(0)
	cmd := &cobra.Command{
		Use: "logs POD", Short: "Show what a container wrote", Args: cobra.ExactArgs(1),
		Example: "  muster logs web\n  muster logs web -c sidecar -f --since 5m\n  muster logs web --previous --tail 100",
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if req.Name, err = podName(args[0]); err != nil {
				return err
			}
			switch {
			case tail < -1:
				return usagef("--tail %d: must be at least 0, or -1 for all lines", tail)
			case since < 0:
				return usagef("--since %v: must not be negative", since)
			case req.Follow && req.Previous:
				return usagef("--previous is complete: -f makes no sense with it")
			}
			if tail >= 0 {
				req.Tail = &tail
			}
			if since > 0 {
				req.Since = durationpb.New(since)
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				req.Namespace = o.namespace
				return copyLogs(ctx, o, c, req)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&req.Container, "container", "c", "", "the container; needed where the pod has several")
	f.BoolVarP(&req.Follow, "follow", "f", false, "go on with what comes")
	f.BoolVarP(&req.Previous, "previous", "p", false, "of the instance before this one")
	f.Int32Var(&tail, "tail", tail, "only the last lines; -1: all")
	f.DurationVar(&since, "since", since, "only what is not older than this; 0: all")
	f.BoolVar(&req.Timestamps, "timestamps", false, "put each line's time in front")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	cmd.ValidArgsFunction = completePod(o)
	return cmd
}

func copyLogs(ctx context.Context, o *options, c *client, req *musterv1.ReadPodLogsRequest) error {
	stream, err := c.pods.ReadPodLogs(ctx, req)
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			// A container that is not there is NotFound too.
			if reason.Of(err) == reason.NotFound {
				if _, perr := podKind.get(ctx, c, req.GetNamespace(), req.GetName()); perr != nil {
					return doomed{podKind, req.GetNamespace(), req.GetName()}.named(err)
				}
			}
			return err
		}
		if _, err := o.world.Stdout.Write(r.GetData()); err != nil {
			return err
		}
	}
}

func probeCommand(o *options) *cobra.Command {
	container, kindWord, limit := "", "", int32(0)
	history := &cobra.Command{
		Use: "history POD", Short: "Show the newest results of a pod's probes, one line an attempt", Args: cobra.ExactArgs(1),
		Example: "  muster probe history web\n  muster probe history web -c main --kind liveness -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := podName(args[0])
			if err != nil {
				return err
			}
			probe, err := parseProbeKind(kindWord)
			if err != nil {
				return err
			}
			if limit < 0 || limit > 10000 {
				return usagef("--limit %d: want 0 (the default of 100) to 10000", limit)
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				r, err := c.probes.ListProbeResults(ctx, &musterv1.ListProbeResultsRequest{Namespace: o.namespace, Pod: name, Container: container, Kind: probe, Limit: limit})
				if err != nil {
					return doomed{podKind, o.namespace, name}.named(err)
				}
				return printHistory(o.world.Stdout, o.output, r.GetResults())
			})
		},
	}
	f := history.Flags()
	f.StringVarP(&container, "container", "c", "", "only this container's probes")
	f.StringVar(&kindWord, "kind", "", "only probes of this kind: liveness, readiness or startup")
	f.Int32Var(&limit, "limit", 0, "the newest so many, at most 10000 (default 100)")
	o.connectFlags(history)
	o.namespaceFlag(history)
	o.outputFlag(history, "table", "json")
	history.ValidArgsFunction = completePod(o)
	return parent("probe", "Look into probes",
		history,
		probeTailCommand(o),
		probeRunCommand(o),
		probeLintCommand(o),
	)
}

func printHistory(out io.Writer, format string, results []*musterv1.ProbeAttempt) error {
	if format == "json" {
		return attemptLines(out, format)(results)
	}
	rows := [][]string{}
	for _, a := range results {
		rows = append(rows, attemptCells(a))
	}
	return table(out, attemptHeader, rows)
}

var attemptHeader = []string{"TIME", "CONTAINER", "KIND", "OUTCOME", "RESULT", "DURATION", "CPU", "LAG", "OUTPUT"}

// attemptCells are what is below attemptHeader.
func attemptCells(a *musterv1.ProbeAttempt) []string {
	return []string{
		a.GetTime().AsTime().Local().Format("15:04:05.000"), a.GetContainer(), probeKindName(a.GetKind()), probeOutcome(a.GetOutcome()),
		probeResult(a.GetResult()), measured(a.GetDuration()), measured(a.GetCpu()), measured(a.GetLag()), oneLine(a.GetOutput()),
	}
}

// measured is "-" where nothing was.
func measured(d *durationpb.Duration) string {
	if d == nil {
		return "-"
	}
	return fmt.Sprint(shortDuration(d.AsDuration()))
}
