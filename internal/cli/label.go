package cli

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/reason"
	"github.com/musterhq/muster/internal/spec"
)

// marks are what label and annotate change: one of the two maps of an object's metadata.
type marks struct {
	verb, noun, plural string
	// done is what is said of an object that was changed.
	done string
	of   func(*musterv1.ObjectMeta) *map[string]string
	// check says why a key and value are none; a removal has no value.
	check func(key, value string) string
}

var labelMarks = &marks{
	verb: "label", noun: "label", plural: "labels", done: "labeled",
	of: func(m *musterv1.ObjectMeta) *map[string]string { return &m.Labels },
	check: func(key, value string) string {
		if why := spec.LabelKey(key); why != "" {
			return fmt.Sprintf("%q: %s", key, why)
		}
		if why := spec.LabelValue(value); why != "" {
			return fmt.Sprintf("%q: %s", value, why)
		}
		return ""
	},
}

var annotationMarks = &marks{
	verb: "annotate", noun: "annotation", plural: "annotations", done: "annotated",
	of: func(m *musterv1.ObjectMeta) *map[string]string { return &m.Annotations },
	check: func(key, _ string) string {
		if why := spec.LabelKey(strings.ToLower(key)); why != "" {
			return fmt.Sprintf("%q: %s", key, why)
		}
		return ""
	},
}

type markFlags struct {
	files                []string
	overwrite, all, list bool
	// many is set when there is more than one object, once they are known.
	many bool
}

// markCommand is label and annotate.
func markCommand(o *options, m *marks) *cobra.Command {
	var f markFlags
	cmd := &cobra.Command{
		Use:   m.verb + " TYPE NAME… | TYPE/NAME… | TYPE -l SELECTOR | TYPE --all | -f FILE  KEY=VALUE… KEY-…",
		Short: "Change " + m.plural,
		Long: fmt.Sprintf("Add, change or remove %s: KEY=VALUE sets one, KEY- takes it away. A %s that has another value is only\n"+
			"changed with --overwrite. When somebody else changes the object at the same moment, it is read again and tried again.", m.plural, m.noun),
		Example: fmt.Sprintf("  muster %[1]s pod web team=blue\n  muster %[1]s pods -l app=web team- --overwrite\n"+
			"  muster %[1]s node n1 topology.kubernetes.io/zone=a\n  muster %[1]s deployment/site --list", m.verb),
		RunE: func(cmd *cobra.Command, args []string) error { return runMark(cmd.Context(), o, m, f, args) },
	}
	flags := cmd.Flags()
	flags.StringSliceVarP(&f.files, "filename", "f", nil, "the objects of these manifests: a file, a directory, or - for stdin")
	flags.BoolVar(&f.overwrite, "overwrite", false, "change what has another value")
	flags.BoolVar(&f.all, "all", false, "every object of the type in the namespace")
	flags.BoolVar(&f.list, "list", false, "show the "+m.plural+", after the change")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	o.allNamespacesFlag(cmd)
	o.selectorFlag(cmd)
	cmd.ValidArgsFunction = completeObjects(o)
	return cmd
}

// markChange sets or, with remove, takes away one key.
type markChange struct {
	key, value string
	remove     bool
}

// maxMarkChanges bounds what one call may change.
const maxMarkChanges = 1000

// parse parts objects from changes, which come after them.
func (m *marks) parse(args []string) (objects []string, changes []markChange, err error) {
	for _, a := range args {
		key, value, sets := strings.Cut(a, "=")
		c := markChange{key: key, value: value}
		if !sets {
			if key, c.remove = strings.CutSuffix(a, "-"); !c.remove {
				if len(changes) > 0 {
					return nil, nil, usagef("%q after the first change: want KEY=VALUE or KEY-, and the objects before them", a)
				}
				objects = append(objects, a)
				continue
			}
			c.key = key
		}
		if why := m.check(c.key, c.value); why != "" {
			return nil, nil, usagef("%s %q: %s", m.noun, a, why)
		}
		if slices.ContainsFunc(changes, func(d markChange) bool { return d.key == c.key }) {
			return nil, nil, usagef("%s %s is named twice: leave one out", m.noun, c.key)
		}
		changes = append(changes, c)
	}
	if len(changes) > maxMarkChanges {
		return nil, nil, usagef("%d changes, at most %d: part them", len(changes), maxMarkChanges)
	}
	return objects, changes, nil
}

