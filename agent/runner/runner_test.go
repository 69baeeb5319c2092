package runner_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/containertest"
	"github.com/musterhq/muster/agent/runner"
	"github.com/musterhq/muster/internal/spec"
)

func TestAssignedPodRunsWithinMomentsAndGoesWhenItIsGone(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.settle(time.Second)
		begin := time.Now()
		b.full(1, fenced(pod("a"), 7))
		for len(b.running()) == 0 {
			b.settle(time.Millisecond)
		}
		if took := time.Since(begin); took > 50*time.Millisecond {
			t.Errorf("it took %v of fake time", took)
		}
		s := b.must("a", 7)
		if s.Status.Phase != spec.PhaseRunning || !s.Status.Ready() || s.Status.PodIP != "127.77.1.1" || s.Stopped {
			t.Errorf("status %+v", s)
		}
		b.full(1)
		b.settle(2 * time.Second)
		if _, ok := b.held("a", 7); ok || len(b.slots) != 0 || len(b.running()) != 0 || len(b.ips) != 0 {
			t.Errorf("held %v, running %v, addresses %v after a full set without it", ok, b.running(), b.ips)
		}
		if files, _ := os.ReadDir(b.cfg.StateDir); len(files) != 0 {
			t.Errorf("files left: %v", files)
		}
	})
}

func TestDeltaStopsOnlyWhatItRemoves(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(1, fast(pod("a"), 1), fast(pod("b"), 2))
		b.settle(time.Second)
		b.r.Assign(runner.Assignments{Session: 1, Assigned: []runner.Assigned{fast(pod("c"), 3)}})
		b.settle(time.Second)
		if n := len(b.running()); n != 3 {
			t.Fatalf("%d containers run, want 3", n)
		}
		b.r.Assign(runner.Assignments{Session: 1, Removed: []container.PodRef{{UID: "a", Epoch: 1}, {UID: "b", Epoch: 1}}})
		b.settle(time.Second)
		if _, ok := b.held("a", 1); ok || len(b.running()) != 2 {
			t.Errorf("a held %v, running %v", ok, b.running())
		}
		b.full(0)
		b.settle(time.Second)
		if len(b.running()) != 2 {
			t.Error("a full set of an older session was believed")
		}
	})
}

func TestStopIsSaidOnlyWhenDurableAndKeptUntilASetIsWithoutIt(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(1, fast(pod("a"), 1))
		b.settle(time.Second)
		a := fast(pod("a"), 1)
		a.Stop, a.StopReason = true, "drain"
		if err := os.Rename(b.cfg.StateDir, b.dir+"/away"); err != nil { // as a full disk
			t.Fatal(err)
		}
		b.full(1, a)
		b.settle(10 * time.Second)
		if s := b.must("a", 1); s.Stopped || len(b.running()) != 0 {
			t.Errorf("stopped %v while it can not be stored, running %v", s.Stopped, b.running())
		}
		if n := strings.Count(b.log.String(), "pod state not written"); n != 1 {
			t.Errorf("%d lines about the disk, want 1", n)
		}
		if err := os.Rename(b.dir+"/away", b.cfg.StateDir); err != nil {
			t.Fatal(err)
		}
		b.settle(3 * time.Second)
		if s := b.must("a", 1); !s.Stopped || s.Status.Phase != spec.PhaseRunning {
			t.Errorf("stopped %v, phase %s", s.Stopped, s.Status.Phase)
		}
		for range 2 { // acknowledged, restarted: it is still kept, and final
			b.r.Acked([]container.PodRef{{UID: "a", Epoch: 1}}, nil)
			b.stop()
			b.start()
			b.full(2, fast(pod("a"), 1))
			b.settle(5 * time.Second)
			if s := b.must("a", 1); !s.Stopped || b.calls("StartContainer") != 1 {
				t.Fatalf("stopped %v, starts %d", s.Stopped, b.calls("StartContainer"))
			}
		}
		b.full(3)
		b.settle(2 * time.Second)
		if _, ok := b.held("a", 1); ok {
			t.Error("still held after a set without it")
		}
	})
}

