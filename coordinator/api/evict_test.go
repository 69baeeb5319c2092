package api

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/store"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

func percentOf(n int32) *musterv1.IntOrPercent {
	return &musterv1.IntOrPercent{Kind: &musterv1.IntOrPercent_Percent{Percent: n}}
}

func numberOf(n int32) *musterv1.IntOrPercent {
	return &musterv1.IntOrPercent{Kind: &musterv1.IntOrPercent_Value{Value: n}}
}

// budget stores a budget on the pods that are labelled app: web.
func (w *world) budget(name string, least, most *musterv1.IntOrPercent) *musterv1.PodDisruptionBudget {
	w.t.Helper()
	r, err := w.budgets.CreatePodDisruptionBudget(w.t.Context(), &musterv1.CreatePodDisruptionBudgetRequest{PodDisruptionBudget: &musterv1.PodDisruptionBudget{
		Meta: &musterv1.ObjectMeta{Name: name},
		Spec: &musterv1.PodDisruptionBudgetSpec{
			MinAvailable: least, MaxUnavailable: most, Selector: &musterv1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.GetPodDisruptionBudget()
}

// running stores pods web-0 and so on that are ready on node n0, n1, in turn; of a Deployment of as many replicas, or bare.
func (w *world) running(n int, bare bool) {
	owner := &spec.OwnerRef{Kind: "Deployment", Name: "web", UID: "d"}
	if bare {
		owner = nil
	} else {
		w.put(deploymentKey(spec.ObjectName{Namespace: "default", Name: "web"}),
			&spec.Deployment{Meta: spec.Meta{Namespace: "default", Name: "web", UID: "d"}, Spec: spec.DeploymentSpec{Replicas: int32(n)}})
	}
	for i := range n {
		name := spec.ObjectName{Namespace: "default", Name: fmt.Sprint("web-", i)}
		p := &spec.Pod{Meta: spec.Meta{Namespace: name.Namespace, Name: name.Name, UID: name.Name, Labels: map[string]string{"app": "web"}, Owner: owner}}
		p.Spec.Containers = []spec.Container{{Name: "c"}}
		p.Spec.TerminationGrace = 30 * time.Second
		w.put(store.PodKey(name), p)
		w.put(store.BindingKey(name), &spec.Binding{UID: p.UID, Node: fmt.Sprint("n", i%2), Class: spec.Fast})
		w.ready(name.Name, true)
	}
}

func (w *world) ready(name string, ready bool) {
	p, _ := fleet.LookupPod(w.cache.View(), spec.ObjectName{Namespace: "default", Name: name})
	truth := spec.ConditionFalse
	if ready {
		truth = spec.ConditionTrue
	}
	w.put(store.StatusKey(p.Key()), &spec.HeldStatus{UID: p.UID, Epoch: p.Epoch, Status: spec.PodStatus{
		Phase: spec.PhaseRunning, Conditions: []spec.Condition{{Type: spec.ConditionReady, Status: truth}},
	}})
}

func (w *world) evict(name string) (musterv1.Eviction, error) {
	r, err := w.pods.EvictPod(w.t.Context(), &musterv1.EvictPodRequest{Name: name})
	return r.GetEviction(), err
}

func TestAnEvictionKeepsToTheBudgetAndNamesIt(t *testing.T) {
	w := serve(t)
	w.running(3, false)
	w.budget("most", nil, numberOf(1))
	r, err := w.pods.EvictPod(t.Context(), &musterv1.EvictPodRequest{Name: "web-0", Grace: durationpb.New(3 * time.Second), ValidateOnly: true})
	if err != nil || r.GetEviction() != musterv1.Eviction_EVICTION_DELETE || r.GetPod().GetMeta().GetDeleteTime() != nil {
		t.Fatalf("tried: %v, %v", r, err)
	}
	r, err = w.pods.EvictPod(t.Context(), &musterv1.EvictPodRequest{Name: "web-0", Uid: "web-0", Node: "n0", Grace: durationpb.New(3 * time.Second)})
	if err != nil || r.GetPod().GetMeta().GetDeleteTime() == nil || r.GetPod().GetMeta().GetDeleteGrace().AsDuration() != 3*time.Second {
		t.Fatalf("evicted: %v, %v", r, err)
	}
	if done, err := w.evict("web-0"); err != nil || done != musterv1.Eviction_EVICTION_UNDER_WAY {
		t.Errorf("again: %v, %v", done, err)
	}
	_, err = w.evict("web-1")
	refused(t, "a second one", err, codes.FailedPrecondition, "DISRUPTION_BUDGET")
	const want = `cannot evict pod default/web-1: it would violate the disruption budget "most": 2 of 3 expected pods are healthy, 2 must be`
	if got := status.Convert(err).Message(); got != want {
		t.Errorf("says %q, want %q", got, want)
	}
	// One that is not ready goes while the others suffice; once they don't, it stays.
	w.ready("web-1", false)
	_, err = w.evict("web-1")
	refused(t, "not ready, and one healthy", err, codes.FailedPrecondition, "DISRUPTION_BUDGET")
	_, err = w.pods.EvictPod(t.Context(), &musterv1.EvictPodRequest{Name: "web-2", Node: "n7"})
	refused(t, "of another node", err, codes.Aborted, "REVISION_CONFLICT")
	_, err = w.evict("nope")
	refused(t, "one that is not there", err, codes.NotFound, "NOT_FOUND")
}

func TestEveryBudgetOfAPodHasASay(t *testing.T) {
	w := serve(t)
	w.running(2, false)
	w.budget("a", nil, numberOf(2))
	w.budget("b", percentOf(100), nil)
	_, err := w.evict("web-0")
	refused(t, "evicted", err, codes.FailedPrecondition, "DISRUPTION_BUDGET")
	if _, err := w.budgets.DeletePodDisruptionBudget(t.Context(), &musterv1.DeletePodDisruptionBudgetRequest{Name: "b"}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if _, err := w.evict(fmt.Sprint("web-", i)); err != nil {
			t.Error(err)
		}
	}
	st, _, _ := store.Get[*spec.BudgetState](w.cache.View(), store.Key{Family: store.BudgetStates, Namespace: "default", Name: "a"})
	if st == nil || st.Evictions != 2 {
		t.Errorf("state %+v, want 2 evictions", st)
	}
}

func TestABarePodMovesIfThereIsAPlaceForIt(t *testing.T) {
	w := serve(t)
	w.running(2, true)
	w.budget("most", nil, numberOf(1))
	w.nowhere = "0/2 nodes fit: 2 cordoned"
	_, err := w.evict("web-0")
	refused(t, "no place", err, codes.FailedPrecondition, "NO_OTHER_NODE")
	w.nowhere = ""
	if done, err := w.evict("web-0"); err != nil || done != musterv1.Eviction_EVICTION_MOVE {
		t.Fatalf("%v, %v", done, err)
	}
	p, _ := fleet.LookupPod(w.cache.View(), spec.ObjectName{Namespace: "default", Name: "web-0"})
	if p.Stop == nil || p.Deleting() {
		t.Errorf("stop %v, deleting %v; want it asked to stop, not deleted", p.Stop, p.Deleting())
	}
	_, err = w.evict("web-1")
	refused(t, "the other one meanwhile", err, codes.FailedPrecondition, "DISRUPTION_BUDGET")
	// What has finished stays: it would run anew.
	w.put(store.StatusKey(p.Key()), &spec.HeldStatus{UID: p.UID, Epoch: p.Epoch, Status: spec.PodStatus{Phase: spec.PhaseSucceeded}})
	w.put(store.StopKey(p.Key()), nil)
	_, err = w.evict("web-0")
	refused(t, "finished", err, codes.FailedPrecondition, "FINISHED")
	w.put(store.BindingKey(p.Key()), nil)
	_, err = w.evict("web-0")
	refused(t, "bound nowhere", err, codes.FailedPrecondition, "NOT_BOUND")
}

// TestConcurrentDrainsTogetherKeepToTheBudget evicts every pod at once, over and over, while some become ready and others not.
func TestConcurrentDrainsTogetherKeepToTheBudget(t *testing.T) {
	for _, bare := range []bool{false, true} {
		w := serve(t)
		const pods, must = 12, 7
		w.running(pods, bare)
		w.budget("least", numberOf(must), nil)
		w.budget("share", percentOf(50), nil)
		var mu sync.Mutex
		evicted := map[string]bool{}
		var drains sync.WaitGroup
		for drain := range 4 {
			drains.Go(func() {
				for i := range pods {
					name := fmt.Sprint("web-", (i+3*drain)%pods)
					done, err := w.evict(name)
					if err == nil && done != musterv1.Eviction_EVICTION_UNDER_WAY {
						mu.Lock()
						evicted[name] = true
						mu.Unlock()
					}
				}
			})
		}
		drains.Wait()
		left := 0
		for _, p := range fleet.Pods(w.cache.View()) {
			if !p.Deleting() && p.Stop == nil {
				left++
			}
		}
		if len(evicted) != pods-must || left != must {
			t.Errorf("bare %v: %d evicted, %d left; want %d, %d", bare, len(evicted), left, pods-must, must)
		}
	}
}

// TestNoEvictionTakesTheHealthyPodsBelowTheBudget evicts at random while pods become ready and cease to be, nodes are lost and
// come back, and the number of replicas changes.
func TestNoEvictionTakesTheHealthyPodsBelowTheBudget(t *testing.T) {
	w := serve(t)
	rapid.Check(t, func(rt *rapid.T) {
		const pods = 5
		w.running(pods, rapid.Bool().Draw(rt, "bare"))
		b := &spec.PodDisruptionBudget{Meta: spec.Meta{Namespace: "default", Name: "b", UID: "b"}, Spec: spec.PodDisruptionBudgetSpec{
			Selector:           &spec.Selector{Labels: map[string]string{"app": "web"}},
			UnhealthyPodPolicy: rapid.SampledFrom([]spec.UnhealthyPodPolicy{spec.IfHealthyBudget, spec.AlwaysAllow}).Draw(rt, "policy"),
		}}
		bound := &spec.IntOrPercent{Value: rapid.Int32Range(0, 6).Draw(rt, "bound")}
		if rapid.Bool().Draw(rt, "share") {
			bound = &spec.IntOrPercent{Value: rapid.Int32Range(0, 100).Draw(rt, "percent"), Percent: true}
		}
		if rapid.Bool().Draw(rt, "least") {
			b.Spec.MinAvailable = bound
		} else {
			b.Spec.MaxUnavailable = bound
		}
		w.put(budgetKey(b.Key()), b)
		for range rapid.IntRange(1, 15).Draw(rt, "steps") {
			i := rapid.IntRange(0, pods-1).Draw(rt, "pod")
			name := fmt.Sprint("web-", i)
			switch rapid.IntRange(0, 5).Draw(rt, "step") {
			case 0:
				w.ready(name, rapid.Bool().Draw(rt, "ready"))
			case 1:
				lost := rapid.Bool().Draw(rt, "lost")
				w.put(store.Key{Family: store.NodeStatus, Name: fmt.Sprint("n", i%2)}, &spec.NodeStatus{Verdict: spec.VerdictUnreachable, PodsNotReady: lost})
			default:
				before := stands(w.cache.View(), b)
				p, _ := fleet.LookupPod(w.cache.View(), spec.ObjectName{Namespace: "default", Name: name})
				seen := budgeted(w.cache.View(), &p)
				done, err := w.evict(name)
				after := stands(w.cache.View(), b)
				switch {
				case err != nil && after != before:
					rt.Fatalf("%v, and yet %+v became %+v", err, before, after)
				case err == nil && seen.Ready && !seen.Leaving && after.CurrentHealthy < before.DesiredHealthy:
					rt.Fatalf("%v of a ready pod: %+v became %+v", done, before, after)
				case err == nil && !seen.Ready && after.CurrentHealthy != before.CurrentHealthy:
					rt.Fatalf("%v of one that was not ready: %+v became %+v", done, before, after)
				}
			}
		}
		for i := range 2 {
			w.put(store.Key{Family: store.NodeStatus, Name: fmt.Sprint("n", i)}, nil)
		}
		for i := range pods {
			w.put(store.StopKey(spec.ObjectName{Namespace: "default", Name: fmt.Sprint("web-", i)}), nil)
		}
	})
}

func TestABudgetIsCreatedReadWatchedChangedAndDeleted(t *testing.T) {
	w := serve(t)
	ctx := t.Context()
	w.running(3, false)
	b := w.budget("most", nil, numberOf(1))
	if st := b.GetStatus(); b.GetMeta().GetUid() == "" || st.GetExpectedPods() != 3 || st.GetCurrentHealthy() != 3 || st.GetDesiredHealthy() != 2 || st.GetDisruptionsAllowed() != 1 {
		t.Errorf("created %v", b)
	}
	if p := b.GetSpec().GetUnhealthyPodEvictionPolicy(); p != musterv1.UnhealthyPodEvictionPolicy_UNHEALTHY_POD_EVICTION_POLICY_IF_HEALTHY_BUDGET {
		t.Errorf("policy %v", p)
	}
	stream, err := w.budgets.WatchPodDisruptionBudgets(ctx, &musterv1.WatchPodDisruptionBudgetsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *musterv1.WatchPodDisruptionBudgetsResponse {
		t.Helper()
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := next(); m.GetType() != musterv1.ChangeType_CHANGE_TYPE_ADDED {
		t.Errorf("first %v", m)
	}
	next() // synced
	w.ready("web-1", false)
	if m := next(); m.GetType() != musterv1.ChangeType_CHANGE_TYPE_MODIFIED || m.GetPodDisruptionBudget().GetStatus().GetDisruptionsAllowed() != 0 {
		t.Errorf("once a pod is not ready: %v", m)
	}
	_, err = w.budgets.CreatePodDisruptionBudget(ctx, &musterv1.CreatePodDisruptionBudgetRequest{PodDisruptionBudget: &musterv1.PodDisruptionBudget{
		Meta: &musterv1.ObjectMeta{Name: "most"}, Spec: b.GetSpec(),
	}})
	refused(t, "created again", err, codes.AlreadyExists, "ALREADY_EXISTS")
	list, err := w.budgets.ListPodDisruptionBudgets(ctx, &musterv1.ListPodDisruptionBudgetsRequest{})
	if err != nil || len(list.GetPodDisruptionBudgets()) != 1 || list.GetPodDisruptionBudgets()[0].GetStatus().GetCurrentHealthy() != 2 {
		t.Errorf("list %v, %v", list, err)
	}
	update := func() (musterv1.WriteResult, error) {
		r, err := w.budgets.UpdatePodDisruptionBudget(ctx, &musterv1.UpdatePodDisruptionBudgetRequest{PodDisruptionBudget: b, AllowMissing: true})
		return r.GetResult(), err
	}
	if r, err := update(); err != nil || r != musterv1.WriteResult_WRITE_RESULT_UNCHANGED {
		t.Errorf("the same again: %v, %v", r, err)
	}
	b.Spec.MaxUnavailable = numberOf(2)
	if r, err := update(); err != nil || r != musterv1.WriteResult_WRITE_RESULT_CONFIGURED {
		t.Errorf("changed: %v, %v", r, err)
	}
	got, err := w.budgets.GetPodDisruptionBudget(ctx, &musterv1.GetPodDisruptionBudgetRequest{Name: "most"})
	if err != nil || got.GetPodDisruptionBudget().GetMeta().GetGeneration() != 2 || got.GetPodDisruptionBudget().GetStatus().GetDesiredHealthy() != 1 {
		t.Errorf("read %v, %v", got, err)
	}
	b.Spec.MinAvailable = percentOf(101)
	_, err = update()
	refused(t, "both bounds", err, codes.InvalidArgument, "INVALID")
	if diff := violations(err); !slices.Equal(diff, []string{"spec", "spec.minAvailable"}) {
		t.Errorf("findings at %v", diff)
	}
	if _, err := w.budgets.DeletePodDisruptionBudget(ctx, &musterv1.DeletePodDisruptionBudgetRequest{Name: "most"}); err != nil {
		t.Fatal(err)
	}
	_, err = w.budgets.GetPodDisruptionBudget(ctx, &musterv1.GetPodDisruptionBudgetRequest{Name: "most"})
	refused(t, "read when it is gone", err, codes.NotFound, "NOT_FOUND")
}

func TestRevisionsAreListedOldestFirstAndAnApplyKeepsTheLastRestart(t *testing.T) {
	w := serve(t)
	ctx := t.Context()
	name := spec.ObjectName{Namespace: "default", Name: "web"}
	sent := func(annotations map[string]string) *musterv1.Deployment {
		return &musterv1.Deployment{Meta: &musterv1.ObjectMeta{Name: "web"}, Spec: &musterv1.DeploymentSpec{
			Selector: &musterv1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: &musterv1.PodTemplate{Labels: map[string]string{"app": "web"}, Annotations: annotations, Spec: pod("x").GetSpec()},
		}}
	}
	r, err := w.deployments.CreateDeployment(ctx, &musterv1.CreateDeploymentRequest{Deployment: sent(map[string]string{spec.AnnotationRestartedAt: "now"})})
	if err != nil {
		t.Fatal(err)
	}
	s := r.GetDeployment().GetSpec()
	if s.GetStrategy().GetMaxSurge().GetPercent() != 25 || s.GetStrategy().GetMaxUnavailable().GetPercent() != 25 || s.GetRevisionHistoryLimit() != 10 || s.GetProgressDeadline().AsDuration() != 10*time.Minute {
		t.Errorf("defaults are %v", s)
	}
	for _, n := range []int64{2, 1} {
		w.put(store.Key{Family: store.DeployRevisions, Namespace: name.Namespace, Name: fmt.Sprint("web@", n)},
			&spec.DeploymentRevision{Deployment: r.GetDeployment().GetMeta().GetUid(), Revision: n, Hash: fmt.Sprint(n)})
	}
	w.put(store.Key{Family: store.DeployRevisions, Namespace: name.Namespace, Name: "other@1"}, &spec.DeploymentRevision{Deployment: "other", Revision: 9})
	list, err := w.deployments.ListDeploymentRevisions(ctx, &musterv1.ListDeploymentRevisionsRequest{Name: "web"})
	if got := list.GetRevisions(); err != nil || len(got) != 2 || got[0].GetRevision() != 1 || got[1].GetRevision() != 2 {
		t.Errorf("revisions %v, %v", got, err)
	}
	u, err := w.deployments.UpdateDeployment(ctx, &musterv1.UpdateDeploymentRequest{Deployment: sent(nil), AllowMissing: true})
	if err != nil || u.GetResult() != musterv1.WriteResult_WRITE_RESULT_UNCHANGED {
		t.Errorf("applied again: %v, %v", u.GetResult(), err)
	}
	u, err = w.deployments.UpdateDeployment(ctx, &musterv1.UpdateDeploymentRequest{Deployment: sent(nil)})
	if err != nil || u.GetResult() != musterv1.WriteResult_WRITE_RESULT_CONFIGURED {
		t.Errorf("set back: %v, %v", u.GetResult(), err)
	}
}
