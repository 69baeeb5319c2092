package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// fields are the words of a table's lines.
func lines(s string) [][]string {
	var all [][]string
	for line := range strings.Lines(s) {
		all = append(all, strings.Fields(line))
	}
	return all
}

func sameWords(t *testing.T, what, got string, want ...string) {
	t.Helper()
	var w [][]string
	for _, line := range want {
		w = append(w, strings.Fields(line))
	}
	g := lines(got)
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || strings.Join(g[i], " ") != strings.Join(w[i], " ") {
			t.Errorf("%s:\n%swant\n%s", what, got, strings.Join(want, "\n"))
			return
		}
	}
}

func aCluster() *fake {
	f := newFake()
	f.setPod(webPod("web", "n1", true))
	f.setPod(webPod("web2", "n2", false))
	other := webPod("db", "n1", true)
	other.Meta.Namespace, other.Meta.Labels = "data", map[string]string{"app": "db"}
	f.setPod(other)
	three := int32(3)
	f.deployments["default/site"] = &musterv1.Deployment{
		Meta: &musterv1.ObjectMeta{Namespace: "default", Name: "site", Uid: "uid-site", CreateTime: ago(time.Hour)},
		Spec: &musterv1.DeploymentSpec{
			Replicas: &three, Selector: &musterv1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			Template: &musterv1.PodTemplate{Labels: map[string]string{"app": "web"}, Spec: &musterv1.PodSpec{
				RestartPolicy: musterv1.RestartPolicy_RESTART_POLICY_ALWAYS, Containers: []*musterv1.Container{{Name: "main", Command: []string{"serve"}}},
			}},
		},
		Status: &musterv1.DeploymentStatus{Replicas: 3, ReadyReplicas: 2, UpdatedReplicas: 3, AvailableReplicas: 2,
			Conditions: []*musterv1.Condition{{Type: "Available", Status: "False"}}},
	}
	f.nodes = []*musterv1.Node{
		{Meta: &musterv1.ObjectMeta{Name: "n1", CreateTime: ago(time.Hour)}, Pods: 2, SessionUp: true,
			Facts:  &musterv1.NodeFacts{Isolation: "full", Address: "10.0.0.1", Version: "0.1.0"},
			Status: &musterv1.NodeStatus{Verdict: musterv1.NodeVerdict_NODE_VERDICT_READY, Member: "alive", Since: ago(time.Minute)},
			Lease:  &musterv1.NodeLease{State: musterv1.LeaseState_LEASE_STATE_OPEN}},
		{Meta: &musterv1.ObjectMeta{Name: "n2", CreateTime: ago(time.Hour)}, Unschedulable: true,
			Status: &musterv1.NodeStatus{Verdict: musterv1.NodeVerdict_NODE_VERDICT_LOST, Member: "dead", Cause: "dead in gossip, no renewals", Since: ago(time.Minute)},
			Lease:  &musterv1.NodeLease{State: musterv1.LeaseState_LEASE_STATE_SEALED}},
	}
	f.events = []*musterv1.Event{{
		Meta: &musterv1.ObjectMeta{Namespace: "default", Name: "web.1"}, Type: "Warning", Reason: "Unhealthy", Message: "Liveness probe failed:\nno",
		Involved: &musterv1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "web"}, Count: 3, FirstTime: ago(time.Minute), LastTime: ago(5 * time.Second), Source: "agent", Node: "n1",
	}, {
		Meta: &musterv1.ObjectMeta{Namespace: "default", Name: "n2.1"}, Type: "Normal", Reason: "Lost", Message: "lost",
		Involved: &musterv1.ObjectReference{Kind: "Node", Name: "n2"}, Count: 1, LastTime: ago(5 * time.Second),
	}}
	attempt := &musterv1.ProbeAttempt{
		Time: timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 600e6, time.UTC)), Container: "main", Kind: musterv1.ProbeKind_PROBE_KIND_LIVENESS, Instance: "process://1",
		Outcome: musterv1.ProbeOutcome_PROBE_OUTCOME_FAILURE, Result: musterv1.ProbeResult_PROBE_RESULT_FAILURE, Duration: seconds(0.0012), Cpu: seconds(0.00005), Output: "HTTP probe failed with statuscode: 500\n<&>",
	}
	f.results = []*musterv1.ProbeAttempt{attempt}
	f.probes = []*musterv1.ProbeState{
		{Pod: &musterv1.ObjectReference{Namespace: "default", Name: "web", Uid: "uid-web"}, Container: "main", Kind: musterv1.ProbeKind_PROBE_KIND_LIVENESS, Handler: "httpGet", Node: "n1",
			Verdict: musterv1.ProbeResult_PROBE_RESULT_FAILURE, Since: ago(3 * time.Second), RunLength: 4, Last: attempt, Period: seconds(1)},
		{Pod: &musterv1.ObjectReference{Namespace: "default", Name: "web", Uid: "uid-web"}, Container: "main", Kind: musterv1.ProbeKind_PROBE_KIND_READINESS, Handler: "exec",
			Verdict: musterv1.ProbeResult_PROBE_RESULT_UNKNOWN, Since: ago(3 * time.Second), Period: seconds(0.2), ErroredReason: "no such file"},
	}
	f.failovers = []*musterv1.Failover{{
		Id: "f1", Cause: "Lost", Class: musterv1.FailoverClass_FAILOVER_CLASS_FENCED, Namespace: "default", Pod: "web", Uid: "uid-web", From: "n2", To: "n1", Time: ago(10 * time.Second),
		Phases: &musterv1.FailoverPhases{Detect: seconds(1.5), Confirm: seconds(0.25), Fence: seconds(4), Place: seconds(0.001)},
	}}
	f.status = &musterv1.GetStatusResponse{
		Version: "0.1.0", ClusterId: "c1", Leader: "coordinator-1", Revision: 42, Nodes: map[string]int32{"Ready": 1, "Lost": 1}, Pods: map[string]int32{"Running": 3},
		Frozen: true, FrozenReason: "2 of 2 nodes are silent", Writable: true, LeaseTtl: seconds(5), Warnings: []string{"the disk is nearly full"},
	}
	return f
}

