package cli

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

func TestAttemptsAreShownAsTheyComeUntilThePodHasGone(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	a := f.results[0]
	f.follow = []*musterv1.WatchProbeResultsResponse{
		{}, {Results: []*musterv1.ProbeAttempt{a}}, {Results: []*musterv1.ProbeAttempt{a, a}, Dropped: 12},
		{Ended: "pod default/web has moved from node n1 to n2"},
	}
	const said = "12 attempts dropped: what reads this is too slow\npod default/web has moved from node n1 to n2\n"
	got := s.run("probe", "tail", "web")
	if got.status != 0 || got.stderr != said {
		t.Errorf("exit %d, %q, want 0 and %q", got.status, got.stderr, said)
	}
	rows := lines(got.stdout)
	if len(rows) != 4 || strings.Join(rows[0], " ") != "TIME CONTAINER KIND OUTCOME RESULT DURATION CPU LAG OUTPUT" {
		t.Fatalf("%s", got.stdout)
	}
	want := "main liveness failure failure 1.2ms 50µs - HTTP probe failed with statuscode: 500 <&>"
	for _, row := range rows[1:] {
		if strings.Join(row[1:], " ") != want {
			t.Errorf("%q, want %q", row[1:], want)
		}
	}
	got = s.run("probe", "tail", "pod/web", "-c", "main", "--kind", "startup", "-o", "json")
	if history := s.ok("probe", "history", "web", "-o", "json"); got.status != 0 || got.stdout != strings.Repeat(history, 3) || got.stderr != said {
		t.Errorf("exit %d, %s want three times %s", got.status, got.stdout, history)
	}
	calls := called[*musterv1.WatchProbeResultsRequest](f)
	if c := calls[len(calls)-1]; c.GetPod() != "web" || c.GetNamespace() != "default" || c.GetContainer() != "main" || c.GetKind() != musterv1.ProbeKind_PROBE_KIND_STARTUP {
		t.Errorf("asked for %v", c)
	}
}

func TestFollowingThatBreaksOffSaysWhy(t *testing.T) {
	f := aCluster()
	s := newShell(t, f)
	f.follow = []*musterv1.WatchProbeResultsResponse{{}}
	f.followEnd = withReason(codes.Unavailable, "ask node n1: no session with the node", "NODE_UNREACHABLE")
	if got := s.run("probe", "tail", "web"); got.status != 1 || !strings.Contains(got.stderr, "no session with the node") || !strings.Contains(got.stderr, "muster get nodes") {
		t.Errorf("exit %d, %q", got.status, got.stderr)
	}
	for line, want := range map[string]string{
		"probe tail": "accepts 1 arg(s)", "probe tail node/a": "want a pod", "probe tail a --kind frob": "want liveness, readiness or startup", "probe tail a -o yaml": "unknown format",
	} {
		if got := s.run(strings.Fields(line)...); got.status != 2 || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: exit %d, %q, want %q", line, got.status, got.stderr, want)
		}
	}
}
