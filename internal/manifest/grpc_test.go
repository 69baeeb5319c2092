package manifest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/internal/spec"
)

func TestAGRPCProbeHasAPortAndMayHaveAService(t *testing.T) {
	pod := func(grpc string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","command":["x"],"readinessProbe":{"grpc":` + grpc + `}}]}}`
	}
	for text, want := range map[string]spec.GRPCAction{
		`{"port":9000}`:                        {Port: 9000},
		`{"port":9000,"service":""}`:           {Port: 9000},
		`{"port":9000,"service":"muster.Web"}`: {Port: 9000, Service: "muster.Web"},
		`{"port":9000,"mode":"Plaintext"}`:     {Port: 9000, Mode: spec.ModePlaintext},
		`{"port":9000,"mode":"TLS"}`:           {Port: 9000, Mode: spec.ModeTLS},
	} {
		o := one(t, pod(text), Options{})
		if o.Failed() || o.Pod == nil {
			t.Errorf("%s: %v", text, o.Findings)
			continue
		}
		if diff := cmp.Diff(&want, o.Pod.Spec.Containers[0].Readiness.GRPC); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	const at = "spec.containers[0].readinessProbe.grpc"
	for text, want := range map[string]string{
		`{"port":"web"}`:               at + ".port",
		`{"port":9000,"mode":"tls"}`:   at + `.mode: Unsupported value: "tls": supported values: "Plaintext", "TLS"`,
		`{"port":9000,"host":"other"}`: at + ".host: Invalid value: unknown field",
	} {
		o := one(t, pod(text), Options{})
		if !o.Failed() || !strings.Contains(strings.Join(lines(o.Findings), "\n"), want) {
			t.Errorf("%s: %v, want %s", text, lines(o.Findings), want)
		}
	}
}
