package cli

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

var serviceKind = &kind{
	title: "Service", singular: "service", plural: "services", short: []string{"svc"}, namespaced: true,
	columns: []column{{name: "NAME"}, {name: "PORTS"}, {name: "AGE"}, {"SELECTOR", true}},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		revision := int64(0)
		all, err := pages(func(token string) ([]*musterv1.Service, string, error) {
			r, err := c.services.ListServices(ctx, &musterv1.ListServicesRequest{Filter: serviceFilter(q), PageSize: pageSize, PageToken: token})
			revision = max(revision, r.GetRevision())
			return r.GetServices(), r.GetNextPageToken(), err
		})
		return itemsOf(all, serviceItem), revision, err
	},
	watches: func(ctx context.Context, c *client, q query, revision int64) (func() (change, error), error) {
		s, err := c.services.WatchServices(ctx, &musterv1.WatchServicesRequest{Filter: serviceFilter(q), Revision: revision})
		return changes(s, err, func(m *musterv1.WatchServicesResponse) item { return serviceItem(m.GetService()) })
	},
	gets: func(ctx context.Context, c *client, namespace, name string) (item, error) {
		r, err := c.services.GetService(ctx, &musterv1.GetServiceRequest{Namespace: namespace, Name: name})
		return serviceItem(r.GetService()), err
	},
	writes: &writer{
		tries: func(ctx context.Context, c *client, object proto.Message) (item, []string, error) {
			r, err := c.services.CreateService(ctx, &musterv1.CreateServiceRequest{Service: object.(*musterv1.Service), ValidateOnly: true})
			return serviceItem(r.GetService()), r.GetWarnings(), err
		},
		updates: func(ctx context.Context, c *client, object proto.Message, validateOnly bool) (item, musterv1.WriteResult, []string, error) {
			r, err := c.services.UpdateService(ctx, &musterv1.UpdateServiceRequest{
				Service: object.(*musterv1.Service), AllowMissing: true, ValidateOnly: validateOnly,
			})
			return serviceItem(r.GetService()), r.GetResult(), r.GetWarnings(), err
		},
		removes: func(ctx context.Context, c *client, namespace, name string) (string, error) {
			r, err := c.services.DeleteService(ctx, &musterv1.DeleteServiceRequest{Namespace: namespace, Name: name})
			return r.GetService().GetMeta().GetUid(), err
		},
	},
	edits: editing(
		func(ctx context.Context, c *client, namespace, name string) (*musterv1.Service, error) {
			r, err := c.services.GetService(ctx, &musterv1.GetServiceRequest{Namespace: namespace, Name: name})
			return r.GetService(), err
		},
		func(ctx context.Context, c *client, object *musterv1.Service) (*musterv1.Service, error) {
			r, err := c.services.UpdateService(ctx, &musterv1.UpdateServiceRequest{Service: object})
			return r.GetService(), err
		},
	),
}

func serviceFilter(q query) *musterv1.ServiceFilter {
	return &musterv1.ServiceFilter{Namespace: q.namespace, LabelSelector: q.selector, Name: q.name}
}

func serviceItem(s *musterv1.Service) item {
	m := s.GetMeta()
	var ports []string
	for _, p := range s.GetSpec().GetPorts() {
		text := fmt.Sprintf("%d/%s", p.GetPort(), p.GetProtocol())
		if t := portValue(p.GetTargetPort()); p.GetTargetPort().GetName() != "" || p.GetTargetPort().GetNumber() != p.GetPort() {
			text = fmt.Sprintf("%d→%v/%s", p.GetPort(), t, p.GetProtocol())
		}
		ports = append(ports, text)
	}
	return item{
		namespace: m.GetNamespace(), name: m.GetName(), uid: m.GetUid(),
		cells: []string{m.GetName(), orNone(strings.Join(ports, ",")), age(m.GetCreateTime()), strings.Join(labelTerms(s.GetSpec().GetSelector()), ",")},
		value: func() any { return serviceValue(s) },
	}
}