func TestNewerEpochWaitsForTheOlder(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.fake.Behave = func(container.PodRef, container.ContainerConfig) containertest.Behaviour {
			return containertest.Behaviour{TermTakes: 5 * time.Second}
		}
		b.full(1, fast(pod("a"), 1))
		b.settle(time.Second)
		b.r.Assign(runner.Assignments{Session: 1, Assigned: []runner.Assigned{fast(pod("a"), 2)}})
		renamed := pod("z")
		renamed.Name = "pod-a"
		b.r.Assign(runner.Assignments{Session: 1, Assigned: []runner.Assigned{fast(renamed, 3)}})
		b.settle(4 * time.Second)
		if n := b.calls("EnsurePod"); n != 1 {
			t.Errorf("%d sandboxes while the older epoch stops", n)
		}
		b.settle(3 * time.Second)
		if s := b.must("a", 2); s.Status.Phase != spec.PhaseRunning || s.Status.PodIP != "127.77.1.1" {
			t.Errorf("the newer epoch: %+v", s.Status)
		}
		if _, ok := b.held("a", 1); ok {
			t.Error("the older epoch is still held")
		}
		if n := b.calls("EnsurePod z"); n != 0 {
			t.Error("another pod of the name runs beside it")
		}
	})
}

func TestAgentRestartTouchesNothing(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		p := pod("a")
		p.Spec.Containers[0].Readiness = &spec.Probe{Handler: spec.Handler{TCP: &spec.TCPAction{}}, Period: time.Second}
		b.full(1, fast(p, 1), fenced(pod("f"), 2))
		b.settle(time.Second)
		row := b.rows[spec.ProbeID{PodUID: "a", Container: "web", Kind: spec.Readiness}]
		if row.Address != b.ips["a"] || row.Address == "" || !row.Started || row.Adopted || row.Instance == "" {
			t.Fatalf("row %+v", row)
		}
		b.r.Report(runner.ProbeReport{ID: row.ID, Instance: row.Instance, Outcome: spec.OutcomeSuccess, Verdict: spec.ResultSuccess})
		b.settle(time.Second)
		before, calls := b.must("a", 1), len(b.fake.Calls())
		if !before.Status.Ready() {
			t.Fatalf("not ready: %+v", before.Status)
		}
		b.stop()
		b.start()
		b.settle(time.Minute) // without a coordinator
		if after := b.must("a", 1); !reflect.DeepEqual(before, after) {
			t.Errorf("status\n%+v\nwas\n%+v", after, before)
		}
		if n := len(b.fake.Calls()); n != calls {
			t.Errorf("calls %v", b.fake.Calls()[calls:])
		}
		if !slices.Equal(b.adopted, []string{"f"}) {
			t.Errorf("slots adopted: %v, want f's", b.adopted)
		}
		if row := b.rows[row.ID]; !row.Adopted || !row.Started {
			t.Errorf("row after the restart %+v", row)
		}
		b.fake.Exit(b.running()[0], 1)
		b.settle(time.Second)
		if len(b.running()) != 2 {
			t.Error("a crash is not answered without a coordinator")
		}
	})
}

func TestFencedPodsAfterARebootWaitAndOthersDoNot(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(1, fast(pod("a"), 1), fenced(pod("f"), 2))
		b.settle(time.Second)
		b.stop()
		b.fake = containertest.NewFake() // nothing has outlived it
		b.start()
		b.settle(time.Minute)
		if s := b.must("a", 1); s.Status.Phase != spec.PhaseRunning || s.Status.Containers[0].Restarts != 1 {
			t.Errorf("fast pod: %+v", s.Status)
		}
		if b.calls("EnsurePod f") != 0 {
			t.Fatal("a fenced pod was started from disk")
		}
		b.full(2, fast(pod("a"), 1), fenced(pod("f"), 2))
		b.settle(time.Second)
		if b.calls("EnsurePod f") != 1 || len(b.running()) != 2 {
			t.Errorf("calls %v", b.fake.Calls())
		}
	})
}

