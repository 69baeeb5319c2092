package runner

import (
	"context"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

// restartGuard is how the restart guard stands for one binding, and what was said of it.
type restartGuard struct {
	spec.PodGuard
	on bool
	// let is when this agent let a held restart go by itself, without a coordinator; zero when it has not.
	let time.Time
	// said is the newest word that was returned, of the restart at last; heard whether there is one.
	said  spec.RestartWord
	last  time.Time
	heard bool
	// kept is the restart that was last written to the disk.
	kept time.Time
}

// keptGuard is what must not be forgotten of a guard: without it an agent that starts without a coordinator would restart
// whatever fails. That a restart is allowed is forgotten.
type keptGuard struct {
	ReleaseAfter time.Duration
}

func (g *restartGuard) wanted() pod.Guard {
	return pod.Guard{On: g.on, Allowed: g.on && (g.Allowed || !g.let.IsZero()), Holding: g.Holding}
}

func (g *restartGuard) record() *keptGuard {
	if !g.on {
		return nil
	}
	return &keptGuard{ReleaseAfter: g.ReleaseAfter}
}

func (g *restartGuard) take(k *keptGuard) {
	if k != nil {
		g.on, g.ReleaseAfter = true, k.ReleaseAfter
	}
}

// begin turns the guard of a pod on or off by what its assignment says; what it is allowed comes with Guard.
func (g *restartGuard) begin(on bool) {
	switch {
	case !on:
		*g = restartGuard{}
	case !g.on:
		g.on, g.ReleaseAfter = true, spec.DefaultRestartGuard().ReleaseAfter
	}
}

// Guard takes in how the restart guard stands for every pod of the node whose owner has one: others are not guarded.
// It also says that a coordinator is there.
func (r *Runner) Guard(all []spec.PodGuard) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cutOff = time.Time{}
	by := make(map[container.PodRef]*spec.PodGuard, len(all))
	for i := range all {
		by[container.PodRef{UID: all[i].UID, Epoch: all[i].Epoch}] = &all[i]
	}
	for ref, h := range r.pods {
		if h.machine == nil {
			continue
		}
		g, was := by[ref], h.guard
		if h.guard.begin(g != nil); g != nil {
			h.guard.PodGuard, h.guard.let = *g, time.Time{}
		}
		if h.guard == was {
			continue
		}
		if h.guard.on != was.on || h.guard.ReleaseAfter != was.ReleaseAfter {
			r.saveLocked(h)
		}
		r.stepLocked(h)
	}
}

// CutOff says that no coordinator is there any more: what is allowed stays so, and held restarts are let go slowly.
func (r *Runner) CutOff() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cutOff.IsZero() {
		r.cutOff = time.Now()
	}
}

// letGoLocked lets one held restart of each owner go when there has been no coordinator for as long as the owner's guard
// holds at most, and one more after as long again.
func (r *Runner) letGoLocked(now time.Time) {
	if r.cutOff.IsZero() {
		clear(r.letGo)
		return
	}
	longest := map[string]*held{} // by owner
	for _, h := range r.pods {
		if h.machine == nil || !h.guard.on || h.pod.Owner == nil || !h.guard.let.IsZero() {
			continue
		}
		since, first := h.machine.Restarts().Held, longest[h.pod.Owner.UID]
		if !since.IsZero() && (first == nil || since.Before(first.machine.Restarts().Held)) {
			longest[h.pod.Owner.UID] = h
		}
	}
	for owner := range r.letGo {
		if longest[owner] == nil && now.Sub(r.letGo[owner]) > 24*time.Hour {
			delete(r.letGo, owner)
		}
	}
	for owner, h := range longest {
		from := r.cutOff
		for _, at := range []time.Time{h.machine.Restarts().Held, r.letGo[owner]} {
			if at.After(from) {
				from = at
			}
		}
		if now.Sub(from) < h.guard.ReleaseAfter {
			continue
		}
		h.guard.let, r.letGo[owner] = now, now
		r.deps.Log.Warn("held restart let go without a coordinator", "pod", h.pod.Key().String(), "epoch", h.ref.Epoch)
		r.stepLocked(h)
	}
}

// guardedLocked takes in what a decision has made of a pod's restarts.
func (r *Runner) guardedLocked(h *held) {
	if !h.guard.on {
		return
	}
	if s := h.machine.Restarts(); s.Last.After(h.guard.kept) {
		h.guard.kept = s.Last
		r.saveLocked(h)
		if !h.guard.let.IsZero() && !s.Last.Before(h.guard.let) {
			h.guard.let = time.Time{} // it was for one restart
		}
	}
	if _, _, changed := h.word(); changed {
		poke(r.words)
	}
}

// word is what there is to say of a guarded pod, and whether that is new. Its Ago is left out.
func (h *held) word() (w spec.RestartWord, last time.Time, changed bool) {
	s := h.machine.Restarts()
	w = spec.RestartWord{
		UID: h.ref.UID, Epoch: h.ref.Epoch, Version: h.guard.Version, Allowed: h.guard.Allowed, Held: !s.Held.IsZero(),
		Restarted: !s.Last.IsZero(), Live: s.Live && !s.Last.IsZero(),
	}
	return w, s.Last, !h.guard.heard || w != h.guard.said || !s.Last.Equal(h.guard.last)
}

// NextRestarts waits until there is something new to say of guarded pods and returns it; with all it returns at once what
// there is to say of every one. It fails only when ctx ends.
func (r *Runner) NextRestarts(ctx context.Context, all bool) ([]spec.RestartWord, error) {
	for {
		if words := r.takeWords(all); all || len(words) > 0 {
			return words, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.words:
		}
	}
}

func (r *Runner) takeWords(all bool) (words []spec.RestartWord) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for _, h := range r.pods {
		if h.machine == nil || !h.guard.on {
			continue
		}
		w, last, changed := h.word()
		if !changed && !all {
			continue
		}
		h.guard.said, h.guard.last, h.guard.heard = w, last, true
		if w.Restarted {
			w.Ago = max(0, now.Sub(last))
		}
		words = append(words, w)
	}
	return words
}
