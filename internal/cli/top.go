package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

func topCommand(o *options) *cobra.Command {
	return parent("top", "Show what uses most", topPodsCommand(o), topNodesCommand(o), topProbesCommand(o))
}

// topFlags are those of "top pods" and "top nodes".
type topFlags struct {
	containers bool
	sortBy     string
}

func (t *topFlags) sortFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.sortBy, "sort-by", "", "what uses most first: cpu or memory (default: by name)")
}

func (t *topFlags) check() error {
	if t.sortBy != "" && t.sortBy != "cpu" && t.sortBy != "memory" {
		return usagef("--sort-by %s: want cpu or memory", t.sortBy)
	}
	return nil
}

// sortUsages puts what uses most first, if that was asked for, and last what is not known.
func sortUsages[T any](t *topFlags, all []T, usage func(T) *musterv1.Usage) {
	figure := microCPU
	switch t.sortBy {
	case "":
		return
	case "memory":
		figure = memoryBytes
	}
	slices.SortStableFunc(all, func(a, b T) int { return cmp.Compare(figure(usage(b)), figure(usage(a))) })
}

// microCPU is -1 where it is not known.
func microCPU(u *musterv1.Usage) int64 { return known(u.GetMicroCpu(), u != nil && u.MicroCpu != nil) }

// memoryBytes is -1 where it is not known.
func memoryBytes(u *musterv1.Usage) int64 {
	return known(u.GetMemoryBytes(), u != nil && u.MemoryBytes != nil)
}

func known(v int64, ok bool) int64 {
	if !ok {
		return -1
	}
	return v
}

// topArgs are what the commands with a name and namespaces have in common.
func (o *options) topArgs(args []string, namespaced bool) (name string, err error) {
	if len(args) == 0 {
		return "", nil
	}
	name = args[0]
	if namespaced {
		if name, err = podName(name); err != nil {
			return "", err
		}
	}
	switch {
	case o.selector != "":
		return "", usagef("a name and -l together make no sense: leave one out")
	case o.allNamespaces:
		return "", usagef("a name and -A together make no sense: pass -n NAMESPACE")
	}
	return name, nil
}

// topNamespace is the one that is meant; empty for all.
func (o *options) topNamespace() string {
	if o.allNamespaces {
		return ""
	}
	return o.namespace
}

func topPodsCommand(o *options) *cobra.Command {
	t := &topFlags{}
	cmd := &cobra.Command{
		Use: "pods [NAME]", Aliases: []string{"pod", "po"}, Short: "Show what pods use", Args: cobra.MaximumNArgs(1),
		Example: "  muster top pods\n  muster top pods -A -l app=web",
		Long: "Show what pods use: processor time on average over the last 15 seconds, and the working set, which is all memory but\n" +
			"the file cache that was not lately used. What nobody has measured lately is <unknown>.",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := o.topArgs(args, true)
			if err == nil {
				err = t.check()
			}
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error { return topPods(ctx, o, c, t, name) })
		},
	}
	cmd.Flags().BoolVar(&t.containers, "containers", false, "show each container")
	t.sortFlag(cmd)
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	o.allNamespacesFlag(cmd)
	o.selectorFlag(cmd)
	o.outputFlag(cmd, "table", "json")
	cmd.ValidArgsFunction = completePod(o)
	return cmd
}

func topPods(ctx context.Context, o *options, c *client, t *topFlags, name string) error {
	filter := &musterv1.PodFilter{Namespace: o.topNamespace(), Name: name, LabelSelector: o.selector}
	pods, err := pages(func(token string) ([]*musterv1.PodUsage, string, error) {
		r, err := c.usages.ListPodUsages(ctx, &musterv1.ListPodUsagesRequest{Filter: filter, PageSize: pageSize, PageToken: token})
		return r.GetPods(), r.GetNextPageToken(), err
	})
	if err != nil {
		return err
	}
	if name != "" && len(pods) == 0 {
		if _, err := podKind.find(ctx, c, o.namespace, name); err != nil {
			return err
		}
	}
	sortUsages(t, pods, (*musterv1.PodUsage).GetUsage)
	if o.output == "json" {
		return o.topList(valuesOf(pods, podUsageValue))
	}
	if len(pods) == 0 {
		return o.nothing([]objectName{{kind: podKind}}, getFlags{})
	}
	header := []string{"NAME", "CPU(cores)", "MEMORY(bytes)"}
	if t.containers {
		header = append([]string{"POD"}, header...)
	}
	if o.allNamespaces {
		header = append([]string{"NAMESPACE"}, header...)
	}
	rows := [][]string{}
	add := func(p *musterv1.PodUsage, cells ...string) {
		if o.allNamespaces {
			cells = append([]string{p.GetPod().GetNamespace()}, cells...)
		}
		rows = append(rows, cells)
	}
	if !t.containers {
		for _, p := range pods {
			add(p, p.GetPod().GetName(), cores(p.GetUsage()), mebibytes(p.GetUsage()))
		}
		return table(o.world.Stdout, header, rows)
	}
	type row struct {
		pod       *musterv1.PodUsage
		container *musterv1.ContainerUsage
	}
	var each []row
	for _, p := range pods {
		for _, u := range p.GetContainers() {
			each = append(each, row{p, u})
		}
	}
	sortUsages(t, each, func(r row) *musterv1.Usage { return r.container.GetUsage() })
	for _, r := range each {
		add(r.pod, r.pod.GetPod().GetName(), r.container.GetName(), cores(r.container.GetUsage()), mebibytes(r.container.GetUsage()))
	}
	return table(o.world.Stdout, header, rows)
}

