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
	"github.com/musterhq/muster/internal/manifest"
	"github.com/musterhq/muster/internal/reason"
	"github.com/musterhq/muster/internal/spec"
)

func getCommand(o *options) *cobra.Command {
	var g getFlags
	cmd := &cobra.Command{
		Use:   "get TYPE [NAME…] | TYPE/NAME… | all",
		Short: "Show objects",
		Long: "Show objects of any type; \"all\" is what users run: pods, services and deployments.\n\n" +
			"The name of a probe or failover is its pod's. --field-selector knows metadata.name and metadata.namespace, and of\n" +
			"pods spec.nodeName and status.phase.",
		Example: "  muster get pods -A -o wide\n  muster get probes --failing\n  muster get pod/web -o yaml\n" +
			"  muster get pods -l app=web -o jsonpath='{.items[*].status.podIP}'\n" +
			"  muster get pods --field-selector spec.nodeName=node-1 --sort-by .metadata.creationTimestamp\n" +
			"  muster get pods -o custom-columns=NAME:.metadata.name,NODE:.spec.nodeName --no-headers",
		Args: needsType,
		RunE: func(cmd *cobra.Command, args []string) error { return runGet(cmd.Context(), o, g, args) },
	}
	f := cmd.Flags()
	f.BoolVarP(&g.watch, "watch", "w", false, "go on with what changes")
	f.BoolVar(&g.watchOnly, "watch-only", false, "only what changes from now on")
	f.BoolVar(&g.noHeaders, "no-headers", false, "leave out the header of tables")
	f.BoolVar(&g.showLabels, "show-labels", false, "a column with all labels")
	f.StringSliceVarP(&g.labels, "label-columns", "L", nil, "a column for each of these labels")
	f.StringVar(&g.sortBy, "sort-by", "", "in the order of a field, given as a JSONPath")
	f.StringVar(&g.fields, "field-selector", "", "only objects with these fields: FIELD=VALUE or FIELD!=VALUE, a comma between")
	f.BoolVar(&g.ignoreMissing, "ignore-not-found", false, "what is not there is no failure")
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
	watch, watchOnly, failing            bool
	noHeaders, showLabels, ignoreMissing bool
	labels                               []string
	sortBy, fields                       string
	container, kind, involved            string
	// terms and order are fields and sortBy, understood.
	terms []fieldTerm
	order *manifest.JSONPath
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
	if err := g.parse(p); err != nil {
		return err
	}
	for _, obj := range objects {
		if err := checkFields(obj.kind, g.terms); err != nil {
			return err
		}
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
		if g.watch || g.watchOnly {
			return watchObjects(ctx, o, g, c, p, objects)
		}
		return listObjects(ctx, o, g, c, p, objects)
	})
}

// parse understands what the flags say, and tells the printer.
func (g *getFlags) parse(p *printer) (err error) {
	p.noHeaders, p.showLabels, p.labels = g.noHeaders, g.showLabels, g.labels
	if len(g.labels) > maxColumns {
		return usagef("-L: %d labels, at most %d", len(g.labels), maxColumns)
	}
	for _, key := range g.labels {
		if why := spec.LabelKey(key); why != "" {
			return usagef("-L %q: %s", key, why)
		}
	}
	if g.fields != "" {
		if g.terms, err = parseFields(g.fields); err != nil {
			return err
		}
	}
	if g.sortBy != "" {
		if g.order, err = manifest.ParseJSONPath(g.sortBy); err != nil {
			return usagef("--sort-by: %w", err)
		}
	}
	return nil
}

// chosen leaves the items that are selected, in the order that is asked for.
func (g *getFlags) chosen(items []item) ([]item, error) {
	var kept []item
	for n := range items {
		ok, err := matchFields(&items[n], g.terms)
		if err != nil {
			return nil, err
		}
		if ok {
			kept = append(kept, items[n])
		}
	}
	if g.order != nil {
		return kept, sortItems(kept, g.order)
	}
	return kept, nil
}

