package dispatch

import (
	"context"
	"errors"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/coordinator/store"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

const maxStatuses = 500

// pending is one status on its way into the store.
type pending struct {
	name spec.ObjectName
	held *spec.HeldStatus
	from *session
}

// statusQueue holds at most one status a pod: the latest wins. Pods bound it: what no pod has is answered at once.
type statusQueue struct {
	mu    sync.Mutex
	byPod map[spec.ObjectName]pending
	order []spec.ObjectName
	ready chan struct{}
}

func newStatusQueue() *statusQueue {
	return &statusQueue{byPod: map[spec.ObjectName]pending{}, ready: make(chan struct{}, 1)}
}

// put queues what was just said.
func (q *statusQueue) put(p pending) { q.add(p, true) }

// putBack queues what was taken and could not be written, unless something newer was said meanwhile.
func (q *statusQueue) putBack(p pending) { q.add(p, false) }

func (q *statusQueue) add(p pending, newer bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	old, ok := q.byPod[p.name]
	same := ok && old.held.Epoch == p.held.Epoch
	switch {
	case !ok:
		q.order = append(q.order, p.name)
	case newer && same && old.held.Stopped, !newer && !(same && p.held.Stopped): // Stopped is final
		return
	}
	q.byPod[p.name] = p
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

func (q *statusQueue) take(n int) []pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	n = min(n, len(q.order))
	batch := make([]pending, 0, n)
	for _, name := range q.order[:n] {
		batch = append(batch, q.byPod[name])
		delete(q.byPod, name)
	}
	q.order = q.order[n:]
	return batch
}

// statusWriters is how many queues of statuses are written beside each other: while the store applies a round of one, the next of
// another is made ready. More than that bring nothing more, and what else is written waits behind all their rounds.
const statusWriters = 2

// statusQueues are the statuses on their way into the store. All of a pod go through one queue, so that they are written one
// after the other.
type statusQueues struct {
	seed   maphash.Seed
	queues [statusWriters]*statusQueue
}

func newStatusQueues() *statusQueues {
	s := &statusQueues{seed: maphash.MakeSeed()}
	for i := range s.queues {
		s.queues[i] = newStatusQueue()
	}
	return s
}

func (s *statusQueues) of(pod spec.ObjectName) *statusQueue {
	return s.queues[maphash.Comparable(s.seed, pod)%statusWriters]
}

// takeStatuses queues what is of pods that exist, and answers "not yours" to the rest.
func (d *Dispatch) takeStatuses(s *session, batch *agentv1.StatusBatch) error {
	if n := len(batch.GetStatuses()); n > maxStatuses {
		return status.Errorf(codes.InvalidArgument, "statuses: %d, at most %d", n, maxStatuses)
	}
	ack := &agentv1.StatusAck{}
	for _, pb := range batch.GetStatuses() {
		held, err := wire.HeldStatusFromProto(pb)
		if err != nil {
			return status.Errorf(codes.InvalidArgument, "statuses: %v", err)
		}
		name, ok := d.nameOf(held.UID)
		if !ok {
			ack.NotYours = append(ack.NotYours, &agentv1.HeldKey{Uid: held.UID, Epoch: held.Epoch})
			continue
		}
		d.statuses.of(name).put(pending{name: name, held: held, from: s})
	}
	s.ack(ack)
	return nil
}

func (s *session) ack(a *agentv1.StatusAck) {
	if len(a.GetCommitted()) > 0 || len(a.GetNotYours()) > 0 {
		s.send(&agentv1.ConnectResponse{Message: &agentv1.ConnectResponse_StatusAck{StatusAck: a}})
	}
}

// writeStatuses writes what is queued in q, up to MaxOps pods at a time.
func (d *Dispatch) writeStatuses(ctx context.Context, q *statusQueue) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.ready:
		}
		for batch := q.take(store.MaxOps); len(batch) > 0; batch = q.take(store.MaxOps) {
			for !d.writeBatch(ctx, batch) {
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(200 * time.Millisecond):
				}
			}
		}
	}
}

