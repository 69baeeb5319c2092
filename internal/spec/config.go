package spec

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// The kinds of objects that variables and files are made from.
const (
	KindConfigMap = "ConfigMap"
	KindSecret    = "Secret"
)

// ConfigMap has values that pods take as variables or files.
type ConfigMap struct {
	Meta
	// Data and Binary have at most 512 KiB together, and no key in common.
	Data   map[string]string
	Binary map[string][]byte
	// Immutable refuses changes of the data; once true it stays.
	Immutable bool
}

// Secret has values that are encrypted in the store and sent only to the nodes whose pods use them.
type Secret struct {
	Meta
	// Data has at most 512 KiB.
	Data map[string][]byte
	// Type is Opaque by default, and cannot be changed.
	Type string
	// Immutable refuses changes of the data; once true it stays.
	Immutable bool
	// Unreadable says why a stored Secret could not be decrypted: then it has no data. It is never stored.
	Unreadable string
}

// AnnotationUnreadable is how a Secret says that it could not be decrypted, and why.
const AnnotationUnreadable = "muster.dev/unreadable"

// ConfigKey names a ConfigMap or Secret.
type ConfigKey struct {
	// Kind is KindConfigMap or KindSecret.
	Kind, Namespace, Name string
}

// String is "ConfigMap default/web".
func (k ConfigKey) String() string { return k.Kind + " " + k.Namespace + "/" + k.Name }

// maxConfigBytes bounds the data of one ConfigMap or Secret. Kubernetes' bound is twice that; with it a record would not fit a
// transaction beside others.
const maxConfigBytes = 512 << 10

// Clone returns a copy that shares nothing with m.
func (m *ConfigMap) Clone() *ConfigMap {
	out := *m
	out.Meta, out.Data, out.Binary = m.clone(), maps.Clone(m.Data), cloneBytes(m.Binary)
	return &out
}

// Clone returns a copy that shares nothing with s.
func (s *Secret) Clone() *Secret {
	out := *s
	out.Meta, out.Data = s.clone(), cloneBytes(s.Data)
	return &out
}

func cloneBytes(m map[string][]byte) map[string][]byte {
	m = maps.Clone(m)
	for k, v := range m {
		m[k] = slices.Clone(v)
	}
	return m
}

// Values are the values of all keys, texts and bytes. The map is the caller's, the bytes are not.
func (m *ConfigMap) Values() map[string][]byte {
	all := make(map[string][]byte, len(m.Data)+len(m.Binary))
	for k, v := range m.Data {
		all[k] = []byte(v)
	}
	maps.Copy(all, m.Binary)
	return all
}

// DefaultConfigMap fills in what was left out.
func DefaultConfigMap(m *ConfigMap) {
	if m.Namespace == "" {
		m.Namespace = "default"
	}
}

// DefaultSecret fills in what was left out.
func DefaultSecret(s *Secret) {
	if s.Namespace == "" {
		s.Namespace = "default"
	}
	if s.Type == "" {
		s.Type = "Opaque"
	}
}

// ValidateConfigMap finds what is wrong with a ConfigMap whose defaults are filled in.
func ValidateConfigMap(m *ConfigMap) []Finding {
	c := &checker{}
	c.meta("metadata", &m.Meta, true)
	size := 0
	for _, k := range sortedKeys(m.Data) {
		c.configKey("data", k)
		size += len(k) + len(m.Data[k])
		if _, twice := m.Binary[k]; twice {
			c.add("binaryData["+k+"]", Invalid, k, "duplicate of key present in data")
		}
	}
	size += c.configValues("binaryData", m.Binary)
	c.configSize(size)
	return c.findings
}

// ValidateSecret finds what is wrong with a Secret whose defaults are filled in.
func ValidateSecret(s *Secret) []Finding {
	c := &checker{}
	c.meta("metadata", &s.Meta, true)
	c.configSize(c.configValues("data", s.Data))
	if len(s.Type) > 253 {
		c.add("type", TooLong, len(s.Type), "at most 253 characters")
	}
	for kind, keys := range map[string][]string{
		"kubernetes.io/dockerconfigjson": {".dockerconfigjson"}, "kubernetes.io/dockercfg": {".dockercfg"},
		"kubernetes.io/tls": {"tls.crt", "tls.key"}, "kubernetes.io/ssh-auth": {"ssh-privatekey"},
	} {
		for _, k := range keys {
			if _, has := s.Data[k]; s.Type == kind && !has {
				c.add("data["+k+"]", Required, nil, "")
			}
		}
	}
	return c.findings
}

