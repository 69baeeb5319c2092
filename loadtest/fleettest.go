package loadtest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// The bounds of a test of a fleet.
const (
	MaxFleetAgents = 10_000
	MaxFleetProbes = 1_000_000
)

// FleetResult is what a test of a fleet has measured: one JSON object, with the same keys always. Figures are of the steady fleet,
// medians of the runs, but for those of churn and restart, which come once.
type FleetResult struct {
	*IngestResult
	// Writes are the store's revisions, each a transaction, while the fleet is steady; 0 is meant, but a given coordinator has others
	// that write. CPUCores is busy_cores.
	Writes   float64  `json:"etcd_writes_per_second"`
	CPUCores *float64 `json:"cpu_cores"`
	// CountedBy is who has counted the results: "coordinator", by its table of probes, or, above MaxAllProbes of them, "agents".
	CountedBy string `json:"results_counted_by"`
	// Gossip is false: simulated agents are in none.
	Gossip bool `json:"gossip"`
	// LastAck is how long after the coordinator was killed the last agent had an acknowledgement again; null, as Restart, when the test
	// ended before, and of a given coordinator, which is not killed.
	LastAck *float64       `json:"last_ack_after_restart_ms"`
	Churn   *ChurnResult   `json:"churn"`
	Restart *RestartResult `json:"restart"`
	// Failures says what was not as it has to be, a sentence each.
	Failures []string `json:"failures"`
}

// ChurnResult is of the time in which pods were replaced and agents' connections cut.
type ChurnResult struct {
	Offered         int             `json:"pods_offered"`
	Replaced        int             `json:"pods_replaced"`
	Cuts            int             `json:"connections_cut"`
	Settled         float64         `json:"settled_after_ms"`
	Writes          float64         `json:"etcd_writes_per_second"`
	CPUCores        *float64        `json:"cpu_cores"`
	RSS             *int64          `json:"rss_bytes"`
	ChangeToWatcher *WatcherLatency `json:"change_to_watcher_ms"`
	// After that Rolled pods of a Deployment were replaced, a quarter at a time, and Lost nodes went, and with them Left pods: how long
	// until the last new pod was ready, and until the last of those left was assigned to another node. Null for a given coordinator.
	Rolled   int      `json:"rollout_pods"`
	RolledIn *float64 `json:"rollout_ms"`
	Lost     int      `json:"nodes_lost"`
	Left     int      `json:"pods_of_lost_nodes"`
	LeftIn   *float64 `json:"pods_elsewhere_after_ms"`
}

// RestartResult is of a coordinator that was killed and started anew. Times are since the kill, in ms.
type RestartResult struct {
	Serves      float64 `json:"serves_after_ms"`
	LastAck     float64 `json:"last_ack_after_ms"`
	LastVerdict float64 `json:"last_verdict_after_ms"`
	// LateAcks are agents without an acknowledgement within the default lease, LateVerdicts probes whose verdict was right only after a
	// period, Missing those whose never was, Flips verdicts that were wrong or unknown again, NodeFlips nodes that were not Ready.
	LateAcks     int `json:"late_acks"`
	LateVerdicts int `json:"late_verdicts"`
	Missing      int `json:"missing_verdicts"`
	Flips        int `json:"verdict_flips"`
	NodeFlips    int `json:"node_flips"`
	// NodeCauses counts NodeFlips by verdict and the coordinator's word for why; null where there are none.
	NodeCauses map[string]int `json:"node_causes"`
	// Watches is how often the watching client had to begin.
	Watches int `json:"watches"`
}

// FleetTest is a test of a fleet. Make one with NewFleet, and run it once.
type FleetTest struct{ *IngestTest }

// NewFleet checks the configuration: that of a test of ingest, with the bounds of a fleet.
func NewFleet(cfg IngestConfig) (*FleetTest, error) {
	t, err := newIngest(cfg, MaxFleetAgents, MaxFleetProbes)
	return &FleetTest{t}, err
}

// Run measures, and tells progress. The end of ctx ends it early, as IngestTest's.
func (t *FleetTest) Run(ctx context.Context, progress func(IngestProgress)) (*FleetResult, error) {
	o, err := t.run(ctx, fleetJob{Churn: true, Restart: t.cfg.Given == nil}, progress)
	if err != nil {
		return nil, err
	}
	return t.fleetResult(o), nil
}