func TestTablesShowWhatKubectlShows(t *testing.T) {
	s := newShell(t, aCluster())
	sameWords(t, "get pods", s.ok("get", "pods"),
		"NAME READY STATUS RESTARTS AGE", "web 1/1 Running 2 (45s ago) 90s", "web2 0/1 Running 2 (45s ago) 90s")
	sameWords(t, "get pods -A -o wide", s.ok("get", "po", "-A", "-o", "wide"),
		"NAMESPACE NAME READY STATUS RESTARTS AGE IP NODE FAILOVER",
		"data db 1/1 Running 2 (45s ago) 90s 127.77.1.1 n1 fenced",
		"default web 1/1 Running 2 (45s ago) 90s 127.77.1.1 n1 fenced",
		"default web2 0/1 Running 2 (45s ago) 90s 127.77.1.1 n2 fenced")
	sameWords(t, "get pods -n -l", s.ok("get", "pods", "--namespace=data", "-l", "app=db"), "NAME READY STATUS RESTARTS AGE", "db 1/1 Running 2 (45s ago) 90s")
	sameWords(t, "get deploy", s.ok("get", "deploy", "-owide"),
		"NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS SELECTOR GUARD", "site 2/3 3 2 60m main app=web on")
	sameWords(t, "get nodes", s.ok("get", "nodes"),
		"NAME STATUS LEASE PODS ISOLATION AGE", "n1 Ready open 2 full 60m", "n2 Lost,SchedulingDisabled sealed 0 <none> 60m")
	sameWords(t, "get events", s.ok("get", "events"),
		"LAST SEEN TYPE REASON OBJECT MESSAGE", "5s Warning Unhealthy pod/web Liveness probe failed: no", "5s Normal Lost node/n2 lost")
	sameWords(t, "get events --for", s.ok("get", "events", "--for", "node/n2"), "LAST SEEN TYPE REASON OBJECT MESSAGE", "5s Normal Lost node/n2 lost")
	sameWords(t, "get probes", s.ok("get", "probes"),
		"POD CONTAINER KIND HANDLER VERDICT SINCE LAST",
		"web main liveness httpGet failure 3s failure in 1.2ms: HTTP probe failed with statuscode: 500 <&>",
		"web main readiness exec unknown 3s errored: no such file")
	sameWords(t, "get probes --failing", s.ok("get", "probes", "--failing"),
		"POD CONTAINER KIND HANDLER VERDICT SINCE LAST", "web main liveness httpGet failure 3s failure in 1.2ms: HTTP probe failed with statuscode: 500 <&>")
	sameWords(t, "get failovers", s.ok("get", "failovers"),
		"POD CLASS FROM TO CAUSE DETECT CONFIRM FENCE PLACE DELIVER START READY TOTAL AGE", "web fenced n2 n1 Lost 1.5s 250ms 4s 1ms - - - 5.751s 10s")
	sameWords(t, "get pods,nodes", s.ok("get", "pod/web", "node/n1"),
		"NAME READY STATUS RESTARTS AGE", "pod/web 1/1 Running 2 (45s ago) 90s", "", "NAME STATUS LEASE PODS ISOLATION AGE", "node/n1 Ready open 2 full 60m")
	if got := s.ok("get", "pods", "-A", "-o", "name"); got != "pod/db\npod/web\npod/web2\n" {
		t.Errorf("-o name: %q", got)
	}
	if a := s.run("get", "pods", "-n", "none"); a.status != 0 || a.stdout != "" || a.stderr != "no pods in namespace \"none\" (-A shows all)\n" {
		t.Errorf("nothing there: %+v", a)
	}
	if a := s.run("get", "pods", "web", "nope"); a.status != 1 || !strings.Contains(a.stdout, "web ") || !strings.Contains(a.stderr, `pod "nope" not found`) {
		t.Errorf("one of two is there: %+v", a)
	}
}

