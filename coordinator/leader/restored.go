package leader

import (
	"time"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
)

// afterRestore binds, seals and moves nothing until all that the lost coordinator acknowledged is over, then writes the bindings
// anew that no agent has spoken for. It says when to look again.
func (t *terms) afterRestore(now, left time.Duration, v *store.View, pods []*fleet.Pod) time.Duration {
	if left > 0 {
		return now + min(left, atLeast)
	}
	txns := t.deps.Restored.Rewrites(v, pods)
	for _, w := range t.commitAll(txns) {
		if t.lost(w.err, "write a binding anew after a restore") {
			return now // the next pass sees what has become of it
		}
	}
	if len(txns) > 0 {
		return now // ended once the view has them
	}
	end, err := t.deps.Restored.End(v)
	if err == nil {
		_, err = t.commit(t.ctx, end)
	}
	if !t.lost(err, "end the wait after a restore") {
		t.deps.Log.Info("the wait after the restore is over: pods are placed and moved again")
	}
	return now
}