func TestFencedPodStartsAgainOnlyUnderALaterSession(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(4, fenced(pod("f"), 2))
		b.settle(time.Second)
		b.fake.Die("f", "LeaseExpired")
		b.settle(time.Minute)
		select {
		case <-b.r.Reopen():
		default:
			t.Error("no new session is asked for")
		}
		b.full(4, fenced(pod("f"), 2))
		b.settle(time.Minute)
		s := b.must("f", 2)
		if b.calls("StartContainer") != 1 || s.Stopped || s.Status.Phase != spec.PhaseRunning {
			t.Fatalf("starts %d, status %+v", b.calls("StartContainer"), s)
		}
		if last := s.Status.Containers[0].Last.Terminated; last == nil || last.Reason != "LeaseExpired" {
			t.Errorf("last state %+v", last)
		}
		b.stop()
		b.start()
		b.settle(time.Minute)
		if b.calls("StartContainer") != 1 {
			t.Fatal("a restart of the agent started it")
		}
		b.full(5, fenced(pod("f"), 2))
		b.settle(time.Second)
		if b.calls("StartContainer") != 2 || len(b.running()) != 1 {
			t.Errorf("starts %d, running %v", b.calls("StartContainer"), b.running())
		}
		select {
		case <-b.r.Reopen():
			t.Error("another session is asked for, after the sandbox that the lease ended was read anew")
		default:
		}
	})
}

func TestStartIsTriedAgainWhileTheLeaseIsShort(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.settle(time.Second)
		for range 5 {
			b.fake.FailNext("EnsurePod", fmt.Errorf("page: %w", container.ErrFenced))
		}
		b.refuse(true)
		b.full(1, fenced(pod("f"), 2))
		b.settle(time.Second)
		b.refuse(false)
		b.settle(1200 * time.Millisecond)
		if len(b.running()) != 1 || b.hasEvent("Warning") {
			t.Errorf("running %v, events %v", b.running(), b.events)
		}
	})
}

func TestDeadSupervisorIsReplacedOnce(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(1, fast(pod("a"), 1))
		b.settle(time.Second)
		b.fake.Die("a", "SupervisorDied")
		b.settle(time.Minute)
		if b.calls("RemovePod") != 1 || b.calls("EnsurePod") != 2 || len(b.running()) != 1 {
			t.Errorf("calls %v", b.fake.Calls())
		}
		if !b.hasEvent("Warning SupervisorDied") {
			t.Errorf("events %v", b.events)
		}
	})
}

func TestStuckCallHoldsNoOtherPod(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.fake.Behave = func(ref container.PodRef, _ container.ContainerConfig) containertest.Behaviour {
			if strings.HasPrefix(ref.UID, "stuck") {
				return containertest.Behaviour{StartTakes: time.Hour}
			}
			return containertest.Behaviour{}
		}
		var set []runner.Assigned
		for i := range 40 { // more than are started at once
			set = append(set, fast(pod(fmt.Sprintf("stuck%02d", i)), int64(i+1)))
		}
		b.full(1, set...)
		b.settle(time.Second)
		b.full(1, append(set, fast(pod("good"), 100))...)
		b.settle(10 * time.Second)
		if len(b.running()) != 1 {
			t.Errorf("running %v, want good to run beside the stuck ones", b.running())
		}
		begin := time.Now()
		b.stop()
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the runner took %v to end with calls in flight", took)
		}
		b.start()
	})
}