func serviceValue(s *musterv1.Service) any {
	spec := fields{"clusterIP": "None", "type": "ClusterIP"}.
		put("selector", s.GetSpec().GetSelector()).
		put("publishNotReadyAddresses", s.GetSpec().GetPublishNotReadyAddresses()).
		put("ports", each(s.GetSpec().GetPorts(), func(p *musterv1.ServicePort) fields {
			return fields{"port": p.GetPort(), "protocol": p.GetProtocol(), "targetPort": portValue(p.GetTargetPort())}.put("name", p.GetName())
		}))
	if s.GetSpec().GetClusterIp() == "" {
		delete(spec, "clusterIP")
	}
	return fields{"apiVersion": "v1", "kind": "Service", "metadata": metaFields(s.GetMeta()), "spec": spec}
}

var endpointsKind = &kind{
	title: "Endpoints", singular: "endpoints", plural: "endpoints", short: []string{"ep", "endpoint"}, namespaced: true,
	columns: []column{{name: "NAME"}, {name: "ENDPOINTS"}, {name: "AGE"}, {"NOT READY", true}},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		revision := int64(0)
		all, err := pages(func(token string) ([]*musterv1.Endpoints, string, error) {
			r, err := c.endpoints.ListEndpoints(ctx, &musterv1.ListEndpointsRequest{Filter: serviceFilter(q), PageSize: pageSize, PageToken: token})
			revision = max(revision, r.GetRevision())
			return r.GetEndpoints(), r.GetNextPageToken(), err
		})
		return itemsOf(all, endpointsItem), revision, err
	},
	watches: func(ctx context.Context, c *client, q query, revision int64) (func() (change, error), error) {
		s, err := c.endpoints.WatchEndpoints(ctx, &musterv1.WatchEndpointsRequest{Filter: serviceFilter(q), Revision: revision})
		return changes(s, err, func(m *musterv1.WatchEndpointsResponse) item { return endpointsItem(m.GetEndpoints()) })
	},
	gets: func(ctx context.Context, c *client, namespace, name string) (item, error) {
		r, err := c.endpoints.GetEndpoints(ctx, &musterv1.GetEndpointsRequest{Namespace: namespace, Name: name})
		return endpointsItem(r.GetEndpoints()), err
	},
}

// maxEndpoints is how many endpoints a row of a table has; it says how many more there are.
const maxEndpoints = 3

func endpointsItem(e *musterv1.Endpoints) item {
	m := e.GetMeta()
	var ready, unready []string
	for _, x := range e.GetEndpoints() {
		list := &unready
		if x.GetReady() {
			list = &ready
		}
		if len(x.GetPorts()) == 0 {
			*list = append(*list, x.GetIp())
		}
		for _, p := range x.GetPorts() {
			*list = append(*list, fmt.Sprintf("%s:%d", x.GetIp(), p.GetPort()))
		}
	}
	few := func(all []string) string {
		if n := len(all) - maxEndpoints; n > 0 {
			return fmt.Sprintf("%s + %d more", strings.Join(all[:maxEndpoints], ","), n)
		}
		return orNone(strings.Join(all, ","))
	}
	return item{
		namespace: m.GetNamespace(), name: m.GetName(), uid: m.GetUid(),
		cells: []string{m.GetName(), few(ready), age(m.GetCreateTime()), few(unready)},
		value: func() any { return endpointsValue(e) },
	}
}

// endpointsValue groups the addresses by their ports, as Kubernetes does.
func endpointsValue(e *musterv1.Endpoints) any {
	portsOf := func(x *musterv1.Endpoint) []fields {
		return each(x.GetPorts(), func(p *musterv1.EndpointPort) fields {
			return fields{"port": p.GetPort(), "protocol": p.GetProtocol()}.put("name", p.GetName())
		})
	}
	type subset struct {
		ports          []fields
		ready, unready []fields
	}
	subsets := map[string]*subset{}
	for _, x := range e.GetEndpoints() {
		ports := portsOf(x)
		key := fmt.Sprint(ports)
		s := subsets[key]
		if s == nil {
			s = &subset{ports: ports}
			subsets[key] = s
		}
		address := fields{"ip": x.GetIp()}.
			put("hostname", x.GetHostname()).
			put("nodeName", x.GetNode()).
			set("targetRef", fields{"kind": "Pod", "namespace": e.GetMeta().GetNamespace(), "name": x.GetPod(), "uid": x.GetPodUid()})
		if x.GetReady() {
			s.ready = append(s.ready, address)
		} else {
			s.unready = append(s.unready, address)
		}
	}
	list := []fields{}
	for _, key := range slices.Sorted(maps.Keys(subsets)) {
		s := subsets[key]
		list = append(list, fields{}.put("addresses", s.ready).put("notReadyAddresses", s.unready).put("ports", s.ports))
	}
	return fields{"apiVersion": "v1", "kind": "Endpoints", "metadata": metaFields(e.GetMeta()), "subsets": list}
}