// configValues checks the keys of a map and returns the size of it.
func (c *checker) configValues(at string, values map[string][]byte) (size int) {
	for _, k := range slices.Sorted(maps.Keys(values)) {
		c.configKey(at, k)
		size += len(k) + len(values[k])
	}
	return size
}

func (c *checker) configSize(size int) {
	if size > maxConfigBytes {
		c.add("", TooLong, size, fmt.Sprintf("at most %d bytes of keys and values", maxConfigBytes))
	}
}

func (c *checker) configKey(at, key string) {
	if why := configKey(key); why != "" {
		c.add(at+"["+key+"]", Invalid, key, why)
	}
}

// configKey says why s is no key of a ConfigMap or Secret.
func configKey(s string) string {
	switch {
	case len(s) > 253:
		return "must be no more than 253 characters"
	case s == "" || s == "." || strings.HasPrefix(s, ".."):
		return "a key must not be empty, '.' or begin with '..'"
	}
	for i := range len(s) {
		if !alphanumeric(s[i]) && s[i] != '-' && s[i] != '_' && s[i] != '.' {
			return "a key must consist of alphanumeric characters, '-', '_' or '.'"
		}
	}
	return ""
}

// ValidateConfigMapUpdate finds changes of an immutable ConfigMap.
func ValidateConfigMapUpdate(old, m *ConfigMap) []Finding {
	return immutable(old.Immutable, m.Immutable, sameBytes(old.Values(), m.Values()))
}

// ValidateSecretUpdate finds changes of a Secret's type, and of an immutable one.
func ValidateSecretUpdate(old, s *Secret) []Finding {
	found := immutable(old.Immutable, s.Immutable, sameBytes(old.Data, s.Data))
	if old.Type != s.Type {
		found = append(found, Finding{Path: "type", Kind: Invalid, Value: s.Type, Message: "field is immutable"})
	}
	return found
}

func immutable(was, is, same bool) (found []Finding) {
	if was && !is {
		found = append(found, Finding{Path: "immutable", Kind: Forbidden, Message: "field is immutable when `immutable` is set"})
	}
	if was && !same {
		found = append(found, Finding{Path: "data", Kind: Forbidden, Message: "field is immutable when `immutable` is set"})
	}
	return found
}

func sameBytes(a, b map[string][]byte) bool { return maps.EqualFunc(a, b, slices.Equal) }

// KeyRef names one value of a ConfigMap or Secret in the pod's namespace.
type KeyRef struct {
	// Kind is KindConfigMap or KindSecret.
	Kind, Name, Key string
	// Optional makes the absence of either no error.
	Optional bool
}

// ResourceRef is an amount that a container asks for or is held to.
type ResourceRef struct {
	// Container is empty for the one whose variable this is.
	Container string
	// Resource is limits.cpu, limits.memory, requests.cpu or requests.memory.
	Resource string
	// DivisorMilli is the unit that it is counted in, rounded up, in thousandths of a core or byte; 0 means 1000.
	DivisorMilli int64
}

// EnvFrom makes variables of the keys of a ConfigMap or Secret in the pod's namespace.
type EnvFrom struct {
	// Prefix is put before each key.
	Prefix string
	// Kind is KindConfigMap or KindSecret.
	Kind, Name string
	// Optional makes the absence of it no error.
	Optional bool
}

// The kinds of a volume of files and of its sources, in Kubernetes' words.
const (
	FilesConfigMap   = "configMap"
	FilesSecret      = "secret"
	FilesDownwardAPI = "downwardAPI"
	FilesProjected   = "projected"
)

// DefaultFileMode is the mode of a volume's files unless it is given.
const DefaultFileMode = 0o644

// Files is a volume whose files follow their sources: a change appears in all of them at once.
type Files struct {
	// Kind is FilesConfigMap, FilesSecret or FilesDownwardAPI, each with one source of that kind, or FilesProjected.
	Kind string
	// DefaultMode is the files' mode, 0 to 0777; 0 means DefaultFileMode.
	DefaultMode int32
	// Sources are at most 64.
	Sources []FileSource
}

// FileSource is where files of a volume come from.
type FileSource struct {
	// Kind is FilesConfigMap, FilesSecret or FilesDownwardAPI.
	Kind string
	// Name is the object's.
	Name string
	// Optional makes the absence of the object, or of a key in Items, no error.
	Optional bool
	// Items are the keys that are wanted, by default all; of FilesDownwardAPI they have to be given. At most 1,000.
	Items []FileItem
}

