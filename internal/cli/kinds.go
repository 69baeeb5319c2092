package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// item is one object as the command line handles it.
type item struct {
	kind            *kind
	namespace, name string
	uid             string
	// cells are one for each column of the kind, wide ones included.
	cells []string
	// value is what -o json shows.
	value func() any
}

// ref is "pod/web".
func (i *item) ref() string { return i.kind.singular + "/" + i.name }

// column is one column of a table.
type column struct {
	name string
	wide bool
}

// query says which objects of a kind are wanted.
type query struct {
	// namespace is empty for all of them.
	namespace string
	// name is empty for any.
	name     string
	selector string
	// These narrow probes only.
	failing   bool
	container string
	probe     musterv1.ProbeKind
	// involved narrows events to those of one object: its kind and name.
	involved objectName
}

// change is one message of a watch.
type change struct {
	what musterv1.ChangeType
	// item is unset when what is SYNCED.
	item item
	// revision is where to go on; 0 where a watch cannot.
	revision int64
}

// kind is one type of object that can be asked for.
type kind struct {
	// title is the API's name, singular and plural those of the command line.
	title, singular, plural string
	short                   []string
	namespaced              bool
	columns                 []column
	// lists returns all that match, in the order they are shown, and the revision to watch from.
	lists func(context.Context, *client, query) ([]item, int64, error)
	// watches tells what matches and then what changes; nil where there is no such call.
	watches func(context.Context, *client, query, int64) (func() (change, error), error)
	// writes is how objects of the kind are stored and deleted; nil where manifests make none.
	writes *writer
	// gets returns one; nil where list has to do. Its error is NotFound when there is none.
	gets func(ctx context.Context, c *client, namespace, name string) (item, error)
	// edits reads one, has change make what it likes of its labels and annotations, and stores it, unless it was changed
	// meanwhile (REVISION_CONFLICT). It returns the metadata as stored, or change's error. Nil where neither can be changed.
	edits func(ctx context.Context, c *client, namespace, name string, change func(*musterv1.ObjectMeta) error) (*musterv1.ObjectMeta, error)
}

// writer stores the objects of one kind, as the messages of the API.
type writer struct {
	// tries has the coordinator check a creation without storing anything, and returns what would be stored.
	tries func(ctx context.Context, c *client, object proto.Message) (would item, warnings []string, err error)
	// updates creates or updates, or only checks that, and says what it did, and what is stored or would be.
	updates func(ctx context.Context, c *client, object proto.Message, validateOnly bool) (would item, did musterv1.WriteResult, warnings []string, err error)
	// removes asks for deletion, and returns the uid of what goes. Pods and nodes are deleted in ways of their own.
	removes func(ctx context.Context, c *client, namespace, name string) (uid string, err error)
}

func (k *kind) list(ctx context.Context, c *client, q query) ([]item, int64, error) {
	items, revision, err := k.lists(ctx, c, q)
	for i := range items {
		items[i].kind = k
	}
	return items, revision, err
}

func (k *kind) watch(ctx context.Context, c *client, q query, revision int64) (func() (change, error), error) {
	next, err := k.watches(ctx, c, q, revision)
	if err != nil {
		return nil, err
	}
	return func() (change, error) {
		ch, err := next()
		ch.item.kind = k
		return ch, err
	}, nil
}

func (k *kind) get(ctx context.Context, c *client, namespace, name string) (item, error) {
	i, err := k.gets(ctx, c, namespace, name)
	i.kind = k
	return i, err
}

// kinds are the types that are built.
var kinds = []*kind{
	podKind, deploymentKind, serviceKind, endpointsKind, configMapKind, secretKind, budgetKind, nodeKind, eventKind, memberKind, probeKind, failoverKind,
}

// allKinds are what "all" stands for: what users run.
var allKinds = []*kind{podKind, serviceKind, deploymentKind}