var configMapKind = &kind{
	title: "ConfigMap", singular: "configmap", plural: "configmaps", short: []string{"cm"}, namespaced: true,
	columns: []column{{name: "NAME"}, {name: "DATA"}, {name: "AGE"}},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		revision := int64(0)
		all, err := pages(func(token string) ([]*musterv1.ConfigMap, string, error) {
			r, err := c.configMaps.ListConfigMaps(ctx, &musterv1.ListConfigMapsRequest{Filter: configFilter(q), PageSize: pageSize, PageToken: token})
			revision = max(revision, r.GetRevision())
			return r.GetConfigMaps(), r.GetNextPageToken(), err
		})
		return itemsOf(all, configMapItem), revision, err
	},
	watches: func(ctx context.Context, c *client, q query, revision int64) (func() (change, error), error) {
		s, err := c.configMaps.WatchConfigMaps(ctx, &musterv1.WatchConfigMapsRequest{Filter: configFilter(q), Revision: revision})
		return changes(s, err, func(m *musterv1.WatchConfigMapsResponse) item { return configMapItem(m.GetConfigMap()) })
	},
	gets: func(ctx context.Context, c *client, namespace, name string) (item, error) {
		r, err := c.configMaps.GetConfigMap(ctx, &musterv1.GetConfigMapRequest{Namespace: namespace, Name: name})
		return configMapItem(r.GetConfigMap()), err
	},
	writes: &writer{
		tries: func(ctx context.Context, c *client, object proto.Message) (item, []string, error) {
			r, err := c.configMaps.CreateConfigMap(ctx, &musterv1.CreateConfigMapRequest{ConfigMap: object.(*musterv1.ConfigMap), ValidateOnly: true})
			return configMapItem(r.GetConfigMap()), r.GetWarnings(), err
		},
		updates: func(ctx context.Context, c *client, object proto.Message, validateOnly bool) (item, musterv1.WriteResult, []string, error) {
			r, err := c.configMaps.UpdateConfigMap(ctx, &musterv1.UpdateConfigMapRequest{
				ConfigMap: object.(*musterv1.ConfigMap), AllowMissing: true, ValidateOnly: validateOnly,
			})
			return configMapItem(r.GetConfigMap()), r.GetResult(), r.GetWarnings(), err
		},
		removes: func(ctx context.Context, c *client, namespace, name string) (string, error) {
			r, err := c.configMaps.DeleteConfigMap(ctx, &musterv1.DeleteConfigMapRequest{Namespace: namespace, Name: name})
			return r.GetConfigMap().GetMeta().GetUid(), err
		},
	},
	edits: editing(
		func(ctx context.Context, c *client, namespace, name string) (*musterv1.ConfigMap, error) {
			r, err := c.configMaps.GetConfigMap(ctx, &musterv1.GetConfigMapRequest{Namespace: namespace, Name: name})
			return r.GetConfigMap(), err
		},
		func(ctx context.Context, c *client, object *musterv1.ConfigMap) (*musterv1.ConfigMap, error) {
			r, err := c.configMaps.UpdateConfigMap(ctx, &musterv1.UpdateConfigMapRequest{ConfigMap: object})
			return r.GetConfigMap(), err
		},
	),
}

func configFilter(q query) *musterv1.ConfigFilter {
	return &musterv1.ConfigFilter{Namespace: q.namespace, LabelSelector: q.selector, Name: q.name}
}

func configMapItem(x *musterv1.ConfigMap) item {
	m := x.GetMeta()
	return item{
		namespace: m.GetNamespace(), name: m.GetName(), uid: m.GetUid(),
		cells: []string{m.GetName(), strconv.Itoa(len(x.GetData()) + len(x.GetBinaryData())), age(m.GetCreateTime())},
		value: func() any {
			return fields{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metaFields(m)}.
				put("data", x.GetData()).put("binaryData", base64Values(x.GetBinaryData())).put("immutable", x.GetImmutable())
		},
	}
}

