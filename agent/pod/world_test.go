package pod_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/pod"
	"github.com/musterhq/muster/internal/spec"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// world is a runtime of a few lines: it does what a machine asks for, at once unless told otherwise.
type world struct {
	t    fataler
	m    *pod.Machine
	w    pod.Wanted
	s    pod.Seen
	now  time.Time
	plan pod.Plan

	starts  []time.Time
	grace   []time.Duration
	actions []string
	events  []string
	triggers,
	ids int
	// fail answers the next action of a kind with a failure.
	fail map[pod.ActionKind]pod.Result
	// hold keeps actions of these kinds open; they are in held.
	hold map[pod.ActionKind]bool
	held []pod.Action
	// term is the exit code after SIGTERM; negative: it ignores it until the grace is over.
	term    int32
	removed int
	// ends are when instances ended.
	ends     map[string]time.Time
	statuses int
}

type fataler interface {
	Helper()
	Fatalf(string, ...any)
}

func newWorld(t fataler, p *spec.Pod) *world {
	w := &world{t: t, m: pod.New(p, nil, nil, true), w: pod.Wanted{Pod: p, HostIP: "127.0.0.1"}, now: epoch, term: 143,
		fail: map[pod.ActionKind]pod.Result{}, hold: map[pod.ActionKind]bool{}, ends: map[string]time.Time{}}
	w.s.Known = true
	return w
}

// onePod has the container web, changed by each f.
func onePod(fs ...func(*spec.Pod, *spec.Container)) *spec.Pod {
	p := &spec.Pod{Meta: spec.Meta{Namespace: "default", Name: "web", UID: "u1"}}
	p.Spec = spec.PodSpec{RestartPolicy: spec.RestartAlways, TerminationGrace: 30 * time.Second,
		Containers: []spec.Container{{Name: "web", Command: []string{"x"}}}}
	for _, f := range fs {
		f(p, &p.Spec.Containers[0])
	}
	return p
}

func withProbes(kinds ...spec.ProbeKind) func(*spec.Pod, *spec.Container) {
	return func(_ *spec.Pod, c *spec.Container) {
		for _, k := range kinds {
			probe := &spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{}}, Period: 10 * time.Second, FailureThreshold: 3, SuccessThreshold: 1}
			switch k {
			case spec.Liveness:
				c.Liveness = probe
			case spec.Readiness:
				c.Readiness = probe
			case spec.Startup:
				c.Startup = probe
			}
		}
	}
}

func withPolicy(p spec.RestartPolicy) func(*spec.Pod, *spec.Container) {
	return func(pod *spec.Pod, _ *spec.Container) { pod.Spec.RestartPolicy = p }
}

func withContainer(name string) func(*spec.Pod, *spec.Container) {
	return func(p *spec.Pod, _ *spec.Container) {
		p.Spec.Containers = append(p.Spec.Containers, spec.Container{Name: name, Command: []string{"x"}})
	}
}

func (w *world) instance(name string) *pod.Instance {
	for i := range w.s.Instances {
		if w.s.Instances[i].Name == name {
			return &w.s.Instances[i]
		}
	}
	return nil
}

// step decides and acts until nothing is left to do at this time.
func (w *world) step() pod.Plan {
	w.t.Helper()
	for i := 0; ; i++ {
		if i > 50 {
			w.t.Fatalf("the machine never rests: %v", w.actions)
		}
		w.s.Instances = slices.Clone(w.s.Instances)
		w.plan = w.m.Decide(w.now, w.w, w.s)
		if w.plan.StatusChanged {
			w.statuses++
		}
		for _, e := range w.plan.Events {
			w.events = append(w.events, fmt.Sprintf("%s %s %s %s", e.Type, e.Reason, e.Container, e.Message))
		}
		w.triggers += len(w.plan.Trigger)
		if len(w.plan.Actions) == 0 {
			return w.plan
		}
		for _, a := range w.plan.Actions {
			w.actions = append(w.actions, strings.TrimSpace(fmt.Sprintf("%s %s", a.Kind, a.Container)))
			if a.Kind == pod.StopContainer {
				w.grace = append(w.grace, a.Grace)
			}
			if w.hold[a.Kind] {
				w.held = append(w.held, a)
				continue
			}
			w.finish(a)
		}
	}
}