func TestAbsenceMeansNothingInAnIncompleteList(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(1, fast(pod("a"), 1))
		b.settle(time.Second)
		b.stop()
		b.fake.Silence(true)
		b.start()
		all, complete := b.r.All(t.Context())
		if complete || len(all) != 1 {
			t.Errorf("complete %v with %d pods", complete, len(all))
		}
		b.r.Assign(runner.Assignments{Session: 2, Assigned: []runner.Assigned{fast(pod("b"), 2)}})
		b.settle(time.Minute)
		if b.calls("EnsurePod b") != 0 {
			t.Error("started although it might run already")
		}
		b.fake.Silence(false)
		b.settle(2 * time.Second)
		if _, complete := b.r.All(t.Context()); !complete || len(b.running()) != 2 {
			t.Errorf("complete %v, running %v", complete, b.running())
		}
	})
}

func TestOldListingIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.listTakes = 700 * time.Millisecond
		b.fake.Behave = func(container.PodRef, container.ContainerConfig) containertest.Behaviour {
			return containertest.Behaviour{StartTakes: 900 * time.Millisecond} // a listing begins before and ends after
		}
		b.start()
		b.settle(1900 * time.Millisecond) // a listing without the pod is on its way
		b.full(1, fast(pod("a"), 1))
		b.settle(10 * time.Second)
		if s := b.must("a", 1); b.calls("EnsurePod") != 1 || b.calls("StartContainer") != 1 || s.Status.Containers[0].Restarts != 0 {
			t.Errorf("calls %v", b.fake.Calls())
		}
		b.full(1) // and now one with it
		b.settle(10 * time.Second)
		if n := b.calls("RemovePod"); n != 1 {
			t.Errorf("removed %d times", n)
		}
		b.stop()
	})
}

func TestUnknownPodIsReportedAndGoesWithTheFirstSet(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(1, fast(pod("a"), 1), fast(pod("b"), 2))
		b.settle(time.Second)
		b.stop()
		for _, uid := range []string{"a.1", "b.2"} { // one file gone, one damaged
			path := filepath.Join(b.cfg.StateDir, uid+".json")
			if _, err := os.Stat(path); err != nil {
				t.Fatal(err)
			}
			if uid == "a.1" {
				os.Remove(path)
			} else if err := os.WriteFile(path, []byte(`{"Version":1,"Ref`), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		b.start()
		b.settle(time.Minute)
		if n := strings.Count(b.log.String(), "state of a pod is damaged"); n != 1 {
			t.Errorf("%d lines about the damaged file, want 1", n)
		}
		if all, complete := b.r.All(t.Context()); len(all) != 2 || !complete || len(b.running()) != 2 {
			t.Fatalf("held %v, complete %v, running %v", all, complete, b.running())
		}
		b.full(2, fast(pod("a"), 1))
		b.settle(2 * time.Second)
		if s := b.must("a", 1); s.Status.Phase != spec.PhaseRunning || b.calls("StartContainer a/") != 1 {
			t.Errorf("a: %+v, calls %v", s.Status, b.fake.Calls())
		}
		if _, ok := b.held("b", 2); ok || len(b.running()) != 1 {
			t.Errorf("b held %v, running %v", ok, b.running())
		}
	})
}

func TestNotYoursEndsAPod(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(1, fast(pod("a"), 1))
		b.settle(time.Second)
		b.r.Acked(nil, []container.PodRef{{UID: "a", Epoch: 1}, {UID: "x", Epoch: 9}})
		b.settle(2 * time.Second)
		if _, ok := b.held("a", 1); ok || len(b.running()) != 0 {
			t.Errorf("held %v, running %v", ok, b.running())
		}
	})
}

func TestStatusesLatestOfEachPodAndAgainUntilAcknowledged(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.full(1, fast(pod("a"), 1), fast(pod("b"), 2))
		b.settle(time.Second)
		first, err := b.r.Next(t.Context(), 100)
		if err != nil || len(first) != 2 || first[0].Status.Phase != spec.PhaseRunning || first[1].Status.Phase != spec.PhaseRunning {
			t.Fatalf("statuses %+v, err %v; want the latest of each, once", first, err)
		}
		b.r.Acked([]container.PodRef{{UID: "a", Epoch: 1}}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
		defer cancel()
		if again, err := b.r.Next(ctx, 100); err != nil || len(again) != 1 || again[0].UID != "b" {
			t.Errorf("said again %+v, err %v; want b, which nobody acknowledged", again, err)
		}
		b.r.Acked([]container.PodRef{{UID: "b", Epoch: 2}}, nil)
		if s, err := b.r.Next(ctx, 100); err == nil {
			t.Errorf("%+v without news", s)
		}
	})
}

