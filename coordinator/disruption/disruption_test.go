package disruption

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

func number(n int32) *spec.IntOrPercent  { return &spec.IntOrPercent{Value: n} }
func percent(n int32) *spec.IntOrPercent { return &spec.IntOrPercent{Value: n, Percent: true} }

func budget(least, most *spec.IntOrPercent) *spec.PodDisruptionBudget {
	return &spec.PodDisruptionBudget{Meta: spec.Meta{Namespace: "default", Name: "web"}, Spec: spec.PodDisruptionBudgetSpec{
		MinAvailable: least, MaxUnavailable: most, Selector: &spec.Selector{Labels: map[string]string{"app": "web"}},
		UnhealthyPodPolicy: spec.IfHealthyBudget,
	}}
}

// group is so many pods, of them so many ready; of a workload of that many replicas, or bare ones where it is negative.
func group(n, ready int, replicas int32) (pods []Pod) {
	for i := range n {
		p := Pod{
			Pod:   &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: fmt.Sprint(replicas, "-", i), Labels: map[string]string{"app": "web"}}},
			Phase: spec.PhaseRunning, Ready: i < ready, Replicas: replicas,
		}
		if replicas >= 0 {
			p.Owner = &spec.OwnerRef{Kind: "Deployment", UID: fmt.Sprint(replicas)}
		}
		pods = append(pods, p)
	}
	return pods
}

