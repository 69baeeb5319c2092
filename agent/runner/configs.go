package runner

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// Configs are ConfigMaps and Secrets that pods here use, or how they have changed.
type Configs struct {
	// Full means that these are all: others that are used do not exist.
	Full bool
	// Values are those of new or changed ones. Nobody writes to them any more.
	Values map[spec.ConfigKey]map[string][]byte
	// Removed are gone, or used no more.
	Removed []spec.ConfigKey
}

// configs are what is known of ConfigMaps and Secrets. They are in memory alone.
type configs struct {
	mu sync.Mutex
	// known is set once they were told in full: before, nothing can be said of what is missing.
	known  bool
	values map[spec.ConfigKey]map[string][]byte
}

var errConfigsUnknown = errors.New("the coordinator has not said yet what is in it")

// get returns the values of a ConfigMap or Secret; nil where there is none.
func (c *configs) get(k spec.ConfigKey) (map[string][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if values, ok := c.values[k]; ok {
		return values, nil
	}
	if !c.known {
		return nil, errConfigsUnknown
	}
	return nil, nil
}

// Configure takes in what ConfigMaps and Secrets have. Files that follow from them are written soon, variables at the next start of
// their container. It does not block.
func (r *Runner) Configure(c Configs) {
	r.configs.mu.Lock()
	if c.Full {
		r.configs.values, r.configs.known = map[spec.ConfigKey]map[string][]byte{}, true
	}
	for _, k := range c.Removed {
		delete(r.configs.values, k)
	}
	maps.Copy(r.configs.values, c.Values)
	r.configs.mu.Unlock()
	poke(r.refreshing)
}

// values finds the ConfigMap or Secret behind a reference. It is nil where there is none and that is no error.
func (r *Runner) values(k spec.ConfigKey, optional bool) (map[string][]byte, error) {
	values, err := r.configs.get(k)
	what := strings.ToLower(k.Kind)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s %q: %w", what, k.Name, err)
	case values == nil && !optional:
		return nil, fmt.Errorf("%s %q not found", what, k.Name)
	}
	return values, nil
}

// key is a variable's value; false where it is optional and not there.
func (r *Runner) key(p *spec.Pod, ref *spec.KeyRef) (string, bool, error) {
	values, err := r.values(spec.ConfigKey{Kind: ref.Kind, Namespace: p.Namespace, Name: ref.Name}, ref.Optional)
	if err != nil {
		return "", false, err
	}
	value, ok := values[ref.Key]
	if !ok && !ref.Optional {
		return "", false, fmt.Errorf("couldn't find key %s in %s %s/%s", ref.Key, ref.Kind, p.Namespace, ref.Name)
	}
	return string(value), ok, nil
}

// envFrom sets the variables of whole ConfigMaps and Secrets. skipped are keys that are no names of variables.
func (r *Runner) envFrom(p *spec.Pod, sc *spec.Container, env *environment) (skipped []string, err error) {
	for _, from := range sc.EnvFrom {
		values, err := r.values(spec.ConfigKey{Kind: from.Kind, Namespace: p.Namespace, Name: from.Name}, from.Optional)
		if err != nil {
			return nil, err
		}
		for _, k := range slices.Sorted(maps.Keys(values)) {
			name := from.Prefix + k
			if strings.Contains(name, "=") || bytes.IndexByte(values[k], 0) >= 0 || slices.Contains(reserved, name) {
				skipped = append(skipped, k)
				continue
			}
			env.set(name, string(values[k]))
		}
	}
	return skipped, nil
}

// resource is the value of a resourceFieldRef. own is the container that it means by default.
func (r *Runner) resource(p *spec.Pod, ref *spec.ResourceRef, own string) (int64, error) {
	name := ref.Container
	if name == "" {
		name = own
	}
	c := p.Spec.Container(name)
	if c == nil {
		return 0, fmt.Errorf("resourceFieldRef: there is no container %q", name)
	}
	of := func(l spec.ResourceList) int64 {
		if strings.HasSuffix(ref.Resource, ".cpu") {
			return l.MilliCPU
		}
		return l.MemoryBytes
	}
	amount := of(c.Resources.Requests)
	if strings.HasPrefix(ref.Resource, "limits.") {
		// A container without a limit may have what the node has.
		if amount = of(c.Resources.Limits); amount == 0 {
			amount = of(r.cfg.Allocatable)
		}
	}
	divisor := ref.DivisorMilli
	if divisor == 0 {
		divisor = 1000
	}
	if strings.HasSuffix(ref.Resource, ".cpu") {
		return (amount + divisor - 1) / divisor, nil
	}
	// Bytes by thousandths of bytes, without overflow: a divisor is whole, or its thousandths count little.
	if divisor%1000 == 0 {
		divisor /= 1000
		return (amount + divisor - 1) / divisor, nil
	}
	return int64(float64(amount) * 1000 / float64(divisor)), nil
}

