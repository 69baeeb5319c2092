package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/reason"
)

func getCommand(o *options) *cobra.Command {
	var g getFlags
	cmd := &cobra.Command{
		Use:   "get TYPE [NAME…] | TYPE/NAME…",
		Short: "Show objects",
		Long: "Show pods, nodes, deployments, events, members, probes or failovers.\n\n" +
			"The name of a probe or failover is its pod's.",
		Example: "  muster get pods -A -o wide\n  muster get probes --failing\n  muster get pod/web -o yaml\n" +
			"  muster get pods -l app=web -o jsonpath='{.items[*].status.podIP}'",
		Args: needsType,
		RunE: func(cmd *cobra.Command, args []string) error { return runGet(cmd.Context(), o, g, args) },
	}
	f := cmd.Flags()
	f.BoolVarP(&g.watch, "watch", "w", false, "go on with what changes")
	f.BoolVar(&g.failing, "failing", false, "only probes whose verdict is failure")
	f.StringVarP(&g.container, "container", "c", "", "only this container's probes")
	f.StringVar(&g.kind, "kind", "", "only probes of this kind: liveness, readiness or startup")
	f.StringVar(&g.involved, "for", "", "only events of this object, as TYPE/NAME")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	o.allNamespacesFlag(cmd)
	o.selectorFlag(cmd)
	o.outputFlag(cmd, formats...)
	cmd.ValidArgsFunction = completeObjects(o)
	return cmd
}

type getFlags struct {
	watch, failing            bool
	container, kind, involved string
}

func needsType(_ *cobra.Command, args []string) error {
	_, err := parseObjects(args)
	return err
}

// query is what the flags ask for of one kind.
func (o *options) query(k *kind, g getFlags) (query, error) {
	q := query{namespace: o.namespace, selector: o.selector, failing: g.failing, container: g.container}
	if o.allNamespaces || !k.namespaced {
		q.namespace = ""
	}
	if k != probeKind && (g.failing || g.container != "" || g.kind != "") {
		return q, usagef("--failing, -c and --kind are for probes, not for %s", k.plural)
	}
	if k != eventKind && g.involved != "" {
		return q, usagef("--for is for events, not for %s", k.plural)
	}
	if o.selector != "" && (k == memberKind || k == failoverKind || k == eventKind) {
		return q, usagef("-l: %s have no labels", k.plural)
	}
	var err error
	if q.probe, err = parseProbeKind(g.kind); err != nil {
		return q, err
	}
	if g.involved != "" {
		objects, err := parseObjects([]string{g.involved})
		if err != nil || objects[0].name == "" {
			return q, usagef("--for %s: want TYPE/NAME", g.involved)
		}
		q.involved = objects[0]
	}
	return q, nil
}

// parseProbeKind understands --kind; empty is any.
func parseProbeKind(word string) (musterv1.ProbeKind, error) {
	if word == "" {
		return musterv1.ProbeKind_PROBE_KIND_UNSPECIFIED, nil
	}
	if n, ok := musterv1.ProbeKind_value["PROBE_KIND_"+strings.ToUpper(word)]; ok && n != 0 {
		return musterv1.ProbeKind(n), nil
	}
	return 0, usagef("--kind %s: want liveness, readiness or startup", word)
}

func runGet(ctx context.Context, o *options, g getFlags, args []string) error {
	objects, err := parseObjects(args)
	if err != nil {
		return err
	}
	p, err := newPrinter(o.world.Stdout, o.output)
	if err != nil {
		return err
	}
	for _, obj := range objects {
		p.kinds = p.kinds || obj.kind != objects[0].kind
		if obj.name != "" && o.selector != "" {
			return usagef("a name and -l together make no sense: leave one out")
		}
		if obj.name != "" && o.allNamespaces && obj.kind.namespaced {
			return usagef("a name and -A together make no sense: pass -n NAMESPACE")
		}
	}
	p.namespaced = o.allNamespaces
	return o.with(ctx, func(ctx context.Context, c *client) error {
		if g.watch {
			return watchObjects(ctx, o, g, c, p, objects)
		}
		return listObjects(ctx, o, g, c, p, objects)
	})
}

