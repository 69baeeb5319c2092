package manifest

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/musterhq/muster/internal/spec"
)

func (d *decoder) service(k *corev1.Service) *spec.Service {
	out := &spec.Service{Meta: meta(&k.ObjectMeta), Spec: spec.ServiceSpec{
		Selector: k.Spec.Selector, ClusterIP: k.Spec.ClusterIP, PublishNotReady: k.Spec.PublishNotReadyAddresses,
	}}
	switch ip := k.Spec.ClusterIP; ip {
	case "", corev1.ClusterIPNone:
	default:
		d.warn("spec.clusterIP", "ignored: there are no virtual addresses, the name leads to the pods themselves")
		out.Spec.ClusterIP = ""
	}
	switch t := k.Spec.Type; t {
	case "", corev1.ServiceTypeClusterIP:
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName:
		if d.opts.IgnoreUnsupported && t != corev1.ServiceTypeExternalName {
			d.warn("spec.type", string(t)+" is ignored: the Service is reached from inside the cluster only")
		} else {
			d.add("spec.type", spec.NotBuilt, string(t), "")
		}
	default:
		d.add("spec.type", spec.NotSupported, string(t), `supported values: "ClusterIP"`)
	}
	for i, p := range k.Spec.Ports {
		port := spec.ServicePort{Name: p.Name, Protocol: string(p.Protocol), Port: p.Port}
		if target := portRef(p.TargetPort); target != (spec.PortRef{}) {
			port.Target = target
		}
		if p.NodePort != 0 {
			d.warn(fmt.Sprintf("spec.ports[%d].nodePort", i), "ignored: nodes have no ports of Services; a container's hostPort is one of its node")
		}
		out.Spec.Ports = append(out.Spec.Ports, port)
	}
	return out
}

func (d *decoder) configMap(k *corev1.ConfigMap) *spec.ConfigMap {
	return &spec.ConfigMap{Meta: meta(&k.ObjectMeta), Data: k.Data, Binary: k.BinaryData, Immutable: k.Immutable != nil && *k.Immutable}
}

func (d *decoder) secret(k *corev1.Secret) *spec.Secret {
	out := &spec.Secret{Meta: meta(&k.ObjectMeta), Data: k.Data, Type: string(k.Type), Immutable: k.Immutable != nil && *k.Immutable}
	if len(k.StringData) > 0 {
		out.Data = maps.Clone(out.Data)
		if out.Data == nil {
			out.Data = map[string][]byte{}
		}
		for key, text := range k.StringData {
			out.Data[key] = []byte(text)
		}
	}
	return out
}

// oneSource finds the sources of a volume beyond its first: an object has room for one.
func (d *decoder) oneSource(at string, k *corev1.VolumeSource) {
	first := false
	for _, s := range []struct {
		name string
		set  bool
	}{
		{"emptyDir", k.EmptyDir != nil}, {"hostPath", k.HostPath != nil}, {"secret", k.Secret != nil},
		{"downwardAPI", k.DownwardAPI != nil}, {"configMap", k.ConfigMap != nil}, {"projected", k.Projected != nil},
	} {
		if s.set && first {
			d.add(at+"."+s.name, spec.Forbidden, nil, "may not specify more than 1 volume type")
		}
		first = first || s.set
	}
}

// files is a volume's source of files; nil where it has none of them.
func (d *decoder) files(at string, k *corev1.VolumeSource) *spec.Files {
	mode := func(at string, m *int32) int32 {
		if m == nil {
			return 0
		}
		if *m == 0 {
			d.add(at+".defaultMode", spec.NotBuilt, 0, "files that nobody may read")
		}
		return *m
	}
	is := func(p *bool) bool { return p != nil && *p }
	switch {
	case k.ConfigMap != nil:
		at += ".configMap"
		return &spec.Files{Kind: spec.FilesConfigMap, DefaultMode: mode(at, k.ConfigMap.DefaultMode), Sources: []spec.FileSource{{
			Kind: spec.FilesConfigMap, Name: k.ConfigMap.Name, Optional: is(k.ConfigMap.Optional), Items: items(k.ConfigMap.Items),
		}}}
	case k.Secret != nil:
		at += ".secret"
		return &spec.Files{Kind: spec.FilesSecret, DefaultMode: mode(at, k.Secret.DefaultMode), Sources: []spec.FileSource{{
			Kind: spec.FilesSecret, Name: k.Secret.SecretName, Optional: is(k.Secret.Optional), Items: items(k.Secret.Items),
		}}}
	case k.DownwardAPI != nil:
		at += ".downwardAPI"
		return &spec.Files{Kind: spec.FilesDownwardAPI, DefaultMode: mode(at, k.DownwardAPI.DefaultMode), Sources: []spec.FileSource{{
			Kind: spec.FilesDownwardAPI, Items: d.downward(at, k.DownwardAPI.Items),
		}}}
	case k.Projected != nil:
		at += ".projected"
		out := &spec.Files{Kind: spec.FilesProjected, DefaultMode: mode(at, k.Projected.DefaultMode)}
		for i, s := range k.Projected.Sources {
			at := fmt.Sprintf("%s.sources[%d]", at, i)
			n := len(out.Sources)
			if c := s.ConfigMap; c != nil {
				out.Sources = append(out.Sources, spec.FileSource{Kind: spec.FilesConfigMap, Name: c.Name, Optional: is(c.Optional), Items: items(c.Items)})
			}
			if c := s.Secret; c != nil {
				out.Sources = append(out.Sources, spec.FileSource{Kind: spec.FilesSecret, Name: c.Name, Optional: is(c.Optional), Items: items(c.Items)})
			}
			if c := s.DownwardAPI; c != nil {
				out.Sources = append(out.Sources, spec.FileSource{Kind: spec.FilesDownwardAPI, Items: d.downward(at+".downwardAPI", c.Items)})
			}
			if len(out.Sources) > n+1 {
				d.add(at, spec.Forbidden, nil, "may not specify more than 1 volume type per source")
			}
		}
		return out
	}
	return nil
}