// Rules 5.1.1, 3.2.1 and 8.1.
func TestLivenessFailureRestartsAndRowsFollow(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		p := pod("a")
		p.Spec.Containers[0].Liveness = &spec.Probe{Handler: spec.Handler{Exec: &spec.ExecAction{Command: []string{"test", "$(FILE)", "$(POD)", "$$x"}}}}
		p.Spec.Containers[0].Env = []spec.EnvVar{{Name: "FILE", Value: "/x"}, {Name: "POD", FieldPath: "metadata.name"}}
		b.full(1, fast(p, 1))
		b.settle(time.Second)
		id := spec.ProbeID{PodUID: "a", Container: "web", Kind: spec.Liveness}
		row := b.rows[id]
		if want := []string{"test", "/x", "$(POD)", "$x"}; !slices.Equal(row.Probe.Exec.Command, want) {
			t.Errorf("command %q, want %q (rule 3.2.1)", row.Probe.Exec.Command, want)
		}
		b.r.Report(runner.ProbeReport{ID: id, Instance: row.Instance, Outcome: spec.OutcomeFailure, Verdict: spec.ResultFailure, Output: "no"})
		b.settle(time.Second)
		if next := b.rows[id]; next.Instance == row.Instance || !next.Running || b.calls("StopContainer "+string(row.Instance)+" 30s") != 1 {
			t.Errorf("row %+v, calls %v", next, b.fake.Calls())
		}
		if !b.hasEvent("pod-a spec.containers{web} Normal Killing Container web failed liveness probe, will be restarted") || !b.hasEvent("Warning Unhealthy Liveness probe failed: no") {
			t.Errorf("events %v", b.events)
		}
		a := fast(p, 1)
		a.Stop = true
		b.full(1, a)
		b.settle(time.Second)
		if len(b.rows) != 0 {
			t.Errorf("rows left: %v", b.rows)
		}
	})
}

func TestShorterGraceShortensAStop(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.fake.Behave = func(container.PodRef, container.ContainerConfig) containertest.Behaviour {
			return containertest.Behaviour{TermTakes: -1}
		}
		b.full(1, fast(pod("a"), 1))
		b.settle(time.Second)
		deleted := pod("a")
		deleted.DeleteTime, deleted.DeleteGrace = time.Now(), time.Hour
		a := fast(deleted, 1)
		a.Stop = true
		b.full(1, a)
		b.settle(10 * time.Second)
		sooner := *deleted
		sooner.DeleteGrace = 0
		a.Pod = &sooner
		b.full(1, a)
		b.settle(3 * time.Second)
		if s := b.must("a", 1); !s.Stopped || s.Status.Phase != spec.PhaseFailed {
			t.Errorf("stopped %v, phase %s", s.Stopped, s.Status.Phase)
		}
	})
}

func TestBadAssignmentsAreRefused(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		for _, a := range []runner.Assigned{fast(pod("../x"), 1), fast(pod(""), 1), fast(pod("a"), 0), fast(&spec.Pod{Meta: spec.Meta{UID: "a"}}, 1)} {
			b.full(1, a)
		}
		crowd := pod("a")
		crowd.Spec.Containers = make([]spec.Container, container.MaxContainers+1)
		b.full(1, fast(crowd, 1))
		b.settle(time.Second)
		if all, _ := b.r.All(t.Context()); len(all) != 0 || strings.Count(b.log.String(), "assignment refused") != 5 {
			t.Errorf("held %v, log:\n%s", all, b.log)
		}
	})
}

func TestFencedPodsNeedALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.leased = false
		b.start()
		b.full(1, fenced(pod("f"), 1))
		b.settle(time.Second)
		if b.calls("EnsurePod") != 0 || !b.hasEvent("FailedCreatePodSandBox ensure sandbox: fenced pods: not supported") {
			t.Errorf("calls %v, events %v", b.fake.Calls(), b.events)
		}
		b.stop()
	})
}

func TestLogsAndExecFindTheInstance(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		b.fake.Behave = func(_ container.PodRef, c container.ContainerConfig) containertest.Behaviour {
			return containertest.Behaviour{Output: []string{fmt.Sprintf("attempt %d", c.Attempt)}}
		}
		b.full(1, fast(pod("a"), 1))
		b.settle(time.Second)
		logs := func(previous bool) (string, error) {
			var out bytes.Buffer
			err := b.r.Logs(t.Context(), "a", "web", runner.LogOptions{LogOptions: container.LogOptions{Tail: -1}, Previous: previous}, &out)
			return out.String(), err
		}
		if _, err := logs(true); !errors.Is(err, runner.ErrNotStarted) {
			t.Errorf("previous logs of a first instance: %v", err)
		}
		b.fake.Exit(b.running()[0], 1)
		b.settle(time.Second)
		if now, err := logs(false); now != "attempt 1\n" || err != nil {
			t.Errorf("logs %q, %v", now, err)
		}
		if old, err := logs(true); old != "attempt 0\n" || err != nil {
			t.Errorf("previous logs %q, %v", old, err)
		}
		if err := b.r.Logs(t.Context(), "a", "x", runner.LogOptions{}, &bytes.Buffer{}); !errors.Is(err, runner.ErrNotFound) {
			t.Errorf("logs of no container: %v", err)
		}
		if _, err := b.r.Exec(t.Context(), "a", "web", container.ExecConfig{Argv: []string{"true"}}); err != nil {
			t.Errorf("exec: %v", err)
		}
		if _, err := b.r.Exec(t.Context(), "b", "web", container.ExecConfig{}); !errors.Is(err, runner.ErrNotFound) {
			t.Errorf("exec in no pod: %v", err)
		}
	})
}

func TestHostPortsLeadToThePodOrItDoesNotStart(t *testing.T) {
	publishing := func() *spec.Pod {
		p := pod("a")
		p.Spec.Containers[0].Ports = []spec.Port{{Number: 8080, Protocol: "TCP", HostPort: 80}, {Number: 8081, Protocol: "TCP"}}
		return p
	}
	on(t, func(t *testing.T, b *bench) {
		b.stop()
		b.published = map[string][]runner.PublishedPort{}
		b.start()
		p := publishing()
		b.full(1, fast(p, 1))
		b.settle(time.Second)
		if got := b.published[p.UID]; len(got) != 1 || got[0] != (runner.PublishedPort{Protocol: "TCP", Host: 80, Pod: 8080}) {
			t.Errorf("published %v", got)
		}
	})
	on(t, func(t *testing.T, b *bench) {
		b.full(1, fast(publishing(), 1))
		b.settle(time.Second)
		if !b.hasEvent("hostPort 80: this node's pods have no network of their own") {
			t.Errorf("events %v", b.events)
		}
	})
}

func TestSharedPortIsToldInAnEvent(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		one, two := pod("a"), pod("b")
		one.Spec.Containers[0].Ports = []spec.Port{{Number: 8080}}
		two.Spec.Containers[0].Ports = []spec.Port{{Number: 8080}}
		b.full(1, fast(one, 1))
		b.settle(time.Second)
		b.full(1, fast(one, 1), fast(two, 2))
		b.settle(time.Second)
		if !b.hasEvent("pod-b  Warning PortShared port 8080 is declared by pod default/pod-a on this node too") {
			t.Errorf("events %v", b.events)
		}
	})
}