// unbuiltKinds are refused by name.
var unbuiltKinds = map[string]string{
	"daemonsets": "daemonsets", "daemonset": "daemonsets", "ds": "daemonsets",
	"statefulsets": "statefulsets", "statefulset": "statefulsets", "sts": "statefulsets",
	"namespaces": "namespaces", "namespace": "namespaces", "ns": "namespaces",
}

// kindOf finds a type by any of its names, in any case, also with a group ("deployments.apps").
func kindOf(word string) (*kind, error) {
	name, _, _ := strings.Cut(strings.ToLower(word), ".")
	for _, k := range kinds {
		if name == k.singular || name == k.plural || slices.Contains(k.short, name) {
			return k, nil
		}
	}
	if plural, ok := unbuiltKinds[name]; ok {
		return nil, &unbuiltError{plural, true}
	}
	var names []string
	for _, k := range kinds {
		names = append(names, k.plural)
	}
	return nil, usagef("unknown type %q: there is %s", word, strings.Join(names, ", "))
}

// objectName names an object; name is empty for all of the kind.
type objectName struct {
	kind *kind
	name string
}

// parseObjects understands TYPE, TYPE[,TYPE…] NAME…, TYPE/NAME…, and all.
func parseObjects(args []string) ([]objectName, error) {
	if len(args) == 0 {
		return nil, usagef("a type is missing")
	}
	var objects []objectName
	if strings.Contains(args[0], "/") {
		for _, a := range args {
			word, name, ok := strings.Cut(a, "/")
			if !ok || word == "" || name == "" {
				return nil, usagef("%q: want TYPE/NAME, as in the others", a)
			}
			k, err := kindOf(word)
			if err != nil {
				return nil, err
			}
			objects = append(objects, objectName{k, name})
		}
		return objects, nil
	}
	for word := range strings.SplitSeq(args[0], ",") {
		if strings.EqualFold(word, "all") {
			if len(args) > 1 {
				return nil, usagef("all, and a name: which type is it of? want TYPE NAME or TYPE/NAME")
			}
			for _, k := range allKinds {
				objects = append(objects, objectName{k, ""})
			}
			continue
		}
		k, err := kindOf(word)
		if err != nil {
			return nil, err
		}
		if len(args) == 1 {
			objects = append(objects, objectName{k, ""})
		}
		for _, name := range args[1:] {
			if name == "" || strings.Contains(name, "/") {
				return nil, usagef("%q: a name has no slash: want TYPE NAME or TYPE/NAME", name)
			}
			objects = append(objects, objectName{k, name})
		}
	}
	return objects, nil
}

// find returns one object; a missing one is an error that is NotFound.
func (k *kind) find(ctx context.Context, c *client, namespace, name string) (item, error) {
	if k.gets != nil {
		i, err := k.get(ctx, c, namespace, name)
		if isCode(err, codes.NotFound) {
			return i, k.missing(namespace, name)
		}
		return i, err
	}
	items, _, err := k.list(ctx, c, query{namespace: namespace, name: name})
	if err != nil {
		return item{}, err
	}
	if len(items) == 0 {
		return item{}, k.missing(namespace, name)
	}
	return items[0], nil
}

// missingError says that there is no such object.
type missingError struct {
	kind            *kind
	namespace, name string
}

func (k *kind) missing(namespace, name string) error { return &missingError{k, namespace, name} }

func (e *missingError) Error() string {
	if !e.kind.namespaced {
		return fmt.Sprintf(`%s %q not found: "muster get %s" lists them`, e.kind.singular, e.name, e.kind.plural)
	}
	return fmt.Sprintf(`%s %q not found in namespace %q: "muster get %s -A" lists them`, e.kind.singular, e.name, e.namespace, e.kind.plural)
}

// GRPCStatus makes it NotFound like the coordinator's own.
func (e *missingError) GRPCStatus() *status.Status { return status.New(codes.NotFound, e.Error()) }

// pages calls list until the last page.
func pages[T any](list func(token string) (objects []T, next string, err error)) ([]T, error) {
	var all []T
	for token := ""; ; {
		page, next, err := list(token)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if next == "" {
			return all, nil
		}
		token = next
	}
}

const pageSize = 1000

