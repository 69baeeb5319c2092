package leader

import (
	"fmt"
	"slices"
	"time"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/internal/spec"
)

// longest bounds how long a taint is tolerated for a while: a duration holds no more seconds than that safely.
const longest = 100 * 365 * 24 * time.Hour

// evict asks the holders of pods that do not tolerate a NoExecute taint of their node, or no longer, to stop them: they are
// then placed anew, elsewhere. It says when the next one's time is over. Time counts from when this term saw the pod
// beside the taint.
func (t *terms) evict(now time.Duration, nodes []*fleet.Node, perNode map[string][]*fleet.Pod) time.Duration {
	recheck := now + atLeast
	beside := map[int64]time.Duration{}
	for _, n := range nodes {
		// The pods of a lost node move by themselves, as soon as that is safe.
		if n.User == nil || n.Verdict() == spec.VerdictLost || !slices.ContainsFunc(n.User.Taints, noExecute) {
			continue
		}
		for _, p := range perNode[n.Name] {
			taint, left, forEver := tolerance(p.Spec.Tolerations, n.User.Taints)
			if forEver || p.Deleting() || p.Stop != nil || t.final(p) {
				continue
			}
			since, known := t.beside[p.Epoch]
			if !known {
				since = now
			}
			beside[p.Epoch] = since
			if until := since + left; now < until {
				recheck = min(recheck, until)
				continue
			}
			t.leave(now, p, taint, left > 0)
		}
	}
	t.beside = beside
	return recheck
}

// leave asks the holder of a pod to stop it, because of a taint of its node. One that tolerates it for a while could be
// placed there again, and is kept off for some time.
func (t *terms) leave(now time.Duration, p *fleet.Pod, taint spec.Taint, keepOff bool) {
	name, node := p.Key(), p.Node()
	if _, err := t.commit(t.ctx, stop(p, stopTaint)); t.lost(err, "stop pod "+name.String()+" for a taint of its node") {
		return
	}
	if keepOff {
		t.mu.Lock()
		t.avoid[name] = avoided{node: node, until: now + avoidFor}
		t.mu.Unlock()
	}
	t.deps.Log.Info("pod has to leave a tainted node", "pod", name.String(), "node", node, "taint", taint.String())
	t.deps.Events.Record(podRef(p.Pod), spec.EventNormal, "TaintEviction", fmt.Sprintf("Leaves %s for its taint {%s}", node, taint))
}

func noExecute(t spec.Taint) bool { return t.Effect == spec.NoExecute }

// tolerance says for how long the NoExecute taints of a node are tolerated, and which one for that long. As in Kubernetes
// the first toleration that is one for a taint counts, and of several taints the one whose time is over first.
func tolerance(tolerations []spec.Toleration, taints []spec.Taint) (taint spec.Taint, left time.Duration, forEver bool) {
	left, forEver = longest, true
	for _, has := range taints {
		if !noExecute(has) {
			continue
		}
		may := time.Duration(0)
		if i := slices.IndexFunc(tolerations, func(t spec.Toleration) bool { return t.Tolerates(&has) }); i >= 0 {
			seconds := tolerations[i].Seconds
			if seconds == nil {
				continue
			}
			may = time.Duration(min(max(*seconds, 0), int64(longest/time.Second))) * time.Second
		}
		if forEver || may < left {
			taint, left, forEver = has, may, false
		}
	}
	return taint, left, forEver
}