func listObjects(ctx context.Context, o *options, g getFlags, c *client, p *printer, objects []objectName) error {
	var items []item
	revision, missing := int64(0), false
	for _, obj := range objects {
		q, err := o.query(obj.kind, g)
		if err != nil {
			return err
		}
		q.name = obj.name
		if obj.name != "" && obj.kind.gets != nil {
			i, err := obj.kind.find(ctx, c, q.namespace, obj.name)
			if _, gone := errors.AsType[*missingError](err); gone {
				fmt.Fprintln(o.world.Stderr, err)
				missing = true
				continue
			}
			if err != nil {
				return err
			}
			items = append(items, i)
			continue
		}
		some, at, err := obj.kind.list(ctx, c, q)
		if err != nil {
			return err
		}
		items, revision = append(items, some...), max(revision, at)
	}
	single := len(objects) == 1 && objects[0].name != "" && objects[0].kind.gets != nil
	if missing && len(items) == 0 {
		return errReported
	}
	if len(items) == 0 && (p.format == "table" || p.format == "wide") {
		return o.nothing(objects, g)
	}
	if err := p.list(items, revision, single); err != nil {
		return err
	}
	if missing {
		return errReported
	}
	return nil
}

// nothing says on stderr that there is nothing to show, which is no failure.
func (o *options) nothing(objects []objectName, g getFlags) error {
	k := objects[0].kind
	what := k.plural
	if g.failing {
		what = "failing " + what
	}
	where := ""
	if k.namespaced && !o.allNamespaces {
		where = fmt.Sprintf(" in namespace %q (-A shows all)", o.namespace)
	}
	_, err := fmt.Fprintf(o.world.Stderr, "no %s%s\n", what, where)
	return err
}

func watchObjects(ctx context.Context, o *options, g getFlags, c *client, p *printer, objects []objectName) error {
	k := objects[0].kind
	if len(objects) > 1 {
		return usagef("-w watches one type, or one object")
	}
	if k.watches == nil {
		return usagef("-w: %s cannot be watched; run the command again", k.plural)
	}
	q, err := o.query(k, g)
	if err != nil {
		return err
	}
	q.name = objects[0].name
	if k == eventKind && q.name != "" {
		return usagef("-w: one event cannot be watched: pass --for TYPE/NAME")
	}
	var first []item
	synced := false
	err = follow(ctx, c, k, q, func(ch change) (bool, error) {
		switch {
		case ch.what == musterv1.ChangeType_CHANGE_TYPE_SYNCED:
			synced = true
			if len(first) == 0 {
				return false, nil
			}
			// The widths of the table are those of what is there.
			if p.format == "table" || p.format == "wide" {
				return false, p.rows(first)
			}
			for _, i := range first {
				if err := p.one(i); err != nil {
					return false, err
				}
			}
			return false, nil
		case !synced:
			first = append(first, ch.item)
			return false, nil
		}
		return false, p.one(ch.item)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // --timeout is how long to watch
	}
	return err
}

// patience is how long a watch goes on while there is no coordinator.
const patience = time.Minute

// follow watches until see says that it is done, the context ends, or the coordinator stays away for a minute. When the
// watch is cut it goes on where it was; see may then be told again what it knows already.
func follow(ctx context.Context, c *client, k *kind, q query, see func(change) (done bool, err error)) error {
	revision, synced := int64(0), false
	heard := time.Now()
	for pause := 100 * time.Millisecond; ; {
		err := followOnce(ctx, c, k, q, revision, func(ch change) (bool, error) {
			heard, pause = time.Now(), 100*time.Millisecond
			revision = max(revision, ch.revision)
			if ch.what == musterv1.ChangeType_CHANGE_TYPE_SYNCED {
				if synced {
					return false, nil
				}
				synced = true
			}
			return see(ch)
		})
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if isCode(err, codes.DeadlineExceeded) { // the call's clock was a moment faster than ours
			return context.DeadlineExceeded
		}
		if !retryable(err) || time.Since(heard) > patience || !synced {
			return err
		}
		if reason.Of(err) == "REVISION_COMPACTED" {
			revision = 0
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// followOnce is one watch; nil when see is done.
func followOnce(ctx context.Context, c *client, k *kind, q query, revision int64, see func(change) (bool, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	next, err := k.watch(ctx, c, q, revision)
	if err != nil {
		return err
	}
	for {
		ch, err := next()
		if err != nil {
			return err
		}
		if done, err := see(ch); done || err != nil {
			return err
		}
	}
}

// completeObjects completes types, then names.
func completeObjects(o *options) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			var names []string
			for _, k := range kinds {
				names = append(names, k.plural)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		}
		k, err := kindOf(args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return o.completeNames(cmd.Context(), k), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeNames asks the cluster for names; none when it does not answer quickly.
func (o *options) completeNames(ctx context.Context, k *kind) []string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var names []string
	if err := o.with(ctx, func(ctx context.Context, c *client) error {
		q, err := o.query(k, getFlags{})
		if err != nil {
			return err
		}
		items, _, err := k.list(ctx, c, q)
		for _, i := range items {
			names = append(names, i.name)
		}
		return err
	}); err != nil {
		return nil // a completion has nowhere to put an error
	}
	return names
}
