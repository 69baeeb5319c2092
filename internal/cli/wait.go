package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/manifest"
)

// week is how long a negative --timeout waits.
const week = 7 * 24 * time.Hour

func waitCommand(o *options) *cobra.Command {
	forWhat, all := "", false
	cmd := &cobra.Command{
		Use:   "wait --for=condition=C[=V]|delete|create|jsonpath=PATH[=V] TYPE/NAME… | TYPE -l SELECTOR | TYPE --all",
		Short: "Wait until objects are as they should be",
		Long: "Wait until a condition of every object named is True, or V; until it is gone; until it is there; or until a field\n" +
			"has a value, or V. With -l or --all the objects are those that there are at first; for create, one is enough.",
		Example: "  muster wait --for=condition=Ready pod/web --timeout=30s\n  muster wait --for=delete pods -l app=web\n" +
			"  muster wait --for=jsonpath='{.status.phase}'=Succeeded pod/job\n  muster wait --for=condition=Ready=Unknown node/n1 --timeout=-1s\n" +
			"  muster wait --for=create pod/web",
		Args: needsType,
		RunE: func(cmd *cobra.Command, args []string) error {
			w := waiting{forWhat: forWhat}
			switch {
			case !cmd.Flags().Changed("timeout"):
				o.timeout = 30 * time.Second
			case o.timeout == 0:
				w.once = true
			case o.timeout < 0:
				o.timeout = week
			}
			return runWait(cmd.Context(), o, &w, all, args)
		},
	}
	cmd.Flags().StringVar(&forWhat, "for", "", "what to wait for (required)")
	cmd.Flags().BoolVar(&all, "all", false, "every object of the type in the namespace")
	o.connectFlags(cmd)
	cmd.Flags().Lookup("timeout").Usage = "give up after this time; default 30s; 0: look once; negative: after a week"
	o.namespaceFlag(cmd)
	o.allNamespacesFlag(cmd)
	o.selectorFlag(cmd)
	cmd.ValidArgsFunction = completeObjects(o)
	return cmd
}

// condition says whether an object, as JSON shows it, is as it should be.
type condition func(object any) (bool, error)

// waiting is what is waited for.
type waiting struct {
	forWhat string
	// once is set to look and not to wait.
	once bool
	// gone and created are set for delete and create; met says the rest.
	gone, created bool
	met           condition
}

// parse understands --for.
func (w *waiting) parse() error {
	what, rest, _ := strings.Cut(w.forWhat, "=")
	switch what {
	case "delete", "create":
		if w.forWhat != what {
			return usagef("--for=%s: %s takes no value", w.forWhat, what)
		}
		w.gone, w.created = what == "delete", what == "create"
		w.met = func(any) (bool, error) { return w.created, nil }
		return nil
	case "condition":
		name, want, ok := strings.Cut(rest, "=")
		if !ok {
			want = "True"
		}
		if name == "" || want == "" {
			return usagef("--for=%s: want condition=TYPE or condition=TYPE=STATUS", w.forWhat)
		}
		w.met = func(object any) (bool, error) { return hasCondition(object, name, want), nil }
		return nil
	case "jsonpath":
		expr, want, anyValue := cutJSONPath(rest)
		path, err := manifest.ParseJSONPath(expr)
		if err != nil {
			return usagef("--for=%s: %w", w.forWhat, err)
		}
		w.met = func(object any) (bool, error) {
			values, err := path.Find(object)
			if err != nil {
				return false, err
			}
			return slices.ContainsFunc(values, func(v any) bool { return anyValue || scalarText(v) == want }), nil
		}
		return nil
	}
	return usagef("--for=%q: want condition=…, delete, create or jsonpath=…", w.forWhat)
}

// cutJSONPath parts "{.a}=v" into path and value; without a value any will do. An = inside braces is the path's.
func cutJSONPath(s string) (expr, want string, anyValue bool) {
	depth := 0
	for i, r := range s {
		switch {
		case r == '{' || r == '[':
			depth++
		case r == '}' || r == ']':
			depth--
		case r == '=' && depth == 0:
			return s[:i], strings.Trim(s[i+1:], `"'`), false
		}
	}
	return s, "", true
}