func msOf(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (r *ingestRun) writes() float64 { return float64(r.Writes) / r.Seconds }

func (t *FleetTest) fleetResult(o *outcome) *FleetResult {
	r := &FleetResult{IngestResult: t.result(o), Failures: []string{}}
	r.CountedBy = "coordinator"
	if r.Agents*r.Pods*r.Probes > MaxAllProbes {
		r.CountedBy = "agents"
	}
	r.Test, r.CPUCores, r.Writes = "fleet", r.Busy, median(o.runs, (*ingestRun).writes)
	writes := spreadOf(o.runs, (*ingestRun).writes)
	r.Spread["etcd_writes_per_second"] = &writes
	fail := func(n int, what string) {
		if n > 0 {
			r.Failures = append(r.Failures, fmt.Sprintf("%d %s", n, what))
		}
	}
	for i := range o.runs {
		if r.Given != nil {
			break
		}
		fail(int(o.runs[i].Writes), fmt.Sprintf("writes to the store in run %d, though the fleet was steady", i+1))
	}
	if c := o.churned; c != nil {
		r.Churn = &ChurnResult{
			Offered: c.Offered, Replaced: c.Replaced, Cuts: c.Cuts, Settled: msOf(c.Settled), Writes: c.Run.writes(), CPUCores: c.Run.busy(), RSS: c.Run.rss(),
			ChangeToWatcher: latencyOf([]ingestRun{c.Run}), Rolled: c.Rolled, Lost: c.Lost, Left: c.Left,
		}
		if c.Rolled > 0 {
			in := msOf(c.RolledIn)
			r.Churn.RolledIn = &in
		}
		if c.Lost > 0 {
			in := msOf(c.LeftIn)
			r.Churn.LeftIn = &in
		}
	}
	if s := o.restarted; s != nil {
		r.Restart = &RestartResult{
			msOf(s.Serves), msOf(s.LastAck), msOf(s.LastVerdict), s.LateAcks, s.LateVerdicts, s.Missing, s.Flips, s.NodeFlips, s.Causes, s.Watches,
		}
		r.LastAck = &r.Restart.LastAck
		fail(s.LateAcks, fmt.Sprintf("agents had no acknowledgement within %v of the kill", leaseTTL))
		fail(s.LateVerdicts, "verdicts came more than a period after the kill")
		fail(s.Missing, "verdicts never came")
		fail(s.Flips, "verdicts flipped")
		fail(s.NodeFlips, "verdicts of nodes were not Ready")
		fail(s.Wrong-s.Missing, "verdicts were not right at the end")
	}
	return r
}

// Table is the result for people: rows of cells, the header first.
func (r *FleetResult) Table() [][]string {
	rows := r.IngestResult.Table()
	end := len(rows) - len(about(&r.Machine, r.Version))
	whose := ""
	if r.Given != nil {
		whose = ", whoever made them"
	}
	mine := [][]string{{"writes to the store", fmt.Sprintf("%.2f/s while steady%s", r.Writes, whose), ""}}
	if c := r.Churn; c != nil {
		busy := "processors " + unknownText
		if c.CPUCores != nil {
			busy = fmt.Sprintf("%.2f processors", *c.CPUCores)
		}
		mine = append(mine, []string{"churn", fmt.Sprintf("%d of %d pods replaced, %d connections cut: %s, %.0f writes/s, change to watcher %s, settled after %.0fms",
			c.Replaced, c.Offered, c.Cuts, busy, c.Writes, c.ChangeToWatcher.text(), c.Settled), ""})
		if c.RolledIn != nil {
			mine = append(mine, []string{"rollout", fmt.Sprintf("%d pods of a Deployment replaced in %.0fms", c.Rolled, *c.RolledIn), ""})
		}
		if c.LeftIn != nil {
			mine = append(mine, []string{"nodes lost", fmt.Sprintf("%d; their %d pods were all elsewhere after %.0fms", c.Lost, c.Left, *c.LeftIn), ""})
		}
	}
	if s := r.Restart; s != nil {
		mine = append(mine,
			[]string{"killed and restarted", fmt.Sprintf("serves after %.0fms, last acknowledgement after %.0fms, last verdict after %.0fms", s.Serves, s.LastAck, s.LastVerdict), ""},
			[]string{"flips", fmt.Sprintf("%d of verdicts, %d of nodes; late: %d verdicts, %d acknowledgements; %d verdicts missing",
				s.Flips, s.NodeFlips, s.LateVerdicts, s.LateAcks, s.Missing), strconv.Itoa(s.Watches) + " watches"})
	}
	if r.Given != nil {
		mine = append(mine, []string{"left out", "connections cut, a rollout, nodes lost, and the coordinator killed and restarted: it was given", ""})
	}
	for _, f := range r.Failures {
		mine = append(mine, []string{"failed", f, ""})
	}
	mine = append(mine, []string{"note", "simulated agents are in no gossip and run nothing; results counted by the " + r.CountedBy, ""})
	return slices.Concat(rows[:end], mine, rows[end:])
}
