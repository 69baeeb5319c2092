package manifest

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/internal/spec"
)

func TestWhereAPodWantsToBeIsConvertedFieldByField(t *testing.T) {
	o := one(t, `
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers: [{name: c, command: [x]}]
  tolerations:
  - {key: gpu, operator: Equal, value: "yes", effect: NoSchedule}
  - {operator: Exists, effect: NoExecute, tolerationSeconds: 30}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: disk, operator: In, values: [ssd, nvme]}, {key: cores, operator: Gt, values: ["8"]}]
          matchFields: [{key: metadata.name, operator: NotIn, values: [n1]}]
      preferredDuringSchedulingIgnoredDuringExecution:
      - {weight: 7, preference: {matchExpressions: [{key: fast, operator: Exists}]}}
    podAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - {topologyKey: topology.kubernetes.io/zone, labelSelector: {matchLabels: {app: db}}, namespaces: [data]}
    podAntiAffinity:
      preferredDuringSchedulingIgnoredDuringExecution:
      - weight: 100
        podAffinityTerm:
          topologyKey: kubernetes.io/hostname
          namespaceSelector: {}
          labelSelector: {matchExpressions: [{key: app, operator: NotIn, values: [db]}]}
  topologySpreadConstraints:
  - {maxSkew: 2, topologyKey: zone, whenUnsatisfiable: DoNotSchedule, minDomains: 3, labelSelector: {}, matchLabelKeys: [pod-template-hash],
     nodeAffinityPolicy: Ignore, nodeTaintsPolicy: Honor}
  - {maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}
`, Options{})
	if len(o.Findings) > 0 {
		t.Fatal(lines(o.Findings))
	}
	half, three := int64(30), int32(3)
	want := spec.PodSpec{
		TerminationGrace: spec.UnsetGrace,
		Containers:       []spec.Container{{Name: "c", Command: []string{"x"}}},
		Tolerations: []spec.Toleration{
			{Key: "gpu", Operator: spec.TolerationEqual, Value: "yes", Effect: spec.NoSchedule},
			{Operator: spec.TolerationExists, Effect: spec.NoExecute, Seconds: &half},
		},
		Affinity: spec.Affinity{
			Node: spec.NodeAffinity{
				Required: &spec.NodeSelector{Terms: []spec.NodeTerm{{
					Labels: []spec.NodeRequirement{{Key: "disk", Operator: spec.NodeIn, Values: []string{"ssd", "nvme"}}, {Key: "cores", Operator: spec.NodeGt, Values: []string{"8"}}},
					Fields: []spec.NodeRequirement{{Key: "metadata.name", Operator: spec.NodeNotIn, Values: []string{"n1"}}},
				}}},
				Preferred: []spec.PreferredNodeTerm{{Weight: 7, Term: spec.NodeTerm{Labels: []spec.NodeRequirement{{Key: "fast", Operator: spec.NodeExists}}}}},
			},
			Pod: spec.PodAffinity{Required: []spec.PodTerm{{
				TopologyKey: "topology.kubernetes.io/zone", Namespaces: []string{"data"}, Selector: &spec.Selector{Labels: map[string]string{"app": "db"}},
			}}},
			PodAnti: spec.PodAffinity{Preferred: []spec.WeightedPodTerm{{Weight: 100, Term: spec.PodTerm{
				TopologyKey: "kubernetes.io/hostname", AllNamespaces: true,
				Selector: &spec.Selector{Expressions: []spec.SelectorExpression{{Key: "app", Operator: spec.NotIn, Values: []string{"db"}}}},
			}}}},
		},
		TopologySpreadConstraints: []spec.SpreadConstraint{
			{
				MaxSkew: 2, TopologyKey: "zone", WhenUnsatisfiable: spec.DoNotSchedule, MinDomains: &three, Selector: &spec.Selector{},
				MatchLabelKeys: []string{"pod-template-hash"}, NodeAffinityPolicy: spec.PolicyIgnore, NodeTaintsPolicy: spec.PolicyHonor,
			},
			{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: spec.ScheduleAnyway},
		},
	}
	if diff := cmp.Diff(want, o.Pod.Spec); diff != "" {
		t.Error(diff)
	}
}
