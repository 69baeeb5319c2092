package manifest

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/musterhq/muster/internal/spec"
)

func TestHooksRunACommandSendAGETOrWait(t *testing.T) {
	pod := func(lifecycle string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","command":["x"],"lifecycle":` + lifecycle + `}]}}`
	}
	for text, want := range map[string]spec.Container{
		`{}`: {},
		`{"postStart":{"exec":{"command":["warm","up"]}},"preStop":{"sleep":{"seconds":5}}}`: {
			PostStart: &spec.Hook{Exec: &spec.ExecAction{Command: []string{"warm", "up"}}}, PreStop: &spec.Hook{Sleep: &spec.SleepAction{Duration: 5 * time.Second}},
		},
		`{"preStop":{"httpGet":{"port":"http","path":"/bye","httpHeaders":[{"name":"A","value":"b"}]}}}`: {
			PreStop: &spec.Hook{HTTP: &spec.HTTPAction{Port: spec.PortRef{Name: "http"}, Path: "/bye", Headers: []spec.Header{{Name: "A", Value: "b"}}}},
		},
	} {
		o := one(t, pod(text), Options{})
		want.Name, want.Command = "c", []string{"x"}
		if o.Failed() || o.Pod == nil {
			t.Errorf("%s: %v", text, o.Findings)
		} else if diff := cmp.Diff(want, o.Pod.Spec.Containers[0]); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	const at = "spec.containers[0].lifecycle"
	for text, want := range map[string]string{
		`{"preStop":{"tcpSocket":{"port":1}}}`:                  at + ".preStop.tcpSocket: Not built yet",
		`{"stopSignal":"SIGINT"}`:                               at + ".stopSignal: Not built yet",
		`{"preStop":{"sleep":{"seconds":9223372036854775807}}}`: at + ".preStop.sleep.seconds: Invalid value",
		`{"preStart":{}}`:                                       at + ".preStart: Invalid value: unknown field",
	} {
		o := one(t, pod(text), Options{})
		if !o.Failed() || !strings.Contains(strings.Join(lines(o.Findings), "\n"), want) {
			t.Errorf("%s: %v, want %s", text, lines(o.Findings), want)
		}
	}
}
