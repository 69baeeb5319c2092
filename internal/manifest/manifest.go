// Package manifest understands what people bring from Kubernetes: manifests in YAML or JSON, which Decode turns into
// plain values, and jsonpath templates. It is the only package that knows Kubernetes' own types.
//
// Decode has three answers to a field and never silence: it is converted; it is known to Kubernetes but not to muster,
// which is an error naming the path, or a warning where leaving it out is harmless; it is unknown, which is an error with
// the nearest known name.
package manifest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"unicode/utf8"

	goyaml "go.yaml.in/yaml/v2"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/musterhq/muster/internal/spec"
)

// The bounds of what Decode reads, in bytes.
const (
	MaxFile     = 16 << 20
	MaxDocument = 2 << 20
)

// Options are the choices of the person who applies.
type Options struct {
	// IgnoreUnsupported makes fields that Kubernetes knows and muster does not a warning. Sources of volumes stay errors:
	// a pod without the volume that it mounts is not what was asked for.
	IgnoreUnsupported bool
}

// Object is what one document, or one item of a List, asks for.
type Object struct {
	// Source says where it stands: "FILE:document 2", or "FILE:document 2, item 1" in a List. Empty documents don't count.
	Source string
	// Kind, Namespace and Name are as written, empty where they could not be read.
	Kind, Namespace, Name string
	// At most one of Pod and Deployment is set; neither where Failed, or where muster has no use for the object and a
	// warning says so. Their defaults are not filled in, the namespace among them.
	Pod        *spec.Pod
	Deployment *spec.Deployment
	// Findings are errors and warnings, by their Kubernetes paths within the object.
	Findings []spec.Finding
}

// Failed tells whether a finding is an error, so that nothing of the object may be stored.
func (o *Object) Failed() bool {
	for i := range o.Findings {
		if !o.Findings[i].Warning {
			return true
		}
	}
	return false
}

// Decode reads the documents of one file, which source names. What is wrong with one document is told in its Findings and
// leaves the others alone; an error means that the file as a whole can't be read: more than MaxFile, a document of more
// than MaxDocument, bytes that are not UTF-8, a broken separator, or nothing in it.
//
// The objects are also validated as the coordinator does, defaults filled in, so that all their errors come together;
// warnings of that kind, and what depends on the coordinator's flags, are left to its answer.
func Decode(data []byte, source string, opts Options) ([]Object, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%s: %d bytes; at most %d: part it into smaller files", source, len(data), MaxFile)
	}
	if at := badUTF8(data); at >= 0 {
		return nil, fmt.Errorf("%s: byte %d is not UTF-8: a manifest is YAML or JSON in UTF-8", source, at)
	}
	var objects []Object
	r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff")))))
	for n := 1; ; {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		at := fmt.Sprintf("%s:document %d", source, n)
		if err != nil {
			return nil, fmt.Errorf("%s: after it: %w", at, err)
		}
		if len(doc) > MaxDocument {
			return nil, fmt.Errorf("%s: %d bytes; at most %d", at, len(doc), MaxDocument)
		}
		found, empty := decodeDocument(doc, at, opts)
		if empty {
			continue
		}
		objects = append(objects, found...)
		n++
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("%s: no object in it", source)
	}
	return objects, nil
}

// badUTF8 is the offset of the first byte that is not UTF-8, -1 without one.
func badUTF8(data []byte) int {
	if utf8.Valid(data) {
		return -1
	}
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return i
		}
		i += size
	}
	return -1
}