func listObjects(ctx context.Context, o *options, g getFlags, c *client, p *printer, objects []objectName) error {
	var items, ofKind []item
	revision, missing := int64(0), false
	flush := func() error {
		kept, err := g.chosen(ofKind)
		items, ofKind = append(items, kept...), nil
		return err
	}
	for n, obj := range objects {
		if n > 0 && obj.kind != objects[n-1].kind {
			if err := flush(); err != nil {
				return err
			}
		}
		q, err := o.query(obj.kind, g)
		if err != nil {
			return err
		}
		q.name = obj.name
		if obj.name != "" && obj.kind.gets != nil {
			i, err := obj.kind.find(ctx, c, q.namespace, obj.name)
			if _, gone := errors.AsType[*missingError](err); gone {
				if !g.ignoreMissing {
					fmt.Fprintln(o.world.Stderr, err)
					missing = true
				}
				continue
			}
			if err != nil {
				return err
			}
			ofKind = append(ofKind, i)
			continue
		}
		some, at, err := obj.kind.list(ctx, c, q)
		if err != nil {
			return err
		}
		ofKind, revision = append(ofKind, some...), max(revision, at)
	}
	if err := flush(); err != nil {
		return err
	}
	single := len(objects) == 1 && objects[0].name != "" && objects[0].kind.gets != nil
	if missing && len(items) == 0 {
		return errReported
	}
	if len(items) == 0 && p.isTable() {
		if single && g.ignoreMissing {
			return nil
		}
		return o.nothing(objects, g)
	}
	if len(items) == 0 && single { // an object that is not there is not a list of none
		return nil
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
	for n, obj := range objects[1:] {
		if obj.kind != objects[n].kind {
			what += ", " + obj.kind.plural
		}
	}
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
	if g.order != nil {
		fmt.Fprintln(o.world.Stderr, "--sort-by orders what there is; what changes comes as it changes")
	}
	w := &watcher{flags: g, printer: p, known: map[string]item{}}
	err = follow(ctx, c, k, q, func(ch change) (bool, error) { return false, w.see(ch) })
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // --timeout is how long to watch
	}
	return err
}

// watcher shows what there is, and then what changes.
type watcher struct {
	flags   getFlags
	printer *printer
	first   []item
	synced  bool
	// known are the objects that were chosen, as they were last.
	known map[string]item
}

func (w *watcher) see(ch change) error {
	if ch.what == musterv1.ChangeType_CHANGE_TYPE_SYNCED {
		w.synced = true
		return w.showFirst()
	}
	key := ch.item.namespace + "/" + ch.item.name
	if ch.item.kind == probeKind || ch.item.kind == eventKind { // a name is not one object there
		key = ""
	}
	was, had := w.known[key]
	gone := ch.what == musterv1.ChangeType_CHANGE_TYPE_DELETED
	if gone && w.printer.isTable() && had { // all that is told of it is its name
		ch.item = was
	}
	ok, err := matchFields(&ch.item, w.flags.terms)
	if err != nil {
		return err
	}
	switch {
	case gone || !ok:
		delete(w.known, key)
	case key != "":
		w.known[key] = ch.item
	}
	switch {
	case !ok && !had: // one that is not chosen any more is shown a last time
		return nil
	case !w.synced:
		w.first = append(w.first, ch.item)
		return nil
	}
	return w.printer.one(ch.item)
}

// showFirst shows what there is; the widths of a table are those of that.
func (w *watcher) showFirst() error {
	if len(w.first) == 0 || w.flags.watchOnly {
		return nil
	}
	if w.flags.order != nil {
		if err := sortItems(w.first, w.flags.order); err != nil {
			return err
		}
	}
	if w.printer.isTable() {
		return w.printer.rows(w.first)
	}
	for _, i := range w.first {
		if err := w.printer.one(i); err != nil {
			return err
		}
	}
	return nil
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
