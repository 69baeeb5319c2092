package spec_test

import (
	"testing"

	"github.com/musterhq/muster/internal/spec"
)

func TestATolerationTakesTheTaintsThatItMeans(t *testing.T) {
	gpu := spec.Taint{Key: "gpu", Value: "yes", Effect: spec.NoSchedule}
	for _, tc := range []struct {
		toleration spec.Toleration
		taint      spec.Taint
		want       bool
	}{
		{spec.Toleration{Key: "gpu", Operator: spec.TolerationEqual, Value: "yes", Effect: spec.NoSchedule}, gpu, true},
		{spec.Toleration{Key: "gpu", Value: "yes"}, gpu, true},
		{spec.Toleration{Key: "gpu", Operator: spec.TolerationEqual, Value: "no"}, gpu, false},
		{spec.Toleration{Key: "gpu", Operator: spec.TolerationExists}, gpu, true},
		{spec.Toleration{Key: "gpu", Operator: spec.TolerationExists, Effect: spec.NoExecute}, gpu, false},
		{spec.Toleration{Key: "cpu", Operator: spec.TolerationExists}, gpu, false},
		{spec.Toleration{Operator: spec.TolerationExists}, gpu, true},
		{spec.Toleration{Operator: spec.TolerationExists, Effect: spec.NoSchedule}, gpu, true},
	} {
		if got := tc.toleration.Tolerates(&tc.taint); got != tc.want {
			t.Errorf("%+v tolerates %v: %v", tc.toleration, tc.taint, got)
		}
	}
	if got := gpu.String() + " " + spec.TaintUnschedulable.String(); got != "gpu=yes:NoSchedule node.kubernetes.io/unschedulable:NoSchedule" {
		t.Error(got)
	}
}