func decodeDocument(doc []byte, source string, opts Options) (objects []Object, empty bool) {
	bad := func(message string) []Object {
		return []Object{{Source: source, Findings: []spec.Finding{{Kind: spec.Invalid, Message: message}}}}
	}
	if why := wellFormed(doc); why != "" {
		return bad(why), false
	}
	j, err := yaml.YAMLToJSONStrict(doc)
	if err != nil {
		return bad(err.Error()), false
	}
	var v any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(j, &v); err != nil {
		return bad(err.Error()), false
	}
	if v == nil {
		return nil, true
	}
	o := &Object{Source: source}
	d := decoder{opts: opts, object: o}
	fields, ok := v.(map[string]any)
	if !ok {
		return bad("a manifest is an object with apiVersion, kind and metadata"), false
	}
	if fields["kind"] != "List" || fields["apiVersion"] != "v1" {
		d.decode(j, fields)
		return []Object{*o}, false
	}
	o.Kind = "List"
	var list corev1.List
	if !d.strictly(j, fields, &list) {
		return []Object{*o}, false
	}
	d.unsupported(&list, listFields)
	items, _ := fields["items"].([]any)
	for i, raw := range list.Items {
		item := &Object{Source: fmt.Sprintf("%s, item %d", source, i+1)}
		d := decoder{opts: opts, object: item}
		if fields, ok := items[i].(map[string]any); ok {
			d.decode(raw.Raw, fields)
		} else {
			d.add("", spec.Invalid, nil, "an item is an object with apiVersion, kind and metadata")
		}
		objects = append(objects, *item)
	}
	if len(objects) == 0 {
		d.add("items", spec.Required, nil, "")
	}
	if len(o.Findings) > 0 {
		objects = append(objects, *o)
	}
	return objects, false
}

// wellFormed says what is wrong with a document that the conversion to JSON would not see or not survive: something that
// follows its value, and aliases that grow it beyond twice MaxDocument.
func wellFormed(doc []byte) string {
	values := goyaml.NewDecoder(bytes.NewReader(doc))
	var v any
	if err := values.Decode(&v); err != nil {
		if errors.Is(err, io.EOF) {
			return ""
		}
		return err.Error()
	}
	if room := 2 * MaxDocument; !fits(v, &room) {
		return fmt.Sprintf("more than %d bytes with its aliases written out", 2*MaxDocument)
	}
	var more any
	if err := values.Decode(&more); !errors.Is(err, io.EOF) {
		return `there is more after the object: part documents with a line "---"`
	}
	return ""
}

// fits takes what a value's text needs at least off room, and tells whether there was enough.
func fits(v any, room *int) bool {
	*room--
	switch v := v.(type) {
	case string:
		*room -= len(v)
	case []any:
		for i := 0; i < len(v) && *room >= 0; i++ {
			fits(v[i], room)
		}
	case map[any]any:
		for key, value := range v {
			if *room < 0 {
				break
			}
			fits(key, room)
			fits(value, room)
		}
	}
	return *room >= 0
}

// decoder collects the findings of one object.
type decoder struct {
	opts   Options
	object *Object
}

func (d *decoder) add(path string, kind spec.FindingKind, value any, message string) {
	d.object.Findings = append(d.object.Findings, spec.Finding{Path: path, Kind: kind, Value: value, Message: message})
}

func (d *decoder) warn(path, message string) {
	d.object.Findings = append(d.object.Findings, spec.Finding{Path: path, Message: message, Warning: true})
}

// notBuilt finds a field that Kubernetes knows and muster does not.
func (d *decoder) notBuilt(path string) {
	if d.opts.IgnoreUnsupported {
		d.warn(path, "ignored: not built yet")
	} else {
		d.add(path, spec.NotBuilt, nil, "")
	}
}

// versions are the kinds that are decoded, with the apiVersion of each.
var versions = map[string]string{"Pod": "v1", "Deployment": "apps/v1", "List": "v1", "Namespace": "v1"}

