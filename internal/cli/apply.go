package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/musterhq/muster/internal/manifest"
)

type applyFlags struct {
	files                      []string
	dryRun                     string
	replace, ignoreUnsupported bool
}

func applyCommand(o *options) *cobra.Command {
	var a applyFlags
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Store what manifests ask for",
		Long: "Store the objects of Kubernetes manifests, YAML or JSON, many documents to a file. A directory's\n" +
			"*.yaml, *.yml and *.json are applied by name. An object with a finding is not stored at all; the others are.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runApply(cmd.Context(), o, a) },
	}
	f := cmd.Flags()
	f.StringSliceVarP(&a.files, "filename", "f", nil, "a file, a directory, or - for stdin (required; may be repeated)")
	f.StringVar(&a.dryRun, "dry-run", "none", "server: validate, default and place, but store nothing")
	f.BoolVar(&a.replace, "replace", false, "where a field that cannot change has changed: delete the object and create it anew")
	f.BoolVar(&a.ignoreUnsupported, "ignore-unsupported", false, "fields that Kubernetes knows and muster does not only warn")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	return cmd
}

// source is one file's text.
type source struct {
	name string
	text []byte
}

// readSources reads files, the manifests of directories, and stdin.
func (o *options) readSources(files []string) ([]source, error) {
	var sources []source
	for _, f := range files {
		if f == "-" {
			text, err := readAll("stdin", o.world.Stdin)
			if err != nil {
				return nil, err
			}
			sources = append(sources, source{"stdin", text})
			continue
		}
		names := []string{f}
		fi, err := os.Stat(f)
		if err != nil {
			return nil, err
		}
		if fi.IsDir() {
			entries, err := os.ReadDir(f)
			if err != nil {
				return nil, err
			}
			names = nil
			for _, e := range entries { // by name
				if !e.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
					names = append(names, filepath.Join(f, e.Name()))
				}
			}
			if len(names) == 0 {
				return nil, fmt.Errorf("%s: no *.yaml, *.yml or *.json in it", f)
			}
		}
		for _, name := range names {
			text, err := readFile(name)
			if err != nil {
				return nil, err
			}
			sources = append(sources, source{name, text})
		}
	}
	return sources, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(name, f)
}

func readAll(name string, r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, manifest.MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(text) > manifest.MaxFile {
		return nil, fmt.Errorf("%s: more than %d bytes: part it into smaller files", name, manifest.MaxFile)
	}
	return text, nil
}

func runApply(ctx context.Context, o *options, a applyFlags) error {
	if len(a.files) == 0 {
		return usagef("-f is required: a file, a directory, or - for stdin")
	}
	if a.dryRun == "client" {
		return notBuilt("apply --dry-run=client")
	}
	if a.dryRun != "none" && a.dryRun != "server" {
		return usagef("--dry-run=%s: want server", a.dryRun)
	}
	return o.with(ctx, func(ctx context.Context, c *client) error {
		objects, failed, err := o.readManifests(a.files, manifest.Options{IgnoreUnsupported: a.ignoreUnsupported})
		if err != nil {
			return err
		}
		for _, obj := range objects {
			done, warnings, err := obj.apply(ctx, c, a)
			for _, w := range warnings {
				fmt.Fprintf(o.world.Stderr, "%s: %s: warning: %s\n", obj.source, obj.ref(), w)
			}
			if err != nil {
				failed = true
				o.report(obj, err)
				if ctx.Err() != nil {
					return errReported
				}
				continue
			}
			if a.dryRun == "server" {
				done += " (server dry run)"
			}
			fmt.Fprintf(o.world.Stdout, "%s %s\n", obj.ref(), done)
		}
		if failed {
			return errReported
		}
		return nil
	})
}

// report tells why an object was not stored, a line for each finding.
func (o *options) report(obj object, err error) {
	for line := range strings.SplitSeq(explain(err), "\n") {
		fmt.Fprintf(o.world.Stderr, "%s: %s: %s\n", obj.source, obj.ref(), line)
	}
}

// object is one object of a manifest, on its way to the coordinator.
type object struct {
	kind            *kind
	source          string
	namespace, name string
	value           proto.Message
}

func (x object) ref() string { return x.kind.singular + "/" + x.name }

// apply stores the object and says what that did.
func (x object) apply(ctx context.Context, c *client, a applyFlags) (done string, warnings []string, err error) {
	if a.dryRun == "server" {
		return x.tryOut(ctx, c)
	}
	done, warnings, err = x.update(ctx, c, false)
	if !a.replace || !immutable(err) {
		return done, warnings, err
	}
	t := doomed{x.kind, x.namespace, x.name}
	uid, err := deleteOne(ctx, nil, c, deleteFlags{}, t)
	if err != nil && !isCode(err, codes.NotFound) {
		return "", nil, err
	}
	if err := untilGone(ctx, c, t, uid); err != nil {
		return "", nil, err
	}
	_, warnings, err = x.update(ctx, c, false)
	return "replaced", warnings, err
}

// tryOut has the coordinator check a write: a creation is placed too.
func (x object) tryOut(ctx context.Context, c *client) (string, []string, error) {
	_, err := x.kind.get(ctx, c, x.namespace, x.name)
	if err == nil {
		return x.update(ctx, c, true)
	}
	if !isCode(err, codes.NotFound) {
		return "", nil, err
	}
	warnings, err := x.kind.writes.tries(ctx, c, x.value)
	return "created", warnings, err
}

func (x object) update(ctx context.Context, c *client, validateOnly bool) (string, []string, error) {
	did, warnings, err := x.kind.writes.updates(ctx, c, x.value, validateOnly)
	return enumWord(did.String(), "WRITE_RESULT_"), warnings, err
}

// inNamespace puts the object into the namespace of -n; one that names another is refused.
func (o *options) inNamespace(own string) (string, error) {
	switch {
	case own == "":
		return o.namespace, nil
	case o.namespaceGiven && own != o.namespace:
		return "", fmt.Errorf("metadata.namespace: %q is not the namespace of -n, %q: leave one of them out", own, o.namespace)
	}
	return own, nil
}
