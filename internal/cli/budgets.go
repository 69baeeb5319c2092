package cli

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

var budgetKind = &kind{
	title: "PodDisruptionBudget", singular: "poddisruptionbudget", plural: "poddisruptionbudgets", short: []string{"pdb"}, namespaced: true,
	columns: []column{
		{name: "NAME"}, {name: "MIN AVAILABLE"}, {name: "MAX UNAVAILABLE"}, {name: "ALLOWED DISRUPTIONS"}, {name: "AGE"},
		{"HEALTHY", true}, {"DESIRED", true}, {"EXPECTED", true}, {"SELECTOR", true},
	},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		revision := int64(0)
		all, err := pages(func(token string) ([]*musterv1.PodDisruptionBudget, string, error) {
			r, err := c.budgets.ListPodDisruptionBudgets(ctx, &musterv1.ListPodDisruptionBudgetsRequest{Filter: budgetFilter(q), PageSize: pageSize, PageToken: token})
			revision = max(revision, r.GetRevision())
			return r.GetPodDisruptionBudgets(), r.GetNextPageToken(), err
		})
		return itemsOf(all, budgetItem), revision, err
	},
	watches: func(ctx context.Context, c *client, q query, revision int64) (func() (change, error), error) {
		s, err := c.budgets.WatchPodDisruptionBudgets(ctx, &musterv1.WatchPodDisruptionBudgetsRequest{Filter: budgetFilter(q), Revision: revision})
		return changes(s, err, func(m *musterv1.WatchPodDisruptionBudgetsResponse) item {
			return budgetItem(m.GetPodDisruptionBudget())
		})
	},
	gets: func(ctx context.Context, c *client, namespace, name string) (item, error) {
		r, err := c.budgets.GetPodDisruptionBudget(ctx, &musterv1.GetPodDisruptionBudgetRequest{Namespace: namespace, Name: name})
		return budgetItem(r.GetPodDisruptionBudget()), err
	},
	writes: &writer{
		tries: func(ctx context.Context, c *client, object proto.Message) (item, []string, error) {
			r, err := c.budgets.CreatePodDisruptionBudget(ctx, &musterv1.CreatePodDisruptionBudgetRequest{
				PodDisruptionBudget: object.(*musterv1.PodDisruptionBudget), ValidateOnly: true,
			})
			return budgetItem(r.GetPodDisruptionBudget()), r.GetWarnings(), err
		},
		updates: func(ctx context.Context, c *client, object proto.Message, validateOnly bool) (item, musterv1.WriteResult, []string, error) {
			r, err := c.budgets.UpdatePodDisruptionBudget(ctx, &musterv1.UpdatePodDisruptionBudgetRequest{
				PodDisruptionBudget: object.(*musterv1.PodDisruptionBudget), AllowMissing: true, ValidateOnly: validateOnly,
			})
			return budgetItem(r.GetPodDisruptionBudget()), r.GetResult(), r.GetWarnings(), err
		},
		removes: func(ctx context.Context, c *client, namespace, name string) (string, error) {
			r, err := c.budgets.DeletePodDisruptionBudget(ctx, &musterv1.DeletePodDisruptionBudgetRequest{Namespace: namespace, Name: name})
			return r.GetPodDisruptionBudget().GetMeta().GetUid(), err
		},
	},
	edits: editing(
		func(ctx context.Context, c *client, namespace, name string) (*musterv1.PodDisruptionBudget, error) {
			r, err := c.budgets.GetPodDisruptionBudget(ctx, &musterv1.GetPodDisruptionBudgetRequest{Namespace: namespace, Name: name})
			return r.GetPodDisruptionBudget(), err
		},
		func(ctx context.Context, c *client, object *musterv1.PodDisruptionBudget) (*musterv1.PodDisruptionBudget, error) {
			r, err := c.budgets.UpdatePodDisruptionBudget(ctx, &musterv1.UpdatePodDisruptionBudgetRequest{PodDisruptionBudget: object})
			return r.GetPodDisruptionBudget(), err
		},
	),
}

func budgetFilter(q query) *musterv1.PodDisruptionBudgetFilter {
	return &musterv1.PodDisruptionBudgetFilter{Namespace: q.namespace, LabelSelector: q.selector, Name: q.name}
}