func TestANodeSelectorMatchesByOneOfItsTerms(t *testing.T) {
	labels := map[string]string{"disk": "ssd", "cores": "8", "name": "x"}
	is := func(key string, op spec.NodeOperator, values ...string) spec.NodeTerm {
		return spec.NodeTerm{Labels: []spec.NodeRequirement{{Key: key, Operator: op, Values: values}}}
	}
	field := func(op spec.NodeOperator, values ...string) spec.NodeTerm {
		return spec.NodeTerm{Fields: []spec.NodeRequirement{{Key: "metadata.name", Operator: op, Values: values}}}
	}
	both := is("disk", spec.NodeIn, "ssd")
	both.Fields = field(spec.NodeIn, "n2").Fields
	for name, tc := range map[string]struct {
		terms []spec.NodeTerm
		want  bool
	}{
		"in":                               {[]spec.NodeTerm{is("disk", spec.NodeIn, "hdd", "ssd")}, true},
		"in, another value":                {[]spec.NodeTerm{is("disk", spec.NodeIn, "hdd")}, false},
		"in, no label":                     {[]spec.NodeTerm{is("x", spec.NodeIn, "")}, false},
		"not in":                           {[]spec.NodeTerm{is("disk", spec.NodeNotIn, "ssd")}, false},
		"not in, no label":                 {[]spec.NodeTerm{is("x", spec.NodeNotIn, "ssd")}, true},
		"exists":                           {[]spec.NodeTerm{is("disk", spec.NodeExists)}, true},
		"does not exist":                   {[]spec.NodeTerm{is("disk", spec.NodeDoesNotExist)}, false},
		"greater":                          {[]spec.NodeTerm{is("cores", spec.NodeGt, "7")}, true},
		"not greater":                      {[]spec.NodeTerm{is("cores", spec.NodeGt, "8")}, false},
		"less":                             {[]spec.NodeTerm{is("cores", spec.NodeLt, "9")}, true},
		"less than what is no number":      {[]spec.NodeTerm{is("cores", spec.NodeLt, "many")}, false},
		"a label that is no number":        {[]spec.NodeTerm{is("disk", spec.NodeGt, "1")}, false},
		"the name":                         {[]spec.NodeTerm{field(spec.NodeIn, "n1")}, true},
		"another name":                     {[]spec.NodeTerm{field(spec.NodeNotIn, "n1")}, false},
		"all of a term":                    {[]spec.NodeTerm{both}, false},
		"one of the terms":                 {[]spec.NodeTerm{both, is("disk", spec.NodeExists)}, true},
		"a term without a requirement":     {[]spec.NodeTerm{{}}, false},
		"an operator that is not known":    {[]spec.NodeTerm{is("disk", "Like", "s")}, false},
		"a field that is not known":        {[]spec.NodeTerm{{Fields: []spec.NodeRequirement{{Key: "name", Operator: spec.NodeIn, Values: []string{"n1"}}}}}, false},
		"no terms, which validation stops": {nil, false},
	} {
		s := spec.NodeSelector{Terms: tc.terms}
		if got := s.Matches("n1", labels); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestATermOfPodsMeansThoseOfItsNamespaces(t *testing.T) {
	all := &spec.Selector{}
	for name, tc := range map[string]struct {
		term      spec.PodTerm
		namespace string
		want      bool
	}{
		"the pod's own":            {spec.PodTerm{Selector: all}, "home", true},
		"another":                  {spec.PodTerm{Selector: all}, "other", false},
		"a named one":              {spec.PodTerm{Selector: all, Namespaces: []string{"other"}}, "other", true},
		"the own one is not named": {spec.PodTerm{Selector: all, Namespaces: []string{"other"}}, "home", false},
		"every one":                {spec.PodTerm{Selector: all, AllNamespaces: true, Namespaces: []string{"x"}}, "other", true},
		"no selector":              {spec.PodTerm{AllNamespaces: true}, "home", false},
		"other labels":             {spec.PodTerm{Selector: &spec.Selector{Labels: map[string]string{"a": "b"}}}, "home", false},
	} {
		if got := tc.term.Matches("home", tc.namespace, map[string]string{"a": "c"}); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestWhereAPodWantsToBeIsRefusedFieldByField(t *testing.T) {
	const (
		node   = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
		wish   = "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution"
		near   = "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution"
		apart  = "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution"
		spread = "spec.topologySpreadConstraints"
		key    = "name part must be 1 to 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
		value  = "a valid label must be an empty string or at most 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
	)
	tolerates := func(t spec.Toleration) func(*spec.Pod) {
		return func(p *spec.Pod) { p.Spec.Tolerations = []spec.Toleration{t} }
	}
	requires := func(terms ...spec.NodeTerm) func(*spec.Pod) {
		return func(p *spec.Pod) { p.Spec.Affinity.Node.Required = &spec.NodeSelector{Terms: terms} }
	}
	label := func(r spec.NodeRequirement) func(*spec.Pod) {
		return requires(spec.NodeTerm{Labels: []spec.NodeRequirement{r}})
	}
	field := func(r spec.NodeRequirement) func(*spec.Pod) {
		return requires(spec.NodeTerm{Fields: []spec.NodeRequirement{r}})
	}
	spreads := func(cs ...spec.SpreadConstraint) func(*spec.Pod) {
		return func(p *spec.Pod) { p.Spec.TopologySpreadConstraints = cs }
	}
	even := spec.SpreadConstraint{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: spec.DoNotSchedule, Selector: &spec.Selector{}}
	uneven := func(change func(*spec.SpreadConstraint)) func(*spec.Pod) {
		c := even
		change(&c)
		return spreads(c)
	}
	second, zero := int64(1), int32(0)
	for name, tc := range map[string]struct {
		change func(*spec.Pod)
		want   []string
	}{
		"a toleration":                  {tolerates(spec.Toleration{Key: "a/b", Value: "c", Effect: spec.NoSchedule}), nil},
		"one of everything":             {tolerates(spec.Toleration{Operator: spec.TolerationExists}), nil},
		"seconds":                       {tolerates(spec.Toleration{Operator: spec.TolerationExists, Effect: spec.NoExecute, Seconds: &second}), nil},
		"seconds of another effect":     {tolerates(spec.Toleration{Operator: spec.TolerationExists, Seconds: &second}), []string{`spec.tolerations[0].effect: Invalid value: "": effect must be 'NoExecute' when ` + "`tolerationSeconds` is set"}},
		"a value with Exists":           {tolerates(spec.Toleration{Key: "a", Operator: spec.TolerationExists, Value: "b"}), []string{`spec.tolerations[0].operator: Invalid value: "b": value must be empty when ` + "`operator` is 'Exists'"}},
		"no key":                        {tolerates(spec.Toleration{}), []string{`spec.tolerations[0].operator: Invalid value: "Equal": operator must be Exists when ` + "`key` is empty, which means \"match all values and all keys\""}},
		"a bad key, value and effect":   {tolerates(spec.Toleration{Key: "-", Value: "!", Effect: "Never"}), []string{`spec.tolerations[0].key: Invalid value: "-": ` + key, `spec.tolerations[0].operator: Invalid value: "!": ` + value, `spec.tolerations[0].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`}},
		"an operator":                   {tolerates(spec.Toleration{Key: "a", Operator: "Lt"}), []string{`spec.tolerations[0].operator: Unsupported value: "Lt": supported values: "Equal", "Exists"`}},
		"no terms":                      {requires(), []string{node + ": Required value: must have at least one node selector term"}},
		"In without values":             {label(spec.NodeRequirement{Key: "a", Operator: spec.NodeIn}), []string{node + "[0].matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"}},
		"Exists with values":            {label(spec.NodeRequirement{Key: "a", Operator: spec.NodeExists, Values: []string{"b"}}), []string{node + "[0].matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"}},
		"Gt with two values":            {label(spec.NodeRequirement{Key: "a", Operator: spec.NodeGt, Values: []string{"1", "2"}}), []string{node + "[0].matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'"}},
		"Lt with a word":                {label(spec.NodeRequirement{Key: "a", Operator: spec.NodeLt, Values: []string{"few"}}), []string{node + `[0].matchExpressions[0].values[0]: Invalid value: "few": for 'Gt', 'Lt' operators, the value must be an integer`}},
		"a requirement's operator, key": {label(spec.NodeRequirement{Key: "-", Operator: "Is"}), []string{node + `[0].matchExpressions[0].operator: Invalid value: "Is": not a valid selector operator`, node + `[0].matchExpressions[0].key: Invalid value: "-": ` + key}},
		"a field":                       {field(spec.NodeRequirement{Key: "metadata.name", Operator: spec.NodeIn, Values: []string{"n1"}}), nil},
		"a field's operator":            {field(spec.NodeRequirement{Key: "metadata.name", Operator: spec.NodeExists}), []string{node + `[0].matchFields[0].operator: Invalid value: "Exists": not a valid selector operator`}},
		"a field's values":              {field(spec.NodeRequirement{Key: "metadata.name", Operator: spec.NodeIn, Values: []string{"a", "b"}}), []string{node + "[0].matchFields[0].values: Required value: must be only one value when `operator` is 'In' or 'NotIn' for node field selector"}},
		"another field":                 {field(spec.NodeRequirement{Key: "metadata.uid", Operator: spec.NodeIn, Values: []string{"a"}}), []string{node + `[0].matchFields[0].key: Invalid value: "metadata.uid": not a valid field selector key`}},
		"a weight":                      {func(p *spec.Pod) { p.Spec.Affinity.Node.Preferred = []spec.PreferredNodeTerm{{Weight: 101}} }, []string{wish + "[0].weight: Invalid value: 101: must be in the range 1-100"}},
		"a topology key, and namespaces": {func(p *spec.Pod) { p.Spec.Affinity.Pod.Required = []spec.PodTerm{{Namespaces: []string{"A"}}} }, []string{near + `[0].namespaces[0]: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character`, near + "[0].topologyKey: Required value: can not be empty",
			near + `[0].topologyKey: Invalid value: "": name part must be 1 to 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`}},
		"a selector and a weight": {func(p *spec.Pod) {
			p.Spec.Affinity.PodAnti.Preferred = []spec.WeightedPodTerm{{Term: spec.PodTerm{TopologyKey: "zone", Selector: &spec.Selector{Expressions: []spec.SelectorExpression{{Key: "a", Operator: "Gt"}}}}}}
		}, []string{apart + "[0].weight: Invalid value: 0: must be in the range 1-100", apart + `[0].podAffinityTerm.labelSelector.matchExpressions[0].operator: Invalid value: "Gt": not a valid selector operator`}},
		"a constraint":            {spreads(even), nil},
		"the same one twice":      {spreads(even, even), []string{spread + `[0].{topologyKey, whenUnsatisfiable}: Duplicate value: "{zone, DoNotSchedule}"`}},
		"nothing of a constraint": {spreads(spec.SpreadConstraint{}), []string{spread + "[0].maxSkew: Invalid value: 0: must be greater than zero", spread + "[0].topologyKey: Required value: can not be empty", spread + `[0].whenUnsatisfiable: Unsupported value: "": supported values: "DoNotSchedule", "ScheduleAnyway"`}},
		"domains":                 {uneven(func(c *spec.SpreadConstraint) { c.MinDomains = &zero }), []string{spread + "[0].minDomains: Invalid value: 0: must be greater than zero"}},
		"domains of a wish": {uneven(func(c *spec.SpreadConstraint) { c.MinDomains, c.WhenUnsatisfiable = new(int32(2)), spec.ScheduleAnyway }),
			[]string{spread + "[0].minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway"}},
		"a policy":                {uneven(func(c *spec.SpreadConstraint) { c.NodeTaintsPolicy = "Fear" }), []string{spread + `[0].nodeTaintsPolicy: Unsupported value: "Fear": supported values: "Honor", "Ignore"`}},
		"keys without a selector": {uneven(func(c *spec.SpreadConstraint) { c.Selector, c.MatchLabelKeys = nil, []string{"a"} }), []string{spread + "[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set"}},
		"keys that are asked twice": {uneven(func(c *spec.SpreadConstraint) {
			c.Selector, c.MatchLabelKeys = &spec.Selector{Labels: map[string]string{"a": "b"}}, []string{"a"}
		}), []string{spread + `[0].matchLabelKeys[0]: Invalid value: "a": exists in both matchLabelKeys and labelSelector`}},
		"too many": {func(p *spec.Pod) {
			for range 65 {
				p.Spec.Tolerations = append(p.Spec.Tolerations, spec.Toleration{Key: "a"})
			}
		}, []string{"spec.tolerations: Too many: 65: at most 64"}},
	} {
		t.Run(name, func(t *testing.T) {
			checkPod(t, tc.change, spec.Options{}, tc.want...)
		})
	}
}

func TestTaintsOfANodeAreRefusedFieldByField(t *testing.T) {
	n := &spec.Node{Meta: spec.Meta{Name: "n1"}, Taints: []spec.Taint{
		{Key: "gpu", Value: "yes", Effect: spec.NoSchedule}, {Key: "gpu", Effect: spec.NoExecute},
		{Key: "gpu", Value: "no", Effect: spec.NoSchedule}, {Key: "", Value: "!"}, {Key: "a", Effect: "Never"},
	}}
	check(t, spec.ValidateNode(n),
		`spec.taints[2]: Duplicate value: "gpu=no:NoSchedule": taints must be unique by key and effect pair`,
		`spec.taints[3].key: Invalid value: "": name part must be 1 to 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`,
		`spec.taints[3].value: Invalid value: "!": a valid label must be an empty string or at most 63 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character`,
		"spec.taints[3].effect: Required value",
		`spec.taints[4].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
	)
}
