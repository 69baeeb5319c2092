package runner

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/atomicfile"
	"github.com/musterhq/muster/internal/spec"
)

// maxState bounds one pod's file, in bytes.
const maxState = 2 << 20

// stateVersion is the version of the files' format.
const stateVersion = 1

// record is what is kept on disk of one binding.
type record struct {
	Version int
	Ref     container.PodRef
	Pod     *spec.Pod
	Class   spec.FailoverClass
	// Stop asks to stop it, Removed to forget it then.
	Stop, Removed bool
	StopReason    string
	Restarts      map[string]int32
	Guard         *keptGuard `json:",omitempty"`
	Memory        pod.Memory
}

// uidForm is what a uid must look like to name a file.
var uidForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)

func (r *Runner) statePath(ref container.PodRef) string {
	return filepath.Join(r.cfg.StateDir, ref.UID+"."+strconv.FormatInt(ref.Epoch, 10)+".json")
}

// write stores a record whole or not at all; durable also survives a loss of power.
func (r *Runner) write(rec *record, durable bool) error {
	data, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	if len(data) > maxState { // what probes have said must not keep a state from being kept
		rec.Memory.DropAttempts()
		if data, err = json.Marshal(rec); err != nil {
			return err
		}
	}
	if len(data) > maxState {
		return fmt.Errorf("%d bytes are too many", len(data))
	}
	return atomicfile.Rewrite(r.statePath(rec.Ref), data, 0o600, durable)
}

// load takes up what is on disk. A damaged file is logged, put aside, and counts as none.
func (r *Runner) load() error {
	if err := os.MkdirAll(r.cfg.StateDir, 0o700); err != nil {
		return fmt.Errorf("make pod state directory: %w", err)
	}
	entries, err := os.ReadDir(r.cfg.StateDir)
	if err != nil {
		return fmt.Errorf("read pod state: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(r.cfg.StateDir, e.Name())
		switch {
		case strings.HasSuffix(e.Name(), ".new"):
			os.Remove(path)
			continue
		case !strings.HasSuffix(e.Name(), ".json"):
			continue
		}
		rec, err := r.read(path)
		if err == nil && len(r.pods) >= maxHeld {
			err = fmt.Errorf("more than %d pods", maxHeld)
		}
		if err != nil {
			r.deps.Log.Error("state of a pod is damaged: put aside", "path", path, "err", err)
			if err := os.Rename(path, path+".damaged"); err != nil {
				r.deps.Log.Error("damaged state of a pod stays", "path", path, "err", err)
			}
			continue
		}
		h := r.newHeld(rec.Ref, rec.Pod, rec.Class)
		h.stop, h.stopReason, h.removed, h.restarts = rec.Stop, rec.StopReason, rec.Removed, rec.Restarts
		h.machine = pod.New(rec.Pod, &rec.Memory, rec.Restarts, rec.Class != spec.Fenced)
		h.guard.take(rec.Guard)
		h.status, h.stopped, h.durable = rec.Memory.Status, rec.Memory.Stopped, rec.Memory.Stopped
		if h.fenced = rec.Memory.Fenced; h.fenced {
			r.deps.Log.Info("pod waits to be assigned anew", "pod", rec.Pod.Key().String(), "epoch", rec.Ref.Epoch)
		}
	}
	return nil
}

func (r *Runner) read(path string) (*record, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxState {
		return nil, fmt.Errorf("%d bytes are too many", info.Size())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var rec record
	if err := json.Unmarshal(data, &rec); err != nil {
		return nil, err
	}
	switch {
	case rec.Version != stateVersion:
		return nil, fmt.Errorf("version %d is not known", rec.Version)
	case rec.Pod == nil || len(rec.Pod.Spec.Containers) == 0 || !uidForm.MatchString(rec.Ref.UID):
		return nil, errors.New("names no pod")
	case r.statePath(rec.Ref) != path:
		return nil, errors.New("is another pod's")
	}
	return &rec, nil
}

// saveLocked writes the pod's record in the background. While one write is under way the next is only noted.
func (r *Runner) saveLocked(h *held) {
	if h.pod == nil {
		return
	}
	h.dirty = true
	if h.saving || r.ctx == nil || r.ctx.Err() != nil || time.Now().Before(h.saveAfter) {
		return
	}
	h.saving = true
	r.wg.Go(func() {
		r.disk <- struct{}{}
		defer func() { <-r.disk }()
		r.mu.Lock()
		for h.dirty {
			if r.pods[h.ref] != h { // forgotten meanwhile
				break
			}
			rec := h.record()
			h.dirty = false
			r.mu.Unlock()
			err := r.write(&rec, rec.Memory.Stopped || rec.Memory.Status.Phase.Final())
			r.mu.Lock()
			r.wroteLocked(h, &rec, err)
			if err != nil {
				break
			}
		}
		h.saving = false
		if r.pods[h.ref] != h {
			r.unlinkLocked(h)
		}
		r.mu.Unlock()
	})
}

func (h *held) record() record {
	return record{Version: stateVersion, Ref: h.ref, Pod: h.pod, Class: h.class, Stop: h.stop, Removed: h.removed,
		StopReason: h.stopReason, Restarts: h.restarts, Guard: h.guard.record(), Memory: h.machine.Memory()}
}

// wroteLocked takes in how a write ended. What must be durable before it is said is said from here.
func (r *Runner) wroteLocked(h *held, rec *record, err error) {
	if err != nil {
		h.dirty, h.saveAfter = true, time.Now().Add(relist)
		if !r.diskFailed {
			r.diskFailed = true
			r.deps.Log.Error("pod state not written: final states are held back until it is", "path", r.cfg.StateDir, "err", err)
		}
		return
	}
	if r.diskFailed {
		r.diskFailed = false
		r.deps.Log.Info("pod state written again", "path", r.cfg.StateDir)
	}
	if rec.Memory.Stopped && !h.durable {
		h.durable = true
		r.releaseLocked(h)
		r.outLocked(h)
		if h.removed {
			r.forgetLocked(h)
		}
	}
}

// unlinkLocked takes away the file of a pod that is forgotten.
func (r *Runner) unlinkLocked(h *held) {
	if h.saving || r.pods[h.ref] != nil {
		return // the writer does it, or it is another's by now
	}
	if err := atomicfile.Remove(r.statePath(h.ref)); err != nil {
		r.deps.Log.Error("state of a forgotten pod stays", "path", r.statePath(h.ref), "err", err)
	}
}
