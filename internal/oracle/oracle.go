// Package oracle holds muster's defaults and validation of pods against Kubernetes' own code. It is a module of its own, so that
// nothing of Kubernetes is ever linked into muster. What the two are meant to judge differently is named in differences.go.
package oracle

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	corev1api "k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/features"

	"github.com/musterhq/muster/internal/manifest"
	"github.com/musterhq/muster/internal/spec"
)

func init() {
	// Both are on in muster.
	for _, gate := range []string{string(features.H2CContainerProbe), string(features.GRPCContainerProbeTLS)} {
		if err := utilfeature.DefaultMutableFeatureGate.Set(gate + "=true"); err != nil {
			panic(err)
		}
	}
}

// Finding is one error by its path and kind: what it says in words is each side's own.
type Finding struct {
	Path string           `json:"path"`
	Kind spec.FindingKind `json:"kind"`
	// text is what the side says itself, for people.
	text string
}

func (f Finding) same(g Finding) bool { return f.Path == g.Path && f.Kind == g.Kind }

// Kubernetes defaults and validates a pod as its API server does at its creation, and returns the pod with its defaults.
func Kubernetes(p *corev1.Pod) (*corev1.Pod, []Finding, error) {
	p = p.DeepCopy()
	corev1api.SetObjectDefaults_Pod(p)
	if p.Namespace == "" {
		p.Namespace = metav1.NamespaceDefault
	}
	var in core.Pod
	if err := corev1api.Convert_v1_Pod_To_core_Pod(p, &in, nil); err != nil {
		return nil, nil, err
	}
	opts := podutil.GetValidationOptionsFromPodSpecAndMeta(&in.Spec, nil, &in.ObjectMeta, nil)
	opts.ResourceIsPod = true
	var all []Finding
	for _, e := range validation.ValidatePodCreate(&in, opts) {
		kind, known := kinds[e.Type]
		if !known {
			return nil, nil, fmt.Errorf("an error of the kind %s: %w", e.Type, e)
		}
		all = append(all, Finding{Path: e.Field, Kind: kind, text: e.Error()})
	}
	return p, tidy(all), nil
}

var kinds = map[field.ErrorType]spec.FindingKind{
	field.ErrorTypeRequired: spec.Required, field.ErrorTypeInvalid: spec.Invalid, field.ErrorTypeNotSupported: spec.NotSupported,
	field.ErrorTypeForbidden: spec.Forbidden, field.ErrorTypeDuplicate: spec.Duplicate, field.ErrorTypeTooLong: spec.TooLong,
	field.ErrorTypeTooMany: spec.TooMany, field.ErrorTypeTypeInvalid: spec.Invalid, field.ErrorTypeNotFound: spec.NotFound,
}

// Muster decodes, defaults and validates the same pod.
func Muster(p *corev1.Pod) (*spec.Pod, []Finding, error) {
	p = p.DeepCopy()
	p.APIVersion, p.Kind = "v1", "Pod"
	data, err := json.Marshal(p)
	if err != nil {
		return nil, nil, err
	}
	objects, err := manifest.Decode(data, "pod", manifest.Options{})
	if err != nil {
		return nil, nil, err
	}
	if len(objects) != 1 {
		return nil, nil, fmt.Errorf("%d objects of one", len(objects))
	}
	var all []Finding
	_, errs := spec.Split(objects[0].Findings)
	for _, f := range errs {
		all = append(all, Finding{Path: f.Path, Kind: f.Kind, text: f.String()})
	}
	pod := objects[0].Pod
	if pod != nil {
		spec.DefaultPod(pod)
	}
	return pod, tidy(all), nil
}

// tidy sorts findings, and leaves one of those that are alike.
func tidy(all []Finding) []Finding {
	slices.SortFunc(all, func(a, b Finding) int {
		if a.Path != b.Path {
			if a.Path < b.Path {
				return -1
			}
			return 1
		}
		switch {
		case a.Kind < b.Kind:
			return -1
		case a.Kind > b.Kind:
			return 1
		}
		return 0
	})
	return slices.CompactFunc(all, Finding.same)
}

var indices = regexp.MustCompile(`\[[0-9]+\]`)

// general is a path without its indices.
func general(path string) string { return indices.ReplaceAllString(path, "") }
