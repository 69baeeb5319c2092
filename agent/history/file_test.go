package history

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/internal/spec"
)

// opened is a file of the least size.
func opened(t testing.TB, path string, log *bytes.Buffer) *File {
	t.Helper()
	logger := slog.New(slog.DiscardHandler)
	if log != nil {
		logger = slog.New(slog.NewTextHandler(log, nil))
	}
	f, err := OpenFile(path, MinFile, logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func TestAHistoryOutlivesItsProcessAndGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	h := New(opened(t, path, nil))
	for i := range 100 {
		h.Add(id, spec.Attempt{Start: time.Unix(int64(i), 0), Instance: "i", Output: fmt.Sprint(i % 3), CPU: -1, Outcome: spec.OutcomeFailure, Result: spec.ResultFailure})
	}
	if got := h.Last(id, 1000); len(got) != 100 || got[0].Start.Unix() != 0 {
		t.Errorf("%d are told: %s", len(got), starts(got))
	}
	h = New(opened(t, path, nil)) // the first was not closed: as if it had been killed
	h.Add(id, spec.Attempt{Start: time.Unix(100, 0)})
	got := h.Last(id, 50)
	if len(got) != 50 || got[49].Start.Unix() != 100 || got[0].Start.Unix() != 51 {
		t.Fatalf("%d are told: %s", len(got), starts(got))
	}
	want := spec.Attempt{Start: time.Unix(99, 0), Instance: "i", Output: "0", CPU: -1, Outcome: spec.OutcomeFailure, Result: spec.ResultFailure}
	if diff := cmp.Diff(want, got[48]); diff != "" {
		t.Error(diff)
	}
	if got := h.Last(spec.ProbeID{PodUID: "other"}, 5); len(got) != 0 {
		t.Errorf("of another probe: %v", got)
	}
}

func TestTheOldestIsOverwrittenAndTheNewestAreWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	f := opened(t, path, nil)
	const total = 3 * MinFile / attemptBytes
	for i := range total {
		f.Add(id, &spec.Attempt{Start: time.Unix(int64(i), 0)})
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > MinFile {
		t.Errorf("it takes %d bytes, %v", info.Size(), err)
	}
	for _, h := range []*File{f, opened(t, path, nil)} {
		got := h.Last(id, total)
		if n := len(got); n < MinFile/attemptBytes/2 || n > MinFile/attemptBytes {
			t.Errorf("%d are kept", n)
		}
		for i, a := range got {
			if a.Start.Unix() != int64(total-len(got)+i) {
				t.Fatalf("attempt %d is of %d", i, a.Start.Unix())
			}
		}
	}
}

// Whatever is added to whichever probe, with restarts between, what is told is a tail of it.
func TestTheFileTellsWhatWasAdded(t *testing.T) {
	dir := t.TempDir()
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		path := filepath.Join(dir, fmt.Sprint(run))
		var all []*File // closed at the end: a process that is killed closes nothing
		reopen := func() *File {
			f, err := OpenFile(path, MinFile, slog.New(slog.DiscardHandler))
			if err != nil {
				rt.Fatal(err)
			}
			all = append(all, f)
			return f
		}
		defer func() {
			for _, f := range all {
				f.Close()
			}
			os.Remove(path)
		}()
		f := reopen()
		ids := []spec.ProbeID{{PodUID: "u", Container: "a", Kind: spec.Liveness}, {PodUID: "u", Container: "a", Kind: spec.Readiness}, {PodUID: "v", Container: "b", Kind: spec.Startup}}
		added := map[spec.ProbeID][]spec.Attempt{}
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			// Each restart begins a block: as many of them as there are blocks overwrite the oldest.
			if rapid.IntRange(0, 9).Draw(rt, "restart") == 0 && len(all) < MinFile/blockBytes-2 {
				f = reopen()
			}
			id := rapid.SampledFrom(ids).Draw(rt, "probe")
			a := spec.Attempt{Start: time.Unix(int64(i), int64(i)), Outcome: spec.OutcomeWarning, Result: spec.ResultSuccess, Lag: -1,
				CPU: time.Duration(rapid.IntRange(0, 1<<20).Draw(rt, "cpu")) * time.Microsecond, Instance: rapid.SampledFrom([]string{"", "i", "j"}).Draw(rt, "instance"),
				Output: rapid.SampledFrom([]string{"", "x", strings.Repeat("y", MaxOutput)}).Draw(rt, "output")}
			f.Add(id, &a)
			added[id] = append(added[id], a)
		}
		n := rapid.IntRange(0, 30).Draw(rt, "n")
		for _, id := range ids {
			if diff := cmp.Diff(added[id][max(0, len(added[id])-n):], f.Last(id, n), cmpopts.EquateEmpty()); diff != "" {
				rt.Fatal(diff)
			}
		}
	})
}

