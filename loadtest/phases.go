package loadtest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

const (
	// maxChanging bounds the probes whose verdicts change, changeEvery is how often one does.
	maxChanging, changeEvery = 100, 100 * time.Millisecond
	// leaseTTL is a coordinator's default.
	leaseTTL = 10 * time.Second
	// perThousand of the pods are replaced, and of the agents cut off, each second of churn.
	perThousand = 1
	// replaceAtOnce is how many of them are being replaced at a time.
	replaceAtOnce = 16
	// settleLimit is how long they may take afterwards, and a fleet to be steady; settleQuiet is how long that has to last.
	settleLimit, settleQuiet = time.Minute, 3 * time.Second
)

// churned is what came of churn.
type churned struct {
	Run ingestRun
	// Offered pods to replace and Replaced ones, Cuts of agents' connections; Settled is how long after the end all pods had their
	// place.
	Offered, Replaced, Cuts int
	Settled                 time.Duration
	// Rolled pods of a Deployment were replaced in a rollout of RolledIn; Lost nodes had Left pods, which were all elsewhere after LeftIn.
	// All are 0 for a given coordinator.
	Rolled, Lost, Left int
	RolledIn, LeftIn   time.Duration
}

// restarted is what came of a coordinator's end by force. Times are since the kill.
type restarted struct {
	Serves, LastAck, LastVerdict                      time.Duration
	LateAcks, LateVerdicts, Flips, NodeFlips, Missing int
	Wrong, Watches                                    int
	Causes                                            map[string]int
}

// pickChanging chooses the first probe of some agents that stay, where that leaves others.
func (f *fleet) pickChanging() {
	f.changing = map[*simulated]spec.ProbeID{}
	for _, a := range f.agents[:len(f.agents)-f.losing()] {
		if ids, _ := a.pods.probes(); len(ids) > 1 && len(f.order) < maxChanging {
			f.changing[a] = ids[0]
			f.order = append(f.order, a)
		}
	}
}

// change changes one verdict after the other, and back, until ctx ends; not while quiet.
func (f *fleet) change(ctx context.Context) error {
	for n := 0; len(f.order) > 0 && sleep(ctx, changeEvery); n++ {
		if f.quiet.Load() {
			n--
			continue
		}
		a, verdict := f.order[n/2%len(f.order)], spec.ResultFailure
		if n%2 == 1 {
			verdict = spec.ResultSuccess
		}
		f.watcher.change(a, f.changing[a], verdict)
	}
	return nil
}

// hush ends the changes, with all verdicts success, and waits until all have been told.
func (f *fleet) hush(ctx context.Context) error {
	f.quiet.Store(true)
	if !sleep(ctx, 2*changeEvery) {
		return ctx.Err()
	}
	for _, a := range f.order {
		f.watcher.change(a, f.changing[a], spec.ResultSuccess)
	}
	if !sleep(ctx, 2*time.Second) {
		return ctx.Err()
	}
	return nil
}

// revision is the store's, which rises with each write.
func (f *fleet) revision(ctx context.Context) (int64, error) {
	r, err := musterv1.NewClusterServiceClient(f.conn).GetStatus(ctx, &musterv1.GetStatusRequest{})
	if err != nil {
		return 0, fmt.Errorf("ask for the store's revision: %w", err)
	}
	return r.GetRevision(), nil
}

// settle waits, for settleLimit at most, until the watch of all probes has been told what is there, and until nothing has been
// written to the store for settleQuiet: what placing the pods leaves behind is not of a steady fleet.
func (f *fleet) settle(ctx context.Context) error {
	if err := f.tell(fleetSaid{Doing: "waiting for the fleet to be steady"}); err != nil {
		return err
	}
	last, quiet := int64(0), time.Now()
	for end := time.Now().Add(settleLimit); time.Now().Before(end); {
		revision, err := f.revision(ctx)
		if err != nil {
			return err
		}
		if revision != last {
			last, quiet = revision, time.Now()
		}
		f.watcher.mu.Lock()
		synced := f.watcher.synced
		f.watcher.mu.Unlock()
		if synced && (f.job.Given != nil || time.Since(quiet) >= settleQuiet) {
			return nil
		}
		if !sleep(ctx, sampleEvery) {
			return ctx.Err()
		}
	}
	return nil
}