// files are what a volume of files has to have.
func (r *Runner) files(p *spec.Pod, f *spec.Files) ([]container.File, error) {
	byPath := map[string]container.File{}
	mode := func(m *int32) fs.FileMode {
		out := fs.FileMode(spec.DefaultFileMode)
		switch {
		case m != nil:
			out = fs.FileMode(*m)
		case f.DefaultMode != 0:
			out = fs.FileMode(f.DefaultMode)
		}
		if p.Spec.Security.FSGroup != nil {
			out |= 0o440 // the group is there to read
		}
		return out.Perm()
	}
	put := func(path string, data []byte, m *int32) {
		byPath[path] = container.File{Path: path, Data: data, Mode: mode(m)}
	}
	for i := range f.Sources {
		s := &f.Sources[i]
		object, ok := s.Object(p.Namespace)
		if !ok {
			for _, item := range s.Items {
				text, err := r.downward(p, &item)
				if err != nil {
					return nil, err
				}
				put(item.Path, []byte(text), item.Mode)
			}
			continue
		}
		values, err := r.values(object, s.Optional)
		if err != nil {
			return nil, err
		}
		if len(s.Items) == 0 {
			for k, v := range values {
				put(k, v, nil)
			}
		}
		for _, item := range s.Items {
			v, ok := values[item.Key]
			switch {
			case ok:
				put(item.Path, v, item.Mode)
			case !s.Optional:
				return nil, fmt.Errorf("references non-existent %s key: %s", strings.ToLower(object.Kind), item.Key)
			}
		}
	}
	return slices.SortedFunc(maps.Values(byPath), func(a, b container.File) int { return strings.Compare(a.Path, b.Path) }), nil
}

// downward is a file about the pod itself.
func (r *Runner) downward(p *spec.Pod, item *spec.FileItem) (string, error) {
	if item.Resource != nil {
		n, err := r.resource(p, item.Resource, "")
		return fmt.Sprint(n), err
	}
	pairs := func(m map[string]string) string {
		var lines []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			lines = append(lines, fmt.Sprintf("%s=%q", k, m[k]))
		}
		return strings.Join(lines, "\n")
	}
	switch item.FieldPath {
	case "metadata.labels":
		return pairs(p.Labels), nil
	case "metadata.annotations":
		return pairs(p.Annotations), nil
	}
	return r.field(p, "", item.FieldPath)
}

// project writes the files of a volume, unless they were written before.
func (r *Runner) project(ctx context.Context, h *held, p *spec.Pod, v *spec.Volume) error {
	files, err := r.files(p, v.Files)
	if err != nil {
		return fmt.Errorf("volume %q: %w", v.Name, misconfigured{err})
	}
	sum := sumOf(files)
	r.mu.Lock()
	written := h.written[v.Name]
	r.mu.Unlock()
	if written == sum {
		return nil
	}
	if err := r.deps.Runtime.WriteFiles(ctx, h.ref, v.Name, files); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.written == nil {
		h.written = map[string][sha256.Size]byte{}
	}
	h.written[v.Name] = sum
	return nil
}

func sumOf(files []container.File) (sum [sha256.Size]byte) {
	h := sha256.New()
	part := func(b []byte) {
		var n [8]byte
		binary.LittleEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	for i := range files {
		part([]byte(files[i].Path))
		part(files[i].Data)
		part([]byte(files[i].Mode.String()))
	}
	h.Sum(sum[:0])
	return sum
}

// refresh keeps the files of the pods that are here as their sources are, until ctx ends.
func (r *Runner) refresh(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.refreshing:
		}
		type volumeOf struct {
			h *held
			p *spec.Pod
			v *spec.Volume
		}
		var all []volumeOf
		r.mu.Lock()
		for _, h := range r.pods {
			if h.pod == nil || h.stopped || !h.seen.Exists || h.status.Phase.Final() {
				continue
			}
			for i := range h.pod.Spec.Volumes {
				if v := &h.pod.Spec.Volumes[i]; v.Files != nil {
					all = append(all, volumeOf{h, h.pod, v})
				}
			}
		}
		r.mu.Unlock()
		for _, x := range all {
			err := r.project(ctx, x.h, x.p, x.v)
			if err == nil || ctx.Err() != nil || errors.Is(err, container.ErrNotFound) || errors.Is(err, errConfigsUnknown) {
				continue
			}
			// What was there stays.
			r.mu.Lock()
			r.record(x.h, pod.Event{Type: spec.EventWarning, Reason: "FailedMount", Message: fmt.Sprintf("MountVolume.SetUp failed for %v", err)})
			r.mu.Unlock()
		}
	}
}