// hasCondition looks into status.conditions, names in any case. A status that was seen of an older spec says nothing of
// this one.
func hasCondition(object any, name, want string) bool {
	top, _ := object.(map[string]any)
	st, _ := top["status"].(map[string]any)
	meta, _ := top["metadata"].(map[string]any)
	generation, _ := meta["generation"].(float64)
	if seen, ok := st["observedGeneration"].(float64); ok && seen < generation {
		return false
	}
	list, _ := st["conditions"].([]any)
	for _, entry := range list {
		c, _ := entry.(map[string]any)
		typ, _ := c["type"].(string)
		status, _ := c["status"].(string)
		if strings.EqualFold(typ, name) {
			return strings.EqualFold(status, want)
		}
	}
	return false
}

func runWait(ctx context.Context, o *options, w *waiting, all bool, args []string) error {
	if w.forWhat == "" {
		return usagef("--for is required: condition=…, delete, create or jsonpath=…")
	}
	if err := w.parse(); err != nil {
		return err
	}
	objects, err := parseObjects(args)
	if err != nil {
		return err
	}
	for _, obj := range objects {
		if obj.kind.watches == nil || obj.kind == probeKind {
			return usagef("cannot wait for %s", obj.kind.plural)
		}
	}
	if err := o.checkChoice("wait for", objects, all); err != nil {
		return err
	}
	return o.with(ctx, func(ctx context.Context, c *client) error {
		groups, order, err := o.waitGroups(ctx, c, w, objects)
		if err != nil {
			return err
		}
		tell := &teller{o: o, order: order, said: map[doomed]string{}}
		g, ctx := errgroup.WithContext(ctx)
		for _, group := range groups {
			g.Go(func() error { return group.run(ctx, c, w, tell) })
		}
		err = g.Wait()
		tell.rest()
		if err != nil {
			return err
		}
		failed := false
		for _, group := range groups {
			for _, problem := range group.problems(w, o.timeout) {
				failed = true
				fmt.Fprintln(o.world.Stderr, problem)
			}
		}
		if failed {
			return errReported
		}
		return nil
	})
}

// waitGroup is what is waited for through one watch: objects of one kind, in one namespace unless each says its own.
type waitGroup struct {
	kind  *kind
	query query
	// any is set where the first object that comes is enough.
	any bool
	// pending are those that are not as they should be, with the uid that was seen; lost are those that cannot be any more,
	// and why.
	pending map[doomed]string
	lost    map[doomed]error
	there   map[doomed]bool
}

// waitGroups names every object that is meant, and the watches that show them.
func (o *options) waitGroups(ctx context.Context, c *client, w *waiting, objects []objectName) (groups []*waitGroup, order []doomed, err error) {
	byKind := map[*kind]*waitGroup{}
	for _, obj := range objects {
		q, err := o.query(obj.kind, getFlags{})
		if err != nil {
			return nil, nil, err
		}
		g := byKind[obj.kind]
		if g == nil {
			g = &waitGroup{kind: obj.kind, query: q, pending: map[doomed]string{}, lost: map[doomed]error{}, there: map[doomed]bool{}}
			byKind[obj.kind] = g
			groups = append(groups, g)
		}
		add := func(namespace, name string) {
			t := doomed{obj.kind, namespace, name}
			if _, twice := g.pending[t]; !twice {
				g.pending[t] = ""
				order = append(order, t)
			}
		}
		if obj.name != "" {
			add(q.namespace, obj.name)
			continue
		}
		if w.created {
			g.any = true
			continue
		}
		items, _, err := obj.kind.list(ctx, c, q)
		if err != nil {
			return nil, nil, err
		}
		for _, i := range items {
			add(i.namespace, i.name)
		}
		if len(items) == 0 && !w.gone {
			return nil, nil, errors.New("nothing matches: check -l and -n, or wait for it with --for=create")
		}
	}
	for _, g := range groups {
		g.query.selector = "" // an object stays meant when its labels change
		if g.any {
			g.query.selector = o.selector
		} else if len(g.pending) == 1 {
			for t := range g.pending {
				g.query.name = t.name
			}
		}
	}
	return groups, order, nil
}

