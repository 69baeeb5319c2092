package spec

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// maxUpdateFindings bounds what ValidatePodUpdate tells.
const maxUpdateFindings = 10

// ValidatePodUpdate finds changes of what cannot change in a pod that exists, all of its spec: the first ten fields that
// differ, each by its path. Lists are compared by position; an empty list is the same as none.
func ValidatePodUpdate(old, pod *Pod) []Finding {
	var d changes
	d.compare("spec", reflect.ValueOf(old.Spec), reflect.ValueOf(pod.Spec))
	var findings []Finding
	for _, path := range d.paths {
		findings = append(findings, Finding{
			Path: path, Kind: Forbidden,
			Message: "a pod's spec cannot change while it exists; delete it first, or apply with --replace",
		})
	}
	return findings
}

// kubernetesNames are Kubernetes' names of the fields whose names differ by more than the first letter. What begins with "["
// is a key, and what is empty is not a field of its own there.
var kubernetesNames = map[string]string{
	"PodSpec.TerminationGrace": "terminationGracePeriodSeconds", "PodSpec.Security": "securityContext",
	"PodSecurity.FSGroup": "fsGroup", "PodSecurity.Seccomp": "seccompProfile.type",
	"Container.Security": "securityContext", "ContainerSecurity.Seccomp": "seccompProfile.type",
	"ContainerSecurity.AddCapabilities": "capabilities.add", "ContainerSecurity.DropCapabilities": "capabilities.drop",
	"Container.Mounts": "volumeMounts", "Container.Liveness": "livenessProbe", "Container.Readiness": "readinessProbe",
	"Container.Startup": "startupProbe", "Container.PostStart": "lifecycle.postStart", "Container.PreStop": "lifecycle.preStop",
	"Hook.HTTP": "httpGet", "SleepAction.Duration": "seconds",
	"Container.RestartRules": "restartPolicyRules",
	"RestartRule.In":         "exitCodes.operator", "RestartRule.ExitCodes": "exitCodes.values",
	"EnvVar.FieldPath": "valueFrom.fieldRef.fieldPath", "Port.Number": "containerPort",
	"ResourceList.MilliCPU": "[cpu]", "ResourceList.MemoryBytes": "[memory]",
	"Volume.HostPath": "hostPath.path", "Volume.HostPathType": "hostPath.type",
	"Container.EnvFrom": "envFrom", "EnvVar.Key": "valueFrom", "EnvVar.Resource": "valueFrom.resourceFieldRef",
	"KeyRef.Kind": "", "KeyRef.Name": "", "KeyRef.Key": "", "KeyRef.Optional": "", "EnvFrom.Kind": "", "EnvFrom.Name": "", "EnvFrom.Optional": "",
	"ResourceRef.Container": "containerName", "ResourceRef.DivisorMilli": "divisor", "Volume.Files": "",
	"FileItem.FieldPath": "fieldRef.fieldPath", "FileItem.Resource": "resourceFieldRef", "PodSpec.DNSPolicy": "dnsPolicy", "PodSpec.DNS": "dnsConfig",
	"EmptyDir.Memory": "medium", "Mount.Volume": "name", "Mount.Path": "mountPath",
	"Probe.Handler": "", "Probe.InitialDelay": "initialDelaySeconds", "Probe.Period": "periodSeconds", "Probe.Timeout": "timeoutSeconds",
	"Probe.TerminationGrace": "terminationGracePeriodSeconds",
	"Handler.HTTP":           "httpGet", "Handler.TCP": "tcpSocket", "Handler.GRPC": "grpc", "HTTPAction.Headers": "httpHeaders",
	"PortRef.Number": "", "PortRef.Name": "",
	"Toleration.Seconds": "tolerationSeconds",
	"Affinity.Node":      "nodeAffinity", "Affinity.Pod": "podAffinity", "Affinity.PodAnti": "podAntiAffinity",
	"NodeAffinity.Required": required[1:], "NodeAffinity.Preferred": preferred[1:], "NodeSelector.Terms": "nodeSelectorTerms",
	"NodeTerm.Labels": "matchExpressions", "NodeTerm.Fields": "matchFields", "PreferredNodeTerm.Term": "preference",
	"PodAffinity.Required": required[1:], "PodAffinity.Preferred": preferred[1:], "WeightedPodTerm.Term": "podAffinityTerm",
	"PodTerm.Selector": "labelSelector", "PodTerm.AllNamespaces": "namespaceSelector", "SpreadConstraint.Selector": "labelSelector",
	"Selector.Labels": "matchLabels", "Selector.Expressions": "matchExpressions",
}

