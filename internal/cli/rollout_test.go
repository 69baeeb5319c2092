package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// site changes the Deployment of aCluster.
func (f *fake) site(change func(*musterv1.Deployment)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.deployments["default/site"])
	f.changedLocked()
}

func TestRolloutStatusFollowsItInKubectlsWords(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	f.site(func(d *musterv1.Deployment) {
		d.Meta.Generation, d.Status = 2, &musterv1.DeploymentStatus{ObservedGeneration: 1}
	})
	// One that is not followed says how it stands.
	say := func(st *musterv1.DeploymentStatus) string {
		t.Helper()
		f.site(func(d *musterv1.Deployment) { d.Status = st })
		return s.ok("rollout", "status", "deployment/site", "--watch=false")
	}
	for _, c := range []struct {
		st   *musterv1.DeploymentStatus
		want string
	}{
		{&musterv1.DeploymentStatus{ObservedGeneration: 1}, "Waiting for deployment spec update to be observed...\n"},
		{&musterv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 4, UpdatedReplicas: 1, AvailableReplicas: 3},
			"Waiting for deployment \"site\" rollout to finish: 1 out of 3 new replicas have been updated...\n"},
		{&musterv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 4, UpdatedReplicas: 3, AvailableReplicas: 3},
			"Waiting for deployment \"site\" rollout to finish: 1 old replicas are pending termination...\n"},
		{&musterv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 3, AvailableReplicas: 2},
			"Waiting for deployment \"site\" rollout to finish: 2 of 3 updated replicas are available...\n"},
		{&musterv1.DeploymentStatus{ObservedGeneration: 2, Replicas: 3, UpdatedReplicas: 3, AvailableReplicas: 3}, "deployment \"site\" successfully rolled out\n"},
	} {
		if got := say(c.st); got != c.want {
			t.Errorf("%v: %q, want %q", c.st, got, c.want)
		}
	}
	f.site(func(d *musterv1.Deployment) { d.Status.AvailableReplicas, d.Status.Revision = 2, 7 })
	f.synced = func() {
		f.wg.Go(func() { f.site(func(d *musterv1.Deployment) { d.Status.AvailableReplicas = 3 }) })
	}
	want := "Waiting for deployment \"site\" rollout to finish: 2 of 3 updated replicas are available...\ndeployment \"site\" successfully rolled out\n"
	if got := s.ok("rollout", "status", "deploy", "site"); got != want {
		t.Errorf("followed: %q, want %q", got, want)
	}
	f.synced = nil
	f.site(func(d *musterv1.Deployment) { d.Status.AvailableReplicas = 2 })
	if a := s.run("rollout", "status", "deployment/site", "--timeout", "50ms"); a.status != 1 || !strings.Contains(a.stderr, `timed out after 50ms waiting for deployment "site"`) {
		t.Errorf("--timeout: %d %q", a.status, a.stderr)
	}
	if a := s.run("rollout", "status", "deployment/site", "--revision", "6"); a.status != 1 || !strings.Contains(a.stderr, "desired revision (6) is different from the running revision (7)") {
		t.Errorf("--revision: %d %q", a.status, a.stderr)
	}
	f.site(func(d *musterv1.Deployment) {
		d.Status.Conditions = []*musterv1.Condition{{Type: "Progressing", Status: "False", Reason: "ProgressDeadlineExceeded"}}
	})
	if a := s.run("rollout", "status", "deployment/site"); a.status != 1 || !strings.Contains(a.stderr, `deployment "site" exceeded its progress deadline`) {
		t.Errorf("the deadline: %d %q", a.status, a.stderr)
	}
}