// itemsOf turns objects into items.
func itemsOf[T any](objects []T, of func(T) item) []item {
	items := make([]item, len(objects))
	for i, o := range objects {
		items[i] = of(o)
	}
	return items
}

// received is what the messages of all watches have in common.
type received interface {
	GetType() musterv1.ChangeType
}

// changes turns a stream into a function that returns the next change.
func changes[M any, P interface {
	*M
	received
}](stream grpc.ServerStreamingClient[M], err error, of func(P) item) (func() (change, error), error) {
	if err != nil {
		return nil, err
	}
	return func() (change, error) {
		m, err := stream.Recv()
		if err != nil {
			return change{}, err
		}
		ch := change{what: P(m).GetType()}
		if at, ok := any(m).(interface{ GetRevision() int64 }); ok {
			ch.revision = at.GetRevision()
		}
		if ch.what != musterv1.ChangeType_CHANGE_TYPE_SYNCED {
			ch.item = of(P(m))
		}
		return ch, nil
	}, nil
}

var podKind = &kind{
	title: "Pod", singular: "pod", plural: "pods", short: []string{"po"}, namespaced: true,
	columns: []column{{name: "NAME"}, {name: "READY"}, {name: "STATUS"}, {name: "RESTARTS"}, {name: "AGE"}, {"IP", true}, {"NODE", true}, {"FAILOVER", true}},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		pods, revision, err := listPods(ctx, c, podFilter(q))
		return itemsOf(pods, podItem), revision, err
	},
	watches: func(ctx context.Context, c *client, q query, revision int64) (func() (change, error), error) {
		s, err := c.pods.WatchPods(ctx, &musterv1.WatchPodsRequest{Filter: podFilter(q), Revision: revision})
		return changes(s, err, func(m *musterv1.WatchPodsResponse) item { return podItem(m.GetPod()) })
	},
	writes: &writer{
		tries: func(ctx context.Context, c *client, object proto.Message) (item, []string, error) {
			r, err := c.pods.CreatePod(ctx, &musterv1.CreatePodRequest{Pod: object.(*musterv1.Pod), ValidateOnly: true})
			return podItem(r.GetPod()), r.GetWarnings(), err
		},
		updates: func(ctx context.Context, c *client, object proto.Message, validateOnly bool) (item, musterv1.WriteResult, []string, error) {
			r, err := c.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: object.(*musterv1.Pod), AllowMissing: true, ValidateOnly: validateOnly})
			return podItem(r.GetPod()), r.GetResult(), r.GetWarnings(), err
		},
	},
	gets: func(ctx context.Context, c *client, namespace, name string) (item, error) {
		r, err := c.pods.GetPod(ctx, &musterv1.GetPodRequest{Namespace: namespace, Name: name})
		return podItem(r.GetPod()), err
	},
	edits: editing(
		func(ctx context.Context, c *client, namespace, name string) (*musterv1.Pod, error) {
			r, err := c.pods.GetPod(ctx, &musterv1.GetPodRequest{Namespace: namespace, Name: name})
			return r.GetPod(), err
		},
		func(ctx context.Context, c *client, object *musterv1.Pod) (*musterv1.Pod, error) {
			r, err := c.pods.UpdatePod(ctx, &musterv1.UpdatePodRequest{Pod: object})
			return r.GetPod(), err
		},
	),
}

func podFilter(q query) *musterv1.PodFilter {
	return &musterv1.PodFilter{Namespace: q.namespace, LabelSelector: q.selector, Name: q.name}
}

func listPods(ctx context.Context, c *client, f *musterv1.PodFilter) ([]*musterv1.Pod, int64, error) {
	revision := int64(0)
	pods, err := pages(func(token string) ([]*musterv1.Pod, string, error) {
		r, err := c.pods.ListPods(ctx, &musterv1.ListPodsRequest{Filter: f, PageSize: pageSize, PageToken: token})
		revision = max(revision, r.GetRevision())
		return r.GetPods(), r.GetNextPageToken(), err
	})
	return pods, revision, err
}