func decode[T any](t *testing.T, text string) T {
	t.Helper()
	var v T
	d := json.NewDecoder(strings.NewReader(text))
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

func TestJSONOfProbesHistoryAndFailoversIsAsPromised(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	list := decode[map[string]any](t, s.ok("get", "probes", "-o", "json"))
	if list["apiVersion"] != "v1" || list["kind"] != "List" || list["metadata"].(map[string]any)["resourceVersion"] == nil {
		t.Errorf("no List: %v", list)
	}
	probe := list["items"].([]any)[0].(map[string]any)
	for _, key := range []string{"pod", "container", "kind", "handler", "verdict", "since", "run_length", "last", "period_ms", "errored_reason"} {
		if _, ok := probe[key]; !ok {
			t.Errorf("a probe has no %s: %v", key, probe)
		}
	}
	if pod := probe["pod"].(map[string]any); pod["namespace"] != "default" || pod["name"] != "web" || pod["uid"] != "uid-web" {
		t.Errorf("pod = %v", pod)
	}
	if probe["verdict"] != "failure" || probe["period_ms"] != 1000.0 || probe["kind"] != "liveness" || probe["run_length"] != 4.0 {
		t.Errorf("probe = %v", probe)
	}
	if last := list["items"].([]any)[1].(map[string]any)["last"]; last != nil {
		t.Errorf("without an attempt, last = %v, want null", last)
	}
	want := `{"time":"2026-01-02T03:04:05.6Z","container":"main","kind":"liveness","instance":"process://1","outcome":"failure","result":"failure",` +
		`"duration_us":1200,"cpu_us":50,"lag_us":null,"output":"HTTP probe failed with statuscode: 500\n<&>"}` + "\n"
	if got := s.ok("probe", "history", "web", "-o", "json"); got != want {
		t.Errorf("probe history: %s want %s", got, want)
	}
	sameWords(t, "probe history", strings.Join(strings.Split(s.ok("probe", "history", "pod/web"), "\n")[:1], "\n")+"\n", "TIME CONTAINER KIND OUTCOME RESULT DURATION CPU LAG OUTPUT")
	s.ok("probe", "history", "web", "-c", "main", "--kind=startup", "--limit", "7")
	calls := called[*musterv1.ListProbeResultsRequest](f)
	if c := calls[len(calls)-1]; c.GetContainer() != "main" || c.GetKind() != musterv1.ProbeKind_PROBE_KIND_STARTUP || c.GetLimit() != 7 || c.GetNamespace() != "default" {
		t.Errorf("asked for %v", c)
	}

	fo := decode[struct{ Items []map[string]any }](t, s.ok("get", "failovers", "-ojson")).Items[0]
	phases := fo["phases_ms"].(map[string]any)
	if fo["id"] != "f1" || fo["node"] != "n2" || fo["cause"] != "Lost" || fo["class"] != "fenced" || fo["pod"] != "web" || fo["from"] != "n2" || fo["to"] != "n1" || fo["total_ms"] != 5751.0 {
		t.Errorf("failover = %v", fo)
	}
	if len(phases) != 7 || phases["detect"] != 1500.0 || phases["fence"] != 4000.0 || phases["start"] != nil || phases["ready"] != nil {
		t.Errorf("phases_ms = %v", phases)
	}
	if got := decode[struct{ Items []any }](t, s.ok("get", "probes", "nobody", "-ojson")); got.Items == nil || len(got.Items) != 0 {
		t.Errorf("a list of none has items %v, want []", got.Items)
	}
}

func TestStatusIsForPeopleAndForPrograms(t *testing.T) {
	s := newShell(t, aCluster())
	out := s.ok("status")
	for _, want := range []string{"leader:   coordinator-1", "nodes:    1 Lost, 1 Ready", `FROZEN: 2 of 2 nodes are silent ("muster resume" lets it go on)`, "writable, revision 42", "warning:  the disk is nearly full"} {
		if !strings.Contains(out, want) {
			t.Errorf("status lacks %q:\n%s", want, out)
		}
	}
	v := decode[map[string]any](t, s.ok("status", "-o", "json"))
	if v["revision"] != 42.0 || v["frozen"] != true || v["lease_ttl_ms"] != 5000.0 || v["nodes"].(map[string]any)["Ready"] != 1.0 {
		t.Errorf("status -o json: %v", v)
	}
	if out := s.ok("version"); !strings.HasPrefix(out, "client 0.1.0 (go") || !strings.Contains(out, "server 0.1.0\n") {
		t.Errorf("version: %q", out)
	}
}

func TestDeleteReturnsWhenItIsGone(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	there := func(key string) bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.pods[key] != nil
	}
	f.deleteAfter = 100 * time.Millisecond
	if out := s.ok("delete", "pod", "web", "--grace-period", "0"); out != "pod/web deleted\n" || there("default/web") {
		t.Errorf("delete: %q, there: %v", out, there("default/web"))
	}
	if c := called[*musterv1.DeletePodRequest](f); len(c) != 1 || c[0].GetGrace() == nil || c[0].GetGrace().AsDuration() != 0 {
		t.Errorf("asked for %v", c)
	}
	if out := s.ok("delete", "po/web2", "--wait=false"); out != "pod/web2 deleted\n" || !there("default/web2") {
		t.Errorf("delete --wait=false: %q, there: %v", out, there("default/web2"))
	}
	if c := called[*musterv1.DeletePodRequest](f); c[1].GetGrace() != nil {
		t.Errorf("a grace that nobody asked for: %v", c[1])
	}
	if out := s.ok("delete", "pods", "--all", "-n", "data"); out != "pod/db deleted\n" || there("data/db") {
		t.Errorf("delete --all: %q", out)
	}
	if a := s.run("delete", "pods", "-l", "app=nobody"); a.status != 0 || a.stdout != "" {
		t.Errorf("delete -l that matches nothing: %+v", a)
	}
	if a := s.run("delete", "pod", "nope", "--ignore-not-found"); a.status != 0 || a.stderr != "" {
		t.Errorf("--ignore-not-found: %+v", a)
	}
	f.deleteAfter = -1
	f.setPod(webPod("stuck", "n2", true))
	if a := s.run("delete", "pod", "stuck", "--timeout", "100ms"); a.status != 1 || !strings.Contains(a.stderr, "pod/stuck is still there after --timeout 100ms; its deletion goes on") {
		t.Errorf("delete that does not end: %+v", a)
	}
	if a := s.run("delete", "pod", "stuck", "--wait=false", "--allow-second-copy"); a.status != 0 || !strings.Contains(a.stderr, "both may write to the same data") {
		t.Errorf("--allow-second-copy: %+v", a)
	}
	if a := s.run("delete", "pod", "stuck", "--wait=false", "--force"); a.status != 0 || !strings.Contains(a.stderr, "--force changes nothing") {
		t.Errorf("--force: %+v", a)
	}
}

