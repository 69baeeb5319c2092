package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

func taintCommand(o *options) *cobra.Command {
	overwrite := false
	cmd := &cobra.Command{
		Use: "taint nodes NODE… KEY=VALUE:EFFECT… | KEY[:EFFECT]-…", Short: "Keep pods off a node that do not tolerate it",
		Long: "Give nodes taints, or with a \"-\" at the end take them away. The value may be left out: KEY:EFFECT.\n\n" +
			"NoSchedule places no new pods on the node that do not tolerate the taint, PreferNoSchedule only where no other node takes\n" +
			"them. NoExecute also stops those that are there, and moves them: after their tolerationSeconds, where they have some.",
		Example: "  muster taint nodes n1 gpu=yes:NoSchedule\n  muster taint node/n1 gpu-",
		Args:    func(_ *cobra.Command, args []string) error { _, _, err := parseTaints(args); return err },
		RunE: func(cmd *cobra.Command, args []string) error {
			nodes, changes, err := parseTaints(args)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				for _, name := range nodes {
					if err := setTaints(ctx, o, c, name, changes, overwrite); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "give taints another value that the node has with the same key and effect")
	o.connectFlags(cmd)
	cmd.ValidArgsFunction = completeObjects(o)
	return cmd
}

// taintChange is one taint to give, or to take away: then an empty effect means every one of the key.
type taintChange struct {
	spec.Taint
	remove bool
}

// parseTaints reads the nodes and what to change of their taints.
func parseTaints(args []string) (nodes []string, changes []taintChange, err error) {
	// No name of a node has one of these signs.
	first := slices.IndexFunc(args, func(a string) bool { return strings.ContainsAny(a, "=:") || strings.HasSuffix(a, "-") })
	if first < 0 {
		return nil, nil, usagef("a taint is missing: KEY=VALUE:EFFECT, or KEY- to take it away")
	}
	objects, err := parseObjects(args[:first])
	if err != nil {
		return nil, nil, err
	}
	for _, obj := range objects {
		if obj.kind != nodeKind || obj.name == "" {
			return nil, nil, usagef("taint: want nodes NAME or node/NAME")
		}
		nodes = append(nodes, obj.name)
	}
	for _, a := range args[first:] {
		change, err := parseTaint(a)
		if err != nil {
			return nil, nil, err
		}
		for _, other := range changes {
			if other.Key == change.Key && (other.Effect == change.Effect || other.remove && other.Effect == "" || change.remove && change.Effect == "") {
				return nil, nil, usagef("%s: there is another word on this taint", a)
			}
		}
		changes = append(changes, change)
	}
	return nodes, changes, nil
}

func parseTaint(word string) (taintChange, error) {
	text, remove := strings.CutSuffix(word, "-")
	head, effect, hasEffect := strings.Cut(text, ":")
	key, value, _ := strings.Cut(head, "=")
	change := taintChange{Taint: spec.Taint{Key: key, Value: value, Effect: spec.TaintEffect(effect)}, remove: remove}
	switch change.Effect {
	case spec.NoSchedule, spec.PreferNoSchedule, spec.NoExecute:
	case "":
		if hasEffect || !remove {
			return change, usagef("%s: an effect is missing: KEY=VALUE:EFFECT with NoSchedule, PreferNoSchedule or NoExecute", word)
		}
	default:
		return change, usagef("%s: want the effect NoSchedule, PreferNoSchedule or NoExecute", word)
	}
	if key == "" {
		return change, usagef("%s: a key is missing: KEY=VALUE:EFFECT", word)
	}
	return change, nil
}

func setTaints(ctx context.Context, o *options, c *client, name string, changes []taintChange, overwrite bool) error {
	r, err := c.nodes.GetNode(ctx, &musterv1.GetNodeRequest{Name: name})
	if err != nil {
		return doomed{nodeKind, "", name}.named(err)
	}
	n := r.GetNode()
	taints, err := wire.TaintsFromProto(n.GetTaints())
	if err != nil {
		return err
	}
	taints, done, err := changeTaints(taints, changes, overwrite)
	if err != nil {
		return fmt.Errorf("node/%s: %w", name, err)
	}
	// The whole of what a user may set is sent back; a change by somebody else in between is refused.
	n.Taints = wire.TaintsToProto(taints)
	if _, err := c.nodes.UpdateNode(ctx, &musterv1.UpdateNodeRequest{Node: n}); err != nil {
		return err
	}
	fmt.Fprintf(o.world.Stdout, "node/%s %s\n", name, done)
	return nil
}

// changeTaints makes the changes, all or none, and says what has been done in a word.
func changeTaints(taints []spec.Taint, changes []taintChange, overwrite bool) (out []spec.Taint, done string, err error) {
	out = slices.Clone(taints)
	given, taken := false, false
	var wrong []error
	for _, c := range changes {
		means := func(t spec.Taint) bool { return t.Key == c.Key && (t.Effect == c.Effect || c.remove && c.Effect == "") }
		at := slices.IndexFunc(out, means)
		switch {
		case c.remove && at < 0:
			what := c.Key
			if c.Effect != "" {
				what += ":" + string(c.Effect)
			}
			wrong = append(wrong, fmt.Errorf("taint %q not found", what))
		case c.remove:
			out, taken = slices.DeleteFunc(out, means), true
		case at < 0:
			out, given = append(out, c.Taint), true
		case out[at] == c.Taint:
			given = true
		case !overwrite:
			wrong = append(wrong, fmt.Errorf("has the taint %s already: --overwrite gives it another value", out[at]))
		default:
			out[at], given = c.Taint, true
		}
	}
	switch {
	case given && taken:
		done = "modified"
	case taken:
		done = "untainted"
	default:
		done = "tainted"
	}
	return out, done, errors.Join(wrong...)
}

// taintTexts are a node's taints as people write them.
func taintTexts(pb []*musterv1.Taint) (texts []string) {
	taints, err := wire.TaintsFromProto(pb)
	if err != nil {
		return []string{"<unknown>"}
	}
	for _, t := range taints {
		texts = append(texts, t.String())
	}
	return texts
}
