package loadtest

import (
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The kinds of losses, and the classes of pods.
const (
	LossKill = "kill"
	LossHang = "hang"

	ClassFast   = "fast"
	ClassFenced = "fenced"
)

// FailoverResult is what a test has measured: one JSON object, with the same keys always.
type FailoverResult struct {
	// Test is "failover".
	Test    string  `json:"test"`
	Version string  `json:"version"`
	Machine Machine `json:"machine"`
	Agents  int     `json:"agents"`
	// Pods are how many there are of each class.
	Pods int `json:"pods_per_class"`
	// Rounds are how many there were to be of each kind of loss.
	Rounds      int     `json:"rounds"`
	Lease       float64 `json:"lease_seconds"`
	Seed        uint64  `json:"seed"`
	Interrupted bool    `json:"interrupted"`
	// Doubled are single-instance pods that two instances of were seen to write at a time: must be 0.
	Doubled int `json:"doubled_writers"`
	// Overlapped are moves of fast pods of which an older instance wrote when the new one had begun, as it may: it was woken, or
	// started anew by a node that was back.
	Overlapped int              `json:"overlapped_fast"`
	Figures    []FailoverFigure `json:"figures"`
	Losses     []Loss           `json:"losses"`
}

// FailoverFigure is how long pods of a class took after losses of a kind, always from the loss on.
type FailoverFigure struct {
	Kind  string `json:"kind"`
	Class string `json:"class"`
	Moves int    `json:"moves"`
	// Shown is until the node was shown not to be Ready, Bound until the new binding was, Started until the new instance's own
	// first write, Ready until it was shown to be Ready.
	Shown   Quantiles `json:"shown"`
	Bound   Quantiles `json:"bound"`
	Started Quantiles `json:"started"`
	Ready   Quantiles `json:"ready"`
}

// Quantiles are of ms; null where nothing was measured.
type Quantiles struct {
	P50 *float64 `json:"p50_ms"`
	P95 *float64 `json:"p95_ms"`
	Max *float64 `json:"max_ms"`
}

// Loss is one round.
type Loss struct {
	Kind string `json:"kind"`
	Node string `json:"node"`
	// Shown is in ms from the loss on.
	Shown float64 `json:"shown_ms"`
	// Doubled are single-instance pods, whether they moved or not, that two instances of were seen to write at a time.
	Doubled int    `json:"doubled_writers"`
	Moves   []Move `json:"moves"`
}

// Move is what became of a pod of the lost node, in ms from the loss on.
type Move struct {
	Pod     string  `json:"pod"`
	Class   string  `json:"class"`
	To      string  `json:"to"`
	Bound   float64 `json:"bound_ms"`
	Started float64 `json:"started_ms"`
	Ready   float64 `json:"ready_ms"`
	// Doubled is whether an older instance wrote when the new one had begun, until all was Ready and the node back.
	Doubled bool `json:"doubled"`
}

// ranks takes the nearest rank, so that each is a value that was measured.
func ranks(values []float64) Quantiles {
	if len(values) == 0 {
		return Quantiles{}
	}
	sorted := slices.Sorted(slices.Values(values))
	at := func(q float64) *float64 {
		v := sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
		return &v
	}
	return Quantiles{at(0.5), at(0.95), at(1)}
}

// account works the figures out of the losses.
func (r *FailoverResult) account(kinds []string) {
	for _, l := range r.Losses {
		r.Doubled += l.Doubled
	}
	for _, kind := range kinds {
		for _, class := range []string{ClassFast, ClassFenced} {
			var shown, bound, started, ready []float64
			for _, l := range r.Losses {
				if l.Kind != kind {
					continue
				}
				any := false
				for _, m := range l.Moves {
					if m.Class != class {
						continue
					}
					any = true
					bound, started, ready = append(bound, m.Bound), append(started, m.Started), append(ready, m.Ready)
					if m.Doubled && class == ClassFast {
						r.Overlapped++
					}
				}
				if any {
					shown = append(shown, l.Shown)
				}
			}
			r.Figures = append(r.Figures, FailoverFigure{kind, class, len(ready), ranks(shown), ranks(bound), ranks(started), ranks(ready)})
		}
	}
}

func (q Quantiles) text() string {
	if q.P50 == nil {
		return "none"
	}
	return fmt.Sprintf("%.2fs %.2fs %.2fs", *q.P50/1000, *q.P95/1000, *q.Max/1000)
}

// Table is the result for people: rows of cells, the header first.
func (r *FailoverResult) Table() [][]string {
	rows := [][]string{{"LOSS", "CLASS", "MOVES", "SHOWN P50 P95 MAX", "BOUND P50 P95 MAX", "STARTED P50 P95 MAX", "READY P50 P95 MAX"}}
	for _, f := range r.Figures {
		rows = append(rows, []string{f.Kind, f.Class, strconv.Itoa(f.Moves), f.Shown.text(), f.Bound.text(), f.Started.text(), f.Ready.text()})
	}
	return rows
}

// About are lines below the table.
func (r *FailoverResult) About() string {
	var b strings.Builder
	fmt.Fprintf(&b, "all from the loss on; %d agents, %d pods of each class, %d rounds of each kind, lease %gs, seed %d\n", r.Agents, r.Pods, r.Rounds, r.Lease, r.Seed)
	fmt.Fprintf(&b, "writers doubled: %d of single-instance pods (must be 0); fast pods that ran twice for a moment, as they may: %d\n", r.Doubled, r.Overlapped)
	if r.Interrupted {
		fmt.Fprintln(&b, "ended early")
	}
	for _, row := range about(&r.Machine, r.Version) {
		fmt.Fprintf(&b, "%s: %s\n", row[0], row[1])
	}
	return b.String()
}

// FailoverReport writes the result as one HTML page, which needs nothing from elsewhere.
func FailoverReport(w io.Writer, r *FailoverResult) error {
	page, err := template.ParseFS(assets, "assets/failover.html")
	if err != nil {
		return err
	}
	longest := 1.0
	for _, l := range r.Losses {
		for _, m := range l.Moves {
			longest = max(longest, m.Started, m.Ready)
		}
	}
	return page.Execute(w, map[string]any{"Result": r, "Table": r.Table(), "About": r.About(), "Longest": longest})
}