func TestDeletingADeploymentHandsTheGraceToItsPods(t *testing.T) {
	f := aCluster()
	mine := webPod("site-1", "n1", true)
	mine.Meta.Owner = &musterv1.OwnerReference{Kind: "Deployment", Name: "site", Uid: "uid-site"}
	f.setPod(mine)
	s := newShell(t, f)
	if out := s.ok("delete", "deployment/site", "--now"); out != "deployment/site deleted\n" {
		t.Errorf("delete: %q", out)
	}
	if c := called[*musterv1.DeletePodRequest](f); len(c) != 1 || c[0].GetName() != "site-1" || c[0].GetGrace().AsDuration() != time.Second || c[0].GetUid() != "uid-site-1" {
		t.Errorf("pods asked to go: %v", c)
	}
}

func TestWaitReturnsWhenItIsSo(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	done := make(chan answer, 1)
	go func() { done <- s.run("wait", "--for=condition=ready", "pod/web", "pod/web2", "--timeout", "10s") }()
	select {
	case a := <-done:
		t.Fatalf("returned before it was so: %+v", a)
	case <-time.After(100 * time.Millisecond):
	}
	f.setPod(webPod("web2", "n2", true))
	if a := <-done; a.status != 0 || a.stdout != "pod/web condition met\npod/web2 condition met\n" {
		t.Errorf("wait: %+v", a)
	}
	s.ok("wait", "--for=condition=Available=false", "deployment", "site")
	s.ok("wait", "--for=delete", "pod/nope")
	s.ok("wait", "--for=condition=Ready", "pods", "-l", "app=web")
	s.ok("wait", "--for=jsonpath={.spec.nodeName}=n1", "pod/web")
	s.ok("wait", "--for=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True", "pod/web")
	s.ok("wait", "--for=jsonpath={.status.podIP}", "pod/web")
	if a := s.run("wait", "--for=condition=Ready=False", "pod/web", "--timeout=50ms"); a.status != 1 || !strings.Contains(a.stderr, "timed out after 50ms waiting for condition=Ready=False of pod/web") {
		t.Errorf("wait that times out: %+v", a)
	}
	if a := s.run("wait", "--for=condition=Ready", "pod/nope"); a.status != 1 || !strings.Contains(a.stderr, `pod "nope" not found`) {
		t.Errorf("wait for what is not there: %+v", a)
	}
	if a := s.run("wait", "--for=condition=Ready", "pods", "-l", "app=nobody"); a.status != 1 || !strings.Contains(a.stderr, "nothing matches") {
		t.Errorf("wait for nothing: %+v", a)
	}
	go func() { done <- s.run("wait", "--for=create", "pod/late") }()
	f.setPod(webPod("late", "n1", true))
	if a := <-done; a.status != 0 {
		t.Errorf("wait --for=create: %+v", a)
	}
}

