package agent

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestNodesHaveKubernetesLabelsUnlessGivenOthers(t *testing.T) {
	got := nodeLabels("n1", map[string]string{"disk": "ssd", "kubernetes.io/hostname": "box"})
	want := map[string]string{"disk": "ssd", "kubernetes.io/hostname": "box", "kubernetes.io/os": "linux", "kubernetes.io/arch": arch}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got := nodeLabels("n1", nil)["kubernetes.io/hostname"]; got != "n1" {
		t.Errorf("host name %q", got)
	}
}
