package clustertest

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"
)

// fewest watches the pods of a selector until stop, and returns the least number of them that was ready and staying, and what
// was seen then.
func (c *Cluster) fewest(selector string, stop <-chan struct{}) (least int, seen string) {
	least = 1 << 30
	for {
		n := 0
		pods := c.Pods(selector)
		for _, p := range pods {
			if p.Ready() && p.Metadata.DeletionTimestamp == "" {
				n++
			}
		}
		if n < least {
			text, _ := json.Marshal(pods) // what was unmarshalled
			least, seen = n, time.Now().UTC().Format(time.RFC3339Nano)+" "+string(text)
		}
		select {
		case <-stop:
			return least, seen
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// during runs what while it watches the pods of a selector, and returns the least number that was ready, and what
// was seen then.
func (c *Cluster) during(selector string, what func()) (least int, seen string) {
	stop := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() { least, seen = c.fewest(selector, stop) })
	what()
	close(stop)
	watching.Wait()
	return least, seen
}

func TestTwoDrainsTogetherKeepToTheBudgetAndBarePodsMoveAlong(t *testing.T) {
	t.Parallel()
	c := Start(t, 3)
	c.Apply(sleepers("web", 6) + `---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 5, selector: {matchLabels: {app: web}}}
---
apiVersion: v1
kind: Pod
metadata: {name: bare, labels: {app: bare}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, command: [sleep, "1000000"]}]
`)
	c.Eventually(30*time.Second, "7 pods are ready", func() bool { return c.running("", 7) })
	bare := c.Pod("bare")
	least, seen := c.during("app=web", func() {
		var drains sync.WaitGroup
		for _, node := range []string{"node-1", "node-2"} {
			drains.Go(func() {
				if out, err := c.Try("drain", node, "--timeout", "50s"); err != nil || !strings.HasSuffix(out, "node/"+node+" drained\n") {
					t.Errorf("drain %s: %v\n%s", node, err, out)
				}
			})
		}
		drains.Wait()
	})
	if least < 5 {
		t.Errorf("%d pods were ready at a time, want at least 5: %s", least, seen)
	}
	c.Eventually(20*time.Second, "7 pods are ready", func() bool { return c.running("", 7) })
	for _, p := range c.Pods("") {
		if p.Spec.NodeName != "node-3" {
			t.Errorf("pod %s is on %s", p.Metadata.Name, p.Spec.NodeName)
		}
	}
	if got := c.Pod("bare"); got.Metadata.UID != bare.Metadata.UID {
		t.Errorf("the bare pod has uid %s, want %s still", got.Metadata.UID, bare.Metadata.UID)
	}
	// The last node can only be drained as far as its budget goes, and the bare pod has no other place.
	if out, err := c.Try("drain", "node-3", "--timeout", "3s"); err == nil || !strings.Contains(err.Error(), `the disruption budget "web"`) || !strings.Contains(err.Error(), "fits on no other node") {
		t.Errorf("drain of the last node: %v\n%s", err, out)
	}
}

func TestARolloutKeepsItsPodsAvailableAndCanBeUndone(t *testing.T) {
	t.Parallel()
	c := Start(t, 2)
	manifest := func(command string) string {
		text := strings.Replace(sleepers("web", 4), "replicas: 4", "replicas: 4\n  minReadySeconds: 1\n  progressDeadlineSeconds: 15\n  strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}", 1)
		return strings.Replace(text, `command: [sleep, "1000000"]`, command, 1)
	}
	c.Apply(manifest(`command: [sleep, "1000000"]`))
	c.Muster("rollout", "status", "deployment/web", "--timeout", "60s")
	least, seen := c.during("app=web", func() {
		c.Apply(manifest(`command: [sleep, "2000000"]`))
		c.Muster("rollout", "status", "deployment/web", "--timeout", "60s")
		c.Apply(manifest(`command: ["false"]`))
		if out, err := c.Try("rollout", "status", "deployment/web", "--timeout", "60s"); err == nil || !strings.Contains(err.Error(), "exceeded its progress deadline") {
			t.Errorf("status of a broken one: %v\n%s", err, out)
		}
		c.Muster("rollout", "undo", "deployment/web")
		c.Muster("rollout", "status", "deployment/web", "--timeout", "60s")
	})
	if least < 4 {
		t.Errorf("%d pods were ready at a time, want at least 4: %s", least, seen)
	}
	if out := c.Muster("rollout", "history", "deployment/web"); len(strings.Split(strings.TrimSpace(out), "\n")) != 5 {
		t.Errorf("history:\n%s", out)
	}
	for _, p := range c.Pods("app=web") {
		if p.Metadata.DeletionTimestamp == "" && !p.Ready() {
			t.Errorf("pod %s is not ready", p.Metadata.Name)
		}
	}
}