func TestAWatchGoesOnAfterItsCoordinatorWasAway(t *testing.T) {
	f := aCluster()
	f.cut = 2
	s := newShell(t, f)
	done := make(chan answer, 1)
	go func() { done <- s.run("wait", "--for=condition=Ready", "pod/web2", "--timeout", "15s") }()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for cuts := 2; cuts > 0; <-tick.C {
		f.setPod(webPod("unrelated", "n1", true)) // wakes the watch, which is then cut
		f.mu.Lock()
		cuts = f.cut
		f.mu.Unlock()
	}
	f.setPod(webPod("web2", "n2", true))
	if a := <-done; a.status != 0 {
		t.Errorf("wait: %+v", a)
	}
}

func TestGetWatchShowsWhatIsThereAndThenEachChange(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	done := make(chan answer, 1)
	go func() { done <- s.run("get", "pods", "web2", "-w", "--timeout", "600ms") }()
	time.AfterFunc(200*time.Millisecond, func() { f.setPod(webPod("web2", "n2", true)) })
	a := <-done
	if a.status != 0 {
		t.Fatalf("get -w: %+v", a)
	}
	sameWords(t, "get -w", a.stdout, "NAME READY STATUS RESTARTS AGE", "web2 0/1 Running 2 (45s ago) 90s", "web2 1/1 Running 2 (45s ago) 90s")
}

