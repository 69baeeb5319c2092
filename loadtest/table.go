package loadtest

import (
	"fmt"
	"strconv"
)

// Table is the result for people: rows of cells, the header first.
func (r *Result) Table() [][]string {
	rows := [][]string{{"FIGURE", "VALUE", "RUNS"}}
	add := func(name, value, spread string) { rows = append(rows, []string{name, value, spread}) }
	spread := func(key string, format func(float64) string) string {
		if len(r.Runs) < 2 {
			return ""
		}
		s := r.Spread[key]
		return format(s.Least) + " to " + format(s.Most)
	}
	whole := func(v float64) string { return fmt.Sprintf("%.0f", v) }
	tenth := func(v float64) string { return fmt.Sprintf("%.1f", v) }
	mib := func(v float64) string { return fmt.Sprintf("%.1f MiB", v/(1<<20)) }
	how := fmt.Sprintf("%d %s probes, one each %gs", r.Targets, r.Kind, r.Period)
	if r.ClosedLoop {
		how = fmt.Sprintf("%d %s probes, closed loop, %d in flight", r.Targets, r.Kind, r.InFlight)
	}
	if r.Body > 0 {
		how += fmt.Sprintf(", answers of %d bytes", r.Body)
	}
	add("test", how, "")
	on := "unpinned"
	if r.Cores > 0 {
		on = fmt.Sprintf("pinned to processors %v", r.EngineCPUs)
	}
	add("measured", fmt.Sprintf("%.1fs after a warm-up of %gs, %s", r.Duration, r.WarmUp, on), strconv.Itoa(len(r.Runs)))
	add("probes a second", whole(r.ProbesPerSecond), spread("probes_per_second", whole))
	add("cpu a probe", tenth(r.CPU)+"µs", spread("cpu_us_per_probe", tenth))
	if r.CPUPods != nil {
		add("cpu of pods a probe", fmt.Sprintf("%.1fµs, %.1fµs of it the commands", *r.CPUPods, *r.CPUCommands), "")
	}
	add("memory, anonymous", fmt.Sprintf("%s, %s of it without probes", mib(float64(r.Anon)), mib(float64(r.AnonEmpty))), spread("anon_bytes", mib))
	add("memory, resident", mib(float64(r.RSS)), "")
	if !r.ClosedLoop {
		add("lag", r.Lag.text(), "")
		add("missed", strconv.FormatInt(*r.Missed, 10), "")
		add("fullest slot over mean", fmt.Sprintf("%.2f", *r.SlotMaxOverMean), "")
	}
	add("latency", r.Latency.text(), "")
	add("failed", strconv.FormatInt(r.Failed, 10), "")
	if r.ConnectionsPerAttempt != nil {
		add("connections an attempt", fmt.Sprintf("%.3f, as the targets say", *r.ConnectionsPerAttempt), "")
	}
	switch {
	case r.Saturated && !r.ClosedLoop:
		add("note", "the engine could not ask as often as it was to", "")
	case !r.Saturated && r.ClosedLoop:
		add("note", "too few targets: the engine had time left", "")
	}
	if r.Interrupted {
		add("note", "ended early", "")
	}
	return append(rows, about(r.Machine, r.Version)...)
}

// about are the rows of where it was measured.
func about(m *Machine, version string) [][]string {
	return [][]string{
		{"machine", fmt.Sprintf("%s, %d processors, Linux %s, %s, load %.1f to %.1f", m.CPU, m.CPUs, m.Kernel, m.Go, m.LoadBefore, m.LoadAfter), ""},
		{"muster", version, ""},
	}
}

func (l latencies) text() string {
	return fmt.Sprintf("p50 %.1fms, p99 %.1fms, most %.1fms", *l.P50, *l.P99, *l.Max)
}