func base64Values(values map[string][]byte) map[string]string {
	out := make(map[string]string, len(values))
	for k, v := range values {
		out[k] = base64.StdEncoding.EncodeToString(v)
	}
	return out
}

var secretKind = &kind{
	title: "Secret", singular: "secret", plural: "secrets", short: []string{}, namespaced: true,
	columns: []column{{name: "NAME"}, {name: "TYPE"}, {name: "DATA"}, {name: "AGE"}},
	lists: func(ctx context.Context, c *client, q query) ([]item, int64, error) {
		revision := int64(0)
		all, err := pages(func(token string) ([]*musterv1.Secret, string, error) {
			r, err := c.secrets.ListSecrets(ctx, &musterv1.ListSecretsRequest{Filter: configFilter(q), PageSize: pageSize, PageToken: token})
			revision = max(revision, r.GetRevision())
			return r.GetSecrets(), r.GetNextPageToken(), err
		})
		return itemsOf(all, secretItem), revision, err
	},
	watches: func(ctx context.Context, c *client, q query, revision int64) (func() (change, error), error) {
		s, err := c.secrets.WatchSecrets(ctx, &musterv1.WatchSecretsRequest{Filter: configFilter(q), Revision: revision})
		return changes(s, err, func(m *musterv1.WatchSecretsResponse) item { return secretItem(m.GetSecret()) })
	},
	gets: func(ctx context.Context, c *client, namespace, name string) (item, error) {
		r, err := c.secrets.GetSecret(ctx, &musterv1.GetSecretRequest{Namespace: namespace, Name: name})
		return secretItem(r.GetSecret()), err
	},
	writes: &writer{
		tries: func(ctx context.Context, c *client, object proto.Message) (item, []string, error) {
			r, err := c.secrets.CreateSecret(ctx, &musterv1.CreateSecretRequest{Secret: object.(*musterv1.Secret), ValidateOnly: true})
			return secretItem(r.GetSecret()), r.GetWarnings(), err
		},
		updates: func(ctx context.Context, c *client, object proto.Message, validateOnly bool) (item, musterv1.WriteResult, []string, error) {
			r, err := c.secrets.UpdateSecret(ctx, &musterv1.UpdateSecretRequest{
				Secret: object.(*musterv1.Secret), AllowMissing: true, ValidateOnly: validateOnly,
			})
			return secretItem(r.GetSecret()), r.GetResult(), r.GetWarnings(), err
		},
		removes: func(ctx context.Context, c *client, namespace, name string) (string, error) {
			r, err := c.secrets.DeleteSecret(ctx, &musterv1.DeleteSecretRequest{Namespace: namespace, Name: name})
			return r.GetSecret().GetMeta().GetUid(), err
		},
	},
	edits: editing(
		func(ctx context.Context, c *client, namespace, name string) (*musterv1.Secret, error) {
			r, err := c.secrets.GetSecret(ctx, &musterv1.GetSecretRequest{Namespace: namespace, Name: name})
			return r.GetSecret(), err
		},
		func(ctx context.Context, c *client, object *musterv1.Secret) (*musterv1.Secret, error) {
			r, err := c.secrets.UpdateSecret(ctx, &musterv1.UpdateSecretRequest{Secret: object})
			return r.GetSecret(), err
		},
	),
}

func secretItem(x *musterv1.Secret) item {
	m := x.GetMeta()
	return item{
		namespace: m.GetNamespace(), name: m.GetName(), uid: m.GetUid(),
		cells: []string{m.GetName(), orNone(x.GetType()), strconv.Itoa(len(x.GetData())), age(m.GetCreateTime())},
		value: func() any {
			return fields{"apiVersion": "v1", "kind": "Secret", "metadata": metaFields(m), "type": x.GetType()}.
				put("data", base64Values(x.GetData())).put("immutable", x.GetImmutable())
		},
	}
}

func dnsFields(d *musterv1.DnsConfig) fields {
	if d == nil {
		return nil
	}
	return fields{}.put("nameservers", d.GetNameservers()).put("searches", d.GetSearches()).
		put("options", each(d.GetOptions(), func(o *musterv1.DnsOption) fields { return fields{"name": o.GetName()}.put("value", o.GetValue()) }))
}

