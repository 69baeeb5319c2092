package spec_test

import (
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

func TestTheRestartGuardsAnnotationIsReadStrictly(t *testing.T) {
	standard := spec.DefaultRestartGuard()
	for text, want := range map[string]spec.RestartGuard{
		"off":       {Off: true, Share: 50, Window: time.Minute, Min: 3, ReleaseAfter: 10 * time.Minute},
		"share=30%": {Share: 30, Window: time.Minute, Min: 3, ReleaseAfter: 10 * time.Minute},
		"share=50% window=60s min=3 release-after=10m":  standard,
		" release-after=24h  window=1s share=99% min=9": {Share: 99, Window: time.Second, Min: 9, ReleaseAfter: 24 * time.Hour},
	} {
		if got, err := spec.ParseRestartGuard(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"":                      `must be "off", or any of share=50%`,
		"on":                    `"on": must be "off"`,
		"off share=50%":         `"off": must be "off"`,
		"share=50":              "share must be 1% to 99%",
		"share=0%":              "share must be 1% to 99%",
		"share=100%":            "share must be 1% to 99%",
		"share=50% share=50%":   "share is said twice",
		"window=60":             "window must be 1s to 1h",
		"window=999ms":          "window must be 1s to 1h",
		"window=61m":            "window must be 1s to 1h",
		"min=2":                 "min must be 3 to 10000",
		"min=10001":             "min must be 3 to 10000",
		"release-after=0s":      "release-after must be 1s to 24h",
		"release-after=24h0m1s": "release-after must be 1s to 24h",
	} {
		if _, err := spec.ParseRestartGuard(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestTheRestartGuardIsOnWhereItsDeploymentWantsEnoughPods(t *testing.T) {
	d := &spec.Deployment{Meta: spec.Meta{Annotations: map[string]string{}}}
	for _, tc := range []struct {
		replicas int32
		text     string
		want     bool
	}{{2, "", false}, {3, "", true}, {3, "off", false}, {3, "min=4", false}, {4, "min=4", true}, {3, "nonsense", true}} {
		d.Spec.Replicas = tc.replicas
		delete(d.Annotations, spec.AnnotationRestartGuard)
		if tc.text != "" {
			d.Annotations[spec.AnnotationRestartGuard] = tc.text
		}
		if _, on := d.RestartGuard(); on != tc.want {
			t.Errorf("%d replicas, %q: %v", tc.replicas, tc.text, on)
		}
	}
	d.DeleteTime = time.Unix(1, 0)
	if _, on := d.RestartGuard(); on {
		t.Error("it is on while the Deployment is deleted")
	}
}

func TestTheRestartGuardsAnnotationBelongsOnTheDeployment(t *testing.T) {
	p := web()
	p.Namespace, p.Annotations = "default", map[string]string{spec.AnnotationRestartGuard: "off"}
	spec.DefaultPod(p)
	check(t, spec.ValidatePod(p, spec.Options{}), "metadata.annotations[muster.dev/restart-guard]: Forbidden: "+
		"it is read from a Deployment's own metadata.annotations: set it there")
}