func items(all []corev1.KeyToPath) (out []spec.FileItem) {
	for _, i := range all {
		out = append(out, spec.FileItem{Key: i.Key, Path: i.Path, Mode: i.Mode})
	}
	return out
}

func (d *decoder) downward(at string, all []corev1.DownwardAPIVolumeFile) (out []spec.FileItem) {
	for i, f := range all {
		at := fmt.Sprintf("%s.items[%d]", at, i)
		item := spec.FileItem{Path: f.Path, Mode: f.Mode}
		if r := f.FieldRef; r != nil && d.refVersion(at+".fieldRef", r) {
			item.FieldPath = r.FieldPath
		}
		if r := f.ResourceFieldRef; r != nil {
			item.Resource = d.resourceRef(at+".resourceFieldRef", r)
		}
		out = append(out, item)
	}
	return out
}

// refVersion checks what a reference to a field has besides its path, and tells whether that can be looked at.
func (d *decoder) refVersion(at string, r *corev1.ObjectFieldSelector) bool {
	known := r.APIVersion == "" || r.APIVersion == "v1"
	if !known {
		d.add(at+".apiVersion", spec.NotSupported, r.APIVersion, `supported values: "v1"`)
	}
	if r.FieldPath == "" {
		d.add(at+".fieldPath", spec.Required, nil, "")
	}
	return known && r.FieldPath != ""
}

func (d *decoder) resourceRef(at string, k *corev1.ResourceFieldSelector) *spec.ResourceRef {
	out := &spec.ResourceRef{Container: k.ContainerName, Resource: k.Resource}
	if !k.Divisor.IsZero() {
		out.DivisorMilli = d.amount(at+".divisor", k.Divisor, resource.Milli, maxMemory)
	}
	return out
}

// keyRef is the value of a ConfigMap or Secret that a variable takes; nil for none.
func keyRef(k *corev1.EnvVarSource) *spec.KeyRef {
	is := func(p *bool) bool { return p != nil && *p }
	switch {
	case k.ConfigMapKeyRef != nil:
		r := k.ConfigMapKeyRef
		return &spec.KeyRef{Kind: spec.KindConfigMap, Name: r.Name, Key: r.Key, Optional: is(r.Optional)}
	case k.SecretKeyRef != nil:
		r := k.SecretKeyRef
		return &spec.KeyRef{Kind: spec.KindSecret, Name: r.Name, Key: r.Key, Optional: is(r.Optional)}
	}
	return nil
}

func (d *decoder) envFrom(at string, all []corev1.EnvFromSource) (out []spec.EnvFrom) {
	is := func(p *bool) bool { return p != nil && *p }
	for i, e := range all {
		from := spec.EnvFrom{Prefix: e.Prefix}
		if r := e.ConfigMapRef; r != nil {
			from.Kind, from.Name, from.Optional = spec.KindConfigMap, r.Name, is(r.Optional)
		}
		if r := e.SecretRef; r != nil {
			if from.Kind != "" {
				d.add(fmt.Sprintf("%s[%d]", at, i), spec.Invalid, nil, "may not have more than one field specified at a time")
			}
			from.Kind, from.Name, from.Optional = spec.KindSecret, r.Name, is(r.Optional)
		}
		out = append(out, from)
	}
	return out
}

func dnsConfig(k *corev1.PodDNSConfig) *spec.DNSConfig {
	if k == nil {
		return nil
	}
	out := &spec.DNSConfig{Nameservers: slices.Clone(k.Nameservers), Searches: slices.Clone(k.Searches)}
	for _, o := range k.Options {
		option := spec.DNSOption{Name: o.Name}
		if o.Value != nil {
			option.Value = *o.Value
		}
		out.Options = append(out.Options, option)
	}
	return out
}
