package loadtest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// busyOthers is from which share of the probers' processor on, in percent, that something else used a machine counts as busy.
const busyOthers = 5

// within is how far a prober's count of attempts and its target's may be apart, short by how much of what is due a rate may fall short,
// before it is written.
const within, short = 0.02, 0.05

// ratios are a figure of a prober over that of another by round, each of two windows that were measured one after the other.
func ratios(of, to []PeerFigures, figure func(*PeerFigures) float64) []float64 {
	all := make([]float64, min(len(of), len(to)))
	for i := range all {
		all[i] = figure(&of[i]) / figure(&to[i])
	}
	return all
}

// span is a median with the least and the most: "87 (83–93)", or just the figure where they are alike.
func span(all []float64, format func(float64) string) string {
	value := func(f *float64) float64 { return *f }
	text, s := format(median(all, value)), spreadOf(all, value)
	if least, most := format(s.Least), format(s.Most); least != most {
		return fmt.Sprintf("%s (%s–%s)", text, least, most)
	}
	return text
}

func spanOf(runs []PeerFigures, figure func(*PeerFigures) float64, format func(float64) string) string {
	all := make([]float64, len(runs))
	for i := range runs {
		all[i] = figure(&runs[i])
	}
	return span(all, format)
}

// thousands writes a whole number as people read it: 12,345.
func thousands(v float64) string {
	text := fmt.Sprintf("%.0f", v)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func whole(v float64) string { return fmt.Sprintf("%.0f", v) }

// times writes a ratio at two digits.
func times(v float64) string {
	if v >= 9.95 {
		return whole(v) + "×"
	}
	return fmt.Sprintf("%.1f×", v)
}

// Markdown is the comparison as a table, with how it was measured by this command.
func (r *PeersResult) Markdown(command string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "`%s`: %s.\n%s, %d processors, Linux %s, %s.\n", command, r.rounds(), r.Machine.CPU, r.Machine.CPUs, r.Machine.Kernel, r.Machine.Go)
	for _, name := range []string{Kubelet, Blackbox} {
		if v := r.Versions[name]; v != "" {
			fmt.Fprintf(&b, "%s: %s.\n", name, v)
		} else if why := r.Skipped[name]; why != "" {
			fmt.Fprintf(&b, "%s: not measured (%s).\n", name, why)
		}
	}
	all := r.figures()
	others := func(f *PeerFigures) float64 { return f.others() }
	used, most := median(all, others), spreadOf(all, others).Most
	fmt.Fprintf(&b, "Beside a prober its processor was busy %.0f %% of a window in the median, %.0f %% at most.", used, most)
	if used >= busyOthers {
		b.WriteString("\n**These figures are from a busy machine**: processor times are too high, rates too low, and ratios rough.")
	}
	b.WriteString("\n\n| load | prober | CPU a probe, µs | to muster's | probes a second | of a processor, % | anonymous memory, MiB | to muster's |\n")
	b.WriteString("|---|---|---|---|---|---|---|---|\n")
	for _, l := range r.Loads {
		what := fmt.Sprintf("%s, %s at %gs", strings.ToUpper(l.Load.Kind), thousands(float64(l.Load.Targets)), l.Load.Period.Seconds())
		for _, name := range r.names() {
			runs, muster := l.Of[name], l.Of[Muster]
			cpu, memory := "1", "1"
			if name != Muster {
				cpu, memory = span(ratios(runs, muster, (*PeerFigures).perProbe), times), span(ratios(runs, muster, (*PeerFigures).anonMiB), times)
			}
			rate := spanOf(runs, (*PeerFigures).rate, thousands)
			if median(runs, (*PeerFigures).rate) < (1-short)*l.Load.due() {
				rate += " of " + thousands(l.Load.due())
			}
			if failed := failedPercent(runs); failed > 0 {
				rate += fmt.Sprintf(", %.2g %% failed", failed)
			}
			fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", what, name, spanOf(runs, (*PeerFigures).perProbe, thousands), cpu, rate,
				spanOf(runs, (*PeerFigures).busy, whole), spanOf(runs, (*PeerFigures).anonMiB, whole), memory)
			what = ""
		}
	}
	if notes := r.notes(); len(notes) > 0 {
		b.WriteString("\n" + strings.Join(notes, "\n") + "\n")
	}
	return b.String()
}

func (r *PeersResult) rounds() string {
	if r.Rounds == 1 {
		return fmt.Sprintf("one round of windows of %v", r.Duration)
	}
	return fmt.Sprintf("medians of %d rounds, in brackets the least and the most, windows of %v", r.Rounds, r.Duration)
}

// figures are all windows'.
func (r *PeersResult) figures() (all []PeerFigures) {
	for _, l := range r.Loads {
		for _, name := range r.names() {
			all = append(all, l.Of[name]...)
		}
	}
	return all
}

// failedPercent is how many of the attempts were no success, by the prober's own word.
func failedPercent(runs []PeerFigures) float64 {
	failed, told := int64(0), int64(0)
	for _, f := range runs {
		failed, told = failed+f.Failed, told+f.Told
	}
	return float64(failed) / float64(max(told, 1)) * 100
}

// notes are what a reader has to know of single rows, a line each: how punctual muster was, and whose count was not its target's.
func (r *PeersResult) notes() (notes []string) {
	for _, l := range r.Loads {
		missed, lag := int64(0), spanOf(l.Of[Muster], func(f *PeerFigures) float64 { return f.LagP99 }, func(v float64) string { return fmt.Sprintf("%.1f", v) })
		for _, f := range l.Of[Muster] {
			missed += f.Missed
		}
		notes = append(notes, fmt.Sprintf("- %s: muster missed %s, lag p99 %s ms.", l.Load, thousands(float64(missed)), lag))
		for _, name := range r.names() {
			seen := median(l.Of[name], func(f *PeerFigures) float64 { return float64(f.Connections) / float64(max(f.Told, 1)) })
			if seen < 1-within || seen > 1+within {
				notes = append(notes, fmt.Sprintf("- %s: %s tells of attempts that have ended; its target has seen %.2f connections for each of them.", l.Load, name, seen))
			}
		}
	}
	return notes
}

// The lines between which Insert writes.
const (
	PeersBegin = "<!-- begin: written by make bench-peers -->"
	PeersEnd   = "<!-- end: written by make bench-peers -->"
)

// ErrNoPlace means that a document has not exactly one place to write to.
var ErrNoPlace = errors.New("want one line " + PeersBegin + " and one " + PeersEnd + " after it")

// Insert puts text into a document, in place of what is between the lines PeersBegin and PeersEnd.
func Insert(document []byte, text string) ([]byte, error) {
	begin, end := bytes.Index(document, []byte(PeersBegin+"\n")), bytes.Index(document, []byte(PeersEnd+"\n"))
	if bytes.Count(document, []byte(PeersBegin)) != 1 || bytes.Count(document, []byte(PeersEnd)) != 1 || begin < 0 || end < begin {
		return nil, ErrNoPlace
	}
	return slices.Concat(document[:begin+len(PeersBegin)+1], []byte("\n"+strings.TrimSpace(text)+"\n\n"), document[end:]), nil
}
