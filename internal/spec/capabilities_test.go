package spec_test

import (
	"strings"
	"testing"

	"github.com/musterhq/muster/internal/spec"
)

func TestCapabilitiesAreTheUsualOnesMoreAndLess(t *testing.T) {
	const (
		usual = 0xa80425fb
		all   = 1<<41 - 1
		chown = 1 << 0
		admin = 1 << 21
	)
	for name, x := range map[string]struct {
		add, drop string
		want      spec.CapabilitySet
	}{
		"nothing said":                {"", "", usual},
		"one more":                    {"SYS_ADMIN", "", usual | admin},
		"one less":                    {"", "CHOWN", usual &^ chown},
		"none":                        {"", "ALL", 0},
		"all":                         {"ALL", "", all},
		"all but one":                 {"ALL", "CHOWN", all &^ chown},
		"one alone":                   {"SYS_ADMIN", "ALL", admin},
		"added and dropped: dropped":  {"SYS_ADMIN", "SYS_ADMIN", usual},
		"ALL added and dropped: none": {"ALL", "ALL", 0},
	} {
		if got := spec.EffectiveCapabilities(strings.Fields(x.add), strings.Fields(x.drop)); got != x.want {
			t.Errorf("%s: %#x, want %#x", name, got, x.want)
		}
	}
}

func TestUnknownCapabilitiesAreNamed(t *testing.T) {
	const why = `: must be "ALL" or the name of a capability without CAP_, such as "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW"`
	checkPod(t, func(p *spec.Pod) {
		s := &p.Spec.Containers[0].Security
		s.AddCapabilities, s.DropCapabilities = []string{"CHOWN", "CAP_CHOWN"}, []string{"ALL", "chown"}
	}, spec.Options{},
		`spec.containers[0].securityContext.capabilities.add[1]: Unsupported value: "CAP_CHOWN"`+why,
		`spec.containers[0].securityContext.capabilities.drop[1]: Unsupported value: "chown"`+why)
}
