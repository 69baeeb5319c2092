package clustertest

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// rounds is how often each bad day is repeated: 3, or MUSTER_ROUNDS.
func rounds(t testing.TB) int {
	t.Helper()
	if s := os.Getenv("MUSTER_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("MUSTER_ROUNDS: %v", err)
		}
		return n
	}
	return 3
}

func (c *Cluster) mustHaveOneWriter(w *Writers) []int64 {
	c.t.Helper()
	epochs, err := w.Epochs()
	if err != nil {
		c.dump()
		c.t.Fatal(err)
	}
	return epochs
}

// badDay is what may happen to a node, and how it ends.
type badDay struct {
	begin, end func(c *Cluster, node string)
}

// deadMachine loses its power.
var deadMachine = badDay{
	func(c *Cluster, node string) { c.KillMachine(node) },
	func(c *Cluster, node string) { c.StartAgent(node) },
}

// hungAgent stands still.
var hungAgent = badDay{
	func(c *Cluster, node string) { c.signal(syscall.SIGSTOP, c.Process(node).Pid()) },
	func(c *Cluster, node string) { c.signal(syscall.SIGCONT, c.Process(node).Pid()) },
}

// stoppedSupervisors stand still, and so does their agent. The kernel kills them meanwhile.
var stoppedSupervisors = badDay{
	func(c *Cluster, node string) {
		supervisors := c.Supervisors(node)
		if len(supervisors) == 0 {
			c.t.Fatalf("no supervisor on %s", node)
		}
		c.signal(syscall.SIGSTOP, append(supervisors, c.Process(node).Pid())...)
	},
	func(c *Cluster, node string) { c.signal(syscall.SIGCONT, c.Process(node).Pid()) },
}

func (c *Cluster) signal(s syscall.Signal, pids ...int) {
	c.t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil {
			c.t.Fatalf("signal %d: %v", pid, err)
		}
	}
}

// mustMove has bad days come to wherever a single-instance pod is, and checks each time that it writes from elsewhere
// within 40 s, and throughout that there never are two writers.
func (c *Cluster) mustMove(d badDay) {
	c.t.Helper()
	w := c.NewWriters("counter")
	c.Apply(w.Manifest("single"))
	c.Eventually(20*time.Second, "the pod writes", func() bool { return len(c.mustHaveOneWriter(w)) == 1 })
	nodes := len(c.ReadyNodes())
	for i := range rounds(c.t) {
		from, to := c.Pod("single").Spec.NodeName, ""
		before := len(c.mustHaveOneWriter(w))
		d.begin(c, from)
		took := c.Eventually(40*time.Second, "the pod writes from a node other than "+from, func() bool {
			if len(c.mustHaveOneWriter(w)) <= before {
				return false
			}
			p := c.Pod("single")
			to = p.Spec.NodeName
			return to != "" && to != from && p.Status.Phase == "Running"
		})
		d.end(c, from)
		back := c.Eventually(30*time.Second, from+" is Ready again", func() bool { return len(c.ReadyNodes()) == nodes })
		c.t.Logf("round %d: %s to %s in %v, and back in %v", i+1, from, to, took.Round(time.Millisecond), back.Round(time.Millisecond))
		c.Throughout(time.Second, "one writer", func() bool { c.mustHaveOneWriter(w); return true })
	}
}

func TestASingleInstancePodMovesOffADeadMachineAndNeverHasTwoWriters(t *testing.T) {
	t.Parallel()
	Start(t, 3).mustMove(deadMachine)
}

func TestASingleInstancePodOfAHungAgentStopsByItselfBeforeItStartsElsewhere(t *testing.T) {
	t.Parallel()
	Start(t, 3).mustMove(hungAgent)
}

func TestTheKernelFencesAPodWhoseSupervisorAndAgentAreStopped(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	if iso := c.isolation(); iso == "none" {
		if os.Getenv("CI") != "" {
			t.Fatal("no namespaces here, so no fence by the kernel")
		}
		t.Skip("no namespaces here, so no fence by the kernel")
	}
	c.mustMove(stoppedSupervisors)
}

func (c *Cluster) isolation() string {
	var list struct {
		Items []struct {
			Status struct{ Muster struct{ Isolation string } }
		}
	}
	if err := c.JSON(&list, "get", "nodes"); err != nil || len(list.Items) == 0 {
		c.t.Fatalf("get nodes: %v", err)
	}
	return list.Items[0].Status.Muster.Isolation
}

// sleepers is a Deployment of pods that only run.
func sleepers(name string, replicas int) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: %[2]d
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        command: [sleep, "1000000"]
        readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}
