package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/reason"
)

// drainEvery is the pause between two looks at what is left on a node.
var drainEvery = time.Second

type drainFlags struct {
	dryRun           string
	emptyDir         bool
	grace            int64
	selector         string
	force, daemonset bool
}

func drainCommand(o *options) *cobra.Command {
	var f drainFlags
	cmd := &cobra.Command{
		Use: "drain NODE…", Short: "Move every pod off a node",
		Example: "  muster drain node-1\n  muster drain node-1 --timeout 5m",
		Long: "Cordon a node, then evict its pods: those of workloads are deleted, and made anew elsewhere; bare pods move with\n" +
			"their names and uids, once they fit elsewhere. Disruption budgets are kept: what they refuse is tried again until\n" +
			"--timeout. What is left then is told with its reason, and the exit status is 1. Pods that have finished stay.\n\n" +
			"\"muster uncordon\" lets pods be placed on the node again.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.grace < -1 {
				return usagef("--grace-period %d: must be at least 0, or -1 for the pods' own", f.grace)
			}
			if f.dryRun != "none" && f.dryRun != "server" {
				return usagef("--dry-run=%s: want server", f.dryRun)
			}
			return runDrain(cmd.Context(), o, f, args)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.dryRun, "dry-run", "none", "server: say what would be evicted, and what would not, and change nothing")
	fl.Lookup("dry-run").NoOptDefVal = "server"
	fl.BoolVar(&f.emptyDir, "delete-emptydir-data", false, "also pods with emptyDir volumes: what is in them is lost")
	fl.Int64Var(&f.grace, "grace-period", -1, "seconds between SIGTERM and SIGKILL for pods that are deleted; -1: their own, which those that move always have")
	fl.StringVar(&f.selector, "pod-selector", "", "only the pods that this label selector matches")
	fl.BoolVar(&f.force, "force", false, "taken for kubectl's sake: bare pods move anyhow")
	fl.BoolVar(&f.daemonset, "ignore-daemonsets", false, "taken for kubectl's sake: there are none")
	o.connectFlags(cmd)
	fl.Lookup("timeout").Usage = "give up after this time; 0: never"
	cmd.ValidArgsFunction = func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return o.completeNames(cmd.Context(), nodeKind), cobra.ShellCompDirectiveNoFileComp
	}
	return cmd
}

