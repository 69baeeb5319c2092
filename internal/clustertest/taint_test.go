package clustertest

import (
	"strings"
	"testing"
	"time"
)

const trainer = `apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: NAME}}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, command: [sleep, "1000000"]}]
`

func TestATaintRefusesAPodWithItsReasonUnlessThePodToleratesIt(t *testing.T) {
	t.Parallel()
	c := Start(t, 2)
	c.Muster("taint", "nodes", "node-1", "node-2", "gpu=yes:NoSchedule")
	c.Apply(strings.ReplaceAll(trainer, "NAME", "plain"))
	c.Apply(strings.ReplaceAll(trainer, "NAME", "trainer") + `  tolerations: [{key: gpu, operator: Equal, value: "yes", effect: NoSchedule}]
  affinity:
    nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [node-1]}]}]}}
`)
	c.Eventually(20*time.Second, "the pod that tolerates the taint runs where it wants to be", func() bool {
		return c.running("app=trainer", 1) && c.Pod("trainer").Spec.NodeName == "node-1"
	})
	const why = "0/2 nodes fit: 2 untolerated taint {gpu=yes:NoSchedule}"
	c.Eventually(10*time.Second, "the other is told why it fits nowhere", func() bool {
		out, err := c.Try("describe", "pod", "plain")
		return err == nil && strings.Contains(out, "FailedScheduling") && strings.Contains(out, why)
	})
	if _, _, stderr := c.said(strings.ReplaceAll(trainer, "NAME", "dry"), "apply", "--dry-run=server", "-f", "-"); !strings.Contains(stderr, why) {
		t.Errorf("a dry run says %q", stderr)
	}
	c.Muster("taint", "nodes", "node-2", "gpu-")
	c.Eventually(20*time.Second, "the other runs where the taint is gone", func() bool {
		return c.running("app=plain", 1) && c.Pod("plain").Spec.NodeName == "node-2"
	})
	// What runs there stays under NoSchedule, and leaves under NoExecute.
	c.Muster("taint", "nodes", "node-1", "gpu-", "repair:NoSchedule")
	c.Throughout(2*time.Second, "the pod stays", func() bool { return c.Pod("trainer").Spec.NodeName == "node-1" })
	c.Muster("taint", "nodes", "node-2", "repair:NoExecute")
	c.Eventually(20*time.Second, "the pod has left the node for want of a toleration", func() bool { return c.Pod("plain").Spec.NodeName == "" })
	c.Muster("taint", "nodes", "node-1", "repair-")
	c.Eventually(20*time.Second, "it runs on the other node", func() bool {
		return c.running("app=plain", 1) && c.Pod("plain").Spec.NodeName == "node-1"
	})
}