// run watches until nothing is pending, or the context has ended; that is no error.
func (g *waitGroup) run(ctx context.Context, c *client, w *waiting, tell *teller) error {
	if len(g.pending) == 0 && !g.any {
		return nil
	}
	err := follow(ctx, c, g.kind, g.query, func(ch change) (bool, error) {
		if ch.what == musterv1.ChangeType_CHANGE_TYPE_SYNCED {
			g.synced(w, tell)
			return w.once || g.over(), nil
		}
		err := g.see(w, ch, tell)
		return g.over(), err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

func (g *waitGroup) over() bool { return len(g.pending) == 0 && !g.any }

// see looks at one object that has changed.
func (g *waitGroup) see(w *waiting, ch change, tell *teller) error {
	t := doomed{g.kind, ch.item.namespace, ch.item.name}
	uid, meant := g.pending[t]
	deleted := ch.what == musterv1.ChangeType_CHANGE_TYPE_DELETED
	if !deleted && g.any {
		g.any = false
		tell.add(t)
		meant = true
	}
	if !meant {
		return nil
	}
	switch {
	case w.gone && (deleted || uid != "" && ch.item.uid != uid): // or there is another of that name already
		g.done(t, "deleted", tell)
		return nil
	case deleted && !w.created:
		delete(g.pending, t)
		g.lost[t] = fmt.Errorf("%s/%s was deleted meanwhile: wait for the next one with --for=create", t.kind.singular, t.name)
		tell.say(t, "")
		return nil
	case deleted:
		return nil
	}
	g.there[t], g.pending[t] = true, ch.item.uid
	object, err := plain(ch.item.value())
	if err != nil {
		return err
	}
	if ok, err := w.met(object); !ok || err != nil {
		return err
	}
	g.done(t, "condition met", tell)
	return nil
}

// synced is told once all that there is has been seen.
func (g *waitGroup) synced(w *waiting, tell *teller) {
	if w.created {
		return
	}
	for t := range g.pending {
		switch {
		case g.there[t]:
		case w.gone:
			g.done(t, "deleted", tell)
		default:
			delete(g.pending, t)
			g.lost[t] = t.kind.missing(t.namespace, t.name)
			tell.say(t, "")
		}
	}
}

func (g *waitGroup) done(t doomed, word string, tell *teller) {
	delete(g.pending, t)
	tell.say(t, fmt.Sprintf("%s/%s %s\n", t.kind.singular, t.name, word))
}

// problems are what is left, by name.
func (g *waitGroup) problems(w *waiting, timeout time.Duration) (lines []string) {
	for _, err := range g.lost {
		lines = append(lines, err.Error())
	}
	for t := range g.pending {
		more := fmt.Sprintf(`"muster get %s %s -o yaml" says more`, t.kind.singular, t.name)
		switch {
		case w.created:
			more = "create it, or wait longer"
		case t.kind == podKind || t.kind == nodeKind || t.kind == deploymentKind:
			more = fmt.Sprintf(`"muster describe %s %s" says more`, t.kind.singular, t.name)
		}
		if w.once {
			lines = append(lines, fmt.Sprintf("%s of %s/%s is not so now: %s", w.forWhat, t.kind.singular, t.name, more))
		} else {
			lines = append(lines, fmt.Sprintf("timed out after %v waiting for %s of %s/%s: %s", timeout, w.forWhat, t.kind.singular, t.name, more))
		}
	}
	if g.any {
		lines = append(lines, fmt.Sprintf("timed out after %v waiting for one of the %s: create it, or wait longer", timeout, g.kind.plural))
	}
	slices.Sort(lines)
	return lines
}

// teller says what has become of objects in the order in which they were named, each as soon as those before it are told.
type teller struct {
	o     *options
	mu    sync.Mutex
	order []doomed
	// said is what is to be said of an object, which may be nothing.
	said map[doomed]string
}

// add names one more.
func (l *teller) add(t doomed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.order = append(l.order, t)
}

func (l *teller) say(t doomed, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said[t] = line
	for len(l.order) > 0 {
		line, ok := l.said[l.order[0]]
		if !ok {
			return
		}
		fmt.Fprint(l.o.world.Stdout, line)
		l.order = l.order[1:]
	}
}

// rest says what is known of those that come after one of whom nothing is.
func (l *teller) rest() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, t := range l.order {
		fmt.Fprint(l.o.world.Stdout, l.said[t])
	}
	l.order = nil
}

// plain turns a value into maps, slices and scalars, as its JSON reads.
func plain(v any) (any, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out any
	err = json.Unmarshal(b, &out)
	return out, err
}
