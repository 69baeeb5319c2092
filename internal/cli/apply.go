package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/manifest"
	"github.com/musterhq/muster/internal/reason"
	"github.com/musterhq/muster/internal/spec"
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
			"*.yaml, *.yml and *.json are applied by name. An object with a finding is not stored at all; the others are.\n\n" +
			"What \"get -o yaml\" prints can be applied: the status and what the coordinator fills in are ignored where they are\n" +
			"those of the live object, and told of otherwise.",
		Example: "  muster apply -f web.yaml\n  muster apply -f manifests/ --dry-run=server   # would it be stored, and where would pods go?\n" +
			"  muster apply -f web.yaml --replace            # make anew what cannot change\n  muster get pod web -o yaml | muster apply -f -",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runApply(cmd.Context(), o, a) },
	}
	f := cmd.Flags()
	f.StringSliceVarP(&a.files, "filename", "f", nil, "a file, a directory, or - for stdin (required; may be repeated)")
	f.StringVar(&a.dryRun, "dry-run", "none", "store nothing. server: validate, default and place; client: validate here, and compare with what is stored; none")
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
		if path, ok := errors.AsType[*fs.PathError](err); ok {
			return nil, fmt.Errorf("-f %s: %w: want a file, a directory, or - for stdin", f, path.Err)
		}
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
				return nil, fmt.Errorf("%s: no *.yaml, *.yml or *.json in it: name the files themselves", f)
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
	if !slices.Contains([]string{"none", "server", "client"}, a.dryRun) {
		return usagef("--dry-run=%s: want none, server or client", a.dryRun)
	}
	return o.with(ctx, func(ctx context.Context, c *client) error {
		objects, failed, err := o.readManifests(a.files, manifest.Options{IgnoreUnsupported: a.ignoreUnsupported, KeepClaims: true})
		if err != nil {
			return err
		}
		for len(objects) > 0 && ctx.Err() == nil {
			n := apart(objects)
			inOrder(n, inFlight, func(i int) outcome { return objects[i].apply(ctx, c, a) }, func(i int, r outcome) bool {
				failed = o.tellApplied(&objects[i], a, r) || failed
				return ctx.Err() == nil
			})
			objects = objects[n:]
		}
		if failed || ctx.Err() != nil {
			return errReported
		}
		return nil
	})
}

// outcome is what became of one object of a manifest.
type outcome struct {
	// done is "created", "configured", "unchanged" or "replaced".
	done     string
	warnings []string
	// node is where a dry run would place a new pod; empty for nothing to be said.
	node string
	err  error
}

// tellApplied says what became of an object, and whether it failed.
func (o *options) tellApplied(x *object, a applyFlags, r outcome) (failed bool) {
	for _, w := range r.warnings {
		fmt.Fprintf(o.world.Stderr, "%s: %s: warning: %s\n", x.source, x.ref(), w)
	}
	if r.err != nil {
		o.report(*x, r.err)
		return true
	}
	if r.done != "unchanged" {
		o.warnOfProbes(x)
	}
	switch a.dryRun {
	case "server":
		r.done += " (server dry run)"
	case "client":
		r.done += " (dry run)"
	}
	if r.node != "" {
		fmt.Fprintf(o.world.Stderr, "%s: %s: would go to node %s\n", x.source, x.ref(), r.node)
	}
	fmt.Fprintf(o.world.Stdout, "%s %s\n", x.ref(), r.done)
	return false
}

// report tells why an object was not stored, a line for each finding.
func (o *options) report(obj object, err error) {
	for line := range strings.SplitSeq(explain(err), "\n") {
		fmt.Fprintf(o.world.Stderr, "%s: %s: %s\n", obj.source, obj.ref(), line)
	}
}

// inFlight is how many objects are written at a time: the store takes many writes in one turn of its disk, and where what
// was applied first already starts on the same processors, each turn is long.
const inFlight = 256

// apart counts the first objects that may be written at the same time: of one kind, and none named twice. What is of
// another kind may need those before it.
func apart(objects []object) int {
	seen := map[string]bool{}
	for i := range objects {
		name := objects[i].namespace + "/" + objects[i].name
		if objects[i].kind != objects[0].kind || seen[name] {
			return i
		}
		seen[name] = true
	}
	return len(objects)
}

// inOrder does n things, most of them at a time, and hands what each came to over in their order, until take is false:
// then nothing more is begun. It returns once all that was begun is done.
func inOrder[T any](n, most int, do func(int) T, take func(int, T) bool) {
	results := make([]chan T, n)
	for i := range results {
		results[i] = make(chan T, 1)
	}
	var next atomic.Int64
	var working sync.WaitGroup
	defer working.Wait()
	defer next.Store(int64(n)) // nothing more is begun
	for range min(n, most) {
		working.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				results[i] <- do(int(i))
			}
		})
	}
	for i := range results {
		if !take(i, <-results[i]) {
			return
		}
	}
}

// object is one object of a manifest, on its way to the coordinator.
type object struct {
	kind            *kind
	source          string
	namespace, name string
	value           proto.Message
	// claims are what the manifest says of the live object, and lenient whether a wish among them only warns.
	claims  []manifest.Claim
	lenient bool
}

func (x object) ref() string { return x.kind.singular + "/" + x.name }

// apply stores the object, or finds out what that would do.
func (x object) apply(ctx context.Context, c *client, a applyFlags) outcome {
	warnings, err := x.heed(ctx, c)
	if err != nil {
		return outcome{warnings: warnings, err: err}
	}
	var r outcome
	switch {
	case a.dryRun == "client":
		r = x.guess(ctx, c)
	case a.dryRun == "server":
		r, _ = x.tryOut(ctx, c, a.replace)
	default:
		r = x.write(ctx, c, a.replace)
	}
	r.warnings = append(warnings, r.warnings...)
	return r
}