// churn replaces pods and cuts agents off while it measures, and then rolls a Deployment out and loses nodes.
func (f *fleet) churn(ctx context.Context) error {
	if err := f.tell(fleetSaid{Doing: "churn"}); err != nil {
		return err
	}
	out := &churned{}
	all := f.job.Agents * f.job.Pods
	pods, cuts := max(1, all*perThousand/1000), max(1, f.job.Agents*perThousand/1000)
	client := musterv1.NewPodServiceClient(f.conn)
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 1)
	var replaced atomic.Int64
	go func() {
		failed <- func() error {
			// The probes that change stay, and their pods with them, wherever they are.
			kept := map[string]bool{}
			for _, id := range f.changing {
				kept[id.PodUID] = true
			}
			var left atomic.Int64 // those that were not looked at yet, the last ones first
			left.Store(int64(all - f.rolling()))
			next := time.Now()
			for cut := 0; ; {
				next = next.Add(time.Second)
				if !sleep(during, time.Until(next)) {
					return nil
				}
				var g errgroup.Group // it goes on when the time is over: no pod is to be left deleted and not replaced
				g.SetLimit(replaceAtOnce)
				for range min(int64(pods), left.Load()) {
					fresh := all + out.Offered
					out.Offered++
					g.Go(func() error {
						for old := left.Add(-1); old >= 0; old = left.Add(-1) {
							ok, err := f.replace(ctx, client, int(old), fresh, kept)
							if err != nil {
								return err
							}
							if ok {
								replaced.Add(1)
								return nil
							}
						}
						return nil
					})
				}
				if err := g.Wait(); err != nil {
					return err
				}
				if f.job.Given != nil { // its agents would hear nothing of the node, and it would be lost
					continue
				}
				for range cuts {
					f.agents[cut%(len(f.agents)-f.losing())].cut() // those that are to be lost would be
					cut++
					out.Cuts++
				}
			}
		}()
	}()
	r, err := f.measure(ctx, false)
	cancel()
	changed := <-failed
	out.Replaced = int(replaced.Load())
	if changed != nil && ctx.Err() == nil {
		return fmt.Errorf("replace pods: %w", changed)
	}
	if err != nil {
		return err
	}
	out.Run = *r
	ended := time.Now()
	for f.held() != all {
		if time.Since(ended) > settleLimit {
			return fmt.Errorf("place the pods again after churn: %d of %d are assigned", f.held(), all)
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
	out.Settled = time.Since(ended)
	if out.Rolled = f.rolling(); out.Rolled > 0 {
		if err := f.tell(fleetSaid{Doing: fmt.Sprintf("rolling out %d pods", out.Rolled)}); err != nil {
			return err
		}
		if out.RolledIn, err = f.roll(ctx); err != nil {
			return err
		}
	}
	if out.Lost = f.losing(); out.Lost > 0 {
		if err := f.tell(fleetSaid{Doing: fmt.Sprintf("losing %d nodes", out.Lost)}); err != nil {
			return err
		}
		if out.Left, out.LeftIn, err = f.lose(ctx); err != nil {
			return err
		}
	}
	return f.tell(fleetSaid{Churned: out})
}

// replace deletes one pod and creates another, unless it is one of those to be kept.
func (f *fleet) replace(ctx context.Context, client musterv1.PodServiceClient, old, fresh int, kept map[string]bool) (bool, error) {
	name := fmt.Sprintf("pod-%d", old)
	got, err := client.GetPod(ctx, &musterv1.GetPodRequest{Namespace: testNamespace, Name: name})
	if err != nil || kept[got.GetPod().GetMeta().GetUid()] {
		return false, err
	}
	if _, err := client.DeletePod(ctx, &musterv1.DeletePodRequest{Namespace: testNamespace, Name: name, Grace: durationpb.New(0)}); err != nil {
		return false, err
	}
	err = f.create(ctx, fresh)
	return err == nil, err
}

// restart has the coordinator killed and started anew, and judges what becomes of verdicts and acknowledgements.
func (f *fleet) restart(ctx context.Context) error {
	if err := f.tell(fleetSaid{Doing: "killing the coordinator"}); err != nil {
		return err
	}
	if err := f.hush(ctx); err != nil {
		return err
	}
	for _, a := range f.agents {
		a.lease.expect()
	}
	j := newJudge(f.job.Period, f.job.Agents*f.job.Pods*f.job.Probes)
	killed := time.Now()
	f.watcher.mu.Lock()
	f.watcher.judge, f.watcher.killed, f.watcher.begun, f.watcher.nodeFlips = j, killed, 0, 0
	f.watcher.mu.Unlock()
	if err := f.tell(fleetSaid{Kill: true}); err != nil {
		return err
	}
	var line []byte
	select {
	case <-ctx.Done():
		return ctx.Err()
	case line = <-f.more:
	}
	var told fleetTold
	if err := json.Unmarshal(line, &told); err != nil {
		return fmt.Errorf("hear of the new coordinator: %w", err)
	}
	f.job.Coordinator = told.Coordinator
	out := &restarted{Serves: time.Since(killed)}
	// What goes wrong when leases expire or a second period has passed is to show; what is late then is waited for, to be told.
	least, most := max(2*f.job.Period, leaseTTL+time.Second), max(4*f.job.Period, settleLimit)
	first := make([]time.Time, len(f.agents))
	for {
		for i, a := range f.agents {
			first[i] = a.lease.again()
		}
		f.watcher.mu.Lock()
		wrong := j.missing()
		f.watcher.mu.Unlock()
		came := wrong == 0 && !slices.ContainsFunc(first, time.Time.IsZero)
		if since := time.Since(killed); since > most || since > least && came {
			break
		}
		if _, err := f.watch(ctx, sampleEvery, false); err != nil {
			return err
		}
	}
	out.LastAck, out.LateAcks = acknowledged(first, killed, leaseTTL)
	f.watcher.mu.Lock()
	out.LastVerdict, out.LateVerdicts, out.Flips, out.Missing, out.Wrong = j.last, j.late, j.flips, j.missing(), j.wrong()
	out.NodeFlips, out.Watches, out.Causes = f.watcher.nodeFlips, f.watcher.begun, maps.Clone(f.watcher.causes)
	f.watcher.mu.Unlock()
	return f.tell(fleetSaid{Restarted: out})
}