func TestARolloutIsPausedResumedRestartedAndScaledUnderAPrecondition(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	refuse := func(want string, args ...string) {
		t.Helper()
		if a := s.run(args...); a.status != 1 || !strings.Contains(a.stderr, want) || a.stdout != "" {
			t.Errorf("%v: %d %q %q, want %q", args, a.status, a.stdout, a.stderr, want)
		}
	}
	do := func(want string, args ...string) {
		t.Helper()
		if got := s.ok(args...); got != want+"\n" {
			t.Errorf("%v: %q, want %q", args, got, want)
		}
	}
	refuse("is not paused", "rollout", "resume", "deployment/site")
	do("deployment/site paused", "rollout", "pause", "deployment/site")
	refuse("is already paused", "rollout", "pause", "deployment/site")
	refuse("can't restart paused", "rollout", "restart", "deployment/site")
	do("deployment/site resumed", "rollout", "resume", "deployment/site")
	do("deployment/site restarted", "rollout", "restart", "deployment/site")
	at := f.deployments["default/site"].GetSpec().GetTemplate().GetAnnotations()[spec.AnnotationRestartedAt]
	if when, err := time.Parse(time.RFC3339, at); err != nil || time.Since(when) > time.Minute {
		t.Errorf("restarted at %q: %v", at, err)
	}
	refuse("expected replicas to be 9, was 3", "scale", "deployment/site", "--replicas", "2", "--current-replicas", "9")
	do("deployment/site scaled", "scale", "deployment/site", "--replicas", "2", "--current-replicas", "3")
	do("deployment/site scaled", "scale", "deployment/site", "--replicas", "2")
}

func revisionOf(n int64, command, cause string) *musterv1.DeploymentRevision {
	return &musterv1.DeploymentRevision{Revision: n, ChangeCause: cause, Template: &musterv1.PodTemplate{
		Labels: map[string]string{"app": "web"}, Spec: &musterv1.PodSpec{Containers: []*musterv1.Container{{Name: "main", Command: []string{command}}}},
	}}
}

func TestRolloutHistoryAndUndoGoByRevisions(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	if a := s.run("rollout", "undo", "deployment/site"); a.status != 1 || !strings.Contains(a.stderr, `no rollout history found for deployment "site"`) {
		t.Errorf("without any: %d %q", a.status, a.stderr)
	}
	f.revisions = []*musterv1.DeploymentRevision{revisionOf(2, "two", "a\nreason"), revisionOf(4, "four", ""), revisionOf(5, "five", "")}
	f.site(func(d *musterv1.Deployment) { d.Spec.Template = revisionOf(5, "five", "").GetTemplate() })
	sameWords(t, "history", s.ok("rollout", "history", "deployment/site"), "deployment/site", "REVISION CHANGE-CAUSE", "2 a reason", "4 <none>", "5 <none>")
	sameWords(t, "history of one", s.ok("rollout", "history", "deployment/site", "--revision", "4"),
		"deployment/site with revision #4", "Pod Template:", "Labels: app=web", `Container: main: four`)
	if a := s.run("rollout", "history", "deployment/site", "--revision", "3"); a.status != 1 || !strings.Contains(a.stderr, "unable to find specified revision 3 in history") {
		t.Errorf("of one that is not there: %d %q", a.status, a.stderr)
	}
	runs := func() string {
		return f.deployments["default/site"].GetSpec().GetTemplate().GetSpec().GetContainers()[0].GetCommand()[0]
	}
	if got := s.ok("rollout", "undo", "deployment/site"); got != "deployment/site rolled back\n" || runs() != "four" {
		t.Errorf("undo: %q, runs %s", got, runs())
	}
	if got := s.ok("rollout", "undo", "deployment/site", "--to-revision", "2"); got != "deployment/site rolled back\n" || runs() != "two" {
		t.Errorf("undo to 2: %q, runs %s", got, runs())
	}
	if got := f.deployments["default/site"].GetMeta().GetAnnotations()[spec.AnnotationChangeCause]; got != "a\nreason" {
		t.Errorf("the cause after undo to 2 is %q, want that of 2", got)
	}
	if got := s.ok("rollout", "undo", "deployment/site", "--to-revision=2"); got != "deployment/site skipped rollback (current template already matches revision 2)\n" {
		t.Errorf("again: %q", got)
	}
	s.ok("rollout", "pause", "deployment/site")
	if a := s.run("rollout", "undo", "deployment/site"); a.status != 1 || !strings.Contains(a.stderr, "cannot rollback paused") {
		t.Errorf("while paused: %d %q", a.status, a.stderr)
	}
}