`, name, replicas)
}

func (c *Cluster) running(selector string, want int) bool {
	n := 0
	for _, p := range c.Pods(selector) {
		if p.Ready() && p.Metadata.DeletionTimestamp == "" {
			n++
		}
	}
	return n == want
}

// instances maps the pods to their node, container id and restarts: what must not change while nothing happens.
func (c *Cluster) instances(selector string) string {
	var b strings.Builder
	for _, p := range c.Pods(selector) {
		for _, cs := range p.Status.ContainerStatuses {
			fmt.Fprintf(&b, "%s on %s: %s restarts=%d ready=%v\n", p.Metadata.Name, p.Spec.NodeName, cs.ContainerID, cs.RestartCount, cs.Ready)
		}
	}
	return b.String()
}

func TestAnAgentsRestartAloneChangesNothing(t *testing.T) {
	t.Parallel()
	c := Start(t, 2)
	c.Apply(sleepers("calm", 4))
	c.Eventually(30*time.Second, "4 pods are ready", func() bool { return c.running("app=calm", 4) })
	before := c.instances("app=calm")
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		p := c.Process("node-1")
		if err := p.Signal(sig); err != nil {
			t.Fatal(err)
		}
		p.Wait(t, 10*time.Second)
		c.StartAgent("node-1")
		c.Throughout(8*time.Second, "pods as they were: "+before, func() bool { return c.instances("app=calm") == before })
	}
}

func TestACoordinatorsQuickRestartChangesNothing(t *testing.T) {
	t.Parallel()
	c := Start(t, 2, WithLease(10*time.Second, 10*time.Second))
	w := c.NewWriters("quick")
	c.Apply(w.Manifest("single"))
	c.Apply(sleepers("calm", 2))
	c.Eventually(30*time.Second, "the pods are ready", func() bool {
		return c.running("", 3) && len(c.mustHaveOneWriter(w)) == 1
	})
	before := c.instances("")
	p := c.Process("coordinator")
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Wait(t, time.Second)
	c.StartCoordinator()
	c.Throughout(10*time.Second, "pods as they were: "+before, func() bool { return c.instances("") == before })
	if epochs := c.mustHaveOneWriter(w); len(epochs) != 1 {
		t.Errorf("epochs = %v, want the first only", epochs)
	}
}

func TestAPlannedStopOfTheCoordinatorStopsNothing(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	w := c.NewWriters("hold")
	c.Apply(w.Manifest("single"))
	c.Eventually(20*time.Second, "the pod is ready", func() bool { return len(c.mustHaveOneWriter(w)) == 1 && c.running("", 1) })
	before := c.instances("")
	p := c.Process("coordinator")
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.Wait(t, 10*time.Second)
	time.Sleep(12 * time.Second) // more than twice the lease
	c.StartCoordinator()
	c.Eventually(10*time.Second, "the pod is as it was", func() bool { return c.instances("") == before })
}

func TestFencedPodsStopWhenTheCoordinatorStaysAwayAndOthersGoOn(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	w := c.NewWriters("away")
	c.Apply(w.Manifest("single"))
	c.Apply(sleepers("calm", 1))
	c.Eventually(20*time.Second, "the pods are ready", func() bool {
		return len(c.mustHaveOneWriter(w)) == 1 && c.running("app=calm", 1)
	})
	calm := c.instances("app=calm")
	p := c.Process("coordinator")
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Wait(t, time.Second)
	size := func() int64 {
		fi, err := os.Stat(w.path)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Size()
	}
	time.Sleep(c.LeaseTTL + time.Second)
	stopped := size()
	time.Sleep(time.Second)
	if now := size(); now != stopped {
		t.Fatalf("the pod still writes %v after its lease (%d bytes more)", time.Second, now-stopped)
	}
	c.StartCoordinator()
	c.Eventually(20*time.Second, "the pod runs again, and says LeaseExpired", func() bool {
		p := c.Pod("single")
		if !p.Ready() || len(p.Status.ContainerStatuses) != 1 {
			return false
		}
		last := p.Status.ContainerStatuses[0].LastState.Terminated
		return last != nil && last.Reason == "LeaseExpired" && size() > stopped
	})
	if got := c.instances("app=calm"); got != calm {
		t.Errorf("the other pods changed:\n%s\nwant\n%s", got, calm)
	}
}

func TestADeadMachinesDeploymentPodsRunElsewhereWithinSeconds(t *testing.T) {
	c := Start(t, 3)
	c.Apply(sleepers("web", 3))
	c.Eventually(30*time.Second, "3 pods are ready", func() bool { return c.running("app=web", 3) })
	c.KillMachine("node-2")
	took := c.Eventually(20*time.Second, "3 pods are ready on the other nodes", func() bool {
		for _, p := range c.Pods("app=web") {
			if p.Spec.NodeName == "node-2" {
				return false
			}
		}
		return c.running("app=web", 3)
	})
	t.Logf("moved in %v", took.Round(time.Millisecond))
	var list struct {
		Items []struct {
			Pod      string
			From, To string
			Cause    string
			Phases   map[string]*float64 `json:"phases_ms"`
		}
	}
	c.Eventually(10*time.Second, "a failover record with all its phases", func() bool {
		if err := c.JSON(&list, "get", "failovers"); err != nil {
			t.Fatal(err)
		}
		for _, f := range list.Items {
			if f.From == "node-2" && f.Phases["detect"] != nil && f.Phases["start"] != nil && f.Phases["ready"] != nil {
				return true
			}
		}
		return false
	})
}

func TestAKilledSupervisorsPodIsRestartedOnceAndSaysWhy(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	c.Apply(sleepers("web", 1))
	c.Eventually(20*time.Second, "the pod is ready", func() bool { return c.running("app=web", 1) })
	for _, pid := range c.Supervisors("node-1") {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	c.Eventually(20*time.Second, "the pod runs again with one restart and its reason", func() bool {
		pods := c.Pods("app=web")
		if len(pods) != 1 || !pods[0].Ready() || pods[0].Restarts() != 1 {
			return false
		}
		last := pods[0].Status.ContainerStatuses[0].LastState.Terminated
		return last != nil && last.Reason == "SupervisorDied"
	})
	c.Throughout(3*time.Second, "one restart", func() bool {
		pods := c.Pods("app=web")
		return len(pods) == 1 && pods[0].Restarts() == 1
	})
}

func TestAKilledGuardIsReplacedAndNothingElseHappens(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	w := c.NewWriters("guard")
	c.Apply(w.Manifest("single"))
	c.Eventually(20*time.Second, "the pod is ready", func() bool { return len(c.mustHaveOneWriter(w)) == 1 && c.running("", 1) })
	before, guard := c.instances(""), c.Guard("node-1")
	if guard == 0 {
		t.Fatal("no guard")
	}
	if err := syscall.Kill(guard, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.Eventually(10*time.Second, "another guard runs", func() bool { g := c.Guard("node-1"); return g != 0 && g != guard })
	c.Throughout(c.LeaseTTL+3*time.Second, "the pod as it was", func() bool { return c.instances("") == before })
}

func TestASteadyClusterWritesNothing(t *testing.T) {
	t.Parallel()
	c := Start(t, 2)
	c.Apply(sleepers("calm", 3))
	c.Eventually(30*time.Second, "3 pods are ready", func() bool { return c.running("app=calm", 3) })
	revision := func() int64 {
		var s struct{ Revision int64 }
		if err := c.JSON(&s, "status"); err != nil {
			t.Fatal(err)
		}
		return s.Revision
	}
	c.Eventually(10*time.Second, "the revision rests for a second", func() bool {
		before := revision()
		time.Sleep(time.Second)
		return revision() == before
	})
	before := revision()
	time.Sleep(30 * time.Second)
	if after := revision(); after != before {
		out, _ := c.Try("get", "events")
		t.Errorf("revision went from %d to %d in 30 s of steady state\n%s", before, after, out)
	}
}

func TestALivenessProbeRestartsItsContainer(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	c.Apply(`apiVersion: v1
kind: Pod
metadata: {name: sick}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    command: [sleep, "1000000"]
    livenessProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 2}