func TestLogsAskForWhatTheFlagsSay(t *testing.T) {
	s := newShell(t, aCluster())
	if got := s.ok("logs", "web"); got != "container= previous=false follow=false tail=0 since=0s\n" {
		t.Errorf("logs: %q", got)
	}
	if got := s.ok("logs", "pod/web", "-c", "main", "--previous", "--tail=5", "--since", "1m"); got != "container=main previous=true follow=false tail=5 since=1m0s\n" {
		t.Errorf("logs with flags: %q", got)
	}
}

func TestTokensArePrintedAlone(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	if got := s.ok("token", "create"); got != "muster:v1:hash:id:secret\n" {
		t.Errorf("token create: %q", got)
	}
	if c := called[*musterv1.CreateTokenRequest](f); c[0].GetRole() != musterv1.Role_ROLE_NODE || c[0].GetUses() != 1 || c[0].GetTtl().AsDuration() != time.Hour {
		t.Errorf("the default serves %v, want one agent for an hour", c[0])
	}
	s.ok("token", "create", "--role", "viewer", "--ttl", "5m", "--uses", "3")
	if c := called[*musterv1.CreateTokenRequest](f); c[1].GetRole() != musterv1.Role_ROLE_VIEWER || c[1].GetUses() != 3 || c[1].GetTtl().AsDuration() != 5*time.Minute {
		t.Errorf("asked for %v", c[1])
	}
	sameWords(t, "token list", s.ok("token", "list"), "ID ROLE USES LEFT EXPIRES IN AGE", "id node 1 59m 0s")
	if got := s.ok("token", "revoke", "id"); got != "token id revoked\n" {
		t.Errorf("token revoke: %q", got)
	}
}

func TestCordonAndScaleChangeOneThing(t *testing.T) {
	f := aCluster()
	f.nodes[0].Meta.Labels, f.nodes[0].Meta.Revision = map[string]string{"zone": "a"}, 9
	s := newShell(t, f)
	if got := s.ok("cordon", "n1", "node/n2"); got != "node/n1 cordoned\nnode/n2 already cordoned\n" {
		t.Errorf("cordon: %q", got)
	}
	n := called[*musterv1.UpdateNodeRequest](f)[0].GetNode()
	if !n.GetUnschedulable() || n.GetMeta().GetLabels()["zone"] != "a" || n.GetMeta().GetRevision() != 9 {
		t.Errorf("the node is written as %v: labels and revision must stay", n)
	}
	if got := s.ok("uncordon", "n1"); got != "node/n1 uncordoned\n" {
		t.Errorf("uncordon: %q", got)
	}
	if got := s.ok("scale", "deployment/site", "--replicas", "0"); got != "deployment/site scaled\n" {
		t.Errorf("scale: %q", got)
	}
	if d := called[*musterv1.UpdateDeploymentRequest](f)[0].GetDeployment(); d.GetSpec().Replicas == nil || d.GetSpec().GetReplicas() != 0 || d.GetSpec().GetSelector() == nil {
		t.Errorf("the deployment is written as %v", d)
	}
}