// drainFast makes drains look often.
func drainFast(t *testing.T) {
	every := drainEvery
	drainEvery = 20 * time.Millisecond
	t.Cleanup(func() { drainEvery = every })
}

func TestADrainCordonsEvictsAndWaitsUntilThePodsHaveGone(t *testing.T) {
	drainFast(t)
	f := aCluster()
	owned := webPod("site-1", "n1", true)
	owned.Meta.Owner = &musterv1.OwnerReference{Kind: "Deployment", Name: "site"}
	f.setPod(owned)
	over := webPod("job", "n1", false)
	over.Status.Phase = musterv1.PodPhase_POD_PHASE_SUCCEEDED
	f.setPod(over)
	s := newShell(t, f)
	got := s.ok("drain", "node/n1", "--dry-run")
	for _, want := range []string{"node/n1 cordoned (server dry run)", "evicting pod default/site-1 (server dry run)", "moving pod data/db (server dry run)", "node/n1 drained (server dry run)"} {
		if !strings.Contains(got, want+"\n") {
			t.Errorf("dry run lacks %q:\n%s", want, got)
		}
	}
	if f.nodes[0].GetUnschedulable() || f.pods["default/site-1"] == nil {
		t.Error("a dry run has changed something")
	}
	got = s.ok("drain", "n1", "--ignore-daemonsets", "--force", "--grace-period", "3", "--timeout", "30s")
	for _, want := range []string{
		"node/n1 cordoned", "evicting pod default/site-1", "pod/site-1 evicted", "moving pod data/db", "pod/db moved", "moving pod default/web", "pod/web moved", "node/n1 drained",
	} {
		if strings.Count(got, want+"\n") != 1 {
			t.Errorf("want %q once:\n%s", want, got)
		}
	}
	if !f.nodes[0].GetUnschedulable() || f.pods["default/site-1"] != nil || f.pods["default/web"].GetNode() != "n2" || f.pods["default/job"].GetNode() != "n1" {
		t.Error("not cordoned, or the pods are not where they should be")
	}
	if g := called[*musterv1.EvictPodRequest](f); g[len(g)-1].GetGrace().AsDuration() != 3*time.Second || g[len(g)-1].GetNode() != "n1" || g[len(g)-1].GetUid() == "" {
		t.Errorf("asked for %v", g[len(g)-1])
	}
	if got := s.ok("drain", "n1"); got != "node/n1 already cordoned\nnode/n1 drained\n" {
		t.Errorf("again: %q", got)
	}
}

func TestADrainRetriesWhatABudgetRefusesAndTellsWhatIsLeft(t *testing.T) {
	drainFast(t)
	f := aCluster()
	s := newShell(t, f)
	refusals := 2
	refusal := withReason(codes.FailedPrecondition, `cannot evict pod default/web: it would violate the disruption budget "b": 1 of 2 expected pods are healthy, 1 must be`, "DISRUPTION_BUDGET")
	f.evict = func(p *musterv1.Pod) error {
		if p.GetMeta().GetName() == "web" && refusals > 0 {
			refusals--
			return refusal
		}
		return nil
	}
	a := s.run("drain", "n1")
	if a.status != 0 || strings.Count(a.stderr, `the disruption budget "b"`) != 1 || !strings.Contains(a.stdout, "pod/web moved\nnode/n1 drained\n") {
		t.Errorf("%d\n%s\n%s", a.status, a.stdout, a.stderr)
	}
	f.setPod(webPod("web", "n1", true))
	f.locked(func() { refusals = 1 << 30 })
	a = s.run("drain", "n1", "--timeout", "200ms")
	if a.status != 1 || !strings.Contains(a.stderr, "node/n1 is cordoned, but not drained: 1 pods are left after --timeout 200ms\ncannot evict pod default/web") ||
		!strings.Contains(a.stderr, "1 of 2 expected pods are healthy, 1 must be") {
		t.Errorf("at the timeout: %d\n%s", a.status, a.stderr)
	}
	// What fits nowhere else is not waited for.
	f.locked(func() { // an eviction that nobody waits for any more may still be asked for
		f.evict = func(*musterv1.Pod) error {
			return withReason(codes.FailedPrecondition, "pod default/web fits on no other node: 0/2 nodes fit: 2 cordoned", "NO_OTHER_NODE")
		}
	})
	a = s.run("drain", "n1")
	if a.status != 1 || !strings.Contains(a.stderr, "1 pods are left and nothing will take them off it\npod default/web fits on no other node") {
		t.Errorf("without a place: %d\n%s", a.status, a.stderr)
	}
}