// finish carries an action out.
func (w *world) finish(a pod.Action) {
	w.t.Helper()
	res, failed := w.fail[a.Kind]
	if failed {
		delete(w.fail, a.Kind)
		w.m.Done(w.now, w.w, a.Seq, res)
		return
	}
	switch a.Kind {
	case pod.EnsureSandbox:
		w.s.Exists, w.s.CreatedAt, w.s.Dead, w.s.DeadReason, w.s.IP = true, w.now.Add(time.Duration(w.ids)), false, "", "127.77.1.1"
	case pod.RemoveSandbox:
		w.removed++
		w.s = pod.Seen{Known: true}
	case pod.StartContainer:
		if !w.s.Exists || w.s.Dead {
			w.t.Fatalf("start of %s without a sandbox", a.Container)
		}
		if in := w.instance(a.Container); in != nil {
			if in.Running {
				w.t.Fatalf("second instance of %s while one runs", a.Container)
			}
			w.s.Instances = slices.DeleteFunc(w.s.Instances, func(i pod.Instance) bool { return i.Name == a.Container })
		}
		w.ids++
		res.Instance = pod.Instance{ID: fmt.Sprintf("process://u1/%s/%d-%d", a.Container, a.Attempt, w.ids), Name: a.Container,
			Attempt: a.Attempt, Running: true, StartedAt: w.now}
		w.s.Instances = append(w.s.Instances, res.Instance)
		w.starts = append(w.starts, w.now)
	case pod.StopContainer:
		if in := w.instance(a.Container); in != nil && in.ID == a.ID && in.Running {
			if w.term >= 0 {
				w.exit(a.Container, w.term)
			} else {
				w.now = w.now.Add(a.Grace)
				w.exit(a.Container, 137)
			}
		}
	}
	w.m.Done(w.now, w.w, a.Seq, res)
}

func (w *world) exit(name string, code int32) {
	w.t.Helper()
	in := w.instance(name)
	if in == nil || !in.Running {
		w.t.Fatalf("container %s does not run", name)
	}
	in.Running, in.FinishedAt, in.ExitCode, in.Reason = false, w.now, code, "Completed"
	if code != 0 {
		in.Reason = "Error"
	}
	w.ends[in.ID] = w.now
}

// after lets time pass, deciding whenever the machine wants to.
func (w *world) after(d time.Duration) pod.Plan {
	w.t.Helper()
	end := w.now.Add(d)
	for !w.plan.Recheck.IsZero() && !w.plan.Recheck.After(end) {
		w.now = w.plan.Recheck
		w.step()
	}
	w.now = end
	return w.step()
}

func (w *world) news(name string, kind spec.ProbeKind, outcome spec.Outcome, verdict spec.Result, output string) {
	w.t.Helper()
	in := w.instance(name)
	w.m.Probe(pod.ProbeNews{Container: name, Kind: kind, Instance: in.ID, Outcome: outcome, Verdict: verdict, Output: output})
}

func (w *world) verdict(name string, kind spec.ProbeKind, verdict spec.Result) {
	w.t.Helper()
	outcome := spec.OutcomeSuccess
	if verdict == spec.ResultFailure {
		outcome = spec.OutcomeFailure
	}
	w.news(name, kind, outcome, verdict, "")
}

func (w *world) status(name string) spec.ContainerStatus {
	w.t.Helper()
	for _, c := range w.plan.Status.Containers {
		if c.Name == name {
			return c
		}
	}
	w.t.Fatalf("no status of %s", name)
	return spec.ContainerStatus{}
}

// restart is a restart of the agent: all that is kept is the memory, as JSON.
func (w *world) restart() {
	w.t.Helper()
	data, err := json.Marshal(w.m.Memory())
	if err != nil {
		w.t.Fatalf("memory: %v", err)
	}
	var mem pod.Memory
	if err := json.Unmarshal(data, &mem); err != nil {
		w.t.Fatalf("memory: %v", err)
	}
	w.m = pod.New(w.w.Pod, &mem, nil, true)
	w.held = nil
}

func (w *world) hasEvent(part string) bool {
	return slices.ContainsFunc(w.events, func(e string) bool { return strings.Contains(e, part) })
}

func wantEvent(t *testing.T, w *world, e string) {
	t.Helper()
	if !slices.Contains(w.events, e) {
		t.Errorf("no event %q in:\n%s", e, strings.Join(w.events, "\n"))
	}
}
