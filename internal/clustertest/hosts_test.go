package clustertest

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bootedMachine loses its power and gets it back.
var bootedMachine = badDay{
	deadMachine.begin,
	func(c *Cluster, node string) {
		c.net.Boot(node)
		c.StartAgent(node)
	},
}

// stoppedMachine stands still as a whole, its clock apart. The kernel kills its fenced pods meanwhile.
var stoppedMachine = badDay{
	func(c *Cluster, node string) { c.net.Signal(node, syscall.SIGSTOP, nil) },
	func(c *Cluster, node string) { c.net.Signal(node, syscall.SIGCONT, nil) },
}

func cut(how func(c *Cluster, node string)) badDay {
	return badDay{how, func(c *Cluster, node string) { c.net.Heal(node) }}
}

// Each kind of bad day has a cluster of its own, at the same time as the others.
func TestOnHostsASingleInstancePodMovesOffWhateverHappensAndNeverHasTwoWriters(t *testing.T) {
	for _, tc := range []struct {
		name string
		badDay
	}{
		{"the node is cut off", cut(func(c *Cluster, node string) { c.net.Cut(node) })},
		{"the coordinator does not hear the node", cut(func(c *Cluster, node string) { c.net.CutOneWay(node, "coordinator") })},
		{"the node does not hear the coordinator", cut(func(c *Cluster, node string) { c.net.CutOneWay("coordinator", node) })},
		{"the agent hangs", hungAgent},
		{"the machine loses its power", bootedMachine},
		{"agent and supervisors stand still", stoppedSupervisors},
		{"the whole machine stands still", stoppedMachine},
	} {
		t.Run(tc.name, func(t *testing.T) {
			Binary(t)
			t.Parallel()
			Start(t, 3, OnHosts(t, 3)).mustMove(tc.badDay)
		})
	}
}

// The other boot of the node is let in only when nothing of the one before can be alive, as far as others know.
func TestOnHostsASingleInstancePodRunsAgainAfterItsMachineHasRebootedAndNeverHasTwoWriters(t *testing.T) {
	Binary(t)
	t.Parallel()
	c := Start(t, 3, OnHosts(t, 3))
	w := c.NewWriters("counter")
	c.Apply(w.Manifest("single"))
	c.Eventually(20*time.Second, "the pod writes", func() bool { return len(c.mustHaveOneWriter(w)) == 1 })
	size := func() int64 {
		fi, err := os.Stat(w.path)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Size()
	}
	for i := range rounds(t) {
		node := c.Pod("single").Spec.NodeName
		bootedMachine.begin(c, node)
		before := size()
		bootedMachine.end(c, node)
		took := c.Eventually(40*time.Second, "the pod writes again", func() bool { return size() > before })
		c.Eventually(30*time.Second, "all nodes are Ready", func() bool { return len(c.ReadyNodes()) == 3 })
		t.Logf("round %d: %s rebooted; the pod writes again after %v, on %s",
			i+1, node, took.Round(time.Millisecond), c.Pod("single").Spec.NodeName)
		c.Throughout(time.Second, "one writer", func() bool { c.mustHaveOneWriter(w); return true })
	}
}

func TestOnHostsANodeThatLosesATenthOfItsPacketsKeepsItsPods(t *testing.T) {
	Binary(t)
	t.Parallel()
	c := Start(t, 3, OnHosts(t, 3))
	w := c.NewWriters("counter")
	c.Apply(w.Manifest("single"))
	c.Eventually(20*time.Second, "the pod writes and is ready", func() bool { return len(c.mustHaveOneWriter(w)) == 1 && c.running("", 1) })
	before := c.instances("")
	c.net.Drop(c.Pod("single").Spec.NodeName, 0.1)
	c.Throughout(15*time.Second, "the pod's only epoch", func() bool { return len(c.mustHaveOneWriter(w)) == 1 })
	if after := c.instances(""); after != before {
		t.Errorf("the pod was\n%sand is\n%s", before, after)
	}
}

func TestNamesLeadToPodsOnOtherHosts(t *testing.T) {
	c := Start(t, 2, OnHosts(t, 2))
	c.Apply(`apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeSelector: {kubernetes.io/hostname: node-1}
  terminationGracePeriodSeconds: 1
  containers: [{name: c, command: [sleep, "1000000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  nodeSelector: {kubernetes.io/hostname: node-2}
  terminationGracePeriodSeconds: 1
  containers: [{name: c, command: [sleep, "1000000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: hosted}
spec:
  nodeSelector: {kubernetes.io/hostname: node-2}
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  terminationGracePeriodSeconds: 1
  containers: [{name: c, command: [sleep, "1000000"]}]
`)
	for _, pod := range []string{"web", "asker", "hosted"} {
		c.Eventually(30*time.Second, pod+" runs", func() bool { p := c.Pod(pod); return p.Ready() })
	}
	web := c.Pod("web")
	for _, asker := range []string{"asker", "hosted"} {
		// The short name, through the file that the pod has of its own.
		for _, name := range []string{"web", "web.default", "web.default.svc.cluster.local", "web.web.default.svc.cluster.local"} {
			c.Eventually(10*time.Second, asker+" finds "+name, func() bool {
				out, err := c.Try("exec", asker, "--", "getent", "ahostsv4", name)
				return err == nil && strings.HasPrefix(out, web.Status.PodIP+" ")
			})
		}
	}
	c.Muster("delete", "pod", "web")
	if out, err := c.Try("exec", "asker", "--", "getent", "ahostsv4", "web"); err == nil {
		t.Errorf("a Service without pods leads to %s", out)
	}
}