func TestADrainLeavesPodsWithLocalStorageUnlessToldTo(t *testing.T) {
	drainFast(t)
	f := aCluster()
	p := webPod("web", "n1", true)
	p.Spec.Volumes = []*musterv1.Volume{{Name: "tmp", EmptyDir: &musterv1.EmptyDir{}}}
	f.setPod(p)
	s := newShell(t, f)
	a := s.run("drain", "n1")
	if a.status != 1 || !strings.Contains(a.stderr, "use --delete-emptydir-data to override): default/web") || len(called[*musterv1.EvictPodRequest](f)) != 0 {
		t.Errorf("%d %q", a.status, a.stderr)
	}
	s.ok("drain", "n1", "--pod-selector", "app=db")
	if f.pods["default/web"].GetNode() != "n1" || f.pods["data/db"].GetNode() != "n2" {
		t.Error("--pod-selector: other pods have moved")
	}
	s.ok("drain", "n1", "--delete-emptydir-data")
}

func TestBudgetsAreAppliedShownDescribedAndDeleted(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	apply := func(text string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "b.json")
		text = fmt.Sprintf(`{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"b"},"spec":%s}`, text)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return s.ok("apply", "-f", file)
	}
	if got := apply(`{"minAvailable":"50%","selector":{"matchLabels":{"app":"web"}}}`); got != "poddisruptionbudget/b created\n" {
		t.Errorf("apply: %q", got)
	}
	f.mu.Lock()
	f.budgets["default/b"].Status = &musterv1.PodDisruptionBudgetStatus{CurrentHealthy: 3, DesiredHealthy: 2, DisruptionsAllowed: 1, ExpectedPods: 4}
	f.mu.Unlock()
	sameWords(t, "get", s.ok("get", "pdb"), "NAME MIN AVAILABLE MAX UNAVAILABLE ALLOWED DISRUPTIONS AGE", "b 50% N/A 1 <unknown>")
	sameWords(t, "get -o wide", s.ok("get", "poddisruptionbudget", "b", "-o", "wide"), "NAME MIN AVAILABLE MAX UNAVAILABLE ALLOWED DISRUPTIONS AGE HEALTHY DESIRED EXPECTED SELECTOR", "b 50% N/A 1 <unknown> 3 2 4 app=web")
	if got := s.ok("get", "pdb", "b", "-o", "jsonpath={.apiVersion} {.spec.minAvailable} {.spec.selector.matchLabels.app} {.status.disruptionsAllowed}"); got != "policy/v1 50% web 1" {
		t.Errorf("JSON: %q", got)
	}
	got := s.ok("describe", "pdb", "b")
	for _, want := range []string{"Min Available:    50%", "Max Unavailable:  N/A", "Allowed disruptions:", "Selector:"} {
		if !strings.Contains(got, want) {
			t.Errorf("describe lacks %q:\n%s", want, got)
		}
	}
	if got := apply(`{"maxUnavailable":0}`); got != "poddisruptionbudget/b configured\n" {
		t.Errorf("apply: %q", got)
	}
	if got := s.ok("delete", "pdb", "b"); got != "poddisruptionbudget/b deleted\n" || len(f.budgets) != 0 {
		t.Errorf("delete: %q", got)
	}
}
