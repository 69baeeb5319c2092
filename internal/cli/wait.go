package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/manifest"
)

func waitCommand(o *options) *cobra.Command {
	forWhat, all := "", false
	cmd := &cobra.Command{
		Use:   "wait --for=condition=C[=V]|delete|create|jsonpath=PATH[=V] TYPE/NAME… | TYPE -l SELECTOR",
		Short: "Wait until objects are as they should be",
		Example: "  muster wait --for=condition=Ready pod/web --timeout=30s\n  muster wait --for=delete pods -l app=web\n" +
			"  muster wait --for=jsonpath='{.status.phase}'=Succeeded pod/job",
		Args: needsType,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("timeout") {
				o.timeout = 30 * time.Second
			}
			return runWait(cmd.Context(), o, forWhat, all, args)
		},
	}
	cmd.Flags().StringVar(&forWhat, "for", "", "what to wait for (required)")
	cmd.Flags().BoolVar(&all, "all", false, "every object of the type in the namespace")
	o.connectFlags(cmd)
	cmd.Flags().Lookup("timeout").Usage = "give up after this time; default 30s; 0: never"
	o.namespaceFlag(cmd)
	o.allNamespacesFlag(cmd)
	o.selectorFlag(cmd)
	cmd.ValidArgsFunction = completeObjects(o)
	return cmd
}

// condition says whether an object, as JSON shows it, is as it should be.
type condition func(object any) (bool, error)

// parseFor understands --for. gone is true for delete.
func parseFor(word string) (met condition, gone bool, err error) {
	what, rest, _ := strings.Cut(word, "=")
	switch what {
	case "delete":
		return nil, true, nil
	case "create":
		return func(any) (bool, error) { return true, nil }, false, nil
	case "condition":
		name, want, ok := strings.Cut(rest, "=")
		if !ok {
			want = "True"
		}
		if name == "" {
			return nil, false, usagef("--for=%s: want condition=TYPE or condition=TYPE=STATUS", word)
		}
		return func(object any) (bool, error) { return hasCondition(object, name, want), nil }, false, nil
	case "jsonpath":
		expr, want, anyValue := cutJSONPath(rest)
		path, err := manifest.ParseJSONPath(expr)
		if err != nil {
			return nil, false, usagef("--for=%s: %w", word, err)
		}
		return func(object any) (bool, error) {
			values, err := path.Find(object)
			if err != nil {
				return false, err
			}
			for _, v := range values {
				if anyValue || fmt.Sprint(v) == want {
					return true, nil
				}
			}
			return false, nil
		}, false, nil
	}
	return nil, false, usagef("--for=%q: want condition=…, delete, create or jsonpath=…", word)
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

// hasCondition looks into status.conditions, names in any case.
func hasCondition(object any, name, want string) bool {
	top, _ := object.(map[string]any)
	st, _ := top["status"].(map[string]any)
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

func runWait(ctx context.Context, o *options, forWhat string, all bool, args []string) error {
	if forWhat == "" {
		return usagef("--for is required: condition=…, delete, create or jsonpath=…")
	}
	met, gone, err := parseFor(forWhat)
	if err != nil {
		return err
	}
	objects, err := parseObjects(args)
	if err != nil {
		return err
	}
	for _, obj := range objects {
		switch {
		case obj.kind.watches == nil || obj.kind == probeKind || obj.kind == eventKind:
			return usagef("cannot wait for %s", obj.kind.plural)
		case obj.name == "" && o.selector == "" && !all:
			return usagef("wait for which of the %s? want a name, -l SELECTOR or --all", obj.kind.plural)
		case obj.name != "" && (o.selector != "" || all || o.allNamespaces):
			return usagef("a name and -l, --all or -A together make no sense: leave one out")
		}
	}
	return o.with(ctx, func(ctx context.Context, c *client) error {
		targets, err := waitTargets(ctx, o, c, objects, gone)
		if err != nil {
			return err
		}
		for _, t := range targets {
			if gone {
				err = untilGone(ctx, c, t, "")
			} else {
				err = untilMet(ctx, c, t, met, strings.HasPrefix(forWhat, "create"))
			}
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("timed out after %v waiting for %s of %s/%s: \"muster describe %s %s\" says more",
					o.timeout, forWhat, t.kind.singular, t.name, t.kind.singular, t.name)
			}
			if err != nil {
				return err
			}
			word := "condition met"
			if gone {
				word = "deleted"
			}
			fmt.Fprintf(o.world.Stdout, "%s/%s %s\n", t.kind.singular, t.name, word)
		}
		return nil
	})
}

// waitTargets names every object that is meant.
func waitTargets(ctx context.Context, o *options, c *client, objects []objectName, gone bool) ([]doomed, error) {
	var targets []doomed
	for _, obj := range objects {
		if obj.name != "" {
			targets = append(targets, doomed{obj.kind, o.namespace, obj.name})
			continue
		}
		q, err := o.query(obj.kind, getFlags{})
		if err != nil {
			return nil, err
		}
		items, _, err := obj.kind.list(ctx, c, q)
		if err != nil {
			return nil, err
		}
		for _, i := range items {
			targets = append(targets, doomed{obj.kind, i.namespace, i.name})
		}
	}
	if len(targets) == 0 && !gone {
		return nil, errors.New("nothing matches: check -l and -n, or wait for it with a name and --for=create")
	}
	return targets, nil
}

// untilMet returns once the object is as it should be. One that is not there, or goes away, is an error unless it may
// still be created.
func untilMet(ctx context.Context, c *client, t doomed, met condition, create bool) error {
	q := query{namespace: t.namespace, name: t.name}
	if !t.kind.namespaced {
		q.namespace = ""
	}
	there := create
	return follow(ctx, c, t.kind, q, func(ch change) (bool, error) {
		switch ch.what {
		case musterv1.ChangeType_CHANGE_TYPE_SYNCED:
			if !there {
				return false, t.kind.missing(t.namespace, t.name)
			}
			return false, nil
		case musterv1.ChangeType_CHANGE_TYPE_DELETED:
			if create {
				return false, nil
			}
			return false, fmt.Errorf("%s/%s was deleted meanwhile", t.kind.singular, t.name)
		}
		there = true
		object, err := plain(ch.item.value())
		if err != nil {
			return false, err
		}
		return met(object)
	})
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
