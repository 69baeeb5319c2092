package leader

import (
	"context"
	"errors"
	"fmt"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
)

// ErrNowhere means that a bare pod fits on no other node, and so stays where it is.
var ErrNowhere = errors.New("fits on no other node")

// Evict asks the holder of a bare pod to stop it, so that it is bound anew elsewhere, in one transaction with what guard has.
// Whoever calls has seen to it that the pod may go and where it fits.
func (l *Leader) Evict(ctx context.Context, p *fleet.Pod, guard store.Txn) error {
	txn := stop(p, stopDrain)
	txn.If, txn.Then = append(txn.If, guard.If...), append(txn.Then, guard.Then...)
	rev, err := l.commit(ctx, txn)
	if err != nil {
		return fmt.Errorf("evict pod %s: %w", p.Key(), err)
	}
	l.mu.Lock()
	l.avoid[p.Key()] = avoided{node: p.Node(), until: l.cfg.Now() + p.Spec.TerminationGrace + avoidFor}
	l.mu.Unlock()
	return l.deps.Cache.Wait(ctx, rev)
}