func TestDescribeTellsProbesConditionsAndEvents(t *testing.T) {
	f := aCluster()
	f.pods["default/web"].Spec.Containers[0].Liveness = &musterv1.Probe{
		Handler: &musterv1.Probe_HttpGet{HttpGet: &musterv1.HttpGetAction{Path: "/healthz", Port: &musterv1.PortReference{Port: &musterv1.PortReference_Name{Name: "http"}}}},
		Period:  seconds(1), Timeout: seconds(1), SuccessThreshold: 1, FailureThreshold: 3,
	}
	s := newShell(t, f)
	out := s.ok("describe", "pod", "web")
	for _, want := range []string{
		"Node:            n1", "Last State:", "Terminated: Error, signal 9", "HTTP GET :http/healthz delay=0s timeout=1s period=1s success=1 failure=3",
		"failure for 3s, last: failure in 1.2ms", "Ready  True", "Warning  Unhealthy  5s (x3 over 60s)  agent  Liveness probe failed: no",
	} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("describe pod lacks %q:\n%s", want, out)
		}
	}
	out = s.ok("describe", "node/n1")
	for _, want := range []string{"Verdict: Ready since", "Lease: open", "Probes: late <unknown>", "data db 1/1 Running", "default web 1/1 Running"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("describe node lacks %q:\n%s", want, out)
		}
	}
	out = s.ok("describe", "deploy", "site")
	for _, want := range []string{"Replicas: 3 wanted, 3 there, 3 up to date, 2 ready", "Available False", "Events: <none>"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("describe deployment lacks %q:\n%s", want, out)
		}
	}
}

