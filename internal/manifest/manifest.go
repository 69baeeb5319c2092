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
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	goyaml "go.yaml.in/yaml/v2"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
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

// The bounds of what Decode tells of one document, all items of a List together.
const (
	// MaxFindings are listed; one more then says how many are not. Warnings take at most half of the places, so that they
	// never hide the first errors.
	MaxFindings = 100
	// maxText bounds each text in a finding or a name, in bytes; what is longer is cut, and ends in "…".
	maxText = 1024
)

// Options are the choices of the person who applies.
type Options struct {
	// IgnoreUnsupported makes fields that Kubernetes knows and muster does not a warning. Sources of volumes stay errors:
	// a pod without the volume that it mounts is not what was asked for.
	IgnoreUnsupported bool
	// KeepClaims puts the fields that a coordinator fills in into Claims, for the caller to compare with the live object.
	// Otherwise each is a finding: a warning, or an error where it would be a wish.
	KeepClaims bool
}

// Object is what one document, or one item of a List, asks for.
type Object struct {
	// Source says where it stands: "FILE:document 2", or "FILE:document 2, item 1" in a List. Empty documents don't count.
	Source string
	// Kind, Namespace and Name are as written, empty where they could not be read; cut where nothing may be as long.
	Kind, Namespace, Name string
	// At most one of these is set; none where Failed, or where muster has no use for the object and a
	// warning says so. Their defaults are not filled in, the namespace among them.
	Pod        *spec.Pod
	Deployment *spec.Deployment
	Service    *spec.Service
	ConfigMap  *spec.ConfigMap
	Secret     *spec.Secret
	Budget     *spec.PodDisruptionBudget
	// Findings are errors and warnings, by their Kubernetes paths within the object. Those beyond MaxFindings are not
	// listed; an item of a List may then have failed without a finding of its own, and an object after the items, of the
	// kind List, says how many there are.
	Findings []spec.Finding
	// Claims are what the manifest says of a live object; nil without KeepClaims.
	Claims []Claim

	failed bool
}

// Failed tells whether a finding is an error, listed or not, so that nothing of the object may be stored.
func (o *Object) Failed() bool { return o.failed }

// Decode reads the documents of one file, which source names. What is wrong with one document is told in its Findings and
// leaves the others alone, more than MaxDocument among it; an error means that the file as a whole can't be read: more than
// MaxFile, bytes that are not UTF-8, a broken separator, or nothing in it.
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
	// The reader loses a last line that no newline ends and that just fills its buffer.
	text := io.Reader(bytes.NewReader(bytes.TrimPrefix(data, []byte("\ufeff"))))
	if !bytes.HasSuffix(data, []byte("\n")) {
		text = io.MultiReader(text, strings.NewReader("\n"))
	}
	r := utilyaml.NewYAMLReader(bufio.NewReader(text))
	for n := 1; ; {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		at := fmt.Sprintf("%s:document %d", source, n)
		if err != nil {
			return nil, fmt.Errorf("%s: after it: %w", at, err)
		}
		if len(doc) > maxSize(doc) {
			objects = append(objects, refused(at, spec.Finding{
				Kind: spec.TooLong, Message: fmt.Sprintf("%d bytes; a document has at most %d (2 MiB)", len(doc), MaxDocument),
			}))
			n++
			continue
		}
		found, empty := decodeDocument(doc, at, opts)
		if empty {
			continue
		}
		objects = append(objects, found...)
		n++
	}
	if len(objects) == 0 {
		return nil, fmt.Errorf("%s: no object in it: want one with apiVersion, kind and metadata", source)
	}
	return objects, nil
}

// listKind is how the kind of a List is written, by "get -o yaml" and "get -o json" among others.
var listKind = regexp.MustCompile(`(?m)^ {0,4}"?kind"?: *"?List"?,?\s*$`)

