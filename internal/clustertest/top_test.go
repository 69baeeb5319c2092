package clustertest

import (
	"syscall"
	"testing"
	"time"
)

// used is what "top" says of one pod or node; what is not known is nil.
type used struct {
	Name string `json:"name"`
	Pod  struct {
		Name string `json:"name"`
	} `json:"pod"`
	CPUCores    *float64 `json:"cpu_cores"`
	MemoryBytes *int64   `json:"memory_bytes"`
}

func (u *used) known() bool   { return u.CPUCores != nil && u.MemoryBytes != nil }
func (u *used) unknown() bool { return u.CPUCores == nil && u.MemoryBytes == nil }

// top is what "top pods" or "top nodes" says of one of them.
func (c *Cluster) top(what, name string) used {
	var list struct{ Items []used }
	if err := c.JSON(&list, "top", what, name); err != nil || len(list.Items) != 1 {
		return used{}
	}
	return list.Items[0]
}

func TestTopShowsWhatIsUsedWhileItsAgentLivesAndWhatProbesCost(t *testing.T) {
	t.Parallel()
	c := Start(t, 1)
	c.Apply(`apiVersion: v1
kind: Pod
metadata: {name: busy}
spec:
  containers:
  - name: main
    command: [/bin/sh, -c, "x=$(head -c 33554432 /dev/zero | tr '\\0' x); while :; do i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; sleep 0.2; done"]
    resources: {limits: {cpu: 500m}}
    readinessProbe: {exec: {command: [/bin/sh, -c, "i=0; while [ $i -lt 10000 ]; do i=$((i+1)); done"]}, periodSeconds: 1, timeoutSeconds: 10}
    livenessProbe: {tcpSocket: {port: 1}, periodSeconds: 2, failureThreshold: 1000}
`)
	c.Eventually(45*time.Second, "the pod's usage is known", func() bool {
		u := c.top("pods", "busy")
		return u.known() && *u.CPUCores > 0.01 && *u.CPUCores < 1 && *u.MemoryBytes >= 32<<20 && *u.MemoryBytes < 256<<20
	})
	c.Eventually(15*time.Second, "the node's usage is known", func() bool {
		u := c.top("nodes", "node-1")
		return u.known() && *u.CPUCores > 0.01 && *u.MemoryBytes > 32<<20
	})
	var probes struct {
		Items []struct {
			Kind           string   `json:"kind"`
			CPUPerMinuteMS *float64 `json:"cpu_per_minute_ms"`
			LimitShare     *float64 `json:"limit_share"`
			Attempts       *float64 `json:"attempts_per_minute"`
		}
	}
	if err := c.JSON(&probes, "top", "probes", "busy"); err != nil || len(probes.Items) != 2 {
		t.Fatalf("top probes: %+v, %v", probes, err)
	}
	if p := probes.Items[0]; p.Kind != "readiness" || p.CPUPerMinuteMS == nil || *p.CPUPerMinuteMS <= 0 || p.LimitShare == nil || *p.LimitShare <= 0 || p.Attempts == nil {
		t.Errorf("the dearest probe is %+v", p)
	}
	if p := probes.Items[1]; p.Kind != "liveness" || p.CPUPerMinuteMS != nil || p.LimitShare != nil || p.Attempts == nil || *p.Attempts <= 0 {
		t.Errorf("a probe that is not measured is %+v", p)
	}

	agent := c.Process("node-1")
	if err := agent.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	agent.Wait(t, 10*time.Second)
	c.Eventually(15*time.Second, "nothing is known any more", func() bool {
		node, pod := c.top("nodes", "node-1"), c.top("pods", "busy")
		return node.Name == "node-1" && node.unknown() && pod.Pod.Name == "busy" && pod.unknown()
	})
	c.StartAgent("node-1")
	c.Eventually(45*time.Second, "it is known again", func() bool {
		node, pod := c.top("nodes", "node-1"), c.top("pods", "busy")
		return node.known() && pod.known()
	})
}