// maxApplies is how often a write is tried while others write the same object.
const maxApplies = 5

func (x object) write(ctx context.Context, c *client, replace bool) outcome {
	var r outcome
	for range maxApplies {
		if r, _ = x.update(ctx, c, false); reason.Of(r.err) != "REVISION_CONFLICT" {
			break
		}
	}
	if !replace || !immutable(r.err) {
		return r
	}
	if err := x.replaceable(ctx, c); err != nil {
		return outcome{err: err}
	}
	t := doomed{x.kind, x.namespace, x.name}
	uid, err := deleteOne(ctx, nil, c, deleteFlags{}, t)
	if err != nil && !isCode(err, codes.NotFound) {
		return outcome{err: err}
	}
	if err := untilGone(ctx, c, t, uid); err != nil {
		return outcome{err: fmt.Errorf("it is being deleted, and not made anew: %w: apply it again once it is gone", err)}
	}
	r, _ = x.update(ctx, c, false)
	r.done = "replaced"
	return r
}

// replaceable refuses what would not come back as it was: a Deployment makes another in place of a pod that it lacks.
func (x object) replaceable(ctx context.Context, c *client) error {
	if x.kind != podKind {
		return nil
	}
	r, err := c.pods.GetPod(ctx, &musterv1.GetPodRequest{Namespace: x.namespace, Name: x.name})
	if o := r.GetPod().GetMeta().GetOwner(); err == nil && o != nil {
		return fmt.Errorf("it belongs to %s/%s, which would make another: change that instead", strings.ToLower(o.GetKind()), o.GetName())
	}
	return nil
}

// tryOut has the coordinator say what a write would do, and what would then be stored: a new pod is placed too. With
// replace, what cannot change is made anew.
func (x object) tryOut(ctx context.Context, c *client, replace bool) (outcome, item) {
	_, err := x.kind.get(ctx, c, x.namespace, x.name)
	switch {
	case err == nil:
		r, would := x.update(ctx, c, true)
		if !replace || !immutable(r.err) {
			return r, would
		}
		if err := x.replaceable(ctx, c); err != nil {
			return outcome{err: err}, would
		}
		r, would = x.create(ctx, c)
		r.done = "replaced"
		return r, would
	case isCode(err, codes.NotFound):
		return x.create(ctx, c)
	}
	return outcome{err: err}, item{}
}

// create has the coordinator say what a creation would do; nothing is stored.
func (x object) create(ctx context.Context, c *client) (outcome, item) {
	would, warnings, err := x.kind.writes.tries(ctx, c, x.value)
	out := outcome{done: "created", warnings: warnings, err: err}
	if err != nil || x.kind != podKind {
		return out, would
	}
	object, err := plain(would.value())
	if err != nil {
		return outcome{err: err}, would
	}
	node := manifest.Claim{Path: "spec.nodeName"}
	out.node, _ = node.Claimed(object).(string)
	if n := len(warnings); out.node == "" && n > 0 { // the last one says why it fits nowhere
		out.err, out.warnings = &unplacedError{warnings[n-1]}, warnings[:n-1]
	}
	return out, would
}

// unplacedError says why a pod would stay pending.
type unplacedError struct{ why string }

func (e *unplacedError) Error() string {
	return fmt.Sprintf(`it would fit no node now: %s: "muster describe nodes" shows what there is`, e.why)
}

// update writes the object, or with validateOnly says what would be stored.
func (x object) update(ctx context.Context, c *client, validateOnly bool) (outcome, item) {
	would, did, warnings, err := x.kind.writes.updates(ctx, c, x.value, validateOnly)
	return outcome{done: enumWord(did.String(), "WRITE_RESULT_"), warnings: warnings, err: err}, would
}

// guess says what a write would do, of an object that is valid here; a new one is not shown to the coordinator.
func (x object) guess(ctx context.Context, c *client) outcome {
	_, err := x.kind.get(ctx, c, x.namespace, x.name)
	switch {
	case err == nil:
		r, _ := x.update(ctx, c, true)
		return r
	case isCode(err, codes.NotFound):
		return outcome{done: "created"}
	}
	return outcome{err: err}
}

// heed compares what the manifest says of a live object with that. What is the same goes without a word, the rest is left
// out with a warning; a wish that cannot be granted is an error.
func (x object) heed(ctx context.Context, c *client) (warnings []string, err error) {
	if len(x.claims) == 0 {
		return nil, nil
	}
	var live any
	i, err := x.kind.get(ctx, c, x.namespace, x.name)
	switch {
	case err == nil:
		if live, err = plain(i.value()); err != nil {
			return nil, err
		}
	case !isCode(err, codes.NotFound):
		return nil, err
	}
	var wishes []string
	for _, claim := range x.claims {
		is := claim.Claimed(live)
		wish := claim.Path == "spec.nodeName" || claim.Path == "metadata.ownerReferences"
		switch {
		case reflect.DeepEqual(is, claim.Value):
		case wish && !x.lenient:
			f := spec.Finding{Path: claim.Path, Kind: spec.NotBuilt, Message: "leave it out"}
			wishes = append(wishes, f.String())
		case wish:
			warnings = append(warnings, claim.Path+": ignored: not built yet")
		case is == nil:
			warnings = append(warnings, claim.Path+": ignored: it has no meaning here")
		default:
			warnings = append(warnings, claim.Path+": ignored: the live object has another")
		}
	}
	if len(wishes) > 0 {
		return warnings, errors.New(strings.Join(wishes, "\n"))
	}
	return warnings, nil
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
