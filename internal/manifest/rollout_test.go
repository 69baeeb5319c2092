package manifest

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/internal/spec"
)

func TestADeploymentSaysHowItRolls(t *testing.T) {
	text := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{%s"selector":{"matchLabels":{"a":"b"}},
		"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","command":["x"]}]}}}}`
	limit := int32(3)
	for _, c := range []struct {
		text string
		want spec.DeploymentSpec
		bad  []string
	}{
		{``, spec.DeploymentSpec{}, nil},
		{`"strategy":{"type":"Recreate"},`, spec.DeploymentSpec{Strategy: spec.Strategy{Type: spec.Recreate}}, nil},
		{`"strategy":{"rollingUpdate":{"maxSurge":"30%","maxUnavailable":2}},`, spec.DeploymentSpec{Strategy: spec.Strategy{
			MaxSurge: &spec.IntOrPercent{Value: 30, Percent: true}, MaxUnavailable: &spec.IntOrPercent{Value: 2},
		}}, nil},
		{`"minReadySeconds":5,"progressDeadlineSeconds":60,"revisionHistoryLimit":3,"paused":true,`, spec.DeploymentSpec{
			MinReady: 5 * time.Second, ProgressDeadline: time.Minute, RevisionHistoryLimit: &limit, Paused: true,
		}, nil},
		{`"strategy":{"type":"Odd"},`, spec.DeploymentSpec{}, []string{`spec.strategy.type: Unsupported value: "Odd": supported values: "Recreate", "RollingUpdate"`}},
		{`"strategy":{"type":"Recreate","rollingUpdate":{"maxSurge":1}},`, spec.DeploymentSpec{}, []string{"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"}},
		{`"strategy":{"rollingUpdate":{"maxSurge":"x","maxUnavailable":"101%"}},`, spec.DeploymentSpec{}, []string{
			`spec.strategy.rollingUpdate.maxSurge: Invalid value: "x": must be an integer or percentage (e.g '5%')`,
			`spec.strategy.rollingUpdate.maxUnavailable: Invalid value: "101%": must not be greater than 100%`,
		}},
		{`"strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":"0%"}},`, spec.DeploymentSpec{}, []string{"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0"}},
		{`"minReadySeconds":600,`, spec.DeploymentSpec{}, []string{`spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds`}},
		{`"progressDeadlineSeconds":0,`, spec.DeploymentSpec{}, []string{`spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds`}},
		{`"minReadySeconds":-1,"revisionHistoryLimit":101,`, spec.DeploymentSpec{}, []string{
			`spec.minReadySeconds: Invalid value: -1: must be greater than or equal to 0`,
			`spec.revisionHistoryLimit: Invalid value: 101: must be between 0 and 100`,
		}},
	} {
		o := one(t, fmt.Sprintf(text, c.text), Options{})
		got := lines(o.Findings)
		slices.Sort(got)
		slices.Sort(c.bad)
		if diff := cmp.Diff(c.bad, got); diff != "" {
			t.Errorf("%s:\n%s", c.text, diff)
		}
		if len(c.bad) > 0 || o.Deployment == nil {
			continue
		}
		s := o.Deployment.Spec
		s.Replicas, s.Selector, s.Template = 0, spec.Selector{}, spec.PodTemplate{}
		if diff := cmp.Diff(c.want, s); diff != "" {
			t.Errorf("%s:\n%s", c.text, diff)
		}
	}
}

func TestABudgetIsDecoded(t *testing.T) {
	text := `{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"b","namespace":"n","labels":{"x":"y"}},"spec":{%s}}`
	for _, c := range []struct {
		text string
		want spec.PodDisruptionBudgetSpec
		bad  []string
	}{
		{`"minAvailable":"50%","selector":{"matchLabels":{"a":"b"}}`, spec.PodDisruptionBudgetSpec{
			MinAvailable: &spec.IntOrPercent{Value: 50, Percent: true}, Selector: &spec.Selector{Labels: map[string]string{"a": "b"}},
		}, nil},
		{`"maxUnavailable":1,"selector":{},"unhealthyPodEvictionPolicy":"AlwaysAllow"`, spec.PodDisruptionBudgetSpec{
			MaxUnavailable: &spec.IntOrPercent{Value: 1}, Selector: &spec.Selector{}, UnhealthyPodPolicy: spec.AlwaysAllow,
		}, nil},
		{`"maxUnavailable":1`, spec.PodDisruptionBudgetSpec{MaxUnavailable: &spec.IntOrPercent{Value: 1}}, nil},
		{`"maxUnavailable":1,"minAvailable":1`, spec.PodDisruptionBudgetSpec{}, []string{`spec: Invalid value: minAvailable and maxUnavailable cannot be both set`}},
		{``, spec.PodDisruptionBudgetSpec{}, []string{`spec.minAvailable: Required value: minAvailable or maxUnavailable`}},
		{`"maxUnavailable":"-1%","unhealthyPodEvictionPolicy":"Never"`, spec.PodDisruptionBudgetSpec{}, []string{
			`spec.maxUnavailable: Invalid value: "-1%": must be an integer or percentage (e.g '5%')`,
			`spec.unhealthyPodEvictionPolicy: Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget"`,
		}},
		{`"maxUnavailable":-1,"selector":{"matchExpressions":[{"key":"a","operator":"In"}]}`, spec.PodDisruptionBudgetSpec{}, []string{
			`spec.maxUnavailable: Invalid value: "-1": must be greater than or equal to 0`,
			"spec.selector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
		}},
	} {
		o := one(t, fmt.Sprintf(text, c.text), Options{})
		if diff := cmp.Diff(c.bad, lines(o.Findings)); diff != "" {
			t.Errorf("%s:\n%s", c.text, diff)
		}
		if len(c.bad) > 0 {
			if o.Budget != nil {
				t.Errorf("%s: there is a budget in spite of its findings", c.text)
			}
			continue
		}
		if o.Budget == nil || o.Budget.Namespace != "n" || o.Budget.Labels["x"] != "y" {
			t.Fatalf("%s: %+v", c.text, o.Budget)
		}
		if diff := cmp.Diff(c.want, o.Budget.Spec); diff != "" {
			t.Errorf("%s:\n%s", c.text, diff)
		}
	}
}
