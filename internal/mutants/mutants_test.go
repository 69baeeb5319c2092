package mutants

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// mutant is one seeded fault.
type mutant struct {
	// rule is the one that it breaks.
	rule string
	// file has the text was exactly once, and the fault has is in its place.
	file, was, is string
}

// suites are the tests that have to notice, by the directory of the file: the package's own, and a pattern where some of them take long.
// Those that use rapid are told to leave no files of failures behind.
var suites = map[string]struct {
	run   string
	rapid bool
}{
	"agent/health": {rapid: true}, "agent/pod": {rapid: true}, "agent/prober": {}, "internal/spec": {rapid: true}, "internal/event": {},
	"agent/probe": {run: "Judged|Commands|Sent|Redirects|Certificates|HTTP2|Opens|Declared|Connection|Stall|Reset|AsksThePod"},
	"agent":       {run: "Counted"},
}

// perMutant bounds the tests of one mutant, its build included: a fault may have them hang.
const perMutant = 2 * time.Minute

func TestTheTestsNoticeEveryFault(t *testing.T) {
	if os.Getenv("MUSTER_MUTANTS") == "" {
		t.Skip("builds the tests of a faulty package for each fault: make mutants")
	}
	rulesBroken := map[string]bool{}
	// Two at a time: each is a compiler and then a test.
	room := make(chan struct{}, 2)
	var wg sync.WaitGroup
	began := time.Now()
	for i, m := range mutants {
		rulesBroken[chapter(m.rule)] = true
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			m.run(t, i)
		})
	}
	wg.Wait()
	t.Logf("%d faults in %v", len(mutants), time.Since(began).Round(time.Second))
	if len(mutants) < 40 {
		t.Errorf("%d faults, want 40", len(mutants))
	}
	for _, rule := range rules {
		if !rulesBroken[chapter(rule)] {
			t.Errorf("no fault breaks a rule of group %s", chapter(rule))
		}
	}
}

// chapter is the group of a rule: 5.2 of 5.2.9, 8.5 of itself, and the chapters 2, 4, 7 to 13 as a whole.
func chapter(rule string) string {
	parts := strings.Split(rule, ".")
	if parts[0] != "3" && parts[0] != "5" || len(parts) < 2 {
		return parts[0]
	}
	return parts[0] + "." + parts[1]
}

func (m *mutant) run(t *testing.T, n int) {
	path, err := filepath.Abs(filepath.Join(root, m.file))
	if err != nil {
		t.Error(err)
		return
	}
	source, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
		return
	}
	if c := strings.Count(string(source), m.was); c != 1 {
		t.Errorf("%s (%s): the text to change is there %d times: %s", m.file, m.rule, c, m.was)
		return
	}
	dir := t.TempDir()
	faulty, overlay := filepath.Join(dir, filepath.Base(m.file)), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(faulty, []byte(strings.Replace(string(source), m.was, m.is, 1)), 0o600); err != nil {
		t.Error(err)
		return
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: faulty}})
	if err != nil {
		t.Error(err)
		return
	}
	if err := os.WriteFile(overlay, list, 0o600); err != nil {
		t.Error(err)
		return
	}
	pkg := filepath.Dir(m.file)
	suite, known := suites[pkg]
	if !known {
		t.Errorf("no tests are named for %s", pkg)
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), perMutant)
	defer cancel()
	args := []string{"test", "-short", "-failfast", "-vet=off", "-overlay", overlay, "-timeout", "60s", "-run", suite.run, "./" + pkg}
	if suite.rapid {
		args = append(args, "-rapid.nofailfile")
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir, cmd.WaitDelay = root, 5*time.Second
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.Errorf("fault %d (%s, %s) is not noticed: %s", n, m.rule, m.file, m.is)
	case !errors.As(err, &exit):
		t.Errorf("fault %d (%s, %s): %v", n, m.rule, m.file, err)
	case strings.Contains(string(out), "[build failed]"), !strings.Contains(string(out), "FAIL"):
		t.Errorf("fault %d (%s, %s) is no program:\n%s", n, m.rule, m.file, out)
	}
}
