package loadtest

import (
	"context"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/clientconfig"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// probeKey is a probe as a watcher of the API knows it: pods of one name follow one another.
type probeKey struct {
	uid  string
	kind musterv1.ProbeKind
}

// judge counts how verdicts come back after a coordinator was killed: all are success in truth. It knows no clock.
type judge struct {
	// period is how long after the kill a verdict may be unknown; expected is how many probes there are.
	period   time.Duration
	expected int
	right    map[probeKey]bool
	ever     map[probeKey]bool
	// last is when the last one was right for the first time; late are those that were so after period, flips are verdicts that
	// were wrong, or unknown once they had been right.
	last        time.Duration
	late, flips int
}

func newJudge(period time.Duration, expected int) *judge {
	return &judge{period: period, expected: expected, right: map[probeKey]bool{}, ever: map[probeKey]bool{}}
}

// saw takes what a watcher is told of a probe, at so long after the kill. A probe that is gone is unknown.
func (j *judge) saw(k probeKey, verdict musterv1.ProbeResult, at time.Duration) {
	if verdict == musterv1.ProbeResult_PROBE_RESULT_SUCCESS {
		j.right[k] = true
		if !j.ever[k] {
			j.ever[k], j.last = true, max(j.last, at)
			if at > j.period {
				j.late++
			}
		}
		return
	}
	if j.right[k] || verdict == musterv1.ProbeResult_PROBE_RESULT_FAILURE {
		j.flips++
	}
	j.right[k] = false
}

// missing are the probes that have never been right.
func (j *judge) missing() int { return max(0, j.expected-len(j.ever)) }

// wrong are those that are not right now.
func (j *judge) wrong() int {
	n := j.missing()
	for k := range j.ever {
		if !j.right[k] {
			n++
		}
	}
	return n
}

// acknowledged is when the last of the agents had its first acknowledgement after killed, and how many had none or one that
// came later than limit.
func acknowledged(first []time.Time, killed time.Time, limit time.Duration) (last time.Duration, late int) {
	for _, at := range first {
		if at.IsZero() || at.Sub(killed) > limit {
			late++
		}
		if !at.IsZero() {
			last = max(last, at.Sub(killed))
		}
	}
	return last, late
}

// watcher is a client that watches every probe of the test, and every node.
type watcher struct {
	target clientconfig.Context

	mu sync.Mutex
	// sent are changes that no watcher has been told of yet, took how long it was until one was.
	sent map[probeKey]sentChange
	took *hdrhistogram.Histogram
	// lately are those since the last sample.
	lately *hdrhistogram.Histogram
	// judge counts from killed on; nil: nothing is judged. nodeFlips are verdicts of nodes but Ready since, begun how often a watch
	// was opened.
	judge            *judge
	killed           time.Time
	nodeFlips, begun int
	// causes are the coordinator's for those, at most maxCauses.
	causes map[string]int
	synced bool
}

const maxCauses = 20

type sentChange struct {
	verdict musterv1.ProbeResult
	at      time.Time
}

// run watches until ctx ends; a watch that breaks off is begun anew.
func (w *watcher) run(ctx context.Context, watch func(ctx context.Context) error) error {
	for {
		_ = watch(ctx) // a coordinator that was killed says why: it was
		if !sleep(ctx, 50*time.Millisecond) {
			return nil
		}
	}
}

func (w *watcher) probes(ctx context.Context) error {
	conn, err := w.target.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	w.mu.Lock()
	judged := w.judge
	w.mu.Unlock()
	stream, err := musterv1.NewProbeServiceClient(conn).WatchProbes(ctx, &musterv1.WatchProbesRequest{Filter: &musterv1.ProbeFilter{Namespace: testNamespace}})
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.begun++
	w.mu.Unlock()
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		w.mu.Lock()
		if m.GetType() == musterv1.ChangeType_CHANGE_TYPE_SYNCED {
			w.synced = true
		} else {
			w.sawLocked(m, judged)
		}
		w.mu.Unlock()
	}
}

// sawLocked takes a change. What a watch tells that began before the kill is not judged.
func (w *watcher) sawLocked(m *musterv1.WatchProbesResponse, judged *judge) {
	p := m.GetProbe()
	k, now, verdict := probeKey{p.GetPod().GetUid(), p.GetKind()}, time.Now(), p.GetVerdict()
	if s, ok := w.sent[k]; ok && s.verdict == verdict {
		delete(w.sent, k)
		record(w.took, int64(now.Sub(s.at)))
		record(w.lately, int64(now.Sub(s.at)))
	}
	if judged != nil && judged == w.judge {
		if m.GetType() == musterv1.ChangeType_CHANGE_TYPE_DELETED {
			verdict = musterv1.ProbeResult_PROBE_RESULT_UNKNOWN
		}
		judged.saw(k, verdict, now.Sub(w.killed))
	}
}

func (w *watcher) nodes(ctx context.Context) error {
	conn, err := w.target.Dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := musterv1.NewNodeServiceClient(conn).WatchNodes(ctx, &musterv1.WatchNodesRequest{})
	if err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		w.mu.Lock()
		if w.judge != nil && m.GetNode() != nil && m.GetNode().GetStatus().GetVerdict() != musterv1.NodeVerdict_NODE_VERDICT_READY {
			w.nodeFlips++
			cause := m.GetNode().GetStatus().GetVerdict().String() + ": " + m.GetNode().GetStatus().GetCause()
			if w.causes == nil {
				w.causes = map[string]int{}
			}
			if _, known := w.causes[cause]; known || len(w.causes) < maxCauses {
				w.causes[cause]++
			}
		}
		w.mu.Unlock()
	}
}

// change makes the agent say that a probe's verdict is another one now.
func (w *watcher) change(a *simulated, id spec.ProbeID, verdict spec.Result) {
	kind, v := wire.ProbeKindToProto(id.Kind), musterv1.ProbeResult_PROBE_RESULT_SUCCESS
	if verdict == spec.ResultFailure {
		v = musterv1.ProbeResult_PROBE_RESULT_FAILURE
	}
	now := time.Now()
	w.mu.Lock()
	if w.sent == nil {
		w.sent = map[probeKey]sentChange{}
	}
	w.sent[probeKey{id.PodUID, kind}] = sentChange{v, now}
	w.mu.Unlock()
	a.session.Believe(spec.ProbeState{ID: id, Verdict: verdict, Since: now, RunLength: 1})
}

// begin forgets the times so far.
func (w *watcher) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.took.Reset()
}

// sample puts what came since the last one into s.
func (w *watcher) sample(s *IngestSample) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Changes, s.WatcherP50, s.WatcherMax = w.lately.TotalCount(), ms(w.lately.ValueAtQuantile(50)), ms(w.lately.Max())
	w.lately.Reset()
}

// times are the median and the 99th percentile since, in ms, and the curve.
func (w *watcher) times() watcherTimes {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := watcherTimes{P50: ms(w.took.ValueAtQuantile(50)), P99: ms(w.took.ValueAtQuantile(99)), N: w.took.TotalCount()}
	if t.N == 0 {
		return t
	}
	for _, q := range []float64{0, 10, 25, 50, 75, 90, 95, 99, 99.9, 100} {
		t.Curve = append(t.Curve, Point{Percentile: q, Latency: ms(w.took.ValueAtQuantile(q))})
	}
	return t
}

type watcherTimes struct {
	P50, P99 float64
	N        int64
	// Curve has the latency of some percentiles.
	Curve []Point
}