// refField is how the fields begin that name an object of a kind.
func refField(kind string) string {
	if kind == "Secret" {
		return "secret"
	}
	return "configMap"
}

func envFromFields(e *musterv1.EnvFrom) fields {
	ref := fields{"name": e.GetName()}.put("optional", e.GetOptional())
	return fields{refField(e.GetKind()) + "Ref": ref}.put("prefix", e.GetPrefix())
}

func resourceRefFields(r *musterv1.ResourceReference) fields {
	f := fields{"resource": r.GetResource()}.put("containerName", r.GetContainer())
	if n := r.GetDivisorMilli(); n%1000 != 0 {
		f.set("divisor", fmt.Sprintf("%dm", n))
	} else if n != 0 {
		f.set("divisor", strconv.FormatInt(n/1000, 10))
	}
	return f
}

func filesFields(v *musterv1.FilesVolume) fields {
	f := fields{}.put("defaultMode", v.GetDefaultMode())
	source := func(s *musterv1.FileSource, name string) fields {
		return fields{}.put(name, s.GetName()).put("optional", s.GetOptional()).put("items", each(s.GetItems(), fileItemFields))
	}
	if v.GetKind() == "projected" {
		return f.set("sources", each(v.GetSources(), func(s *musterv1.FileSource) fields { return fields{s.GetKind(): source(s, "name")} }))
	}
	for _, s := range v.GetSources() {
		name := "name"
		if v.GetKind() == "secret" {
			name = "secretName"
		}
		maps.Copy(f, source(s, name))
	}
	return f
}

func fileItemFields(i *musterv1.FileItem) fields {
	f := fields{"path": i.GetPath()}.put("key", i.GetKey())
	if i.Mode != nil {
		f.set("mode", i.GetMode())
	}
	if i.GetFieldPath() != "" {
		f.set("fieldRef", fields{"apiVersion": "v1", "fieldPath": i.GetFieldPath()})
	}
	if r := i.GetResource(); r != nil {
		f.set("resourceFieldRef", resourceRefFields(r))
	}
	return f
}

// service describes a Service with what is behind it.
func (d *description) service(s *musterv1.Service, e *musterv1.Endpoints) {
	d.meta(s.GetMeta())
	d.line(0, "Selector", labelTerms(s.GetSpec().GetSelector())...)
	m := s.GetMeta()
	d.line(0, "DNS name", fmt.Sprintf("%s.%s.svc.cluster.local", m.GetName(), m.GetNamespace()))
	for _, p := range s.GetSpec().GetPorts() {
		d.line(0, "Port", strings.TrimSpace(fmt.Sprintf("%s %d/%s, on pods %v", p.GetName(), p.GetPort(), p.GetProtocol(), portValue(p.GetTargetPort()))))
	}
	var ready, unready []string
	for _, x := range e.GetEndpoints() {
		text := fmt.Sprintf("%s (pod %s on %s)", x.GetIp(), x.GetPod(), x.GetNode())
		if x.GetReady() {
			ready = append(ready, text)
		} else {
			unready = append(unready, text)
		}
	}
	d.line(0, "Endpoints", ready...)
	if len(unready) > 0 {
		d.line(0, "Not Ready", unready...)
	}
}

// config describes a ConfigMap's values, and of a Secret only how long they are.
func (d *description) config(m *musterv1.ObjectMeta, texts map[string]string, sizes map[string]int) {
	d.meta(m)
	d.head(0, "Data")
	if len(texts)+len(sizes) == 0 {
		d.b.WriteString("  <none>\n")
	}
	for _, k := range slices.Sorted(maps.Keys(texts)) {
		fmt.Fprintf(&d.b, "  %s:\n", oneLine(k))
		for line := range strings.SplitSeq(strings.TrimRight(texts[k], "\n"), "\n") {
			fmt.Fprintf(&d.b, "    %s\n", oneLine(line))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(sizes)) {
		fmt.Fprintf(&d.b, "  %s: %d bytes\n", oneLine(k), sizes[k])
	}
}

func sizesOf(values map[string][]byte) map[string]int {
	sizes := map[string]int{}
	for k, v := range values {
		sizes[k] = len(v)
	}
	return sizes
}