func topNodesCommand(o *options) *cobra.Command {
	t := &topFlags{}
	cmd := &cobra.Command{
		Use: "nodes [NAME]", Aliases: []string{"node", "no"}, Short: "Show what nodes use, and what muster takes of it", Args: cobra.MaximumNArgs(1),
		Example: "  muster top nodes\n  muster top nodes node-1 -o json",
		Long: "Show what nodes use: CPU and memory are the whole machine's, whatever runs there, and their share of what pods may\n" +
			"request. AGENT and SUPERVISORS are what muster itself needs of it. PROBES is how many of the last 15 s were asked late, by more\n" +
			"than a tenth of their period and 500 ms. What nobody has measured lately is <unknown>.",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := o.topArgs(args, false)
			if err == nil {
				err = t.check()
			}
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error { return topNodes(ctx, o, c, t, name) })
		},
	}
	t.sortFlag(cmd)
	o.connectFlags(cmd)
	o.selectorFlag(cmd)
	o.outputFlag(cmd, "table", "json")
	return cmd
}

func topNodes(ctx context.Context, o *options, c *client, t *topFlags, name string) error {
	nodes, err := pages(func(token string) ([]*musterv1.NodeUsage, string, error) {
		r, err := c.usages.ListNodeUsages(ctx, &musterv1.ListNodeUsagesRequest{LabelSelector: o.selector, Name: name, PageSize: pageSize, PageToken: token})
		return r.GetNodes(), r.GetNextPageToken(), err
	})
	if err != nil {
		return err
	}
	if name != "" && len(nodes) == 0 {
		return nodeKind.missing("", name)
	}
	sortUsages(t, nodes, (*musterv1.NodeUsage).GetMachine)
	if o.output == "json" {
		return o.topList(valuesOf(nodes, nodeUsageValue))
	}
	if len(nodes) == 0 {
		return o.nothing([]objectName{{kind: nodeKind}}, getFlags{})
	}
	rows := [][]string{}
	for _, n := range nodes {
		m, of := n.GetMachine(), n.GetAllocatable()
		rows = append(rows, []string{
			n.GetName(), cores(m), percent(microCPU(m), of.GetMilliCpu()*1000),
			mebibytes(m), percent(memoryBytes(m), of.GetMemoryBytes()), fmt.Sprint(n.GetPods()),
			cores(n.GetAgent()), mebibytes(n.GetAgent()), cores(n.GetSupervisors()), lateProbes(n.GetProbes()),
		})
	}
	return table(o.world.Stdout, []string{
		"NAME", "CPU(cores)", "CPU(%)", "MEMORY(bytes)", "MEMORY(%)", "PODS", "AGENT(cores)", "AGENT(bytes)", "SUPERVISORS(cores)", "PROBES(late)",
	}, rows)
}

// lateProbes is how many of the probes were asked late, and whether that is too many.
func lateProbes(l *musterv1.ProbeLateness) string {
	switch {
	case l == nil:
		return unknown
	case l.GetOverloaded():
		return fmt.Sprintf("%d of %d: overloaded", l.GetLate(), l.GetBegun())
	}
	return fmt.Sprintf("%d of %d", l.GetLate(), l.GetBegun())
}

func topProbesCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "probes [POD]", Aliases: []string{"probe"}, Short: "Show what probes cost, the dearest first", Args: cobra.MaximumNArgs(1),
		Example: "  muster top probes -A\n  muster top probes web",
		Long: "Show what probes cost, the dearest first: how often they are asked, the processor time of an attempt and of a minute, and\n" +
			"which part of the container's CPU limit that is. The time of commands is measured, and charged to their container; what\n" +
			"an httpGet or tcpSocket probe takes of the agent is not told apart and <unknown>. Figures are those of the last attempts.",
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := o.topArgs(args, true)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error { return topProbes(ctx, o, c, name) })
		},
	}
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	o.allNamespacesFlag(cmd)
	o.selectorFlag(cmd)
	o.outputFlag(cmd, "table", "json")
	cmd.ValidArgsFunction = completePod(o)
	return cmd
}

func topProbes(ctx context.Context, o *options, c *client, name string) error {
	filter := &musterv1.ProbeFilter{Namespace: o.topNamespace(), Pod: name, LabelSelector: o.selector}
	probes, err := pages(func(token string) ([]*musterv1.ProbeUsage, string, error) {
		r, err := c.usages.ListProbeUsages(ctx, &musterv1.ListProbeUsagesRequest{Filter: filter, PageSize: pageSize, PageToken: token})
		return r.GetProbes(), r.GetNextPageToken(), err
	})
	if err != nil {
		return err
	}
	if name != "" && len(probes) == 0 {
		if _, err := podKind.find(ctx, c, o.namespace, name); err != nil {
			return err
		}
	}
	price := func(p *musterv1.ProbeUsage) int64 {
		return known(int64(p.GetCpuPerMinute().AsDuration()), p.GetCpuPerMinute() != nil)
	}
	slices.SortStableFunc(probes, func(a, b *musterv1.ProbeUsage) int { return cmp.Compare(price(b), price(a)) })
	if o.output == "json" {
		return o.topList(valuesOf(probes, probeUsageValue))
	}
	if len(probes) == 0 {
		return o.nothing([]objectName{{kind: probeKind}}, getFlags{})
	}
	header := []string{"POD", "CONTAINER", "KIND", "HANDLER", "ATTEMPTS/MIN", "CPU/ATTEMPT", "CPU/MIN", "LIMIT(%)"}
	if o.allNamespaces {
		header = append([]string{"NAMESPACE"}, header...)
	}
	rows := [][]string{}
	for _, p := range probes {
		attempts, attempt, minute, share := unknown, unknown, unknown, unknown
		if p.AttemptsPerMinute != nil {
			attempts = strings.TrimSuffix(fmt.Sprintf("%.1f", p.GetAttemptsPerMinute()), ".0")
		}
		if d := p.GetCpuPerAttempt(); d != nil {
			attempt = shortDuration(d.AsDuration()).String()
		}
		if d := p.GetCpuPerMinute(); d != nil {
			minute = fmt.Sprintf("%.1fms", d.AsDuration().Seconds()*1000)
		}
		switch {
		case p.GetLimitMilliCpu() == 0:
			share = "<none>"
		case p.LimitShare != nil:
			share = fmt.Sprintf("%.1f%%", p.GetLimitShare()*100)
		}
		row := []string{p.GetPod().GetName(), p.GetContainer(), probeKindName(p.GetKind()), p.GetHandler(), attempts, attempt, minute, share}
		if o.allNamespaces {
			row = append([]string{p.GetPod().GetNamespace()}, row...)
		}
		rows = append(rows, row)
	}
	return table(o.world.Stdout, header, rows)
}

// topList prints values as get does. There is no revision: nothing of it is stored.
func (o *options) topList(values []any) error {
	return (&printer{out: o.world.Stdout, format: "json"}).value(listValue(values, 0))
}

func valuesOf[T, V any](all []T, value func(T) V) []any {
	values := make([]any, len(all))
	for i, v := range all {
		values[i] = value(v)
	}
	return values
}

// unknown is what tables show of what is not known.
const unknown = "<unknown>"

// cores are thousandths of a core, rounded up as kubectl does.
func cores(u *musterv1.Usage) string {
	if microCPU(u) < 0 {
		return unknown
	}
	return fmt.Sprintf("%dm", (microCPU(u)+999)/1000)
}

func mebibytes(u *musterv1.Usage) string {
	if memoryBytes(u) < 0 {
		return unknown
	}
	return fmt.Sprintf("%dMi", memoryBytes(u)>>20)
}

// percent is v of whole; a negative v is not known, nor a whole of 0.
func percent(v, whole int64) string {
	if v < 0 || whole <= 0 {
		return unknown
	}
	return fmt.Sprintf("%d%%", int64(float64(v)/float64(whole)*100))
}

// The JSON of top: cores are fractions, and what is not known is null.

type usageJSON struct {
	CPUCores    *float64 `json:"cpu_cores"`
	MemoryBytes *int64   `json:"memory_bytes"`
}