func TestABlockThatACrashHasTornIsLeftOutAndTheRestIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	f := opened(t, path, nil)
	const total = 3 * blockBytes / attemptBytes
	for i := range total {
		f.Add(id, &spec.Attempt{Start: time.Unix(int64(i), 0)})
	}
	f.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[pageBytes+blockBytes+blockHead+5000] ^= 1 // in the second block
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	f = opened(t, path, &log)
	got := f.Last(id, total)
	if len(got) < total/2 || len(got) > 3*total/4 || got[0].Start.Unix() != 0 || got[len(got)-1].Start.Unix() != total-1 {
		t.Errorf("%d of %d are told", len(got), total)
	}
	if !strings.Contains(log.String(), "damaged=1") {
		t.Errorf("logged %q", &log)
	}
}

func TestAFileThatCannotBeReadIsPutAside(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(p []byte)
		aside  string
	}{
		"newer":        {func(p []byte) { binary.LittleEndian.PutUint32(p[8:], fileVersion+1) }, "newer"},
		"not a header": {func(p []byte) { p[0] = 'x' }, "damaged"},
		"torn header":  {func(p []byte) { p[16]++ }, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "history")
			f := opened(t, path, nil)
			f.Add(id, &spec.Attempt{})
			f.Close()
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			tc.change(data)
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			f = opened(t, path, &log)
			if got := f.Last(id, 5); len(got) != 0 || !strings.Contains(log.String(), "put aside") {
				t.Errorf("%d are told, logged %q", len(got), &log)
			}
			if kept, err := os.ReadFile(path + "." + tc.aside); err != nil || !bytes.Equal(kept, data) {
				t.Errorf("it is not what it was: %v", err)
			}
		})
	}
}

func TestAFileOfAnotherSizeIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	f := opened(t, path, nil)
	for i := range 10 {
		f.Add(id, &spec.Attempt{Start: time.Unix(int64(i), 0), Output: "x"})
	}
	f.Close()
	f, err := OpenFile(path, 2*MinFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := f.Last(id, 20); len(got) != 10 || got[9].Output != "x" || got[0].Start.Unix() != 0 {
		t.Errorf("%d are told: %s", len(got), starts(got))
	}
	for _, size := range []int64{0, MinFile - 1, MaxFile + 1} {
		if f, err := OpenFile(path, size, nil); err == nil {
			f.Close()
			t.Errorf("%d bytes are taken", size)
		}
	}
}

func TestOutputsTakeNoMoreThanAQuarterOfABlock(t *testing.T) {
	f := opened(t, filepath.Join(t.TempDir(), "history"), nil)
	long := strings.Repeat("x", MaxOutput-8)
	n := maxTexts / MaxOutput
	for i := range n + 2 {
		f.Add(id, &spec.Attempt{Output: fmt.Sprintf("%08d", i) + long})
	}
	got := f.Last(id, n+2)
	if len(got) != n+2 || !strings.HasPrefix(got[n-1].Output, fmt.Sprintf("%08d", n-1)) || got[n].Output != LostOutput {
		t.Errorf("%d are told, the last %.20q", len(got), got[len(got)-1].Output)
	}
}

func TestAnAttemptIsPutInTheFileWithoutAllocating(t *testing.T) {
	f := opened(t, filepath.Join(t.TempDir(), "history"), nil)
	a := spec.Attempt{Start: time.Unix(1, 0), Instance: "process://i", Output: "ok"}
	for range 4 * MinFile / attemptBytes { // every block was begun once
		f.Add(id, &a)
	}
	if n := testing.AllocsPerRun(2*blockBytes/attemptBytes, func() { f.Add(id, &a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFileAdd(b *testing.B) {
	f := opened(b, filepath.Join(b.TempDir(), "history"), nil)
	a := spec.Attempt{Start: time.Unix(1, 0), Instance: "process://i", Output: "ok"}
	b.ReportAllocs()
	for b.Loop() {
		f.Add(id, &a)
	}
}

func FuzzABlockIsReadWhateverItHas(f *testing.F) {
	f.Add([]byte{recordText, 1, 0, 'x', recordProbe, 2, 0, 0, 0, 2, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, p []byte) {
		read(p, func(_ *blockProbe, a func() spec.Attempt) { a() })
	})
}

func TestOnAFullDiskTheFileStaysAsItIsAndTheOldestIsOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	var log bytes.Buffer
	f, err := OpenFile(path, 4*MinFile, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.f.Close() // no room is given from here on
	const total = 3 * extend / attemptBytes
	for i := range total {
		f.Add(id, &spec.Attempt{Start: time.Unix(int64(i), 0)})
	}
	got := f.Last(id, total)
	if n := len(got); n < extend/attemptBytes/2 || n > extend/attemptBytes || got[n-1].Start.Unix() != total-1 {
		t.Errorf("%d are told", n)
	}
	if n := strings.Count(log.String(), "does not grow"); n != 1 {
		t.Errorf("it is said %d times:\n%s", n, &log)
	}
}
