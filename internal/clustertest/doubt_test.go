package clustertest

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestNoHealthyPodSuffersFromAnAgentThatStopsAndGoes stops the agent for 300 ms of each second, while its probes take 50 ms of the
// 200 ms that they have, and one failure is enough. It runs by itself: beside others the probed programs would be late in earnest.
func TestNoHealthyPodSuffersFromAnAgentThatStopsAndGoes(t *testing.T) {
	c := Start(t, 1)
	bin := sample(t)
	const pods = 10
	var manifest strings.Builder
	for i := range pods {
		fmt.Fprintf(&manifest, `---
apiVersion: v1
kind: Pod
metadata:
  name: web-%d
  labels: {app: web}
  annotations: {probe.muster.dev/override: "web.liveness: period=300ms timeout=200ms; web.readiness: period=300ms timeout=200ms"}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    command: [%s, web]
    env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: DELAY, value: 50ms}]
    startupProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1, failureThreshold: 30}
    livenessProbe: {httpGet: {path: /healthz, port: 8080}, failureThreshold: 1}
    readinessProbe: {httpGet: {path: /ready, port: 8080}, failureThreshold: 1}
`, i, bin)
	}
	c.Apply(manifest.String())
	ready := func() bool {
		n := 0
		for _, p := range c.Pods("app=web") {
			if p.Ready() && p.Restarts() == 0 {
				n++
			}
		}
		return n == pods
	}
	c.Eventually(time.Minute, "all are ready", ready)

	agent := c.Process("node-1")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			_ = agent.Signal(syscall.SIGSTOP)
			time.Sleep(300 * time.Millisecond)
			_ = agent.Signal(syscall.SIGCONT)
			select {
			case <-stop:
				return
			case <-time.After(700 * time.Millisecond):
			}
		}
	}()
	c.Throughout(10*time.Second, "all stay ready, and none is started again", ready)
	// One that is dead indeed is found: its process stands still.
	victim := c.Pod("web-0")
	pids := c.find(func(argv []string) bool { return len(argv) == 2 && argv[0] == bin && argv[1] == "web" })
	for _, pid := range pids {
		if listens(pid, victim.Status.PodIP) {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
		}
	}
	took := c.Eventually(20*time.Second, "the dead one is found", func() bool { p := c.Pod("web-0"); return p.Restarts() > 0 })
	t.Logf("found and started again after %v", took.Round(time.Millisecond))
	close(stop)
	<-done
}

// listens tells whether a process is the one of a pod with that address, by its environment.
func listens(pid int, ip string) bool {
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && strings.Contains(string(environ), "POD_IP="+ip+"\x00")
}
