package leader

import (
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/spec"
)

// The reasons for which a holder is asked to stop a pod.
const (
	stopDelete = "delete"
	stopMove   = "move"
	stopTaint  = "taint"
	stopDrain  = "drain"
)

// ended returns what to write for a pod whose binding is over, or whose deletion can be finished: nil when there is
// nothing. A binding ends only by its holder's Stopped; a lost node's is replaced by a move instead.
func ended(p *fleet.Pod) *store.Txn {
	name := p.Key()
	switch {
	case p.Deleting() && (p.Binding == nil || p.Stopped()):
		t := &store.Txn{
			If: []store.Cond{
				{Key: store.PodKey(name), Revision: p.PodRevision},
				{Key: store.BindingKey(name), Revision: p.Epoch},
			},
			Then: []store.Write{
				{Key: store.PodKey(name)},
				{Key: store.StopKey(name)},
				{Key: store.StatusKey(name)},
			},
		}
		if p.Binding != nil {
			t.Then = append(t.Then, store.Write{Key: store.BindingKey(name)})
		}
		return t
	case p.Binding != nil && p.Stopped():
		// What was seen stays: restart counts go on where the pod runs next.
		return &store.Txn{
			If: []store.Cond{
				{Key: store.BindingKey(name), Revision: p.Epoch},
				{Key: store.StatusKey(name), Revision: p.HeldRevision},
			},
			Then: []store.Write{{Key: store.BindingKey(name)}, {Key: store.StopKey(name)}},
		}
	}
	return nil
}

// stop asks the holder of a pod's binding to end it.
func stop(p *fleet.Pod, reason string) store.Txn {
	name := p.Key()
	return store.Txn{
		If:   []store.Cond{{Key: store.BindingKey(name), Revision: p.Epoch}},
		Then: []store.Write{{Key: store.StopKey(name), Value: &spec.Stop{Epoch: p.Epoch, Reason: reason}}},
	}
}

// forget takes a pod away with its binding, whatever its holder does.
func forget(p *fleet.Pod) store.Txn {
	name := p.Key()
	return store.Txn{
		If: []store.Cond{
			{Key: store.PodKey(name), Revision: p.PodRevision},
			{Key: store.BindingKey(name), Revision: p.Epoch},
		},
		Then: []store.Write{
			{Key: store.PodKey(name)}, {Key: store.BindingKey(name)},
			{Key: store.StopKey(name)}, {Key: store.StatusKey(name)},
		},
	}
}
