package loadtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestWritersThatTakeTurnsAreNotDoubledAndThoseThatInterleaveAre(t *testing.T) {
	for _, tc := range []struct {
		name  string
		lines []written
		// began are instances, double how many wrote beside another.
		began  []uint64
		double int
	}{
		{"nobody", nil, nil, 0},
		{"one", []written{{1, 7, 0}, {1, 7, 1}}, []uint64{7}, 0},
		{"one after the other", []written{{1, 7, 0}, {2, 8, 1}, {2, 8, 2}}, []uint64{7, 8}, 0},
		{"restarted in its place", []written{{1, 7, 0}, {1, 8, 1}}, []uint64{7, 8}, 0},
		{"the old one writes again", []written{{1, 7, 0}, {2, 8, 1}, {1, 7, 2}, {2, 8, 3}, {1, 7, 4}}, []uint64{7, 8}, 1},
		{"two of one epoch", []written{{1, 7, 0}, {1, 8, 1}, {1, 7, 2}}, []uint64{7, 8}, 1},
		{"an older epoch begins", []written{{2, 7, 0}, {1, 8, 1}}, []uint64{7, 8}, 1},
		{"two old ones write again", []written{{1, 7, 0}, {2, 8, 1}, {3, 9, 2}, {1, 7, 3}, {2, 8, 4}}, []uint64{7, 8, 9}, 2},
	} {
		var w writers
		var began []uint64
		for _, l := range tc.lines {
			w.wrote(l)
		}
		for _, b := range w.began {
			began = append(began, b.instance)
		}
		if !slices.Equal(began, tc.began) || len(w.double) != tc.double {
			t.Errorf("%s: began %v, %d doubled, want %v and %d", tc.name, began, len(w.double), tc.began, tc.double)
		}
	}
}

func TestAJournalTakesWholeLinesOnceAndRefusesOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pod")
	j := journal{path: path}
	write := func(text string) error {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return j.read()
	}
	if err := j.read(); err != nil {
		t.Errorf("before there is a file: %v", err)
	}
	for _, step := range []struct {
		text  string
		began int
	}{{"1 7 10\n1 7", 1}, {" 20\n", 1}, {"2 8 30\n", 2}, {strings.Repeat("2 8 40\n", 20000), 2}} {
		if err := write(step.text); err != nil || len(j.began) != step.began || len(j.double) != 0 {
			t.Errorf("%.20q: %v, began %v, doubled %v", step.text, err, j.began, j.double)
		}
	}
	if err := write("junk\n"); err == nil {
		t.Error("junk is taken")
	}
	j.offset = 0
	if err := os.WriteFile(path, []byte(strings.Repeat("x", 1<<17)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := j.read(); err == nil {
		t.Error("a line without an end is taken")
	}
}

func TestFiguresAreOfTheMovesOfTheirKindAndClassOnly(t *testing.T) {
	r := &FailoverResult{Losses: []Loss{
		{Kind: LossKill, Shown: 100, Moves: []Move{
			{Class: ClassFast, Bound: 1, Started: 2, Ready: 3, Doubled: true}, {Class: ClassFast, Bound: 5, Started: 6, Ready: 7},
			{Class: ClassFenced, Bound: 50, Started: 60, Ready: 70},
		}},
		{Kind: LossKill, Shown: 200, Doubled: 1, Moves: []Move{{Class: ClassFast, Bound: 9, Started: 10, Ready: 11}}},
		{Kind: LossHang, Shown: 300, Moves: []Move{{Class: ClassFenced, Bound: 400, Started: 500, Ready: 600}}},
	}}
	r.account([]string{LossKill, LossHang})
	type row struct {
		kind, class     string
		moves           int
		shown, p50, max float64
	}
	var got []row
	value := func(v *float64) float64 {
		if v == nil {
			return -1
		}
		return *v
	}
	for _, f := range r.Figures {
		got = append(got, row{f.Kind, f.Class, f.Moves, value(f.Shown.Max), value(f.Bound.P50), value(f.Ready.Max)})
	}
	want := []row{
		{LossKill, ClassFast, 3, 200, 5, 11}, {LossKill, ClassFenced, 1, 100, 50, 70}, {LossHang, ClassFast, 0, -1, -1, -1}, {LossHang, ClassFenced, 1, 300, 400, 600},
	}
	if !slices.Equal(got, want) || r.Doubled != 1 || r.Overlapped != 1 {
		t.Errorf("got %v, doubled %d, overlapped %d, want %v, 1 and 1", got, r.Doubled, r.Overlapped, want)
	}
	var page strings.Builder
	if err := FailoverReport(&page, r); err != nil || !strings.Contains(page.String(), "two writers") {
		t.Errorf("%v in\n%s", err, page.String())
	}
}

func TestRanksAreValuesThatWereMeasured(t *testing.T) {
	var values []float64
	for v := 20.0; v >= 1; v-- {
		values = append(values, v)
	}
	for n, want := range map[int][3]float64{1: {20, 20, 20}, 2: {19, 20, 20}, 20: {10, 19, 20}} {
		q := ranks(values[:n])
		if *q.P50 != want[0] || *q.P95 != want[1] || *q.Max != want[2] {
			t.Errorf("of %v: %v %v %v, want %v", values[:n], *q.P50, *q.P95, *q.Max, want)
		}
	}
}