func podItem(p *musterv1.Pod) item {
	m := p.GetMeta()
	return item{
		namespace: m.GetNamespace(), name: m.GetName(), uid: m.GetUid(),
		cells: []string{
			m.GetName(), podReady(p), podStatus(p), podRestarts(p), age(m.GetCreateTime()),
			orNone(p.GetStatus().GetPodIp()), orNone(p.GetNode()), failoverClass(p.GetFailoverClass()),
		},
		value: func() any { return podValue(p) },
	}
}

var deploymentKind = &kind{
	title: "Deployment", singular: "deployment", plural: "deployments", short: []string{"deploy"}, namespaced: true,
	columns: []column{{name: "NAME"}, {name: "READY"}, {name: "UP-TO-DATE"}, {name: "AVAILABLE"}, {name: "AGE"}, {"CONTAINERS", true}, {"SELECTOR", true}, {"GUARD", true}},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		revision := int64(0)
		all, err := pages(func(token string) ([]*musterv1.Deployment, string, error) {
			r, err := c.deployments.ListDeployments(ctx, &musterv1.ListDeploymentsRequest{Filter: deploymentFilter(q), PageSize: pageSize, PageToken: token})
			revision = max(revision, r.GetRevision())
			return r.GetDeployments(), r.GetNextPageToken(), err
		})
		return itemsOf(all, deploymentItem), revision, err
	},
	watches: func(ctx context.Context, c *client, q query, revision int64) (func() (change, error), error) {
		s, err := c.deployments.WatchDeployments(ctx, &musterv1.WatchDeploymentsRequest{Filter: deploymentFilter(q), Revision: revision})
		return changes(s, err, func(m *musterv1.WatchDeploymentsResponse) item { return deploymentItem(m.GetDeployment()) })
	},
	writes: &writer{
		tries: func(ctx context.Context, c *client, object proto.Message) (item, []string, error) {
			r, err := c.deployments.CreateDeployment(ctx, &musterv1.CreateDeploymentRequest{Deployment: object.(*musterv1.Deployment), ValidateOnly: true})
			return deploymentItem(r.GetDeployment()), r.GetWarnings(), err
		},
		updates: func(ctx context.Context, c *client, object proto.Message, validateOnly bool) (item, musterv1.WriteResult, []string, error) {
			r, err := c.deployments.UpdateDeployment(ctx, &musterv1.UpdateDeploymentRequest{
				Deployment: object.(*musterv1.Deployment), AllowMissing: true, ValidateOnly: validateOnly,
			})
			return deploymentItem(r.GetDeployment()), r.GetResult(), r.GetWarnings(), err
		},
	},
	gets: func(ctx context.Context, c *client, namespace, name string) (item, error) {
		r, err := c.deployments.GetDeployment(ctx, &musterv1.GetDeploymentRequest{Namespace: namespace, Name: name})
		return deploymentItem(r.GetDeployment()), err
	},
	edits: editing(
		func(ctx context.Context, c *client, namespace, name string) (*musterv1.Deployment, error) {
			r, err := c.deployments.GetDeployment(ctx, &musterv1.GetDeploymentRequest{Namespace: namespace, Name: name})
			return r.GetDeployment(), err
		},
		func(ctx context.Context, c *client, object *musterv1.Deployment) (*musterv1.Deployment, error) {
			r, err := c.deployments.UpdateDeployment(ctx, &musterv1.UpdateDeploymentRequest{Deployment: object})
			return r.GetDeployment(), err
		},
	),
}

func deploymentFilter(q query) *musterv1.DeploymentFilter {
	return &musterv1.DeploymentFilter{Namespace: q.namespace, LabelSelector: q.selector, Name: q.name}
}

