package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

func describeCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "describe TYPE [NAME…] | TYPE/NAME…", Short: "Tell all about objects", Args: needsType,
		Example: "  muster describe pod web\n  muster describe node/node-1 deployment/site",
		RunE:    func(cmd *cobra.Command, args []string) error { return runDescribe(cmd.Context(), o, args) },
	}
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	o.allNamespacesFlag(cmd)
	o.selectorFlag(cmd)
	cmd.ValidArgsFunction = completeObjects(o)
	return cmd
}

func runDescribe(ctx context.Context, o *options, args []string) error {
	objects, err := parseObjects(args)
	if err != nil {
		return err
	}
	for _, obj := range objects {
		if obj.kind.writes == nil && obj.kind != nodeKind && obj.kind != endpointsKind {
			return usagef(`describe does not know %s: use "muster get %s -o yaml"`, obj.kind.plural, obj.kind.plural)
		}
	}
	return o.with(ctx, func(ctx context.Context, c *client) error {
		first := true
		for _, obj := range objects {
			names := []item{{namespace: o.namespace, name: obj.name}}
			if obj.name == "" {
				q, err := o.query(obj.kind, getFlags{})
				if err != nil {
					return err
				}
				if names, _, err = obj.kind.list(ctx, c, q); err != nil {
					return err
				}
				if len(names) == 0 {
					if err := o.nothing([]objectName{obj}, getFlags{}); err != nil {
						return err
					}
				}
			}
			for _, n := range names {
				text, err := describe(ctx, c, doomed{obj.kind, n.namespace, n.name})
				if err != nil {
					return err
				}
				if !first {
					text = "\n\n" + text
				}
				first = false
				if _, err := io.WriteString(o.world.Stdout, text); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func describe(ctx context.Context, c *client, t doomed) (string, error) {
	var d description
	events := &musterv1.EventFilter{Namespace: t.namespace, Kind: t.kind.title, Name: t.name}
	switch t.kind {
	case podKind:
		r, err := c.pods.GetPod(ctx, &musterv1.GetPodRequest{Namespace: t.namespace, Name: t.name})
		if err != nil {
			return "", t.named(err)
		}
		probes, err := probeStates(ctx, c, t)
		if err != nil {
			return "", err
		}
		d.pod(r.GetPod(), probes)
		if r.GetPod().GetNode() == "" && r.GetPod().GetMeta().GetDeleteTime() == nil {
			fits, err := c.placement.ExplainPod(ctx, &musterv1.ExplainPodRequest{Namespace: t.namespace, Name: t.name})
			if err != nil && !isCode(err, codes.NotFound) && !isCode(err, codes.Unimplemented) {
				return "", err
			}
			d.fits(fits.GetNodes())
		}
	case nodeKind:
		r, err := c.nodes.GetNode(ctx, &musterv1.GetNodeRequest{Name: t.name})
		if err != nil {
			return "", t.named(err)
		}
		pods, _, err := listPods(ctx, c, &musterv1.PodFilter{Node: t.name})
		if err != nil {
			return "", err
		}
		used, err := c.usages.ListNodeUsages(ctx, &musterv1.ListNodeUsagesRequest{Name: t.name})
		if err != nil && !isCode(err, codes.Unimplemented) {
			return "", err
		}
		var late *musterv1.ProbeLateness
		if len(used.GetNodes()) == 1 {
			late = used.GetNodes()[0].GetProbes()
		}
		events.Namespace = ""
		d.node(r.GetNode(), pods, late)
	case serviceKind, endpointsKind:
		e, err := c.endpoints.GetEndpoints(ctx, &musterv1.GetEndpointsRequest{Namespace: t.namespace, Name: t.name})
		if err != nil {
			return "", t.named(err)
		}
		s, err := c.services.GetService(ctx, &musterv1.GetServiceRequest{Namespace: t.namespace, Name: t.name})
		if err != nil {
			return "", t.named(err)
		}
		d.service(s.GetService(), e.GetEndpoints())
	case configMapKind:
		r, err := c.configMaps.GetConfigMap(ctx, &musterv1.GetConfigMapRequest{Namespace: t.namespace, Name: t.name})
		if err != nil {
			return "", t.named(err)
		}
		d.config(r.GetConfigMap().GetMeta(), r.GetConfigMap().GetData(), sizesOf(r.GetConfigMap().GetBinaryData()))
	case secretKind:
		r, err := c.secrets.GetSecret(ctx, &musterv1.GetSecretRequest{Namespace: t.namespace, Name: t.name})
		if err != nil {
			return "", t.named(err)
		}
		d.config(r.GetSecret().GetMeta(), nil, sizesOf(r.GetSecret().GetData()))
	case budgetKind:
		r, err := c.budgets.GetPodDisruptionBudget(ctx, &musterv1.GetPodDisruptionBudgetRequest{Namespace: t.namespace, Name: t.name})
		if err != nil {
			return "", t.named(err)
		}
		d.budget(r.GetPodDisruptionBudget())
	default:
		r, err := c.deployments.GetDeployment(ctx, &musterv1.GetDeploymentRequest{Namespace: t.namespace, Name: t.name})
		if err != nil {
			return "", t.named(err)
		}
		d.deployment(r.GetDeployment())
	}
	list, _, err := listEvents(ctx, c, events)
	if err != nil {
		return "", err
	}
	d.events(list)
	return d.b.String(), nil
}

// probeStates are what is believed of a pod's probes, by container and kind.
func probeStates(ctx context.Context, c *client, t doomed) (map[string]*musterv1.ProbeState, error) {
	all, err := pages(func(token string) ([]*musterv1.ProbeState, string, error) {
		r, err := c.probes.ListProbes(ctx, &musterv1.ListProbesRequest{Filter: &musterv1.ProbeFilter{Namespace: t.namespace, Pod: t.name}, PageSize: pageSize, PageToken: token})
		return r.GetProbes(), r.GetNextPageToken(), err
	})
	by := map[string]*musterv1.ProbeState{}
	for _, p := range all {
		by[p.GetContainer()+"/"+probeKindName(p.GetKind())] = p
	}
	return by, err
}

// description is text under way.
type description struct {
	b strings.Builder
}

// line is "key:   value", indented by two blanks a level; further values go below the first.
func (d *description) line(level int, key string, values ...string) {
	indent := strings.Repeat("  ", level)
	if len(values) == 0 {
		values = []string{"<none>"}
	}
	for i, v := range values {
		head := key + ":"
		if i > 0 {
			head = ""
		}
		text := fmt.Sprintf("%s%-*s %s", indent, 17-len(indent), head, oneLine(v))
		d.b.WriteString(strings.TrimRight(text, " ") + "\n")
	}
}

// head is a line that only has a name and a colon.
func (d *description) head(level int, name string) {
	fmt.Fprintf(&d.b, "%s%s:\n", strings.Repeat("  ", level), name)
}

func (d *description) meta(m *musterv1.ObjectMeta) {
	d.line(0, "Name", m.GetName())
	if m.GetNamespace() != "" {
		d.line(0, "Namespace", m.GetNamespace())
	}
	d.line(0, "UID", orNone(m.GetUid()))
	d.line(0, "Created", when(m.GetCreateTime()))
	if m.GetDeleteTime() != nil {
		d.line(0, "Deleting", fmt.Sprintf("since %s, grace %v", when(m.GetDeleteTime()), m.GetDeleteGrace().AsDuration()))
	}
	d.line(0, "Labels", labelTerms(m.GetLabels())...)
	d.line(0, "Annotations", labelTerms(m.GetAnnotations())...)
	if o := m.GetOwner(); o != nil {
		d.line(0, "Controlled By", o.GetKind()+"/"+o.GetName())
	}
}

func (d *description) pod(p *musterv1.Pod, probes map[string]*musterv1.ProbeState) {
	s := p.GetStatus()
	d.meta(p.GetMeta())
	d.line(0, "Node", orNone(p.GetNode()))
	d.line(0, "Status", podStatus(p))
	if s.GetMessage() != "" {
		d.line(0, "Message", s.GetMessage())
	}
	d.line(0, "Pod IP", orNone(s.GetPodIp()))
	d.line(0, "Started", when(s.GetStartTime()))
	failover := failoverClass(p.GetFailoverClass())
	if s.GetFence() != "" {
		failover += ", fenced by " + s.GetFence()
	}
	d.line(0, "Failover", failover)
	if p.GetEpoch() != 0 {
		d.line(0, "Epoch", fmt.Sprint(p.GetEpoch()))
	}
	d.line(0, "Restart Policy", restartPolicy(p.GetSpec().GetRestartPolicy()))
	seen := map[string]*musterv1.ContainerStatus{}
	for _, cs := range slices.Concat(s.GetInitContainers(), s.GetContainers()) {
		seen[cs.GetName()] = cs
	}
	if inits := p.GetSpec().GetInitContainers(); len(inits) > 0 {
		d.head(0, "Init Containers")
		for _, c := range inits {
			d.container(c, seen[c.GetName()], probes)
		}
	}
	d.head(0, "Containers")
	for _, c := range p.GetSpec().GetContainers() {
		d.container(c, seen[c.GetName()], probes)
	}
	if v := p.GetSpec().GetVolumes(); len(v) > 0 {
		d.head(0, "Volumes")
		for _, vol := range v {
			d.line(1, vol.GetName(), volumeText(vol))
		}
	}
	if sel := p.GetSpec().GetNodeSelector(); len(sel) > 0 {
		d.line(0, "Node Selector", labelTerms(sel)...)
	}
	d.placement(p.GetSpec())
	d.conditions(s.GetConditions())
}

// maxFits is how many nodes are listed that a pod does not fit.
const maxFits = 50

// fits says of each node why a pod that waits does not fit it.
func (d *description) fits(nodes []*musterv1.NodeFit) {
	var lines []string
	for _, n := range nodes[:min(len(nodes), maxFits)] {
		why := n.GetRefusal()
		if why == "" {
			why = "fits"
		}
		lines = append(lines, n.GetNode()+": "+why)
	}
	if more := len(nodes) - maxFits; more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more nodes", more))
	}
	d.line(0, "Nodes", lines...)
}

// volumeText says where a volume's files are.
func volumeText(v *musterv1.Volume) string {
	if f := v.GetFiles(); f != nil {
		var from []string
		for _, s := range f.GetSources() {
			from = append(from, strings.TrimSpace(s.GetKind()+" "+s.GetName()))
		}
		return "files of " + strings.Join(from, ", ")
	}
	e := v.GetEmptyDir()
	if e == nil {
		return strings.TrimSpace("hostPath " + v.GetHostPath() + " " + v.GetHostPathType())
	}
	text := "emptyDir"
	if e.GetMemory() {
		text += " in memory"
	}
	if n := e.GetSizeLimitBytes(); n > 0 {
		text += fmt.Sprintf(", at most %d bytes", n)
	}
	return text
}

func (d *description) container(c *musterv1.Container, cs *musterv1.ContainerStatus, probes map[string]*musterv1.ProbeState) {
	d.head(1, c.GetName())
	if c.GetImage() != "" {
		d.line(2, "Image", c.GetImage())
	}
	d.line(2, "Command", quoteArgs(append(slices.Clone(c.GetCommand()), c.GetArgs()...)))
	if cs.GetId() != "" {
		d.line(2, "ID", cs.GetId())
	}
	d.line(2, "State", containerState(cs.GetState())...)
	if l := cs.GetLast(); l.GetState() != nil {
		d.line(2, "Last State", containerState(l)...)
	}
	d.line(2, "Ready", fmt.Sprint(cs.GetReady()))
	d.line(2, "Restarts", fmt.Sprint(cs.GetRestarts()))
	for _, port := range c.GetPorts() {
		d.line(2, "Port", strings.TrimSpace(fmt.Sprintf("%d/%s %s", port.GetNumber(), port.GetProtocol(), port.GetName())))
	}
	if r := c.GetRequests(); r.GetMilliCpu() != 0 || r.GetMemoryBytes() != 0 {
		d.line(2, "Requests", resources(r))
	}
	if r := c.GetLimits(); r.GetMilliCpu() != 0 || r.GetMemoryBytes() != 0 {
		d.line(2, "Limits", resources(r))
	}
	for _, k := range probesOf(c) {
		lines := []string{probeText(k.probe)}
		if st := probes[c.GetName()+"/"+strings.ToLower(k.name)]; st != nil {
			lines = append(lines, fmt.Sprintf("%s for %s, last: %s", probeResult(st.GetVerdict()), age(st.GetSince()), probeLast(st)))
		}
		d.line(2, k.name, lines...)
	}
	if env := c.GetEnv(); len(env) > 0 {
		d.head(2, "Environment")
		for _, e := range env {
			value := e.GetValue()
			if e.GetFieldPath() != "" {
				value = "(" + e.GetFieldPath() + ")"
			}
			d.line(3, e.GetName(), value)
		}
	}
	for _, m := range c.GetMounts() {
		d.line(2, "Mount", m.GetPath()+" from "+m.GetVolume())
	}
}

func (d *description) node(n *musterv1.Node, pods []*musterv1.Pod, late *musterv1.ProbeLateness) {
	f, s, l := n.GetFacts(), n.GetStatus(), n.GetLease()
	d.meta(n.GetMeta())
	d.line(0, "Verdict", fmt.Sprintf("%s since %s", nodeVerdict(s.GetVerdict()), when(s.GetSince())))
	if s.GetCause() != "" {
		d.line(0, "Cause", s.GetCause())
	}
	d.line(0, "Unschedulable", fmt.Sprint(n.GetUnschedulable()))
	d.line(0, "Taints", taintTexts(n.GetTaints())...)
	session := "down"
	if n.GetSessionUp() {
		session = "up"
	}
	d.line(0, "Session", session)
	d.line(0, "Member", orNone(s.GetMember()))
	d.line(0, "Lease", fmt.Sprintf("%s, %v, session %d", leaseState(l.GetState()), l.GetTtl().AsDuration(), l.GetSession()))
	probes := "late " + lateProbes(late)
	if late.GetBegun() > 0 {
		probes += fmt.Sprintf(", the latest by %v", late.GetMost().AsDuration().Round(time.Millisecond))
	}
	d.line(0, "Probes", probes)
	d.line(0, "Address", orNone(f.GetAddress()))
	d.line(0, "Guard", orNone(f.GetGuardAddress()))
	d.line(0, "Gossip", orNone(f.GetGossipAddress()))
	d.line(0, "HTTP", orNone(f.GetHttpAddress()))
	d.line(0, "Pod Network", orNone(cmp.Or(n.GetPodCidr(), f.GetPodNet())))
	d.line(0, "Runtimes", orNone(strings.Join(f.GetRuntimes(), ",")))
	d.line(0, "Isolation", orNone(f.GetIsolation()))
	d.line(0, "Images", orNone(f.GetImages()))
	d.line(0, "Allocatable", fmt.Sprintf("%s, %d pods", resources(f.GetAllocatable()), f.GetMaxPods()))
	d.line(0, "System", fmt.Sprintf("%s/%s, kernel %s, muster %s", f.GetOs(), f.GetArch(), f.GetKernel(), f.GetVersion()))
	d.line(0, "Boot ID", orNone(f.GetBootId()))
	if len(pods) == 0 {
		d.line(0, "Pods")
		return
	}
	d.head(0, "Pods")
	rows := [][]string{{"  NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "FAILOVER"}}
	for _, p := range pods {
		rows = append(rows, []string{"  " + p.GetMeta().GetNamespace(), p.GetMeta().GetName(), podReady(p), podStatus(p), podRestarts(p), failoverClass(p.GetFailoverClass())})
	}
	d.b.WriteString(align(rows, widthsOf(rows)))
}

func (d *description) deployment(x *musterv1.Deployment) {
	s := x.GetStatus()
	d.meta(x.GetMeta())
	d.line(0, "Selector", selectorText(x.GetSpec().GetSelector()))
	d.line(0, "Replicas", fmt.Sprintf("%d wanted, %d there, %d up to date, %d ready, %d available",
		replicas(x), s.GetReplicas(), s.GetUpdatedReplicas(), s.GetReadyReplicas(), s.GetAvailableReplicas()))
	d.rollout(x)
	d.template(x.GetSpec().GetTemplate())
	d.conditions(s.GetConditions())
}

// rollout is how a Deployment's pods are replaced.
func (d *description) rollout(x *musterv1.Deployment) {
	s := x.GetSpec()
	strategy := strategyType(s.GetStrategy().GetType())
	if s.GetStrategy().GetType() != musterv1.DeploymentStrategy_TYPE_RECREATE {
		strategy += fmt.Sprintf(", %s max unavailable, %s max surge", bound(s.GetStrategy().GetMaxUnavailable()), bound(s.GetStrategy().GetMaxSurge()))
	}
	d.line(0, "Strategy", strategy)
	if t := s.GetMinReady().AsDuration(); t > 0 {
		d.line(0, "Min Ready", t.String())
	}
	if s.GetPaused() {
		d.line(0, "Paused", "true")
	}
	if n := x.GetStatus().GetRevision(); n > 0 {
		d.line(0, "Revision", fmt.Sprint(n))
	}
	guard := guardText(x)
	if g, on := guardOf(x); on {
		guard += fmt.Sprintf(": no more than %d%% of the pods are restarted by liveness within %v; held for at most %v", g.Share, g.Window, g.ReleaseAfter)
	}
	d.line(0, "Restart Guard", guard)
}

// template is what pods are made from.
func (d *description) template(t *musterv1.PodTemplate) {
	d.head(0, "Pod Template")
	d.line(1, "Labels", labelTerms(t.GetLabels())...)
	if len(t.GetAnnotations()) > 0 {
		d.line(1, "Annotations", labelTerms(t.GetAnnotations())...)
	}
	for _, c := range t.GetSpec().GetInitContainers() {
		d.line(1, "Init Container", c.GetName()+": "+quoteArgs(append(slices.Clone(c.GetCommand()), c.GetArgs()...)))
	}
	for _, c := range t.GetSpec().GetContainers() {
		d.line(1, "Container", c.GetName()+": "+quoteArgs(append(slices.Clone(c.GetCommand()), c.GetArgs()...)))
		for _, k := range probesOf(c) {
			d.line(2, k.name, probeText(k.probe))
		}
	}
}

func (d *description) conditions(conditions []*musterv1.Condition) {
	if len(conditions) == 0 {
		return
	}
	d.head(0, "Conditions")
	rows := [][]string{{"  TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"}}
	for _, c := range conditions {
		rows = append(rows, []string{"  " + c.GetType(), c.GetStatus(), age(c.GetTransitionTime()), c.GetReason(), oneLine(c.GetMessage())})
	}
	d.b.WriteString(trimLines(align(rows, widthsOf(rows))))
}

func (d *description) events(events []*musterv1.Event) {
	if len(events) == 0 {
		d.line(0, "Events")
		return
	}
	d.head(0, "Events")
	rows := [][]string{{"  TYPE", "REASON", "AGE", "FROM", "MESSAGE"}}
	for _, e := range events {
		seen := age(e.GetLastTime())
		if e.GetCount() > 1 {
			seen += fmt.Sprintf(" (x%d over %s)", e.GetCount(), age(e.GetFirstTime()))
		}
		rows = append(rows, []string{"  " + e.GetType(), e.GetReason(), seen, e.GetSource(), oneLine(e.GetMessage())})
	}
	d.b.WriteString(align(rows, widthsOf(rows)))
}

// trimLines takes the blanks off the ends of lines.
func trimLines(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

// when is a time for people, with how long ago it was.
func when(t *timestamppb.Timestamp) string {
	if t == nil {
		return "<none>"
	}
	return fmt.Sprintf("%s (%s ago)", t.AsTime().Local().Format(time.DateTime), age(t))
}

func quoteArgs(args []string) string {
	if len(args) == 0 {
		return "<none>"
	}
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = a
		if a == "" || strings.ContainsAny(a, " \t\n\"'\\$`;&|<>()*?[]{}~#!") {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

func containerState(s *musterv1.ContainerState) []string {
	switch {
	case s.GetRunning() != nil:
		return []string{"Running since " + when(s.GetRunning().GetStartedAt())}
	case s.GetTerminated() != nil:
		t := s.GetTerminated()
		how := fmt.Sprintf("exit code %d", t.GetExitCode())
		if t.GetSignal() != 0 {
			how = fmt.Sprintf("signal %d", t.GetSignal())
		}
		lines := []string{fmt.Sprintf("Terminated: %s, %s, %s", t.GetReason(), how, when(t.GetFinishedAt()))}
		if t.GetMessage() != "" {
			lines = append(lines, t.GetMessage())
		}
		return lines
	}
	w := s.GetWaiting()
	lines := []string{strings.TrimSuffix("Waiting: "+w.GetReason(), ": ")}
	if w.GetMessage() != "" {
		lines = append(lines, w.GetMessage())
	}
	return lines
}

func resources(r *musterv1.ResourceList) string {
	return fmt.Sprintf("cpu %dm, memory %dMi", r.GetMilliCpu(), r.GetMemoryBytes()>>20)
}

// probeText is a probe in one line: the question, then its times.
func probeText(p *musterv1.Probe) string {
	port := func(r *musterv1.PortReference) string {
		if r.GetName() != "" {
			return r.GetName()
		}
		return fmt.Sprint(r.GetNumber())
	}
	question := ""
	switch h := p.GetHandler().(type) {
	case *musterv1.Probe_Exec:
		question = "exec " + quoteArgs(h.Exec.GetCommand())
	case *musterv1.Probe_HttpGet:
		scheme := h.HttpGet.GetScheme()
		if scheme == "" {
			scheme = "HTTP"
		}
		question = fmt.Sprintf("%s GET %s:%s%s", scheme, h.HttpGet.GetHost(), port(h.HttpGet.GetPort()), h.HttpGet.GetPath())
	case *musterv1.Probe_TcpSocket:
		question = fmt.Sprintf("TCP %s:%s", h.TcpSocket.GetHost(), port(h.TcpSocket.GetPort()))
	case *musterv1.Probe_Grpc:
		question = fmt.Sprintf("gRPC :%d %s", h.Grpc.GetPort(), h.Grpc.GetService())
	}
	return fmt.Sprintf("%s delay=%v timeout=%v period=%v success=%d failure=%d", question, p.GetInitialDelay().AsDuration(),
		p.GetTimeout().AsDuration(), p.GetPeriod().AsDuration(), p.GetSuccessThreshold(), p.GetFailureThreshold())
}

// kindProbe is one probe of a container and its kind's name.
type kindProbe struct {
	name  string
	probe *musterv1.Probe
}

// probesOf are the probes that a container has.
func probesOf(c *musterv1.Container) []kindProbe {
	return slices.DeleteFunc([]kindProbe{{"Liveness", c.GetLiveness()}, {"Readiness", c.GetReadiness()}, {"Startup", c.GetStartup()}},
		func(k kindProbe) bool { return k.probe == nil })
}