// differ tells at a glance that statuses are not the same: comparing them whole costs much more. Those that it does not tell apart
// may be.
func differ(a, b *spec.HeldStatus) bool {
	return a.Epoch != b.Epoch || a.Stopped != b.Stopped || a.Status.Phase != b.Status.Phase ||
		!slices.EqualFunc(a.Status.Conditions, b.Status.Conditions, func(x, y spec.Condition) bool {
			return x.Type == y.Type && x.Status == y.Status && x.TransitionTime.Equal(y.TransitionTime)
		})
}

// writeBatch writes each status under the conditions that the binding is still of its epoch and the lease still that of
// its session. It reports whether the round is over: an unknown outcome is written again, which changes nothing if it
// had been.
func (d *Dispatch) writeBatch(ctx context.Context, batch []pending) bool {
	v := d.deps.Cache.View()
	acks := map[*session]*agentv1.StatusAck{}
	answer := func(p pending, committed bool) {
		a := acks[p.from]
		if a == nil {
			a = &agentv1.StatusAck{}
			acks[p.from] = a
		}
		key := &agentv1.HeldKey{Uid: p.held.UID, Epoch: p.held.Epoch}
		if committed {
			a.Committed = append(a.Committed, key)
		} else {
			a.NotYours = append(a.NotYours, key)
		}
	}
	var txns []store.Txn
	var writes []pending
	var leases []int64 // the revisions that the writes are conditioned on
	for _, p := range batch {
		binding, epoch, ok := store.Get[*spec.Binding](v, store.BindingKey(p.name))
		if v.Revision() >= p.held.Epoch && (!ok || epoch != p.held.Epoch || binding.UID != p.held.UID || binding.Node != p.from.node) {
			answer(p, false)
			continue
		}
		if old, _, ok := store.Get[*spec.HeldStatus](v, store.StatusKey(p.name)); ok && (!differ(old, p.held) && wire.Equal(old, p.held) ||
			old.UID == p.held.UID && old.Epoch == p.held.Epoch && old.Stopped) {
			answer(p, true) // a steady fleet writes nothing, and Stopped is final
			continue
		}
		lease, ok := d.deps.Leases.Revision(p.from.node, p.from.number)
		if !ok {
			p.from.cancel(errLease) // its session is over: the next one says it again
			continue
		}
		txns = append(txns, store.Txn{
			If: []store.Cond{
				{Key: store.BindingKey(p.name), Revision: p.held.Epoch},
				{Key: store.Key{Family: store.NodeLeases, Name: p.from.node}, Revision: lease},
			},
			Then: []store.Write{{Key: store.StatusKey(p.name), Value: p.held}},
		})
		writes = append(writes, p)
		leases = append(leases, lease)
	}
	if len(txns) > 0 {
		revision, errs, err := d.deps.Store.CommitEach(ctx, txns)
		if errors.Is(err, store.ErrTooLarge) {
			if len(batch) > 1 {
				return d.writeBatch(ctx, batch[:len(batch)/2]) && d.writeBatch(ctx, batch[len(batch)/2:])
			}
			// It will be said again, and refused again: nothing of it can be stored.
			d.deps.Log.Error("status dropped", "pod", batch[0].name.String(), "node", batch[0].from.node, "err", err)
			return true
		}
		if err != nil {
			d.deps.Log.Warn("statuses not written", "count", len(txns), "err", err)
			if ctx.Err() != nil || errors.Is(err, store.ErrClosed) {
				return true
			}
			return false
		}
		if err := d.deps.Cache.Wait(ctx, revision); err != nil {
			return true
		}
		v = d.deps.Cache.View()
		for i, p := range writes {
			if errs[i] == nil {
				answer(p, true)
				continue
			}
			if _, rev, _ := store.Get[*spec.NodeLease](v, store.Key{Family: store.NodeLeases, Name: p.from.node}); rev != leases[i] {
				if now, ok := d.deps.Leases.Revision(p.from.node, p.from.number); ok && now != leases[i] {
					d.statuses.of(p.name).putBack(p) // a hold was written or taken back meanwhile
				} else {
					p.from.cancel(errLease) // its session is over: the next one says it again
				}
				continue
			}
			answer(p, false)
		}
	}
	for s, a := range acks {
		s.ack(a)
	}
	return true
}