// FileItem is one file of a volume.
type FileItem struct {
	// Key is that of a ConfigMap or Secret.
	Key string
	// Path is below the volume's root, relative and without "..".
	Path string
	// Mode is 0 to 0777, nil for the volume's.
	Mode *int32
	// FieldPath or Resource is what the file of FilesDownwardAPI has.
	FieldPath string
	Resource  *ResourceRef
}

const (
	maxEnvFrom     = 64
	maxFileSources = 64
	maxFileItems   = 1000
)

func (f *Files) clone() *Files {
	f = clonePtr(f)
	if f == nil {
		return nil
	}
	f.Sources = slices.Clone(f.Sources)
	for i := range f.Sources {
		items := slices.Clone(f.Sources[i].Items)
		for j := range items {
			items[j].Mode, items[j].Resource = clonePtr(items[j].Mode), clonePtr(items[j].Resource)
		}
		f.Sources[i].Items = items
	}
	return f
}

// Secret tells whether anything of the volume is secret.
func (f *Files) Secret() bool {
	return slices.ContainsFunc(f.Sources, func(s FileSource) bool { return s.Kind == FilesSecret })
}

// configKind is the kind of object behind a source, empty for the pod itself.
func (s *FileSource) configKind() string {
	switch s.Kind {
	case FilesConfigMap:
		return KindConfigMap
	case FilesSecret:
		return KindSecret
	}
	return ""
}

// Object names the object behind a source of a pod in a namespace; false for the pod itself.
func (s *FileSource) Object(namespace string) (ConfigKey, bool) {
	kind := s.configKind()
	return ConfigKey{Kind: kind, Namespace: namespace, Name: s.Name}, kind != ""
}

// Configs are the ConfigMaps and Secrets that the pod uses, each once, sorted.
func (p *Pod) Configs() []ConfigKey {
	seen := map[ConfigKey]bool{}
	for _, c := range p.Spec.AllContainers() {
		for _, e := range c.EnvFrom {
			seen[ConfigKey{e.Kind, p.Namespace, e.Name}] = true
		}
		for _, e := range c.Env {
			if e.Key != nil {
				seen[ConfigKey{e.Key.Kind, p.Namespace, e.Key.Name}] = true
			}
		}
	}
	for _, v := range p.Spec.Volumes {
		if v.Files == nil {
			continue
		}
		for i := range v.Files.Sources {
			if key, ok := v.Files.Sources[i].Object(p.Namespace); ok {
				seen[key] = true
			}
		}
	}
	return slices.SortedFunc(maps.Keys(seen), func(a, b ConfigKey) int { return strings.Compare(a.String(), b.String()) })
}

// objectName checks the name of an object that is referred to.
func (c *checker) objectName(at, name string) {
	if name == "" {
		c.add(at, Required, nil, "")
	} else if why := subdomain(name); why != "" {
		c.add(at, Invalid, name, why)
	}
}

func refName(kind string) string {
	if kind == KindSecret {
		return "secret"
	}
	return "configMap"
}

func (c *checker) envFrom(at string, e *EnvFrom) {
	if why := envName(e.Prefix); e.Prefix != "" && why != "" {
		c.add(at+".prefix", Invalid, e.Prefix, why)
	}
	switch e.Kind {
	case KindConfigMap, KindSecret:
		c.objectName(at+"."+refName(e.Kind)+"Ref.name", e.Name)
	default:
		c.add(at, Invalid, nil, "must specify one of: `configMapRef` or `secretRef`")
	}
}

func (c *checker) keyRef(at string, r *KeyRef) {
	switch r.Kind {
	case KindConfigMap, KindSecret:
	default:
		c.add(at, Invalid, r.Kind, "must be of a ConfigMap or a Secret")
		return
	}
	at += "." + refName(r.Kind) + "KeyRef"
	if why := subdomain(r.Name); why != "" {
		c.add(at+".name", Invalid, r.Name, why)
	}
	if r.Key == "" {
		c.add(at+".key", Required, nil, "")
	} else if why := configKey(r.Key); why != "" {
		c.add(at+".key", Invalid, r.Key, why)
	}
}