func runMark(ctx context.Context, o *options, m *marks, f markFlags, args []string) error {
	words, changes, err := m.parse(args)
	if err != nil {
		return err
	}
	if len(changes) == 0 && !f.list {
		return usagef("at least one KEY=VALUE or KEY- is wanted, or --list")
	}
	if len(f.files) > 0 && (len(words) > 0 || o.selector != "" || f.all) {
		return usagef("-f names the objects itself: leave out the rest")
	}
	var objects []objectName
	if len(f.files) == 0 {
		if objects, err = parseObjects(words); err != nil {
			return err
		}
		if err := o.checkChoice(m.verb, objects, f.all); err != nil {
			return err
		}
	}
	for _, obj := range objects {
		if obj.kind.edits == nil {
			return usagef("%s cannot be %s", obj.kind.plural, m.done)
		}
	}
	return o.with(ctx, func(ctx context.Context, c *client) error {
		targets, bad, err := o.targets(ctx, c, objects, f.files)
		if err != nil {
			return err
		}
		f.many = len(targets) > 1
		for _, t := range targets {
			if err := o.mark(ctx, c, m, f, changes, t); err != nil {
				fmt.Fprintf(o.world.Stderr, "%s\n", explain(t.named(err)))
				bad = true
				if ctx.Err() != nil {
					break
				}
			}
		}
		if bad {
			return errReported
		}
		return nil
	})
}

// checkChoice finds objects that are named in too many ways, or in none.
func (o *options) checkChoice(verb string, objects []objectName, all bool) error {
	if all && o.selector != "" {
		return usagef("--all and -l together make no sense: leave one out")
	}
	for _, obj := range objects {
		switch {
		case obj.name == "" && o.selector == "" && !all:
			return usagef("%s which of the %s? want a name, -l SELECTOR or --all", verb, obj.kind.plural)
		case obj.name != "" && (o.selector != "" || all || o.allNamespaces && obj.kind.namespaced):
			return usagef("a name and -l, --all or -A together make no sense: leave one out")
		}
	}
	return nil
}

// targets are the objects that are meant, by name, selector or file. bad is true when a file's object could not be
// understood, which has been told.
func (o *options) targets(ctx context.Context, c *client, objects []objectName, files []string) (targets []doomed, bad bool, err error) {
	if len(files) > 0 {
		targets, bad, err = o.readNames(files)
		return targets, bad, err
	}
	for _, obj := range objects {
		if obj.name != "" {
			targets = append(targets, doomed{obj.kind, o.namespace, obj.name})
			continue
		}
		q, err := o.query(obj.kind, getFlags{})
		if err != nil {
			return nil, false, err
		}
		items, _, err := obj.kind.list(ctx, c, q)
		if err != nil {
			return nil, false, err
		}
		if len(items) == 0 {
			if err := o.nothing([]objectName{obj}, getFlags{}); err != nil {
				return nil, false, err
			}
		}
		for _, i := range items {
			targets = append(targets, doomed{obj.kind, i.namespace, i.name})
		}
	}
	return targets, false, nil
}

// hasOtherError says that a key has another value, and --overwrite is not given.
type hasOtherError struct {
	ref, noun, key, value string
}

func (e *hasOtherError) Error() string {
	return fmt.Sprintf("%s: %s %s already has a value (%s): pass --overwrite to change it", e.ref, e.noun, e.key, e.value)
}

// errSame ends an edit that would change nothing.
var errSame = errors.New("nothing to change")