func TestCalmNodeWritesAndSaysNothing(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		var set []runner.Assigned
		for i := range 50 {
			set = append(set, fast(pod(fmt.Sprintf("p%02d", i)), int64(i+1)))
		}
		b.full(1, set...)
		b.settle(5 * time.Second)
		all, err := b.r.Next(t.Context(), 1000)
		if err != nil || len(all) != 50 {
			t.Fatalf("%d statuses, err %v", len(all), err)
		}
		for _, s := range all {
			b.r.Acked([]container.PodRef{{UID: s.UID, Epoch: s.Epoch}}, nil)
		}
		before := stamps(t, b.cfg.StateDir)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		if s, err := b.r.Next(ctx, 1000); err == nil {
			t.Errorf("%d statuses in calm", len(s))
		}
		if after := stamps(t, b.cfg.StateDir); !reflect.DeepEqual(before, after) {
			t.Error("state files were written in calm")
		}
	})
}

// stamps are the files' inodes by way of their infos: a rewritten file is another one.
func stamps(t *testing.T, dir string) map[string]uint64 {
	t.Helper()
	all := map[string]uint64{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = inode(info)
	}
	return all
}

func TestAPodWhoseVolumeOutgrowsItsLimitIsEvicted(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		var used atomic.Int64
		b.fake.Volumes = func(_ container.PodRef, name string) int64 {
			if name == "small" {
				return used.Load()
			}
			return 1 << 40
		}
		p := pod("a")
		p.Spec.Volumes = []spec.Volume{
			{Name: "small", EmptyDir: &spec.EmptyDir{SizeLimit: 3 << 20}}, {Name: "any", EmptyDir: &spec.EmptyDir{}},
			{Name: "memory", EmptyDir: &spec.EmptyDir{SizeLimit: 1, Memory: true}}, {Name: "host", HostPath: "/"},
		}
		b.full(1, fast(p, 1), fast(pod("b"), 2))
		used.Store(3 << 20)
		b.settle(time.Minute)
		if s := b.must("a", 1); s.Status.Phase != spec.PhaseRunning {
			t.Fatalf("%+v at its limit", s.Status)
		}
		used.Add(1)
		b.settle(30 * time.Second)
		s := b.must("a", 1)
		if s.Status.Phase != spec.PhaseFailed || s.Status.Reason != "Evicted" || s.Status.Message != `Usage of EmptyDir volume "small" exceeds the limit "3Mi".` {
			t.Errorf("%+v", s.Status)
		}
		if running := b.running(); len(running) != 1 {
			t.Errorf("running %v, want only the other pod's", running)
		}
		if strings.Contains(b.log.String(), "volume not measured") {
			t.Error(b.log.String())
		}
	})
}

func TestHoldingsSayWhatMayGoOnUnderItsEpoch(t *testing.T) {
	on(t, func(t *testing.T, b *bench) {
		a, c := fast(pod("a"), 1), fast(pod("c"), 3)
		b.full(1, a, fenced(pod("b"), 2), c)
		b.settle(time.Second)
		c.Stop, c.StopReason = true, "drain" // it ends
		b.full(1, a, fenced(pod("b"), 2), c)
		b.settle(10 * time.Second)
		is := func() map[string]spec.Holding {
			all := map[string]spec.Holding{}
			for _, h := range b.r.Holdings(t.Context()) {
				all[h.UID] = h
			}
			return all
		}
		got := is()
		want := map[string]spec.Holding{"a": {UID: "a", Epoch: 1, Live: true}, "b": {UID: "b", Epoch: 2, Live: true}, "c": {UID: "c", Epoch: 3}}
		if !maps.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		b.refuse(true) // its deadline has passed, though its process is still seen
		if got := is()["b"]; got.Live {
			t.Errorf("live by its process alone: %v", got)
		}
		if got := is()["a"]; !got.Live {
			t.Errorf("a fast pod that runs: %v", got)
		}
	})
}