// resourceRef checks a reference to a resource; own is whether it stands in a container that it means by default.
func (c *checker) resourceRef(at string, r *ResourceRef, own bool) {
	at += ".resourceFieldRef"
	var of []int64
	if list, resource, ok := strings.Cut(r.Resource, "."); ok && (list == "limits" || list == "requests") {
		of = divisors[resource]
	}
	switch {
	case r.Container == "" && !own:
		c.add(at+".containerName", Required, nil, "")
	case r.Resource == "":
		c.add(at+".resource", Required, nil, "")
	case of == nil:
		c.add(at+".resource", NotSupported, r.Resource, `supported values: "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"`)
	}
	if of != nil && r.DivisorMilli != 0 && !slices.Contains(of, r.DivisorMilli) {
		c.add(at+".divisor", Invalid, r.Resource, "the divisor is 1m or 1 for cpu, and 1, 1k, 1M … 1E, 1Ki, 1Mi … 1Ei for memory")
	}
}

// divisors are those that a resource may be told in, in thousandths.
var divisors = func() map[string][]int64 {
	memory := []int64{1000}
	for k, ki := int64(1000), int64(1024); k <= 1e15; k, ki = k*1000, ki*1024 {
		memory = append(memory, k*1000, ki*1000)
	}
	return map[string][]int64{"cpu": {1, 1000}, "memory": memory}
}()

func (c *checker) mode(at string, mode int32) {
	if mode < 0 || mode > 0o777 {
		c.add(at, Invalid, mode, "must be a number between 0 and 0777 (octal), both inclusive")
	}
}

func (c *checker) files(at string, f *Files) {
	at += "." + f.Kind
	c.mode(at+".defaultMode", f.DefaultMode)
	switch f.Kind {
	case FilesProjected:
		c.atMost(at+".sources", len(f.Sources), maxFileSources)
	case FilesConfigMap, FilesSecret, FilesDownwardAPI:
		if len(f.Sources) != 1 || f.Sources[0].Kind != f.Kind {
			c.add(at, Invalid, nil, "must have one source of its own kind")
			return
		}
	default:
		c.add(at, Invalid, f.Kind, "is no kind of volume")
		return
	}
	paths := map[string]bool{}
	for i := range f.Sources {
		s, at := &f.Sources[i], at
		if f.Kind == FilesProjected {
			at = fmt.Sprintf("%s.sources[%d].%s", at, i, s.Kind)
		}
		c.fileSource(at, f.Kind, s, paths)
	}
}

func (c *checker) fileSource(at, kind string, s *FileSource, paths map[string]bool) {
	switch s.Kind {
	case FilesSecret:
		name := ".name"
		if kind == FilesSecret {
			name = ".secretName"
		}
		c.objectName(at+name, s.Name)
	case FilesConfigMap:
		c.objectName(at+".name", s.Name)
	case FilesDownwardAPI:
	default:
		c.add(at, Invalid, s.Kind, "is no kind of source")
		return
	}
	c.atMost(at+".items", len(s.Items), maxFileItems)
	for i := range s.Items {
		item, at := &s.Items[i], fmt.Sprintf("%s.items[%d]", at, i)
		switch {
		case item.Path == "":
			c.add(at+".path", Required, nil, "")
		case path.IsAbs(item.Path):
			c.add(at+".path", Invalid, item.Path, "must be a relative path")
		case slices.Contains(strings.Split(item.Path, "/"), ".."):
			c.add(at+".path", Invalid, item.Path, "must not contain '..'")
		case strings.HasPrefix(item.Path, ".."):
			c.add(at+".path", Invalid, item.Path, "must not start with '..'")
		case paths[path.Clean(item.Path)]:
			c.add(at+".path", Invalid, item.Path, "conflicting duplicate paths")
		}
		paths[path.Clean(item.Path)] = true
		if item.Mode != nil {
			c.mode(at+".mode", *item.Mode)
		}
		if s.Kind != FilesDownwardAPI {
			if item.Key == "" {
				c.add(at+".key", Required, nil, "")
			} else if why := configKey(item.Key); why != "" {
				c.add(at+".key", Invalid, item.Key, why)
			}
			continue
		}
		switch {
		case item.FieldPath != "" && item.Resource != nil:
			c.add(at, Invalid, nil, "fieldRef and resourceFieldRef can not be specified simultaneously")
		case item.Resource != nil:
			c.resourceRef(at, item.Resource, false)
		case item.FieldPath == "":
			c.add(at, Required, nil, "one of fieldRef and resourceFieldRef is required")
		default:
			c.fieldPath(at+".fieldRef", item.FieldPath, []string{"metadata.name", "metadata.namespace", "metadata.uid", "metadata.labels",
				"metadata.annotations"}, []string{"spec.nodeName", "status.podIP", "status.hostIP"})
		}
	}
}