// mark changes one object, and says what that did.
func (o *options) mark(ctx context.Context, c *client, m *marks, f markFlags, changes []markChange, t doomed) error {
	ref := t.kind.singular + "/" + t.name
	var after map[string]string
	var missing []string
	set := false
	change := func(meta *musterv1.ObjectMeta) error {
		have := m.of(meta)
		missing, set = nil, false
		now := maps.Clone(*have)
		for _, ch := range changes {
			old, ok := now[ch.key]
			switch {
			case ch.remove && !ok:
				missing = append(missing, ch.key)
			case ch.remove:
				delete(now, ch.key)
			case ok && old != ch.value && !f.overwrite:
				return &hasOtherError{ref, m.noun, ch.key, old}
			case !ok || old != ch.value:
				if now == nil {
					now = map[string]string{}
				}
				now[ch.key], set = ch.value, true
			}
		}
		after = now
		if maps.Equal(now, *have) {
			return errSame
		}
		*have = now
		return nil
	}
	err := edit(ctx, c, t, change, func(stored *musterv1.ObjectMeta) error {
		for _, ch := range changes {
			v, ok := (*m.of(stored))[ch.key]
			if ok == !ch.remove && v == ch.value {
				continue
			}
			whose := "its owner sets it"
			if t.kind == nodeKind {
				whose = "change the agent's --labels"
			}
			return fmt.Errorf("%s: %s %s stays %q: %s", ref, m.noun, ch.key, v, whose)
		}
		return nil
	})
	same := errors.Is(err, errSame)
	if err != nil && !same {
		return err
	}
	for _, key := range missing {
		fmt.Fprintf(o.world.Stdout, "%s %q not found.\n", m.noun, key)
	}
	if len(changes) > 0 {
		done := m.done
		switch {
		case m == annotationMarks: // kubectl says so in any case
		case same:
			done = "not " + m.done
		case !set:
			done = "un" + m.done
		}
		fmt.Fprintf(o.world.Stdout, "%s %s\n", ref, done)
	}
	if f.list {
		indent := ""
		if f.many {
			fmt.Fprintf(o.world.Stdout, "Listing %s for %s:\n", m.plural, ref)
			indent = " "
		}
		for _, key := range slices.Sorted(maps.Keys(after)) {
			fmt.Fprintf(o.world.Stdout, "%s%s=%s\n", indent, key, oneLine(after[key]))
		}
	}
	return nil
}

// maxEdits is how often an edit is tried while others change the same object.
const maxEdits = 10

// edit reads an object, has change make what it likes of its metadata, and stores it; where somebody else was faster, all
// over again. An error of change ends it. stored is shown what has become of it.
func edit(ctx context.Context, c *client, t doomed, change, stored func(*musterv1.ObjectMeta) error) error {
	for try := 1; ; try++ {
		m, err := t.kind.edits(ctx, c, t.namespace, t.name, change)
		switch {
		case err == nil:
			return stored(m)
		case try == maxEdits || !isCode(err, codes.Aborted) || reason.Of(err) != "REVISION_CONFLICT":
			return err
		}
		select { // somebody else was faster
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(time.Duration(try) * 20 * time.Millisecond)):
		}
	}
}

// editing makes the edits of a kind out of how one is read and how it is stored under the revision that it has.
func editing[O interface {
	GetMeta() *musterv1.ObjectMeta
}](read func(ctx context.Context, c *client, namespace, name string) (O, error), store func(context.Context, *client, O) (O, error)) func(context.Context, *client, string, string, func(*musterv1.ObjectMeta) error) (*musterv1.ObjectMeta, error) {
	return func(ctx context.Context, c *client, namespace, name string, change func(*musterv1.ObjectMeta) error) (*musterv1.ObjectMeta, error) {
		object, err := read(ctx, c, namespace, name)
		if err != nil {
			return nil, err
		}
		if err := change(object.GetMeta()); err != nil {
			return nil, err
		}
		object, err = store(ctx, c, object)
		return object.GetMeta(), err
	}
}