func runDrain(ctx context.Context, o *options, f drainFlags, args []string) error {
	return o.with(ctx, func(ctx context.Context, c *client) error {
		var drains []*drain
		for _, arg := range args {
			d := &drain{o: o, c: c, flags: f, node: strings.TrimPrefix(arg, "node/"), evicted: map[string]evicted{}, said: map[string]string{}}
			if err := d.cordon(ctx); err != nil {
				return err
			}
			drains = append(drains, d)
		}
		for _, d := range drains {
			if err := d.run(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// drain is the drain of one node under way.
type drain struct {
	o     *options
	c     *client
	flags drainFlags
	node  string
	// evicted are the pods that are leaving, by uid.
	evicted map[string]evicted
	// said is the last word on each pod that could not be evicted, by uid.
	said map[string]string
}

type evicted struct {
	name string
	how  musterv1.Eviction
}

func (d *drain) cordon(ctx context.Context) error {
	if d.flags.dryRun == "none" {
		return setCordon(ctx, d.o, d.c, d.node, "cordon", true)
	}
	r, err := d.c.nodes.GetNode(ctx, &musterv1.GetNodeRequest{Name: d.node})
	if err != nil {
		return doomed{nodeKind, "", d.node}.named(err)
	}
	done := "cordoned"
	if r.GetNode().GetUnschedulable() {
		done = "already cordoned"
	}
	fmt.Fprintf(d.o.world.Stdout, "node/%s %s (server dry run)\n", d.node, done)
	return nil
}

// left is what a look finds on the node: a word on each pod that is still there, by namespace and name.
type left struct {
	// Each word names its pod. leaving are on their way, refused may be allowed to go later, stuck need something else first.
	leaving, refused, stuck map[string]string
}

func (l left) all() map[string]string {
	all := maps.Clone(l.leaving)
	maps.Copy(all, l.refused)
	maps.Copy(all, l.stuck)
	return all
}

func (d *drain) run(ctx context.Context) error {
	if err := d.refuseVolumes(ctx); err != nil {
		return d.timedOut(ctx, left{}, err)
	}
	var last left
	for {
		now, err := d.look(ctx)
		if err != nil {
			if ctx.Err() == nil && retryable(err) {
				now = last // the coordinator was away for a moment
			} else {
				return d.timedOut(ctx, last, err)
			}
		}
		last = now
		switch {
		case d.flags.dryRun != "none":
			if n := len(last.refused) + len(last.stuck); n > 0 {
				return errReported
			}
			fmt.Fprintf(d.o.world.Stdout, "node/%s drained (server dry run)\n", d.node)
			return nil
		case err == nil && len(last.all()) == 0:
			fmt.Fprintf(d.o.world.Stdout, "node/%s drained\n", d.node)
			return nil
		case err == nil && len(last.leaving)+len(last.refused) == 0:
			return d.report(last, "and nothing will take them off it")
		}
		select {
		case <-ctx.Done():
			return d.timedOut(ctx, last, ctx.Err())
		case <-time.After(drainEvery):
		}
	}
}

// timedOut reports what is left where --timeout is over, and passes on any other error. The API may find the deadline over a
// moment before this process does.
func (d *drain) timedOut(ctx context.Context, l left, err error) error {
	if d.o.timeout > 0 && (isCode(err, codes.DeadlineExceeded) || errors.Is(context.Cause(ctx), context.DeadlineExceeded)) {
		return d.report(l, fmt.Sprintf("after --timeout %v", d.o.timeout))
	}
	return err
}

// report tells why each pod is still there.
func (d *drain) report(l left, why string) error {
	all := l.all()
	fmt.Fprintf(d.o.world.Stderr, "node/%s is cordoned, but not drained: %d pods are left %s\n", d.node, len(all), why)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintln(d.o.world.Stderr, oneLine(all[name]))
	}
	return errReported
}

func (d *drain) pods(ctx context.Context) ([]*musterv1.Pod, error) {
	pods, _, err := listPods(ctx, d.c, &musterv1.PodFilter{Node: d.node, LabelSelector: d.flags.selector})
	return slices.DeleteFunc(pods, func(p *musterv1.Pod) bool {
		phase := p.GetStatus().GetPhase()
		over := phase == musterv1.PodPhase_POD_PHASE_SUCCEEDED || phase == musterv1.PodPhase_POD_PHASE_FAILED
		return over && p.GetMeta().GetOwner() == nil
	}), err
}

func fullName(p *musterv1.Pod) string {
	return p.GetMeta().GetNamespace() + "/" + p.GetMeta().GetName()
}

// refuseVolumes names the pods whose emptyDir volumes would be lost, unless that is accepted.
func (d *drain) refuseVolumes(ctx context.Context) error {
	if d.flags.emptyDir {
		return nil
	}
	pods, err := d.pods(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, p := range pods {
		if slices.ContainsFunc(p.GetSpec().GetVolumes(), func(v *musterv1.Volume) bool { return v.GetEmptyDir() != nil }) {
			names = append(names, fullName(p))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("node/%s is not drained: cannot evict pods with local storage (use --delete-emptydir-data to override): %s", d.node, strings.Join(names, ", "))
}

// look evicts what it finds on the node and may go, and tells of what has gone since.
func (d *drain) look(ctx context.Context) (left, error) {
	l := left{leaving: map[string]string{}, refused: map[string]string{}, stuck: map[string]string{}}
	pods, err := d.pods(ctx)
	if err != nil {
		return l, err
	}
	there := map[string]bool{}
	for _, p := range pods {
		there[p.GetMeta().GetUid()] = true
	}
	for _, uid := range slices.Sorted(maps.Keys(d.evicted)) {
		if !there[uid] {
			d.gone(uid)
		}
	}
	for _, p := range pods {
		if err := d.evict(ctx, p, l); err != nil {
			return l, err
		}
	}
	return l, nil
}

// gone tells of a pod that has left, if it was known to leave.
func (d *drain) gone(uid string) {
	e, known := d.evicted[uid]
	if !known {
		return
	}
	delete(d.evicted, uid)
	done := "evicted"
	if e.how == musterv1.Eviction_EVICTION_MOVE {
		done = "moved"
	}
	fmt.Fprintf(d.o.world.Stdout, "pod/%s %s\n", e.name, done)
}

func (d *drain) evict(ctx context.Context, p *musterv1.Pod, l left) error {
	m, name := p.GetMeta(), fullName(p)
	req := &musterv1.EvictPodRequest{Namespace: m.GetNamespace(), Name: m.GetName(), Uid: m.GetUid(), Node: d.node, ValidateOnly: d.flags.dryRun != "none"}
	if d.flags.grace >= 0 {
		req.Grace = durationpb.New(time.Duration(d.flags.grace) * time.Second)
	}
	r, err := d.c.pods.EvictPod(ctx, req)
	why := reason.Of(err)
	switch {
	case err == nil:
		d.leaves(p, r.GetEviction(), l)
		return nil
	case isCode(err, codes.NotFound): // since it was listed
		d.gone(m.GetUid())
		return nil
	case why == "REVISION_CONFLICT": // it has changed at the same moment: another look
		l.leaving[name] = "pod " + name + " is changing"
		return nil
	case why == reason.DisruptionBudget:
		l.refused[name] = err.Error()
	case isCode(err, codes.FailedPrecondition):
		l.stuck[name] = explain(err)
	default:
		return err
	}
	text, again := explain(err), ""
	if why == reason.DisruptionBudget && d.flags.dryRun == "none" {
		again = " (will retry)"
	}
	if d.said[m.GetUid()] != text {
		d.said[m.GetUid()] = text
		fmt.Fprintln(d.o.world.Stderr, oneLine(text)+again)
	}
	return nil
}

// leaves notes a pod that is on its way.
func (d *drain) leaves(p *musterv1.Pod, how musterv1.Eviction, l left) {
	m, name := p.GetMeta(), fullName(p)
	dry := ""
	if d.flags.dryRun != "none" {
		dry = " (server dry run)"
	}
	l.leaving[name] = "pod " + name + " is stopping"
	if _, known := d.evicted[m.GetUid()]; known {
		return
	}
	switch {
	case how == musterv1.Eviction_EVICTION_DELETE:
		fmt.Fprintf(d.o.world.Stdout, "evicting pod %s%s\n", name, dry)
	case how == musterv1.Eviction_EVICTION_MOVE:
		fmt.Fprintf(d.o.world.Stdout, "moving pod %s%s\n", name, dry)
	case m.GetOwner() == nil && m.GetDeleteTime() == nil: // somebody else moves it
		how = musterv1.Eviction_EVICTION_MOVE
	}
	d.evicted[m.GetUid()] = evicted{m.GetName(), how}
}
