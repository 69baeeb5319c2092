package lease

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/internal/fence"
)

// holding begins an orderly stop that may take a minute, and returns what it says once it is done.
func (b *bench) holding() <-chan int {
	n := make(chan int, 1)
	go func() {
		ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
		defer cancel()
		n <- b.Hold(ctx)
	}()
	synctest.Wait()
	return n
}

func TestAHoldWaitsForAnAcknowledgementWithIt(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		b.renew(1, 0) // before the hold: that one had the short lease
		n := b.holding()
		time.Sleep(time.Second)
		select {
		case n := <-n:
			t.Fatalf("%d nodes are said to have it, and none was told", n)
		default:
		}
		if got := b.renew(1, 0); got != fence.HoldTTL {
			t.Errorf("acknowledged with %v", got)
		}
		begin := time.Now()
		if got := <-n; got != 1 || time.Since(begin) > 100*time.Millisecond {
			t.Errorf("%d nodes, after %v", got, time.Since(begin))
		}
	})
}

func TestASessionThatEndsDuringTheHoldIsNotWaitedFor(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		n, begin := b.holding(), time.Now()
		b.Closed("n1", 1)
		if got := <-n; got != 0 || time.Since(begin) > 100*time.Millisecond {
			t.Errorf("%d nodes, after %v", got, time.Since(begin))
		}
	})
}

func TestAnOpenThatLosesARaceIsTriedOnWhatWon(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		b.store.fail = append(b.store.fail, func(commit func() (int64, error)) (int64, error) {
			l, _ := b.stored()
			sealed := *l
			sealed.State = "sealed"
			if _, err := b.store.Store.Commit(b.ctx, store.Txn{Then: []store.Write{{Key: key("n1"), Value: &sealed}}}); err != nil {
				t.Error(err)
			}
			return commit()
		})
		o := b.open(hello(2))
		if l, revision := b.stored(); l.Session != 2 || l.State != "open" || revision != o.Revision {
			t.Errorf("stored at %d, opened at %d: %+v", revision, o.Revision, l)
		}
		b.renew(2, 0)
	})
}

func TestAnOlderSessionsGoodbyeIsNotThisOnes(t *testing.T) {
	bubble(t, func(b *bench) {
		b.open(hello(1))
		b.open(hello(2))
		if b.Bye("n1", 1, time.Minute); b.Sign("n1").Comeback != 0 {
			t.Error("an older session's goodbye counts")
		}
		if b.Bye("n1", 2, time.Minute); b.Sign("n1").Comeback != time.Minute {
			t.Error("this session's does not")
		}
	})
}