func budgetItem(b *musterv1.PodDisruptionBudget) item {
	m, s, st := b.GetMeta(), b.GetSpec(), b.GetStatus()
	return item{
		namespace: m.GetNamespace(), name: m.GetName(), uid: m.GetUid(),
		cells: []string{
			m.GetName(), bound(s.GetMinAvailable()), bound(s.GetMaxUnavailable()), fmt.Sprint(st.GetDisruptionsAllowed()), age(m.GetCreateTime()),
			fmt.Sprint(st.GetCurrentHealthy()), fmt.Sprint(st.GetDesiredHealthy()), fmt.Sprint(st.GetExpectedPods()), selectorText(s.GetSelector()),
		},
		value: func() any { return budgetValue(b) },
	}
}

// bound is a number or a share, N/A where it is not set.
func bound(v *musterv1.IntOrPercent) string {
	if v == nil {
		return "N/A"
	}
	return fmt.Sprint(intOrPercentValue(v))
}

// intOrPercentValue is 3 or "25%"; nil where it is not set.
func intOrPercentValue(v *musterv1.IntOrPercent) any {
	switch k := v.GetKind().(type) {
	case *musterv1.IntOrPercent_Percent:
		return fmt.Sprintf("%d%%", k.Percent)
	case *musterv1.IntOrPercent_Value:
		return k.Value
	}
	return nil
}

// setIntOrPercent gives f a number or a share that is set, 0 among them.
func setIntOrPercent(f fields, key string, v *musterv1.IntOrPercent) {
	if value := intOrPercentValue(v); value != nil {
		f.set(key, value)
	}
}

func selectorFields(s *musterv1.LabelSelector) fields {
	return fields{}.
		put("matchLabels", s.GetMatchLabels()).
		put("matchExpressions", each(s.GetMatchExpressions(), func(e *musterv1.LabelExpression) fields {
			return fields{"key": e.GetKey(), "operator": operatorWord(e.GetOperator())}.put("values", e.GetValues())
		}))
}

func unhealthyPolicy(p musterv1.UnhealthyPodEvictionPolicy) string {
	switch p {
	case musterv1.UnhealthyPodEvictionPolicy_UNHEALTHY_POD_EVICTION_POLICY_ALWAYS_ALLOW:
		return "AlwaysAllow"
	case musterv1.UnhealthyPodEvictionPolicy_UNHEALTHY_POD_EVICTION_POLICY_IF_HEALTHY_BUDGET:
		return "IfHealthyBudget"
	}
	return ""
}

func budgetValue(b *musterv1.PodDisruptionBudget) any {
	s, st := b.GetSpec(), b.GetStatus()
	f := fields{}.put("unhealthyPodEvictionPolicy", unhealthyPolicy(s.GetUnhealthyPodEvictionPolicy()))
	setIntOrPercent(f, "minAvailable", s.GetMinAvailable())
	setIntOrPercent(f, "maxUnavailable", s.GetMaxUnavailable())
	if s.GetSelector() != nil {
		f.set("selector", selectorFields(s.GetSelector()))
	}
	return fields{
		"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metaFields(b.GetMeta()), "spec": f,
		"status": fields{
			"observedGeneration": b.GetMeta().GetGeneration(), "currentHealthy": st.GetCurrentHealthy(), "desiredHealthy": st.GetDesiredHealthy(),
			"disruptionsAllowed": st.GetDisruptionsAllowed(), "expectedPods": st.GetExpectedPods(),
		},
	}
}

func (d *description) budget(b *musterv1.PodDisruptionBudget) {
	s, st := b.GetSpec(), b.GetStatus()
	d.meta(b.GetMeta())
	d.line(0, "Min Available", bound(s.GetMinAvailable()))
	d.line(0, "Max Unavailable", bound(s.GetMaxUnavailable()))
	selector := "<none>, so no pod"
	if s.GetSelector() != nil {
		if selector = selectorText(s.GetSelector()); selector == "<none>" {
			selector = "<none>, so every pod"
		}
	}
	d.line(0, "Selector", selector)
	d.line(0, "Unhealthy Pods", unhealthyPolicy(s.GetUnhealthyPodEvictionPolicy()))
	d.head(0, "Status")
	d.line(1, "Allowed disruptions", fmt.Sprint(st.GetDisruptionsAllowed()))
	d.line(1, "Current", fmt.Sprint(st.GetCurrentHealthy()))
	d.line(1, "Desired", fmt.Sprint(st.GetDesiredHealthy()))
	d.line(1, "Total", fmt.Sprint(st.GetExpectedPods()))
}