// pathOf is the path of a struct's field.
func pathOf(at string, t reflect.Type, field string) string {
	name, odd := kubernetesNames[t.Name()+"."+field]
	switch {
	case !odd:
		return at + "." + strings.ToLower(field[:1]) + field[1:]
	case name == "" || name[0] == '[':
		return at + name
	}
	return at + "." + name
}

// changes collects the paths of what differs between two values of a type, in the order of their fields.
type changes struct{ paths []string }

func (d *changes) add(path string) {
	if len(d.paths) < maxUpdateFindings && !slices.Contains(d.paths, path) {
		d.paths = append(d.paths, path)
	}
}

// files compares volumes of files, whose paths follow from their kinds.
func (d *changes) files(at string, old, f *Files) {
	if old.Kind != f.Kind {
		d.add(at + "." + f.Kind)
		return
	}
	at += "." + f.Kind
	if old.DefaultMode != f.DefaultMode {
		d.add(at + ".defaultMode")
	}
	for i := range max(len(old.Sources), len(f.Sources)) {
		at := at
		if f.Kind == FilesProjected {
			at = fmt.Sprintf("%s.sources[%d]", at, i)
		}
		if i >= min(len(old.Sources), len(f.Sources)) || old.Sources[i].Kind != f.Sources[i].Kind {
			d.add(at)
			continue
		}
		was, is, name := &old.Sources[i], &f.Sources[i], ".name"
		if f.Kind == FilesProjected {
			at += "." + is.Kind
		} else if f.Kind == FilesSecret {
			name = ".secretName"
		}
		if was.Name != is.Name {
			d.add(at + name)
		}
		if was.Optional != is.Optional {
			d.add(at + ".optional")
		}
		d.compare(at+".items", reflect.ValueOf(was.Items), reflect.ValueOf(is.Items))
	}
}

func (d *changes) compare(at string, a, b reflect.Value) {
	switch a.Kind() {
	case reflect.Struct:
		if was, ok := reflect.TypeAssert[Files](a); ok {
			is, _ := reflect.TypeAssert[Files](b)
			d.files(at, &was, &is)
			return
		}
		for i := range a.NumField() {
			d.compare(pathOf(at, a.Type(), a.Type().Field(i).Name), a.Field(i), b.Field(i))
		}
	case reflect.Pointer:
		if a.IsNil() != b.IsNil() {
			d.add(at)
		} else if !a.IsNil() {
			d.compare(at, a.Elem(), b.Elem())
		}
	case reflect.Slice:
		for i := range max(a.Len(), b.Len()) {
			path := fmt.Sprintf("%s[%d]", at, i)
			if i < min(a.Len(), b.Len()) {
				d.compare(path, a.Index(i), b.Index(i))
			} else {
				d.add(path)
			}
		}
	case reflect.Map:
		was, is := a.Interface().(map[string]string), b.Interface().(map[string]string)
		all := maps.Clone(was)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, is)
		for _, key := range slices.Sorted(maps.Keys(all)) {
			x, had := was[key]
			if y, has := is[key]; had != has || x != y {
				d.add(at + "[" + key + "]")
			}
		}
	default:
		if !a.Equal(b) {
			d.add(at)
		}
	}
}
