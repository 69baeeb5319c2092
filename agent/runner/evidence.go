package runner

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// The bounds of what is told of how an instance ended beside what its machine keeps.
const (
	// keptAttempts is how many attempts are looked through for those of the instance that a probe had killed.
	keptAttempts = 32
	// logLines and logBytes bound the end of what it wrote.
	logLines = 5
	logBytes = 4 << 10
)

// keepLocked answers what a machine has asked about instances, and has the answers kept on disk.
func (r *Runner) keepLocked(h *held, asked []pod.Asked) {
	for _, a := range asked {
		switch {
		case a.Probe == 0 && r.deps.Memory != nil:
			memory, at := r.deps.Memory(h.ref.UID, a.Container)
			h.machine.Keep(a, nil, memory, at)
		case a.Probe != 0 && r.deps.Attempts != nil:
			all := r.deps.Attempts(spec.ProbeID{PodUID: h.ref.UID, Container: a.Container, Kind: a.Probe}, keptAttempts)
			h.machine.Keep(a, slices.DeleteFunc(all, func(at spec.Attempt) bool { return at.Instance != a.Instance }), 0, time.Time{})
		}
	}
	if len(asked) > 0 {
		r.saveLocked(h)
	}
}

// Evidence is what is kept of how the containers of a pod have ended, of one or with "" of all, in the order of the spec. The end of
// the log is that of the instance that ended last, as far as the runtime has it. ErrNotFound.
func (r *Runner) Evidence(ctx context.Context, uid, name string) ([]spec.ContainerEvidence, error) {
	r.mu.Lock()
	h, err := r.newestLocked(uid)
	var all []spec.ContainerEvidence
	if err == nil && h.machine != nil {
		now := time.Now()
		for _, sc := range h.pod.Spec.AllContainers() {
			if e := h.machine.Evidence(now, sc.Name); e != nil && (name == "" || name == sc.Name) {
				all = append(all, *e)
			}
		}
	}
	r.mu.Unlock()
	if err == nil && name != "" && len(all) == 0 {
		err = fmt.Errorf("container %s of pod %s: %w", name, uid, ErrNotFound)
	}
	for i := range all {
		if n := len(all[i].Ends); n > 0 && all[i].Ends[n-1].ID != "" {
			all[i].Log = r.lastLines(ctx, container.ContainerID(all[i].Ends[n-1].ID))
		}
	}
	return all, err
}

// lastLines is the end of what an instance wrote; nil where the runtime has it no more.
func (r *Runner) lastLines(ctx context.Context, id container.ContainerID) []byte {
	var end tailWriter
	if err := r.deps.Runtime.Logs(ctx, id, container.LogOptions{Tail: logLines}, &end); err != nil {
		return nil
	}
	return bytes.ToValidUTF8(end.kept, []byte("\uFFFD"))
}

// tailWriter keeps the last logBytes of what is written to it.
type tailWriter struct{ kept []byte }

func (w *tailWriter) Write(p []byte) (int, error) {
	w.kept = append(w.kept, p[max(0, len(p)-logBytes):]...)
	w.kept = w.kept[max(0, len(w.kept)-logBytes):]
	return len(p), nil
}