func deploymentItem(d *musterv1.Deployment) item {
	m, s := d.GetMeta(), d.GetStatus()
	var containers []string
	for _, c := range d.GetSpec().GetTemplate().GetSpec().GetContainers() {
		containers = append(containers, c.GetName())
	}
	return item{
		namespace: m.GetNamespace(), name: m.GetName(), uid: m.GetUid(),
		cells: []string{
			m.GetName(), fmt.Sprintf("%d/%d", s.GetReadyReplicas(), replicas(d)), fmt.Sprint(s.GetUpdatedReplicas()),
			fmt.Sprint(s.GetAvailableReplicas()), age(m.GetCreateTime()), strings.Join(containers, ","), selectorText(d.GetSpec().GetSelector()),
			guardText(d),
		},
		value: func() any { return deploymentValue(d) },
	}
}

// guardText is how a Deployment's restart guard stands: on, off, or holding restarts.
func guardText(d *musterv1.Deployment) string {
	for _, c := range d.GetStatus().GetConditions() {
		if c.GetType() == "RestartsHeld" && c.GetStatus() == string(spec.ConditionTrue) {
			return "holding"
		}
	}
	if _, on := guardOf(d); !on {
		return "off"
	}
	return "on"
}

// guardOf is a Deployment's restart guard, and whether it is on.
func guardOf(d *musterv1.Deployment) (spec.RestartGuard, bool) {
	wanted := spec.Deployment{Meta: spec.Meta{Annotations: d.GetMeta().GetAnnotations()}, Spec: spec.DeploymentSpec{Replicas: replicas(d)}}
	return wanted.RestartGuard()
}

// replicas is how many pods are wanted.
func replicas(d *musterv1.Deployment) int32 {
	if d.GetSpec() == nil || d.GetSpec().Replicas == nil {
		return 1
	}
	return d.GetSpec().GetReplicas()
}

var nodeKind = &kind{
	title: "Node", singular: "node", plural: "nodes", short: []string{"no"},
	columns: []column{{name: "NAME"}, {name: "STATUS"}, {name: "LEASE"}, {name: "PODS"}, {name: "ISOLATION"}, {name: "AGE"}, {"ADDRESS", true}, {"MEMBER", true}, {"SINCE", true}, {"CAUSE", true}, {"VERSION", true}},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		revision := int64(0)
		all, err := pages(func(token string) ([]*musterv1.Node, string, error) {
			r, err := c.nodes.ListNodes(ctx, &musterv1.ListNodesRequest{LabelSelector: q.selector, PageSize: pageSize, PageToken: token})
			revision = max(revision, r.GetRevision())
			return r.GetNodes(), r.GetNextPageToken(), err
		})
		return itemsOf(all, nodeItem), revision, err
	},
	watches: func(ctx context.Context, c *client, q query, revision int64) (func() (change, error), error) {
		s, err := c.nodes.WatchNodes(ctx, &musterv1.WatchNodesRequest{LabelSelector: q.selector, Name: q.name, Revision: revision})
		return changes(s, err, func(m *musterv1.WatchNodesResponse) item { return nodeItem(m.GetNode()) })
	},
	gets: func(ctx context.Context, c *client, _, name string) (item, error) {
		r, err := c.nodes.GetNode(ctx, &musterv1.GetNodeRequest{Name: name})
		return nodeItem(r.GetNode()), err
	},
	edits: editing(
		func(ctx context.Context, c *client, _, name string) (*musterv1.Node, error) {
			r, err := c.nodes.GetNode(ctx, &musterv1.GetNodeRequest{Name: name})
			return r.GetNode(), err
		},
		func(ctx context.Context, c *client, object *musterv1.Node) (*musterv1.Node, error) {
			r, err := c.nodes.UpdateNode(ctx, &musterv1.UpdateNodeRequest{Node: object})
			return r.GetNode(), err
		},
	),
}

func nodeItem(n *musterv1.Node) item {
	m, f, s := n.GetMeta(), n.GetFacts(), n.GetStatus()
	standing := nodeVerdict(s.GetVerdict())
	if n.GetUnschedulable() {
		standing += ",SchedulingDisabled"
	}
	return item{
		name: m.GetName(), uid: m.GetUid(),
		cells: []string{
			m.GetName(), standing, leaseState(n.GetLease().GetState()), fmt.Sprint(n.GetPods()), orNone(f.GetIsolation()), age(m.GetCreateTime()),
			orNone(f.GetAddress()), orNone(s.GetMember()), age(s.GetSince()), orNone(s.GetCause()), orNone(f.GetVersion()),
		},
		value: func() any { return nodeValue(n) },
	}
}

