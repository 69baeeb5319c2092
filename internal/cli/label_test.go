package cli

import (
	"strings"
	"testing"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

func TestLabelsAndAnnotationsAreSetChangedAndTakenAwayAsWithKubectl(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	for _, step := range []struct{ line, stdout, stderr string }{
		{"label pod web team=blue", "pod/web labeled\n", ""},
		{"label pod web team=blue", "pod/web not labeled\n", ""},
		{"label pod/web team=red", "", "pod/web: label team already has a value (blue): pass --overwrite to change it\n"},
		{"label pod/web team=red --overwrite", "pod/web labeled\n", ""},
		{"label pods web web2 team-", "pod/web unlabeled\nlabel \"team\" not found.\npod/web2 not labeled\n", ""},
		{"label pods -l app=web x=1 y= --list", "pod/web labeled\nListing labels for pod/web:\n app=web\n x=1\n y=\npod/web2 labeled\nListing labels for pod/web2:\n app=web\n x=1\n y=\n", ""},
		{"label pods --all x- y-", "pod/web unlabeled\npod/web2 unlabeled\n", ""},
		{"label pods -A --all x=1", "pod/db labeled\npod/web labeled\npod/web2 labeled\n", ""},
		{"label pod web --list", "app=web\nx=1\n", ""},
		{"label deployment site tier=web", "deployment/site labeled\n", ""},
		{"label node n1 topology.kubernetes.io/zone=a", "node/n1 labeled\n", ""},
		{"label pod nope a=b", "", `pod "nope" not found in namespace "default": "muster get pods -A" lists them` + "\n"},
		{"annotate pod web example.com/Note=of\u00a0mine", "pod/web annotated\n", ""},
		{"annotate pod web example.com/Note=other", "", "pod/web: annotation example.com/Note already has a value (of\u00a0mine): pass --overwrite to change it\n"},
		{"annotate node/n1 a=b", "node/n1 annotated\n", ""},
		{"annotate node/n1 a-", "node/n1 annotated\n", ""},
	} {
		a := s.run(strings.Split(step.line, " ")...)
		if a.stdout != step.stdout || a.stderr != step.stderr || (a.status != 0) != (step.stderr != "") {
			t.Errorf("%s: exit %d\n%s%swant\n%s%s", step.line, a.status, a.stdout, a.stderr, step.stdout, step.stderr)
		}
	}
	if got := f.nodes[0].GetMeta().GetLabels()["topology.kubernetes.io/zone"]; got != "a" {
		t.Errorf("the node's label is %q", got)
	}
}

func TestAnEditThatLosesARaceIsTriedAgain(t *testing.T) {
	f := aCluster()
	f.conflicts = 3
	s := newShell(t, f)
	if out := s.ok("label", "pod", "web", "a=b"); out != "pod/web labeled\n" {
		t.Errorf("after three lost races: %q", out)
	}
	if n := len(called[*musterv1.UpdatePodRequest](f)); n != 4 {
		t.Errorf("%d writes, want 4", n)
	}
	f.conflicts = 1000
	if a := s.run("label", "pod", "web", "a=c", "--overwrite"); a.status != 1 || !strings.Contains(a.stderr, "run the command again") {
		t.Errorf("where every race is lost: %+v", a)
	}
}

func TestALabelOfTheAgentsOwnIsNotTakenAwayInSilence(t *testing.T) {
	f := aCluster()
	f.nodes[0].Facts.Labels = map[string]string{"disk": "ssd"}
	f.nodes[0].Meta.Labels = map[string]string{"disk": "ssd"}
	s := newShell(t, f)
	a := s.run("label", "node", "n1", "disk-")
	if a.status != 1 || a.stderr != "node/n1: label disk stays \"ssd\": change the agent's --labels\n" {
		t.Errorf("%+v", a)
	}
}