func TestObjectsHaveKubernetesShape(t *testing.T) {
	f := aCluster()
	p := webPod("full", "n1", true)
	p.Meta.DeleteTime, p.Meta.DeleteGrace = timestamppb.New(time.Date(2026, 1, 2, 3, 4, 5, 600e6, time.UTC)), seconds(2)
	p.Meta.Owner = &musterv1.OwnerReference{Kind: "Deployment", Name: "site", Uid: "u"}
	p.Status.Fence = "kernel"
	c := p.Spec.Containers[0]
	c.Env = []*musterv1.EnvVar{{Name: "IP", FieldPath: "status.podIP"}, {Name: "A", Value: "b"}}
	c.Requests = &musterv1.ResourceList{MilliCpu: 100, MemoryBytes: 1 << 20}
	c.Liveness = &musterv1.Probe{Handler: &musterv1.Probe_TcpSocket{TcpSocket: &musterv1.TcpSocketAction{Port: &musterv1.PortReference{Port: &musterv1.PortReference_Number{Number: 80}}}}, Period: seconds(0.2), Timeout: seconds(1), SuccessThreshold: 1, FailureThreshold: 3}
	p.Spec.TerminationGrace = seconds(0)
	f.setPod(p)
	s := newShell(t, f)
	for path, want := range map[string]string{
		"pod/full .apiVersion":                                                "v1",
		"pod/full .kind":                                                      "Pod",
		"pod/full .metadata.namespace":                                        "default",
		"pod/full .metadata.uid":                                              "uid-full",
		"pod/full .metadata.resourceVersion":                                  "7",
		"pod/full .metadata.labels.app":                                       "web",
		"pod/full .metadata.deletionTimestamp":                                "2026-01-02T03:04:05.6Z",
		"pod/full .metadata.deletionGracePeriodSeconds":                       "2",
		"pod/full .metadata.ownerReferences[0].name":                          "site",
		"pod/full .spec.nodeName":                                             "n1",
		"pod/full .spec.terminationGracePeriodSeconds":                        "0",
		"pod/full .spec.containers[0].env[0].valueFrom.fieldRef.fieldPath":    "status.podIP",
		"pod/full .spec.containers[0].env[1].value":                           "b",
		"pod/full .spec.containers[0].resources.requests.cpu":                 "100m",
		"pod/full .spec.containers[0].livenessProbe.tcpSocket.port":           "80",
		"pod/full .spec.containers[0].livenessProbe.periodSeconds":            "1",
		"pod/full .status.phase":                                              "Running",
		"pod/full .status.podIP":                                              "127.77.1.1",
		`pod/full .status.conditions[?(@.type=="Ready")].status`:              "True",
		"pod/full .status.containerStatuses[0].ready":                         "true",
		"pod/full .status.containerStatuses[0].started":                       "true",
		"pod/full .status.containerStatuses[0].restartCount":                  "2",
		"pod/full .status.containerStatuses[0].containerID":                   "process://1",
		"pod/full .status.containerStatuses[0].lastState.terminated.exitCode": "137",
		"pod/full .status.muster.fence":                                       "kernel",
		"pod/full .status.muster.epoch":                                       "5",
		"pod/web2 .status.containerStatuses[0].ready":                         "false",
		"node/n1 .kind": "Node",
		`node/n1 .status.conditions[?(@.type=="Ready")].status`:      "True",
		`node/n2 .status.conditions[?(@.type=="Ready")].status`:      "Unknown",
		`node/n2 .status.conditions[?(@.type=="Ready")].reason`:      "Lost",
		"node/n2 .spec.unschedulable":                                "true",
		"node/n1 .spec.unschedulable":                                "false",
		`node/n1 .status.addresses[?(@.type=="InternalIP")].address`: "10.0.0.1",
		"node/n1 .status.muster.verdict":                             "Ready",
		"node/n1 .status.muster.member":                              "alive",
		"node/n1 .status.muster.session":                             "up",
		"node/n1 .status.muster.lease":                               "open",
		"node/n1 .status.muster.isolation":                           "full",
		"deploy/site .apiVersion":                                    "apps/v1",
		"deploy/site .spec.replicas":                                 "3",
		"deploy/site .spec.selector.matchLabels.app":                 "web",
		"deploy/site .status.readyReplicas":                          "2",
		"deploy/site .status.unavailableReplicas":                    "1",
	} {
		object, expr, _ := strings.Cut(path, " ")
		if got := s.ok("get", object, "-o", "jsonpath={"+expr+"}"); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	e := decode[struct{ Items []map[string]any }](t, s.ok("get", "events", "-o", "json")).Items[0]
	o := e["involvedObject"].(map[string]any)
	if e["kind"] != "Event" || e["reason"] != "Unhealthy" || e["count"] != 3.0 || e["firstTimestamp"] == nil || e["lastTimestamp"] == nil || o["kind"] != "Pod" || o["name"] != "web" {
		t.Errorf("event = %v", e)
	}
	if list := decode[map[string]any](t, s.ok("get", "pods", "-o", "json")); list["kind"] != "List" || list["metadata"].(map[string]any)["resourceVersion"] == "" {
		t.Errorf("a list of pods: %v", list)
	}
	if y := s.ok("get", "pod", "web", "-o", "yaml"); !strings.HasPrefix(y, "apiVersion: v1\nkind: Pod\nmetadata:\n") {
		t.Errorf("-o yaml: %s", y)
	}
}

func TestHeldRestartsAreShownAndResumed(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	if got := s.ok("resume", "deployment/site"); got != "deployment/site: restarts go on, one at a time\n" {
		t.Errorf("resume: %q", got)
	}
	d := f.deployments["default/site"]
	for want, change := range map[string]func(){
		"on":      func() {},
		"off":     func() { d.Meta.Annotations = map[string]string{spec.AnnotationRestartGuard: "off"} },
		"holding": func() { d.Status.Conditions = []*musterv1.Condition{{Type: "RestartsHeld", Status: "True"}} },
	} {
		d.Meta.Annotations, d.Status.Conditions = nil, nil
		change()
		if got := s.ok("get", "deployment", "site", "-o", "wide"); !strings.HasSuffix(strings.TrimSpace(got), " "+want) {
			t.Errorf("want %s: %q", want, got)
		}
		if got := s.ok("describe", "deployment", "site"); !strings.Contains(got, "Restart Guard:") || !strings.Contains(got, want) {
			t.Errorf("want %s: %s", want, got)
		}
	}
}
