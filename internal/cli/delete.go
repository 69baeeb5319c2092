package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

type deleteFlags struct {
	files                                []string
	all, wait, ignoreMissing, now, force bool
	secondCopy                           bool
	grace                                int64
	graceSet                             bool
}

func deleteCommand(o *options) *cobra.Command {
	var d deleteFlags
	cmd := &cobra.Command{
		Use:   "delete TYPE NAME… | TYPE/NAME… | TYPE -l SELECTOR | TYPE --all | -f FILE",
		Short: "Delete objects and wait until they are gone",
		Example: "  muster delete pod web\n  muster delete -f web.yaml\n  muster delete pods -l app=web --grace-period 0\n" +
			"  muster delete pod web --allow-second-copy     # its node is lost: free the name at once",
		Long: "Delete pods, Deployments with their pods, Services and the like, or nodes that are gone for good. Returns when everything is gone.\n\n" +
			"--grace-period 0 kills at once; given again it shortens a deletion under way. A pod on a node that cannot be\n" +
			"reached is gone when it is certain that it runs no more.",
		RunE: func(cmd *cobra.Command, args []string) error {
			d.graceSet = cmd.Flags().Changed("grace-period")
			return runDelete(cmd.Context(), o, d, args)
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&d.files, "filename", "f", nil, "delete what these manifests name: a file, a directory, or - for stdin")
	f.BoolVar(&d.all, "all", false, "every object of the type in the namespace")
	f.BoolVar(&d.wait, "wait", true, "return when the objects are gone; false: once deletion is recorded")
	f.Int64Var(&d.grace, "grace-period", 0, "seconds between SIGTERM and SIGKILL, at least 0 (default: the pod's own)")
	f.BoolVar(&d.now, "now", false, "the same as --grace-period=1")
	f.BoolVar(&d.ignoreMissing, "ignore-not-found", false, "what is not there counts as deleted")
	f.BoolVar(&d.force, "force", false, "taken for kubectl's sake; changes nothing")
	f.BoolVar(&d.secondCopy, "allow-second-copy", false, "for a pod on a lost node: give up the fence, so that the name is free at once")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	o.selectorFlag(cmd)
	cmd.ValidArgsFunction = completeObjects(o)
	return cmd
}

// doomed is one object to delete.
type doomed struct {
	kind            *kind
	namespace, name string
}

func runDelete(ctx context.Context, o *options, d deleteFlags, args []string) error {
	switch {
	case d.graceSet && d.now:
		return usagef("--grace-period and --now together make no sense: leave one out")
	case d.graceSet && d.grace < 0:
		return usagef("--grace-period %d: must be at least 0", d.grace)
	case len(d.files) > 0 && (len(args) > 0 || o.selector != "" || d.all):
		return usagef("-f names the objects itself: leave out the rest")
	case d.all && o.selector != "":
		return usagef("--all and -l together make no sense: leave one out")
	}
	if d.now {
		d.grace, d.graceSet = 1, true
	}
	if d.force {
		fmt.Fprintln(o.world.Stderr, "--force changes nothing: --grace-period=0 alone kills at once, and --allow-second-copy gives up the fence")
	}
	var named []objectName
	if len(d.files) == 0 {
		var err error
		if named, err = parseObjects(args); err != nil {
			return err
		}
		for _, n := range named {
			switch {
			case n.kind != nodeKind && n.kind.writes == nil:
				return usagef("%s cannot be deleted", n.kind.plural)
			case n.name == "" && !d.all && o.selector == "":
				return usagef("delete %s: want a name, -l SELECTOR or --all", n.kind.plural)
			case n.name != "" && (d.all || o.selector != ""):
				return usagef("a name and -l or --all together make no sense: leave one out")
			case d.secondCopy && (n.kind != podKind || n.name == ""):
				return usagef("--allow-second-copy is for pods by their names")
			}
		}
	} else if d.secondCopy {
		return usagef("--allow-second-copy is for pods by their names")
	}
	return o.with(ctx, func(ctx context.Context, c *client) error {
		var targets []doomed
		if len(d.files) > 0 {
			found, bad, err := o.readNames(d.files)
			if err != nil {
				return err
			}
			if bad { // half of what was named is not what was asked for
				return errReported
			}
			targets = found
		}
		for _, n := range named {
			if n.name != "" {
				targets = append(targets, doomed{n.kind, o.namespace, n.name})
				continue
			}
			q := query{namespace: o.namespace, selector: o.selector}
			if !n.kind.namespaced {
				q.namespace = ""
			}
			items, _, err := n.kind.list(ctx, c, q)
			if err != nil {
				return err
			}
			if len(items) == 0 {
				if err := o.nothing([]objectName{n}, getFlags{}); err != nil {
					return err
				}
			}
			for _, i := range items {
				targets = append(targets, doomed{n.kind, i.namespace, i.name})
			}
		}
		return deleteAll(ctx, o, c, d, targets)
	})
}

// deletesAtOnce is how many deletions are asked for at a time.
const deletesAtOnce = 16

// deleteAll asks for every deletion first and then waits for all of them.
func deleteAll(ctx context.Context, o *options, c *client, d deleteFlags, targets []doomed) error {
	failed := false
	type going struct {
		doomed
		uid string
	}
	uids, errs := make([]string, len(targets)), make([]error, len(targets))
	var g errgroup.Group
	g.SetLimit(deletesAtOnce)
	for i, t := range targets {
		g.Go(func() error {
			uids[i], errs[i] = deleteOne(ctx, o, c, d, t)
			return nil
		})
	}
	_ = g.Wait() // each error is told below
	var waiting []going
	for i, t := range targets {
		uid, err := uids[i], errs[i]
		switch {
		case isCode(err, codes.NotFound) && d.ignoreMissing:
		case err != nil:
			fmt.Fprintln(o.world.Stderr, explain(t.named(err)))
			failed = true
		default:
			waiting = append(waiting, going{t, uid})
		}
	}
	for _, w := range waiting {
		if d.wait {
			if err := untilGone(ctx, c, w.doomed, w.uid); err != nil {
				if errors.Is(err, context.DeadlineExceeded) {
					err = fmt.Errorf("%s/%s is still there after --timeout %v; its deletion goes on: \"muster describe %s %s\" says what it waits for",
						w.kind.singular, w.name, o.timeout, w.kind.singular, w.name)
				}
				return err
			}
		}
		fmt.Fprintf(o.world.Stdout, "%s/%s deleted\n", w.kind.singular, w.name)
	}
	if failed {
		return errReported
	}
	return nil
}

// named puts our own words in place of the coordinator's where the object is not there.
func (t doomed) named(err error) error {
	if isCode(err, codes.NotFound) {
		return t.kind.missing(t.namespace, t.name)
	}
	return err
}

func deleteOne(ctx context.Context, o *options, c *client, d deleteFlags, t doomed) (uid string, err error) {
	var grace *durationpb.Duration
	if d.graceSet {
		grace = durationpb.New(time.Duration(d.grace) * time.Second)
	}
	switch t.kind {
	case podKind:
		if d.secondCopy {
			fmt.Fprintf(o.world.Stderr, "--allow-second-copy: if the old instance of %s/%s still runs, a new one may run beside it, and both may write to the same data\n", t.namespace, t.name)
		}
		r, err := c.pods.DeletePod(ctx, &musterv1.DeletePodRequest{Namespace: t.namespace, Name: t.name, Grace: grace, AllowSecondCopy: d.secondCopy})
		return r.GetPod().GetMeta().GetUid(), err
	case deploymentKind:
	default:
		return t.kind.writes.removes(ctx, c, t.namespace, t.name)
	case nodeKind:
		_, err := c.nodes.DeleteNode(ctx, &musterv1.DeleteNodeRequest{Name: t.name})
		return "", err
	}
	r, err := c.deployments.DeleteDeployment(ctx, &musterv1.DeleteDeploymentRequest{Namespace: t.namespace, Name: t.name})
	if err != nil {
		return "", err
	}
	uid = r.GetDeployment().GetMeta().GetUid()
	if grace == nil {
		return uid, nil
	}
	pods, _, err := listPods(ctx, c, &musterv1.PodFilter{Namespace: t.namespace, LabelSelector: selectorOf(r.GetDeployment())})
	if err != nil {
		return uid, err
	}
	for _, p := range pods {
		if p.GetMeta().GetOwner().GetUid() != uid {
			continue
		}
		_, err := c.pods.DeletePod(ctx, &musterv1.DeletePodRequest{Namespace: t.namespace, Name: p.GetMeta().GetName(), Uid: p.GetMeta().GetUid(), Grace: grace})
		if err != nil && !isCode(err, codes.NotFound) {
			return uid, err
		}
	}
	return uid, nil
}

// selectorOf is a Deployment's selector in the syntax of a filter; empty where it selects everything.
func selectorOf(d *musterv1.Deployment) string {
	if s := selectorText(d.GetSpec().GetSelector()); s != "<none>" {
		return s
	}
	return ""
}

// untilGone returns once the object, or the one of that uid where it is known, is no longer there.
func untilGone(ctx context.Context, c *client, t doomed, uid string) error {
	q := query{namespace: t.namespace, name: t.name}
	if !t.kind.namespaced {
		q.namespace = ""
	}
	there := false
	return follow(ctx, c, t.kind, q, func(ch change) (bool, error) {
		if ch.what == musterv1.ChangeType_CHANGE_TYPE_SYNCED {
			return !there, nil
		}
		if uid != "" && ch.item.uid != uid {
			return true, nil // somebody has made a new one already
		}
		there = ch.what != musterv1.ChangeType_CHANGE_TYPE_DELETED
		return !there, nil
	})
}
