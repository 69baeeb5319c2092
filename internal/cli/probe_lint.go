package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/manifest"
	"github.com/musterhq/muster/internal/probelint"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// errUnwise is the end of a lint that has found something.
var errUnwise = errors.New("unwise probes")

func probeLintCommand(o *options) *cobra.Command {
	var files []string
	ignoreUnsupported := false
	cmd := &cobra.Command{
		Use: "lint -f FILE|DIR|- | POD...", Short: "Tell what is unwise about the probes of manifests or pods",
		Example: "  muster probe lint -f web.yaml\n  muster probe lint web -o json",
		Long: "Tell what is valid about probes and will hurt all the same, each finding with its rule, why, and what to do. Of manifests no\n" +
			"cluster is needed. Of a pod that runs it also tells what was measured: what its probes take of its CPU limit, and a liveness\n" +
			"that is answered 401 or 403. docs/probes.md has the rules. The exit status is 1 when something was found.",
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(files) == 0 && len(args) == 0:
				return usagef("want -f with a file, a directory, or - for stdin; or names of pods")
			case len(files) > 0 && len(args) > 0:
				return usagef("want -f or names of pods, not both")
			case len(files) > 0:
				return o.lintFiles(files, manifest.Options{IgnoreUnsupported: ignoreUnsupported})
			}
			var names []string
			for _, arg := range args {
				name, err := podName(arg)
				if err != nil {
					return err
				}
				names = append(names, name)
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error { return o.lintPods(ctx, c, names) })
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&files, "filename", "f", nil, "a file, a directory, or - for stdin (may be repeated)")
	f.BoolVar(&ignoreUnsupported, "ignore-unsupported", false, "fields that Kubernetes knows and muster does not only warn")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	o.outputFlag(cmd, "table", "json")
	cmd.ValidArgsFunction = completePod(o)
	return cmd
}

// unwise is a finding, and the object that it is about.
type unwise struct {
	Object    string `json:"object"`
	Path      string `json:"path"`
	Container string `json:"container"`
	Rule      string `json:"rule"`
	Message   string `json:"message"`
	Fix       string `json:"fix"`
}

func unwiseOf(ref string, found []probelint.Finding) (all []unwise) {
	for _, f := range found {
		all = append(all, unwise{ref, f.Path, f.Container, f.Rule, f.Message, f.Fix})
	}
	return all
}

// lint looks at the probes of an object of a manifest; one that makes no pods has none.
func (x object) lint() []probelint.Finding {
	pod, err := x.plainPod()
	if err != nil {
		return nil // which is told elsewhere
	}
	at := "spec"
	if _, ok := x.value.(*musterv1.Deployment); ok {
		at = "spec.template.spec"
	}
	return probelint.Pod(at, &pod.Spec, nil)
}

func (o *options) lintFiles(files []string, opts manifest.Options) error {
	objects, bad, err := o.readManifests(files, opts)
	if err != nil {
		return err
	}
	var all []unwise
	for _, x := range objects {
		if _, err := x.plainPod(); err != nil {
			bad = true
			o.report(x, err)
			continue
		}
		all = append(all, unwiseOf(x.ref(), x.lint())...)
	}
	if err := o.tellUnwise(all); err != nil || !bad {
		return err
	}
	return errReported
}

func (o *options) lintPods(ctx context.Context, c *client, names []string) error {
	var all []unwise
	for _, name := range names {
		t := doomed{podKind, o.namespace, name}
		r, err := c.pods.GetPod(ctx, &musterv1.GetPodRequest{Namespace: o.namespace, Name: name})
		if err != nil {
			return t.named(err)
		}
		p, err := wire.PodFromProto(r.GetPod())
		if err != nil {
			return err
		}
		states, err := probeStates(ctx, c, t)
		if err != nil {
			return err
		}
		usages, err := pages(func(token string) ([]*musterv1.ProbeUsage, string, error) {
			r, err := c.usages.ListProbeUsages(ctx, &musterv1.ListProbeUsagesRequest{Filter: &musterv1.ProbeFilter{Namespace: o.namespace, Pod: name}, PageSize: pageSize, PageToken: token})
			return r.GetProbes(), r.GetNextPageToken(), err
		})
		if err != nil {
			return err
		}
		all = append(all, unwiseOf("pod/"+name, probelint.Pod("spec", &p.Spec, func(container string, kind spec.ProbeKind) (probelint.Measured, bool) {
			m := probelint.Measured{LimitShare: -1}
			state := states[container+"/"+kind.String()]
			m.Output = state.GetLast().GetOutput()
			if i := slices.IndexFunc(usages, func(u *musterv1.ProbeUsage) bool {
				return u.GetContainer() == container && probeKindName(u.GetKind()) == kind.String()
			}); i >= 0 && usages[i].LimitShare != nil {
				m.LimitShare = usages[i].GetLimitShare()
			}
			return m, true
		}))...)
	}
	return o.tellUnwise(all)
}

// tellUnwise shows findings; any is an error.
func (o *options) tellUnwise(all []unwise) error {
	for _, u := range all {
		if o.output == "json" {
			text, err := json.Marshal(u)
			if err != nil {
				return err
			}
			fmt.Fprintf(o.world.Stdout, "%s\n", text)
			continue
		}
		fmt.Fprintf(o.world.Stdout, "%s %s: %s\n  %s.\n  Better: %s.\n", u.Object, u.Path, u.Rule, u.Message, u.Fix)
	}
	switch len(all) {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("1 finding: %w", errUnwise)
	}
	return fmt.Errorf("%d findings: %w", len(all), errUnwise)
}

// mostTold bounds what apply says of one object's probes.
const mostTold = 5

// warnOfProbes tells, after an apply, what is unwise about an object's probes. That there is no liveness is left to "probe lint":
// most manifests begin without.
func (o *options) warnOfProbes(x *object) {
	found := slices.DeleteFunc(x.lint(), func(f probelint.Finding) bool { return f.Rule == "no-liveness" })
	for i, f := range found {
		if i == mostTold {
			fmt.Fprintf(o.world.Stderr, "%s: %s: warning: %d more: muster probe lint -f %s\n", x.source, x.ref(), len(found)-i, strings.SplitN(x.source, ":document", 2)[0])
			break
		}
		fmt.Fprintf(o.world.Stderr, "%s: %s: warning: %s\n", x.source, x.ref(), oneLine(f.String()))
	}
}