var eventKind = &kind{
	title: "Event", singular: "event", plural: "events", short: []string{"ev"}, namespaced: true,
	columns: []column{{name: "LAST SEEN"}, {name: "TYPE"}, {name: "REASON"}, {name: "OBJECT"}, {"COUNT", true}, {"SOURCE", true}, {name: "MESSAGE"}},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		events, revision, err := listEvents(ctx, c, eventFilter(q))
		items := itemsOf(events, eventItem)
		// The filter's name is that of the object it happened to.
		return slices.DeleteFunc(items, func(i item) bool { return q.name != "" && i.name != q.name }), revision, err
	},
	watches: func(ctx context.Context, c *client, q query, revision int64) (func() (change, error), error) {
		s, err := c.events.WatchEvents(ctx, &musterv1.WatchEventsRequest{Filter: eventFilter(q), Revision: revision})
		return changes(s, err, func(m *musterv1.WatchEventsResponse) item { return eventItem(m.GetEvent()) })
	},
	gets: func(ctx context.Context, c *client, namespace, name string) (item, error) {
		r, err := c.events.GetEvent(ctx, &musterv1.GetEventRequest{Namespace: namespace, Name: name})
		return eventItem(r.GetEvent()), err
	},
}

func eventFilter(q query) *musterv1.EventFilter {
	f := &musterv1.EventFilter{Namespace: q.namespace}
	if q.involved.kind != nil {
		f.Kind, f.Name = q.involved.kind.title, q.involved.name
	}
	return f
}

func listEvents(ctx context.Context, c *client, f *musterv1.EventFilter) ([]*musterv1.Event, int64, error) {
	revision := int64(0)
	events, err := pages(func(token string) ([]*musterv1.Event, string, error) {
		r, err := c.events.ListEvents(ctx, &musterv1.ListEventsRequest{Filter: f, PageSize: pageSize, PageToken: token})
		revision = max(revision, r.GetRevision())
		return r.GetEvents(), r.GetNextPageToken(), err
	})
	return events, revision, err
}

func eventItem(e *musterv1.Event) item {
	m, o := e.GetMeta(), e.GetInvolved()
	source := e.GetSource()
	if e.GetNode() != "" {
		source += ", " + e.GetNode()
	}
	return item{
		namespace: m.GetNamespace(), name: m.GetName(), uid: m.GetUid(),
		cells: []string{
			age(e.GetLastTime()), e.GetType(), e.GetReason(), strings.ToLower(o.GetKind()) + "/" + o.GetName(),
			fmt.Sprint(e.GetCount()), source, e.GetMessage(),
		},
		value: func() any { return eventValue(e) },
	}
}

var memberKind = &kind{
	title: "Member", singular: "member", plural: "members",
	columns: []column{{name: "NAME"}, {name: "STATE"}, {name: "ROLE"}, {name: "ADDRESS"}, {name: "SINCE"}, {"BOOT ID", true}},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		r, err := c.cluster.ListMembers(ctx, &musterv1.ListMembersRequest{})
		return slices.DeleteFunc(itemsOf(r.GetMembers(), memberItem), func(i item) bool { return q.name != "" && i.name != q.name }), 0, err
	},
}

func memberItem(m *musterv1.Member) item {
	return item{
		name:  m.GetName(),
		cells: []string{m.GetName(), m.GetState(), m.GetRole(), orNone(m.GetAddress()), age(m.GetSince()), orNone(m.GetBootId())},
		value: func() any { return memberValue(m) },
	}
}