func TestABudgetCountsWhatItNeeds(t *testing.T) {
	with := func(pods []Pod, change func(*Pod)) []Pod { change(&pods[0]); return pods }
	for name, c := range map[string]struct {
		least, most *spec.IntOrPercent
		pods        []Pod
		want        spec.PodDisruptionBudgetStatus
	}{
		"a number":                    {number(2), nil, group(3, 3, 3), spec.PodDisruptionBudgetStatus{CurrentHealthy: 3, DesiredHealthy: 2, DisruptionsAllowed: 1, ExpectedPods: 3}},
		"a number counts the pods":    {number(2), nil, group(3, 3, 9), spec.PodDisruptionBudgetStatus{CurrentHealthy: 3, DesiredHealthy: 2, DisruptionsAllowed: 1, ExpectedPods: 3}},
		"a share is rounded up":       {percent(50), nil, group(3, 3, 3), spec.PodDisruptionBudgetStatus{CurrentHealthy: 3, DesiredHealthy: 2, DisruptionsAllowed: 1, ExpectedPods: 3}},
		"a share of what is wanted":   {percent(50), nil, group(3, 3, 6), spec.PodDisruptionBudgetStatus{CurrentHealthy: 3, DesiredHealthy: 3, ExpectedPods: 6}},
		"at most one":                 {nil, number(1), group(3, 3, 3), spec.PodDisruptionBudgetStatus{CurrentHealthy: 3, DesiredHealthy: 2, DisruptionsAllowed: 1, ExpectedPods: 3}},
		"at most a share":             {nil, percent(34), group(3, 3, 3), spec.PodDisruptionBudgetStatus{CurrentHealthy: 3, DesiredHealthy: 1, DisruptionsAllowed: 2, ExpectedPods: 3}},
		"more than there are":         {nil, number(5), group(3, 2, 3), spec.PodDisruptionBudgetStatus{CurrentHealthy: 2, DisruptionsAllowed: 2, ExpectedPods: 3}},
		"not enough are ready":        {number(2), nil, group(3, 1, 3), spec.PodDisruptionBudgetStatus{CurrentHealthy: 1, DesiredHealthy: 2, ExpectedPods: 3}},
		"no pods":                     {nil, number(1), nil, spec.PodDisruptionBudgetStatus{}},
		"a workload and bare pods":    {nil, number(1), append(group(3, 3, 3), group(2, 2, -1)...), spec.PodDisruptionBudgetStatus{CurrentHealthy: 5, DesiredHealthy: 4, DisruptionsAllowed: 1, ExpectedPods: 5}},
		"one is being deleted":        {nil, number(1), with(group(3, 3, 3), func(p *Pod) { p.DeleteTime, p.Leaving = time.Unix(1, 0), true }), spec.PodDisruptionBudgetStatus{CurrentHealthy: 2, DesiredHealthy: 2, ExpectedPods: 3}},
		"a bare pod is being moved":   {nil, number(1), with(group(3, 3, -1), func(p *Pod) { p.Leaving = true }), spec.PodDisruptionBudgetStatus{CurrentHealthy: 2, DesiredHealthy: 2, ExpectedPods: 3}},
		"a bare pod has finished":     {nil, number(1), with(group(3, 3, -1), func(p *Pod) { p.Phase = spec.PhaseSucceeded }), spec.PodDisruptionBudgetStatus{CurrentHealthy: 2, DesiredHealthy: 1, DisruptionsAllowed: 1, ExpectedPods: 2}},
		"one is of another namespace": {nil, number(1), with(group(3, 3, -1), func(p *Pod) { p.Namespace = "other" }), spec.PodDisruptionBudgetStatus{CurrentHealthy: 2, DesiredHealthy: 1, DisruptionsAllowed: 1, ExpectedPods: 2}},
		"one has other labels":        {nil, number(1), with(group(3, 3, -1), func(p *Pod) { p.Labels = nil }), spec.PodDisruptionBudgetStatus{CurrentHealthy: 2, DesiredHealthy: 1, DisruptionsAllowed: 1, ExpectedPods: 2}},
	} {
		if got := Count(budget(c.least, c.most), c.pods); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	none := budget(number(1), nil)
	none.Spec.Selector = nil
	if got := Count(none, group(2, 2, 2)); got.ExpectedPods != 0 {
		t.Errorf("without a selector: %+v, want no pods", got)
	}
}

func TestWhatABudgetAllows(t *testing.T) {
	ready := Pod{Pod: &spec.Pod{}, Phase: spec.PhaseRunning, Ready: true}
	unready := Pod{Pod: &spec.Pod{}, Phase: spec.PhaseRunning}
	for name, c := range map[string]struct {
		pod    Pod
		policy spec.UnhealthyPodPolicy
		st     spec.PodDisruptionBudgetStatus
		want   bool
	}{
		"a ready pod while one may go":   {ready, "", spec.PodDisruptionBudgetStatus{DisruptionsAllowed: 1}, true},
		"a ready pod while none may":     {ready, spec.AlwaysAllow, spec.PodDisruptionBudgetStatus{}, false},
		"one not ready, others suffice":  {unready, spec.IfHealthyBudget, spec.PodDisruptionBudgetStatus{CurrentHealthy: 2, DesiredHealthy: 2}, true},
		"one not ready, others don't":    {unready, spec.IfHealthyBudget, spec.PodDisruptionBudgetStatus{CurrentHealthy: 1, DesiredHealthy: 2}, false},
		"one not ready, whatever others": {unready, spec.AlwaysAllow, spec.PodDisruptionBudgetStatus{CurrentHealthy: 1, DesiredHealthy: 2}, true},
		"one that has not run yet":       {Pod{Pod: &spec.Pod{}, Phase: spec.PhasePending}, "", spec.PodDisruptionBudgetStatus{DesiredHealthy: 2}, true},
		"one that has finished":          {Pod{Pod: &spec.Pod{}, Phase: spec.PhaseFailed}, "", spec.PodDisruptionBudgetStatus{DesiredHealthy: 2}, true},
		"one that is leaving already":    {Pod{Pod: &spec.Pod{}, Phase: spec.PhaseRunning, Ready: true, Leaving: true}, "", spec.PodDisruptionBudgetStatus{}, true},
	} {
		b := budget(number(2), nil)
		b.Spec.UnhealthyPodPolicy = c.policy
		if got := Allows(b, c.st, &c.pod); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// seen is what an eviction was decided on.
type seen struct {
	pods  []Pod
	state int // the budget state's revision
	pod   int
	lost  int // how many healthy pods had been lost otherwise
}

// TestEvictionsNeverTakeTheHealthyPodsBelowTheBudget interleaves drains that look and later write, on the condition that
// the state of the budget is as it was, with pods that become ready, cease to be, and go with their nodes.
func TestEvictionsNeverTakeTheHealthyPodsBelowTheBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "pods")
		replicas := int32(n)
		if rapid.Bool().Draw(t, "bare") {
			replicas = -1
		}
		pods := group(n, n, replicas)
		bound := number(rapid.Int32Range(0, 8).Draw(t, "bound"))
		if rapid.Bool().Draw(t, "share") {
			bound = percent(rapid.Int32Range(0, 100).Draw(t, "percent"))
		}
		b := budget(bound, nil)
		if rapid.Bool().Draw(t, "most") {
			b = budget(nil, bound)
		}
		b.Spec.UnhealthyPodPolicy = rapid.SampledFrom([]spec.UnhealthyPodPolicy{spec.IfHealthyBudget, spec.AlwaysAllow}).Draw(t, "policy")
		state, lost := 0, 0
		var under []seen // by two drains and more
		look := func() []Pod {
			copied := make([]Pod, len(pods))
			for i, p := range pods {
				own := *p.Pod
				copied[i] = p
				copied[i].Pod = &own
			}
			return copied
		}
		fall := func(i int) {
			if pods[i].healthy() {
				lost++
			}
			pods[i].Ready = false
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			i := rapid.IntRange(0, n-1).Draw(t, "pod")
			switch rapid.IntRange(0, 6).Draw(t, "step") {
			case 0, 1:
				under = append(under, seen{pods: look(), state: state, pod: i, lost: lost})
			case 2, 3:
				if len(under) == 0 {
					continue
				}
				k := rapid.IntRange(0, len(under)-1).Draw(t, "which")
				s := under[k]
				under = append(under[:k], under[k+1:]...)
				p := &s.pods[s.pod]
				before := Count(b, s.pods)
				if p.Leaving || !Allows(b, before, p) || s.state != state {
					continue
				}
				wasReady := p.Ready && pods[s.pod].Ready
				if !p.Ready && pods[s.pod].Ready {
					continue // the pod's own status is a condition too
				}
				state++
				pods[s.pod].Leaving = true
				if replicas >= 0 {
					pods[s.pod].DeleteTime = time.Unix(1, 0)
				}
				after := Count(b, pods)
				if wasReady && int(after.CurrentHealthy)+lost-s.lost < int(before.DesiredHealthy) {
					t.Fatalf("%d healthy after an eviction, and %d were lost since it was decided; %d must be", after.CurrentHealthy, lost-s.lost, before.DesiredHealthy)
				}
			case 4:
				fall(i)
			case 5: // the node is lost
				fall(i)
				fall((i + 1) % n)
			case 6: // a new pod is there, or it is ready again
				pods[i].Ready, pods[i].Leaving, pods[i].DeleteTime = true, false, time.Time{}
			}
		}
	})
}