// maxSize bounds a document: what "get" prints of a whole fleet is one List, each item of which is bounded for itself.
func maxSize(doc []byte) int {
	if len(doc) > MaxDocument && listKind.Match(doc) {
		return MaxFile
	}
	return MaxDocument
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

// refused is a document of which nothing could be read.
func refused(source string, findings ...spec.Finding) Object {
	o := Object{Source: source}
	d := newDecoder(Options{}, &o)
	for _, f := range findings {
		d.keep(f)
	}
	d.tellMore()
	return o
}

func decodeDocument(doc []byte, source string, opts Options) (objects []Object, empty bool) {
	j, v, bad := parse(doc)
	if len(bad) > 0 {
		return []Object{refused(source, bad...)}, false
	}
	if v == nil {
		return nil, true
	}
	o := &Object{Source: source}
	d := newDecoder(opts, o)
	fields, ok := v.(map[string]any)
	if !ok {
		d.add("", spec.Invalid, nil, "a manifest is an object with apiVersion, kind and metadata")
		return []Object{*o}, false
	}
	if fields["kind"] != "List" || fields["apiVersion"] != "v1" {
		d.decode(j, fields)
		d.tellMore()
		return []Object{*o}, false
	}
	o.Kind = "List"
	var list corev1.List
	if !d.strictly(j, fields, &list) {
		d.tellMore()
		return []Object{*o}, false
	}
	if opts.KeepClaims {
		list.ResourceVersion = "" // of the whole list: nothing to compare with
	}
	d.unsupported(&list, listFields)
	items, _ := fields["items"].([]any)
	for i, raw := range list.Items {
		item := &Object{Source: fmt.Sprintf("%s, item %d", source, i+1)}
		d := decoder{opts: opts, object: item, told: d.told}
		if fields, ok := items[i].(map[string]any); ok && len(raw.Raw) > MaxDocument {
			d.add("", spec.TooLong, nil, fmt.Sprintf("%d bytes; an item has at most %d (2 MiB)", len(raw.Raw), MaxDocument))
		} else if ok {
			d.decode(raw.Raw, fields)
		} else {
			d.add("", spec.Invalid, nil, "an item is an object with apiVersion, kind and metadata")
		}
		objects = append(objects, *item)
	}
	if len(objects) == 0 {
		d.add("items", spec.Required, nil, "")
	}
	d.tellMore()
	if len(o.Findings) > 0 {
		objects = append(objects, *o)
	}
	return objects, false
}

// parse reads the value of a document, and the same as JSON in which every number is written as v has it. What begins like
// JSON is read as that if it can be, because YAML refuses some of its escapes; otherwise it may still be YAML.
func parse(doc []byte) (j []byte, v any, bad []spec.Finding) {
	invalid := func(message string) []spec.Finding { return []spec.Finding{{Kind: spec.Invalid, Message: message}} }
	text := doc
	if bytes.HasPrefix(doc, []byte("---")) { // the separator's line
		_, text, _ = bytes.Cut(doc, []byte("\n"))
	}
	var notJSON string
	if text = bytes.TrimSpace(text); len(text) > 0 && (text[0] == '{' || text[0] == '[') {
		var raw any
		twice, err := kjson.UnmarshalStrict(text, &raw)
		switch {
		case err != nil:
			notJSON = "; as JSON: " + err.Error()
		case loneSurrogate(text):
			return nil, nil, invalid(`a text has one half of a surrogate pair, such as \ud83d without \ude00 after it`)
		case len(twice) > 0:
			for _, err := range twice {
				bad = append(bad, spec.Finding{Kind: spec.Invalid, Message: err.Error()})
			}
			return nil, nil, bad
		default:
			if j, err = json.Marshal(raw); err != nil {
				return nil, nil, invalid(err.Error())
			}
		}
	}
	if j == nil {
		if why := wellFormed(doc); why != "" {
			return nil, nil, invalid(why + notJSON)
		}
		var err error
		if j, err = yaml.YAMLToJSONStrict(doc); err != nil {
			return nil, nil, invalid(err.Error() + notJSON)
		}
	}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(j, &v); err != nil {
		return nil, nil, invalid(err.Error())
	}
	return j, v, nil
}

// loneSurrogate tells whether a text in valid JSON escapes half of a surrogate pair, which stands for no character.
func loneSurrogate(doc []byte) bool {
	half := func(escape []byte) rune { // of \uXXXX
		n, _ := strconv.ParseUint(string(escape[2:6]), 16, 16)
		return rune(n)
	}
	for {
		i := bytes.IndexByte(doc, '\\')
		if i < 0 {
			return false
		}
		doc = doc[i:]
		if doc[1] != 'u' {
			doc = doc[2:]
			continue
		}
		r := half(doc)
		doc = doc[6:]
		if !utf16.IsSurrogate(r) {
			continue
		}
		if !bytes.HasPrefix(doc, []byte(`\u`)) || utf16.DecodeRune(r, half(doc)) == utf8.RuneError {
			return true
		}
		doc = doc[6:]
	}
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
	most := 2 * max(MaxDocument, len(doc))
	if room := most; !fits(v, &room) {
		return fmt.Sprintf("more than %d bytes with its aliases written out", most)
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

// told counts the findings of one document.
type told struct{ listed, warnings, more, moreErrors int }

// decoder collects the findings of one object.
type decoder struct {
	opts   Options
	object *Object
	told   *told
}

func newDecoder(opts Options, o *Object) decoder {
	return decoder{opts: opts, object: o, told: &told{}}
}

func (d *decoder) add(path string, kind spec.FindingKind, value any, message string) {
	d.keep(spec.Finding{Path: path, Kind: kind, Value: value, Message: message})
}

func (d *decoder) warn(path, message string) {
	d.keep(spec.Finding{Path: path, Message: message, Warning: true})
}

// full tells whether no more errors are listed.
func (d *decoder) full() bool { return d.told.listed == MaxFindings }

// keep lists a finding, or counts it where enough are listed.
func (d *decoder) keep(f spec.Finding) {
	d.object.failed = d.object.failed || !f.Warning
	if d.full() || f.Warning && d.told.warnings == MaxFindings/2 {
		d.told.more++
		if !f.Warning {
			d.told.moreErrors++
		}
		return
	}
	d.told.listed++
	if f.Warning {
		d.told.warnings++
	}
	f.Path, f.Message = cut(f.Path), cut(f.Message)
	if s, ok := f.Value.(string); ok {
		f.Value = cut(s)
	}
	d.object.Findings = append(d.object.Findings, f)
}

// tellMore says how many findings of the document are not listed.
func (d *decoder) tellMore() {
	if d.told.more == 0 {
		return
	}
	d.object.failed = d.object.failed || d.told.moreErrors > 0
	d.object.Findings = append(d.object.Findings, spec.Finding{
		Kind: spec.TooLong, Warning: d.told.moreErrors == 0,
		Message: fmt.Sprintf("%d more findings are not listed, %d of them errors", d.told.more, d.told.moreErrors),
	})
}

// cut is a text of at most maxText bytes and an ellipsis.
func cut(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…"
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
var versions = map[string]string{"Pod": "v1", "Deployment": "apps/v1", "Service": "v1", "ConfigMap": "v1", "Secret": "v1", "PodDisruptionBudget": "policy/v1", "List": "v1", "Namespace": "v1"}

// knownKinds are the others that Kubernetes itself has and people apply.
var knownKinds = map[string]bool{
	"ClusterRole": true, "ClusterRoleBinding": true, "ControllerRevision": true, "CronJob": true, "CSIDriver": true,
	"CustomResourceDefinition": true, "DaemonSet": true, "Endpoints": true, "EndpointSlice": true, "Event": true,
	"HorizontalPodAutoscaler": true, "Ingress": true, "IngressClass": true, "Job": true, "Lease": true, "LimitRange": true,
	"MutatingWebhookConfiguration": true, "NetworkPolicy": true, "Node": true, "PersistentVolume": true, "PersistentVolumeClaim": true,
	"PodTemplate": true, "PriorityClass": true, "ReplicaSet": true, "ReplicationController": true,
	"ResourceQuota": true, "Role": true, "RoleBinding": true, "RuntimeClass": true,
	"ServiceAccount": true, "StatefulSet": true, "StorageClass": true, "ValidatingWebhookConfiguration": true, "VolumeSnapshot": true,
}

const supportedKinds = `supported values: "Pod", "Deployment", "Service", "ConfigMap", "Secret", "PodDisruptionBudget", "List"`

// identify reads what the object is and tells whether it is a kind that is decoded.
func (d *decoder) identify(fields map[string]any) bool {
	meta, _ := fields["metadata"].(map[string]any)
	name, _ := meta["name"].(string)
	namespace, _ := meta["namespace"].(string)
	d.object.Name, d.object.Namespace = cut(name), cut(namespace)
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
			value, _ := describe(v)
			d.add(name, spec.Invalid, value, "must be a string")
		}
		return "", false
	}
	kind, hasKind := text("kind")
	version, hasVersion := text("apiVersion")
	d.object.Kind = cut(kind)
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
	if d.opts.KeepClaims {
		if d.object.Claims = takeClaims(fields); len(d.object.Claims) > 0 {
			var err error
			if j, err = json.Marshal(fields); err != nil {
				d.add("", spec.Invalid, nil, err.Error())
				return
			}
		}
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
	case "Service":
		var k corev1.Service
		if !d.strictly(j, fields, &k) {
			return
		}
		d.unsupported(&k, serviceFields)
		s := d.service(&k)
		full := s.Clone()
		spec.DefaultService(full)
		found = spec.ValidateService(full)
		d.object.Service = s
	case "ConfigMap":
		var k corev1.ConfigMap
		if !d.strictly(j, fields, &k) {
			return
		}
		d.unsupported(&k, configMapFields)
		m := d.configMap(&k)
		full := m.Clone()
		spec.DefaultConfigMap(full)
		found = spec.ValidateConfigMap(full)
		d.object.ConfigMap = m
	case "Secret":
		var k corev1.Secret
		if !d.strictly(j, fields, &k) {
			return
		}
		d.unsupported(&k, secretFields)
		s := d.secret(&k)
		full := s.Clone()
		spec.DefaultSecret(full)
		found = spec.ValidateSecret(full)
		d.object.Secret = s
	case "PodDisruptionBudget":
		var k policyv1.PodDisruptionBudget
		if !d.strictly(j, fields, &k) {
			return
		}
		d.unsupported(&k, budgetFields)
		b := d.budget(&k)
		full := b.Clone()
		spec.DefaultPodDisruptionBudget(full)
		found = spec.ValidatePodDisruptionBudget(full)
		d.object.Budget = b
	default:
		d.warn("kind", d.object.Kind+" is ignored: a namespace is there as soon as something is in it")
		return
	}
	d.merge(found)
	if d.object.Failed() {
		d.object.Pod, d.object.Deployment, d.object.Budget = nil, nil, nil
		d.object.Service, d.object.ConfigMap, d.object.Secret = nil, nil, nil
	}
}

// merge takes over validation's errors, but for those that repeat what is known of the same field or of a part of it.
func (d *decoder) merge(found []spec.Finding) {
	own := len(d.object.Findings)
	for _, f := range found {
		f.Path = cut(f.Path)
		known := f.Warning
		for i := range own {
			o := &d.object.Findings[i]
			known = known || !o.Warning && (o.Path == f.Path || isVolumeSource(o.Path, f.Path))
		}
		if !known {
			d.keep(f)
		}
	}
}
