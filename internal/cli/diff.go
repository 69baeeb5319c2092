package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/diff"
	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/internal/manifest"
)

// envDiff names a program that compares two directories, with its first arguments, in place of our own comparison.
const envDiff = "MUSTER_EXTERNAL_DIFF"

// The exit statuses of diff; a greater one is a failure.
const (
	exitDiffers    = 1
	exitDiffFailed = 2
)

type diffFlags struct {
	files                      []string
	replace, ignoreUnsupported bool
}

func diffCommand(o *options) *cobra.Command {
	var d diffFlags
	cmd := &cobra.Command{
		Use:   "diff -f FILE|DIR|-",
		Short: "Show what apply would change",
		Long: "Compare the objects of manifests, as they would be stored, with what is stored. The exit status is 0 where apply\n" +
			"would change nothing, 1 where it would, and more than 1 where that cannot be told.\n\n" +
			envDiff + " names a program that is given two directories, that of the live objects and the other, instead;\n" +
			"its words are parted at blanks, and its exit status is taken over.",
		Example: "  muster diff -f web.yaml\n  muster get deployment site -o yaml | sed s/v1/v2/ | muster diff -f -\n" +
			"  " + envDiff + "='git diff --no-index' muster diff -f manifests/",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(d.files) == 0 {
				return usagef("-f is required: a file, a directory, or - for stdin")
			}
			err := runDiff(cmd.Context(), o, d)
			if _, told := errors.AsType[exitCode](err); err == nil || told {
				return err
			}
			if !errors.Is(err, errReported) {
				fmt.Fprintln(o.world.Stderr, explain(err))
			}
			return exitCode(exitDiffFailed)
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&d.files, "filename", "f", nil, "a file, a directory, or - for stdin (required; may be repeated)")
	f.BoolVar(&d.replace, "replace", false, "where a field that cannot change has changed: show what apply --replace would do")
	f.BoolVar(&d.ignoreUnsupported, "ignore-unsupported", false, "fields that Kubernetes knows and muster does not only warn")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	return cmd
}

// compared is one object, as it is and as it would be; empty where there is none.
type compared struct {
	// name is "Pod.default.web".
	name        string
	live, would []byte
}

func runDiff(ctx context.Context, o *options, d diffFlags) error {
	return o.with(ctx, func(ctx context.Context, c *client) error {
		objects, failed, err := o.readManifests(d.files, manifest.Options{IgnoreUnsupported: d.ignoreUnsupported, KeepClaims: true})
		if err != nil {
			return err
		}
		all := make([]compared, len(objects))
		inOrder(len(objects), inFlight, func(i int) outcome { return objects[i].differ(ctx, c, d.replace, &all[i]) }, func(i int, r outcome) bool {
			for _, w := range r.warnings {
				fmt.Fprintf(o.world.Stderr, "%s: %s: warning: %s\n", objects[i].source, objects[i].ref(), w)
			}
			if r.err != nil {
				o.report(objects[i], r.err)
				failed = true
			}
			return ctx.Err() == nil
		})
		if failed || ctx.Err() != nil {
			return errReported // half of a comparison is none
		}
		return o.showDiff(ctx, all)
	})
}

// differ finds out what the object is and what it would be.
func (x object) differ(ctx context.Context, c *client, replace bool, out *compared) outcome {
	warnings, err := x.heed(ctx, c)
	if err != nil {
		return outcome{warnings: warnings, err: err}
	}
	live, err := x.kind.get(ctx, c, x.namespace, x.name)
	if err != nil && !isCode(err, codes.NotFound) {
		return outcome{err: err}
	}
	r, would := x.tryOut(ctx, c, replace)
	if _, pending := errors.AsType[*unplacedError](r.err); pending {
		r.err = nil // it would be stored all the same
	}
	r.warnings = append(warnings, r.warnings...)
	if r.err != nil {
		return r
	}
	var before, after any
	if err == nil {
		before, r.err = usersPart(live.value())
	}
	if r.err == nil {
		after, r.err = usersPart(would.value())
	}
	if r.err != nil {
		return r
	}
	if x.kind == secretKind {
		mask(before, after)
	}
	if before != nil {
		out.live, r.err = yaml.Marshal(before)
	}
	if r.err == nil {
		out.would, r.err = yaml.Marshal(after)
	}
	out.name = strings.Join([]string{x.kind.title, x.namespace, x.name}, ".")
	return r
}

// usersPart is an object as JSON shows it, without what is not a user's to set.
func usersPart(value any) (any, error) {
	object, err := plain(value)
	if err != nil {
		return nil, err
	}
	return manifest.WithoutClaims(object), nil
}

// mask puts stars in place of a Secret's values; those that differ are seen to differ.
func mask(before, after any) {
	data := func(object any) map[string]any {
		fields, _ := object.(map[string]any)
		values, _ := fields["data"].(map[string]any)
		return values
	}
	was, is := data(before), data(after)
	for key, v := range is {
		if old, ok := was[key]; ok && old != v {
			was[key], is[key] = "*** (before)", "*** (after)"
			continue
		}
		is[key] = "***"
	}
	for key, v := range was {
		if v != "*** (before)" {
			was[key] = "***"
		}
	}
}

// showDiff shows the differences; exitDiffers if there are any.
func (o *options) showDiff(ctx context.Context, all []compared) error {
	if program := strings.Fields(o.world.Getenv(envDiff)); len(program) > 0 {
		return o.externalDiff(ctx, program, all)
	}
	differs := false
	for _, x := range all {
		text := diff.Diff("live/"+x.name, x.live, "applied/"+x.name, x.would)
		if len(text) == 0 {
			continue
		}
		differs = true
		if _, err := o.world.Stdout.Write(text); err != nil {
			return err
		}
	}
	if differs {
		return exitCode(exitDiffers)
	}
	return nil
}

// externalDiff has a program of the user's compare, which is shown only what differs.
func (o *options) externalDiff(ctx context.Context, program []string, all []compared) error {
	dir, err := os.MkdirTemp("", "muster-diff-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	live, applied := filepath.Join(dir, "live"), filepath.Join(dir, "applied")
	for _, d := range []string{live, applied} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	for _, x := range all {
		if string(x.live) == string(x.would) {
			continue
		}
		for at, text := range map[string][]byte{live: x.live, applied: x.would} {
			if text == nil {
				continue
			}
			if err := os.WriteFile(filepath.Join(at, x.name), text, 0o600); err != nil {
				return err
			}
		}
	}
	cmd := osexec.CommandContext(ctx, program[0], append(program[1:], live, applied)...)
	cmd.Stdout, cmd.Stderr, cmd.Env = o.world.Stdout, o.world.Stderr, o.world.Environ()
	err = cmd.Run()
	if exit, ok := errors.AsType[*osexec.ExitError](err); ok && exit.Exited() {
		return exitCode(exit.ExitCode())
	}
	if err != nil {
		return fmt.Errorf("%s=%q: %w: name a program that compares two directories", envDiff, program[0], err)
	}
	return nil
}