var probeKind = &kind{
	title: "Probe", singular: "probe", plural: "probes", namespaced: true,
	columns: []column{{name: "POD"}, {name: "CONTAINER"}, {name: "KIND"}, {name: "HANDLER"}, {name: "VERDICT"}, {name: "SINCE"}, {"RUN", true}, {"PERIOD", true}, {"NODE", true}, {name: "LAST"}},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		all, err := pages(func(token string) ([]*musterv1.ProbeState, string, error) {
			r, err := c.probes.ListProbes(ctx, &musterv1.ListProbesRequest{Filter: probeFilter(q), PageSize: pageSize, PageToken: token})
			return r.GetProbes(), r.GetNextPageToken(), err
		})
		return itemsOf(all, probeItem), 0, err
	},
	watches: func(ctx context.Context, c *client, q query, _ int64) (func() (change, error), error) {
		s, err := c.probes.WatchProbes(ctx, &musterv1.WatchProbesRequest{Filter: probeFilter(q)})
		return changes(s, err, func(m *musterv1.WatchProbesResponse) item { return probeItem(m.GetProbe()) })
	},
}

func probeFilter(q query) *musterv1.ProbeFilter {
	f := &musterv1.ProbeFilter{Namespace: q.namespace, Pod: q.name, LabelSelector: q.selector, Container: q.container, Kind: q.probe}
	if q.failing {
		f.Verdict = musterv1.ProbeResult_PROBE_RESULT_FAILURE
	}
	return f
}

func probeItem(p *musterv1.ProbeState) item {
	return item{
		namespace: p.GetPod().GetNamespace(), name: p.GetPod().GetName(), uid: p.GetPod().GetUid(),
		cells: []string{
			p.GetPod().GetName(), p.GetContainer(), probeKindName(p.GetKind()), p.GetHandler(), probeResult(p.GetVerdict()), age(p.GetSince()),
			fmt.Sprint(p.GetRunLength()), p.GetPeriod().AsDuration().String(), orNone(p.GetNode()), probeLast(p),
		},
		value: func() any { return probeValue(p) },
	}
}

// probeLast is the newest attempt in a few words.
func probeLast(p *musterv1.ProbeState) string {
	if p.GetErroredReason() != "" {
		return "errored: " + oneLine(p.GetErroredReason())
	}
	a := p.GetLast()
	if a == nil {
		return "<none>"
	}
	text := fmt.Sprintf("%s in %v", probeOutcome(a.GetOutcome()), shortDuration(a.GetDuration().AsDuration()))
	if a.GetOutput() != "" && a.GetOutcome() != musterv1.ProbeOutcome_PROBE_OUTCOME_SUCCESS {
		text += ": " + oneLine(a.GetOutput())
	}
	return text
}

var failoverKind = &kind{
	title: "Failover", singular: "failover", plural: "failovers", short: []string{"fo"}, namespaced: true,
	columns: []column{
		{name: "POD"}, {name: "CLASS"}, {name: "FROM"}, {name: "TO"}, {name: "CAUSE"}, {name: "DETECT"}, {name: "CONFIRM"}, {name: "FENCE"}, {name: "PLACE"},
		{name: "DELIVER"}, {name: "START"}, {name: "READY"}, {name: "TOTAL"}, {name: "AGE"}, {"ID", true},
	},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		r, err := c.cluster.ListFailovers(ctx, &musterv1.ListFailoversRequest{Namespace: q.namespace, Pod: q.name})
		return itemsOf(r.GetFailovers(), failoverItem), 0, err
	},
}

func failoverItem(f *musterv1.Failover) item {
	cells := []string{f.GetPod(), failoverClass(f.GetClass()), orNone(f.GetFrom()), orNone(f.GetTo()), f.GetCause()}
	for _, p := range phasesOf(f) {
		if p.took == nil {
			cells = append(cells, "-")
			continue
		}
		cells = append(cells, p.took.AsDuration().Round(time.Millisecond).String())
	}
	total := "-"
	if t, ok := totalOf(f); ok {
		total = t.Round(time.Millisecond).String()
	}
	return item{
		namespace: f.GetNamespace(), name: f.GetPod(), uid: f.GetUid(),
		cells: append(cells, total, age(f.GetTime()), f.GetId()),
		value: func() any { return failoverValue(f) },
	}
}
