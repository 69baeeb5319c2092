package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/musterhq/muster/coordinator/lease"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/etcd"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// leaseRecords are leases whose records are as they were written.
type leaseRecords map[string]int64

func (leaseRecords) Open(context.Context, lease.Hello) (lease.Opened, error) {
	return lease.Opened{}, nil
}
func (leaseRecords) Renew(string, int64, uint64, bool, time.Duration) (lease.Ack, error) {
	return lease.Ack{}, nil
}
func (leaseRecords) Closed(string, int64)                          {}
func (l leaseRecords) Revision(node string, _ int64) (int64, bool) { r, ok := l[node]; return r, ok }
func (leaseRecords) Bye(string, int64, time.Duration)              {}

// BenchmarkStorm is the status of each of 15,000 pods on 500 nodes changing at once, until the last agent has its
// acknowledgement, on an embedded store that syncs to disk. Beside it a record is written every 50 ms, as a verdict is.
func BenchmarkStorm(b *testing.B) {
	const nodes, pods = 500, 30
	log := slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(b.Context())
	var running sync.WaitGroup
	kv, err := etcd.Open(ctx, etcd.Config{Dir: b.TempDir() + "/member", Codec: wire.Codec{}, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	cache := store.NewCache(kv, log)
	running.Go(func() { _ = cache.Run(ctx) })
	<-cache.Ready()
	leases := leaseRecords{}
	d := New(Config{}, Deps{Store: kv, Cache: cache, Leases: leases, Log: log})
	defer func() {
		cancel()
		running.Wait()
		_ = kv.Close()
	}()

	commit := func(writes ...store.Write) int64 {
		rev, err := kv.Commit(ctx, store.Txn{Then: writes})
		if err != nil {
			b.Fatal(err)
		}
		if err := cache.Wait(ctx, rev); err != nil {
			b.Fatal(err)
		}
		return rev
	}
	type seat struct {
		*session
		held []*spec.HeldStatus
	}
	seats := make([]seat, nodes)
	for i := range seats {
		node := fmt.Sprintf("node-%d", i)
		writes := []store.Write{{Key: store.Key{Family: store.NodeLeases, Name: node}, Value: &spec.NodeLease{State: spec.LeaseOpen, Owner: "me", Session: 1, TTL: 5 * time.Second}}}
		for j := range pods {
			n := spec.ObjectName{Namespace: "default", Name: fmt.Sprintf("web-%d-%d", i, j)}
			p := &spec.Pod{Meta: spec.Meta{Namespace: n.Namespace, Name: n.Name, UID: fmt.Sprintf("%08d-0000-0000-0000-%012d", i, j)}}
			p.Spec.Containers = []spec.Container{{Name: "main", Command: []string{"sleep", "1000000"}}}
			writes = append(writes, store.Write{Key: store.PodKey(n), Value: p}, store.Write{Key: store.BindingKey(n), Value: &spec.Binding{UID: p.UID, Node: node, Class: spec.Fast}})
		}
		epoch := commit(writes...)
		leases[node] = epoch
		sctx, end := context.WithCancelCause(ctx)
		seats[i].session = &session{node: node, number: 1, ctx: sctx, cancel: end, woken: make(chan struct{}, 1), out: make(chan *agentv1.ConnectResponse, 1024)}
		for j := range pods {
			seats[i].held = append(seats[i].held, &spec.HeldStatus{
				UID: fmt.Sprintf("%08d-0000-0000-0000-%012d", i, j), Epoch: epoch, Status: runningStatus(false),
			})
		}
	}
	running.Go(func() { _ = d.Run(ctx) })
	if err := d.waitIndexed(ctx, cache.View().Revision()); err != nil {
		b.Fatal(err)
	}

	var beside []time.Duration
	stop := make(chan struct{})
	var besides sync.WaitGroup
	besides.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			began := time.Now()
			if _, err := kv.Commit(ctx, store.Txn{Then: []store.Write{{
				Key: store.Key{Family: store.NodeStatus, Name: "node-0"}, Value: &spec.NodeStatus{Verdict: spec.VerdictReady, Cause: fmt.Sprint(i)},
			}}}); err != nil {
				return
			}
			beside = append(beside, time.Since(began))
		}
	})
	ready := false
	for b.Loop() {
		ready = !ready
		var agents sync.WaitGroup
		for i := range seats {
			agents.Go(func() {
				s := &seats[i]
				var batch []*musterv1.HeldStatus
				for _, h := range s.held {
					said := *h
					said.Status = runningStatus(ready)
					batch = append(batch, wire.HeldStatusToProto(&said))
				}
				if err := d.takeStatuses(s.session, &agentv1.StatusBatch{Statuses: batch}); err != nil {
					b.Error(err)
					return
				}
				for left := len(batch); left > 0; {
					ack := (<-s.out).GetStatusAck()
					if len(ack.GetNotYours()) > 0 {
						b.Errorf("not its pods: %v", ack)
						return
					}
					left -= len(ack.GetCommitted())
				}
			})
		}
		agents.Wait()
	}
	b.StopTimer()
	close(stop)
	besides.Wait()
	b.ReportMetric(nodes*pods*float64(b.N)/b.Elapsed().Seconds(), "changes/s")
	if len(beside) > 0 {
		slices.Sort(beside)
		b.ReportMetric(float64(beside[len(beside)/2].Microseconds())/1000, "ms/write_p50")
		b.ReportMetric(float64(beside[len(beside)-1].Microseconds())/1000, "ms/write_max")
	}
}

// runningStatus is that of a pod that runs, as an agent says it.
func runningStatus(ready bool) spec.PodStatus {
	truth := spec.ConditionFalse
	if ready {
		truth = spec.ConditionTrue
	}
	began := time.Unix(1_700_000_000, 0)
	st := spec.PodStatus{Phase: spec.PhaseRunning, HostIP: "10.0.0.1", PodIP: "10.77.1.2", StartTime: began}
	for _, kind := range []string{spec.ConditionPodScheduled, spec.ConditionPodReadyToStart, spec.ConditionInitialized, spec.ConditionContainersReady, spec.ConditionReady} {
		st.Conditions = append(st.Conditions, spec.Condition{Type: kind, Status: truth, TransitionTime: began})
	}
	st.Containers = []spec.ContainerStatus{{
		Name: "main", Image: "registry.example/web:1.0", ID: "process://0123456789abcdef", Ready: ready, Started: true,
		State: spec.ContainerState{Running: &spec.Running{StartedAt: began}},
	}}
	return st
}
