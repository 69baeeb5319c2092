// Command kubelet is the kubelet's own prober without a kubelet around it: its real probe manager over its real status manager,
// results managers and metrics, with pods that are only said to run. It is a process of "make bench-peers", in a module of its own,
// so that nothing of Kubernetes is ever linked into muster.
//
// It reads a job, one line of JSON, from its stdin; says how many pods it probes, one line of JSON, once all are being probed;
// answers each further line by the attempts so far, by their results; and ends with its stdin.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-base/metrics"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/core/install" // events about pods name their kind
	kubepod "k8s.io/kubernetes/pkg/kubelet/pod"
	"k8s.io/kubernetes/pkg/kubelet/prober"
	"k8s.io/kubernetes/pkg/kubelet/prober/results"
	"k8s.io/kubernetes/pkg/kubelet/status"
	kubeletutil "k8s.io/kubernetes/pkg/kubelet/util"
)

const maxTargets = 200_000

// job is what to probe. It is what loadtest says to a peer.
type job struct {
	// Kind is http or tcp.
	Kind string
	// Targets is how many pods there are, each with a readiness probe.
	Targets int
	// Period is each probe's, whole seconds: the kubelet knows no others.
	Period time.Duration
	// Base is the first pod's address, the others' follow it; Port is everyone's.
	Base netip.Addr
	Port int
}

func (j *job) check() error {
	switch {
	case j.Kind != "http" && j.Kind != "tcp":
		return fmt.Errorf("kind %q: want http or tcp", j.Kind)
	case j.Targets < 1 || j.Targets > maxTargets:
		return fmt.Errorf("targets %d: must be 1 to %d", j.Targets, maxTargets)
	case j.Period < time.Second || j.Period%time.Second != 0:
		return fmt.Errorf("period %v: must be whole seconds, 1 at least", j.Period)
	case j.Port < 1 || j.Port > 65535:
		return fmt.Errorf("port %d: must be 1 to 65535", j.Port)
	case !j.Base.Is4():
		return fmt.Errorf("base %v: must be an IPv4 address", j.Base)
	}
	return nil
}

func main() {
	if err := run(context.Background(), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kubelet:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := bufio.NewReader(in)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	var j job
	dec := json.NewDecoder(strings.NewReader(string(line)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return fmt.Errorf("read the job: %w", err)
	}
	if err := j.check(); err != nil {
		return err
	}
	counted := probe(ctx, &j)
	enc := json.NewEncoder(out)
	if err := enc.Encode(map[string]int{"pods": j.Targets}); err != nil {
		return err
	}
	for {
		switch _, err := lines.ReadBytes('\n'); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		told, err := counted()
		if err != nil {
			return err
		}
		if err := enc.Encode(told); err != nil {
			return err
		}
	}
}

// probe has the kubelet's manager probe the pods until the process ends, as the kubelet has it, and returns what counts the
// attempts by result. What it leaves out is what a kubelet does beside probing: the status manager has no API server to send
// to, events go nowhere, and what readiness changes ends at the status manager.
func probe(ctx context.Context, j *job) (counted func() (map[string]int64, error)) {
	registry := metrics.NewKubeRegistry()
	registry.MustRegister(prober.ProberResults, prober.ProberDuration) // unregistered they would count nothing

	pods := kubepod.NewBasicPodManager()
	statuses := status.NewManager(nil, pods, running{}, kubeletutil.NewPodStartupLatencyTracker())
	logger := klog.FromContext(ctx)
	all := make([]*v1.Pod, j.Targets)
	for i, address := 0, j.Base; i < j.Targets; i, address = i+1, address.Next() {
		all[i] = pod(j, i)
		pods.AddPod(all[i])
		statuses.SetPodStatus(logger, all[i], podStatus(all[i], address))
	}
	recorder := record.NewBroadcaster(record.WithContext(ctx)).NewRecorder(legacyscheme.Scheme, v1.EventSource{Component: "kubelet"})
	liveness, readiness, startup := results.NewManager(), results.NewManager(), results.NewManager()
	go func() { // as the kubelet's sync loop does: a manager whose changes nobody takes stands still
		for {
			select {
			case <-ctx.Done():
				return
			case u := <-readiness.Updates():
				statuses.SetContainerReadiness(logger, u.PodUID, u.ContainerID, u.Result == results.Success)
			case <-liveness.Updates():
			case <-startup.Updates():
			}
		}
	}()
	// Only in its first period a manager spreads probes over their period: nothing slow may stand between this and the pods.
	manager := prober.NewManager(statuses, liveness, readiness, startup, nil, recorder)
	for _, p := range all {
		manager.AddPod(ctx, p)
	}
	return func() (map[string]int64, error) { return attempts(registry) }
}

// running says of every pod that it may run.
type running struct{}

func (running) PodCouldHaveRunningContainers(*v1.Pod) bool { return true }

// pod is the i-th, with the defaults that the API server would have put in.
func pod(j *job, i int) *v1.Pod {
	handler := v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt(j.Port)}}
	if j.Kind == "http" {
		handler = v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: fmt.Sprintf("/ready/%d", i), Port: intstr.FromInt(j.Port), Scheme: v1.URISchemeHTTP}}
	}
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("pod-%d", i), Namespace: "loadtest", UID: types.UID(fmt.Sprintf("%08x-6d75-4573-8465-000000000001", i)),
		},
		Spec: v1.PodSpec{
			RestartPolicy: v1.RestartPolicyAlways,
			Containers: []v1.Container{{
				Name: "main", Image: "main",
				ReadinessProbe: &v1.Probe{
					ProbeHandler: handler, TimeoutSeconds: 1, PeriodSeconds: int32(j.Period / time.Second), SuccessThreshold: 1, FailureThreshold: 3,
				},
			}},
		},
	}
}

func podStatus(p *v1.Pod, address netip.Addr) v1.PodStatus {
	started, ip := true, address.String()
	return v1.PodStatus{
		Phase: v1.PodRunning, PodIP: ip, PodIPs: []v1.PodIP{{IP: ip}},
		Conditions: []v1.PodCondition{ // readiness changes the last two
			{Type: v1.PodScheduled, Status: v1.ConditionTrue}, {Type: v1.PodInitialized, Status: v1.ConditionTrue},
			{Type: v1.ContainersReady, Status: v1.ConditionFalse}, {Type: v1.PodReady, Status: v1.ConditionFalse},
		},
		ContainerStatuses: []v1.ContainerStatus{{
			Name: "main", Image: "main", ContainerID: "containerd://" + string(p.UID), Started: &started,
			State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.Now()}},
		}},
	}
}

// attempts are those so far by result, as the manager's own metrics have them.
func attempts(registry metrics.KubeRegistry) (map[string]int64, error) {
	families, err := registry.Gather()
	if err != nil {
		return nil, fmt.Errorf("read the metrics: %w", err)
	}
	told := map[string]int64{"successful": 0, "failed": 0, "unknown": 0}
	for _, f := range families {
		if f.GetName() != "prober_probe_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "result" {
					told[l.GetValue()] += int64(m.GetCounter().GetValue())
				}
			}
		}
	}
	return told, nil
}