`)
	c.Eventually(20*time.Second, "the container was restarted", func() bool {
		p := c.Pod("sick")
		return p.Restarts() >= 1
	})
	events := c.Muster("get", "events")
	for _, want := range []string{"Unhealthy", "Killing", "Container main failed liveness probe, will be restarted"} {
		if !strings.Contains(events, want) {
			t.Errorf("events lack %q:\n%s", want, events)
		}
	}
	c.Muster("delete", "pod", "sick")
	if p := c.Pod("sick"); p.Metadata.Name != "" {
		t.Errorf("the pod is still there after delete: %+v", p)
	}
}

func TestAHungAgentsDeploymentPodsMoveAndItsOldCopiesEnd(t *testing.T) {
	t.Parallel()
	c := Start(t, 2)
	c.Apply(sleepers("web", 2))
	c.Eventually(30*time.Second, "2 pods are ready", func() bool { return c.running("app=web", 2) })
	if err := c.Process("node-1").Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	took := c.Eventually(30*time.Second, "2 pods are ready on node-2", func() bool {
		for _, p := range c.Pods("app=web") {
			if p.Spec.NodeName != "node-2" {
				return false
			}
		}
		return c.running("app=web", 2)
	})
	t.Logf("moved in %v", took.Round(time.Millisecond))
	if err := c.Process("node-1").Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	c.Eventually(20*time.Second, "the old copies have ended", func() bool { return len(c.Supervisors("node-1")) == 0 })
	c.Eventually(20*time.Second, "node-1 is Ready again", func() bool { return len(c.ReadyNodes()) == 2 })
	if got := len(c.Pods("app=web")); got != 2 {
		t.Errorf("%d pods after the node's return, want 2", got)
	}
}