func usageValue(u *musterv1.Usage) usageJSON {
	var v usageJSON
	if u != nil && u.MicroCpu != nil {
		c := float64(u.GetMicroCpu()) / 1e6
		v.CPUCores = &c
	}
	if u != nil {
		v.MemoryBytes = u.MemoryBytes
	}
	return v
}

type containerUsageJSON struct {
	Name string `json:"name"`
	usageJSON
}

type podUsageJSON struct {
	Pod      podRefJSON `json:"pod"`
	Node     string     `json:"node"`
	Time     *string    `json:"time"`
	WindowMS *float64   `json:"window_ms"`
	usageJSON
	Containers []containerUsageJSON `json:"containers"`
}

func podUsageValue(p *musterv1.PodUsage) podUsageJSON {
	v := podUsageJSON{
		Pod: podRefJSON{p.GetPod().GetNamespace(), p.GetPod().GetName(), p.GetPod().GetUid()}, Node: p.GetNode(),
		Time: timeText(p.GetTime()), WindowMS: millis(p.GetWindow()), usageJSON: usageValue(p.GetUsage()), Containers: []containerUsageJSON{},
	}
	for _, c := range p.GetContainers() {
		v.Containers = append(v.Containers, containerUsageJSON{c.GetName(), usageValue(c.GetUsage())})
	}
	return v
}

type nodeUsageJSON struct {
	Name     string   `json:"name"`
	Time     *string  `json:"time"`
	WindowMS *float64 `json:"window_ms"`
	usageJSON
	AllocatableCPUCores    *float64  `json:"allocatable_cpu_cores"`
	AllocatableMemoryBytes *int64    `json:"allocatable_memory_bytes"`
	Pods                   int32     `json:"pods"`
	Agent                  usageJSON `json:"agent"`
	Supervisors            usageJSON `json:"supervisors"`
	// Probes is nil while nothing is known.
	Probes *latenessJSON `json:"probes"`
}

type latenessJSON struct {
	Begun      int64    `json:"begun"`
	Late       int64    `json:"late"`
	MostMS     *float64 `json:"most_ms"`
	Overloaded bool     `json:"overloaded"`
}

func nodeUsageValue(n *musterv1.NodeUsage) nodeUsageJSON {
	v := nodeUsageJSON{
		Name: n.GetName(), Time: timeText(n.GetTime()), WindowMS: millis(n.GetWindow()), usageJSON: usageValue(n.GetMachine()),
		Pods: n.GetPods(), Agent: usageValue(n.GetAgent()), Supervisors: usageValue(n.GetSupervisors()),
	}
	if of := n.GetAllocatable(); of != nil {
		c, m := float64(of.GetMilliCpu())/1000, of.GetMemoryBytes()
		v.AllocatableCPUCores, v.AllocatableMemoryBytes = &c, &m
	}
	if l := n.GetProbes(); l != nil {
		v.Probes = &latenessJSON{Begun: l.GetBegun(), Late: l.GetLate(), MostMS: millis(l.GetMost()), Overloaded: l.GetOverloaded()}
	}
	return v
}

type probeUsageJSON struct {
	Pod               podRefJSON `json:"pod"`
	Node              string     `json:"node"`
	Container         string     `json:"container"`
	Kind              string     `json:"kind"`
	Handler           string     `json:"handler"`
	AttemptsPerMinute *float64   `json:"attempts_per_minute"`
	CPUPerAttemptUS   *float64   `json:"cpu_per_attempt_us"`
	CPUPerMinuteMS    *float64   `json:"cpu_per_minute_ms"`
	// LimitCPUCores is null where there is no limit.
	LimitCPUCores *float64 `json:"limit_cpu_cores"`
	LimitShare    *float64 `json:"limit_share"`
}

func probeUsageValue(p *musterv1.ProbeUsage) probeUsageJSON {
	v := probeUsageJSON{
		Pod:  podRefJSON{p.GetPod().GetNamespace(), p.GetPod().GetName(), p.GetPod().GetUid()},
		Node: p.GetNode(), Container: p.GetContainer(), Kind: probeKindName(p.GetKind()), Handler: p.GetHandler(),
		AttemptsPerMinute: p.AttemptsPerMinute, CPUPerAttemptUS: micros(p.GetCpuPerAttempt()), CPUPerMinuteMS: millis(p.GetCpuPerMinute()),
		LimitShare: p.LimitShare,
	}
	if l := p.GetLimitMilliCpu(); l > 0 {
		c := float64(l) / 1000
		v.LimitCPUCores = &c
	}
	return v
}
