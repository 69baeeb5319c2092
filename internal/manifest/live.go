package manifest

import (
	"encoding/json"
	"slices"
	"strings"
)

// livePaths are the fields that a coordinator fills in and "get -o yaml" prints, by the kind that has them; "" is every kind.
var livePaths = map[string][]string{
	"": {
		"metadata.uid", "metadata.resourceVersion", "metadata.creationTimestamp", "metadata.generation",
		"metadata.deletionTimestamp", "metadata.deletionGracePeriodSeconds", "metadata.ownerReferences", "status",
	},
	"Pod": {"spec.nodeName"},
}

// Claim is what a manifest says of a field that is the coordinator's to fill in.
type Claim struct {
	Path string
	// Value is as encoding/json decodes it into an any.
	Value any
}

// takeClaims takes the fields that a coordinator fills in out of an object, in the order of livePaths.
func takeClaims(object map[string]any) []Claim {
	kind, _ := object["kind"].(string)
	var claims []Claim
	for _, path := range slices.Concat(livePaths[""], livePaths[kind]) {
		parent, name := object, path
		if at, last, deep := strings.Cut(path, "."); deep {
			parent, _ = object[at].(map[string]any)
			name = last
		}
		v, ok := parent[name]
		if !ok || v == nil {
			continue
		}
		delete(parent, name)
		claims = append(claims, Claim{path, likeJSON(v)})
	}
	return claims
}

// likeJSON has every number as encoding/json would.
func likeJSON(v any) any {
	var plain any
	if b, err := json.Marshal(v); err == nil {
		_ = json.Unmarshal(b, &plain) // it has just been written
	}
	return plain
}

// WithoutClaims is a copy of a value, as encoding/json decodes it into an any, without what a coordinator fills in.
func WithoutClaims(object any) any {
	plain := likeJSON(object)
	if fields, ok := plain.(map[string]any); ok {
		takeClaims(fields)
	}
	return plain
}

// Claimed is what a live object has at a claim's path; nil where it has nothing there.
func (c *Claim) Claimed(live any) any {
	for name := range strings.SplitSeq(c.Path, ".") {
		object, _ := live.(map[string]any)
		live = object[name]
	}
	return live
}