// knownKinds are the others that Kubernetes itself has and people apply.
var knownKinds = map[string]bool{
	"ClusterRole": true, "ClusterRoleBinding": true, "ConfigMap": true, "ControllerRevision": true, "CronJob": true, "CSIDriver": true,
	"CustomResourceDefinition": true, "DaemonSet": true, "Endpoints": true, "EndpointSlice": true, "Event": true,
	"HorizontalPodAutoscaler": true, "Ingress": true, "IngressClass": true, "Job": true, "Lease": true, "LimitRange": true,
	"MutatingWebhookConfiguration": true, "NetworkPolicy": true, "Node": true, "PersistentVolume": true, "PersistentVolumeClaim": true,
	"PodDisruptionBudget": true, "PodTemplate": true, "PriorityClass": true, "ReplicaSet": true, "ReplicationController": true,
	"ResourceQuota": true, "Role": true, "RoleBinding": true, "RuntimeClass": true, "Secret": true, "Service": true,
	"ServiceAccount": true, "StatefulSet": true, "StorageClass": true, "ValidatingWebhookConfiguration": true, "VolumeSnapshot": true,
}

const supportedKinds = `supported values: "Pod", "Deployment", "List"`

// identify reads what the object is and tells whether it is a kind that is decoded.
func (d *decoder) identify(fields map[string]any) bool {
	meta, _ := fields["metadata"].(map[string]any)
	d.object.Name, _ = meta["name"].(string)
	d.object.Namespace, _ = meta["namespace"].(string)
	text := func(name string) (string, bool) {
		switch v := fields[name].(type) {
		case nil:
			d.add(name, spec.Required, nil, "")
		case string:
			if v != "" {
				return v, true
			}
			d.add(name, spec.Required, nil, "")
		default:
			d.add(name, spec.Invalid, v, "must be a string")
		}
		return "", false
	}
	kind, hasKind := text("kind")
	version, hasVersion := text("apiVersion")
	d.object.Kind = kind
	if !hasKind || !hasVersion {
		return false
	}
	want, ok := versions[kind]
	switch {
	case !ok && knownKinds[kind]:
		d.add("kind", spec.NotBuilt, kind, "")
	case !ok:
		d.add("kind", spec.NotSupported, kind, supportedKinds)
	case version != want:
		d.add("apiVersion", spec.NotSupported, version, fmt.Sprintf("supported values for a %s: %q", kind, want))
		ok = false
	case kind == "List":
		d.add("kind", spec.NotBuilt, kind, "a List in a List")
		ok = false
	}
	return ok
}

// anyHost allows every address in a probe: which ones are allowed is a flag of the coordinator.
var anyHost = spec.Options{AllowProbeHosts: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}

// decode turns one object into its value. j is its JSON and fields the same as a map.
func (d *decoder) decode(j []byte, fields map[string]any) {
	if !d.identify(fields) {
		return
	}
	var found []spec.Finding
	switch d.object.Kind {
	case "Pod":
		var k corev1.Pod
		if !d.strictly(j, fields, &k) {
			return
		}
		d.unsupported(&k, podFields)
		pod := d.pod(&k)
		full := pod.Clone()
		found = append(spec.DefaultPod(full), spec.ValidatePod(full, anyHost)...)
		dropIgnoredEnv(&pod.Spec, &k.Spec)
		d.object.Pod = pod
	case "Deployment":
		var k appsv1.Deployment
		if !d.strictly(j, fields, &k) {
			return
		}
		d.unsupported(&k, deploymentFields)
		dep := d.deployment(&k)
		full := dep.Clone()
		found = append(spec.DefaultDeployment(full), spec.ValidateDeployment(full, anyHost)...)
		dropIgnoredEnv(&dep.Spec.Template.Spec, &k.Spec.Template.Spec)
		d.object.Deployment = dep
	default:
		d.warn("kind", d.object.Kind+" is ignored: a namespace is there as soon as something is in it")
		return
	}
	d.merge(found)
	if d.object.Failed() {
		d.object.Pod, d.object.Deployment = nil, nil
	}
}

// merge takes over validation's errors, but for those that repeat what is known of the same field or of a part of it.
func (d *decoder) merge(found []spec.Finding) {
	own := len(d.object.Findings)
	for _, f := range found {
		known := f.Warning
		for i := range own {
			o := &d.object.Findings[i]
			known = known || !o.Warning && (o.Path == f.Path || isVolumeSource(o.Path, f.Path))
		}
		if !known {
			d.object.Findings = append(d.object.Findings, f)
		}
	}
}
