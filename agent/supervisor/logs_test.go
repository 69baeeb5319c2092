package supervisor

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newLog(t *testing.T, dir string) *logFile {
	l := &logFile{path: filepath.Join(dir, LogFile), old: filepath.Join(dir, OldLogFile), max: MaxLogFile}
	t.Cleanup(l.close)
	return l
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLogHasTheCRIForm(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir)
	out, errs := &logStream{log: l, name: "stdout"}, &logStream{log: l, name: "stderr"}
	now := time.Date(2026, 3, 4, 5, 6, 7, 890, time.UTC)
	out.write(now, []byte("one\ntw"))
	errs.write(now, []byte("oops\n\n"))
	out.write(now, []byte("o\n"))
	want := "2026-03-04T05:06:07.00000089Z stdout F one\n" +
		"2026-03-04T05:06:07.00000089Z stderr F oops\n" +
		"2026-03-04T05:06:07.00000089Z stderr F \n" +
		"2026-03-04T05:06:07.00000089Z stdout F two\n"
	if got := read(t, l.path); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestLongLineIsCutIntoPartsAndComesBackWhole(t *testing.T) {
	for _, n := range []int{MaxLogLine - 1, MaxLogLine, MaxLogLine + 1, 3*MaxLogLine + 5} {
		dir := t.TempDir()
		l := newLog(t, dir)
		s := &logStream{log: l, name: "stdout"}
		text := strings.Repeat("x", n)
		for b := []byte(text + "\nend\n"); len(b) > 0; {
			k := min(len(b), 5000)
			s.write(time.Now(), b[:k])
			b = b[k:]
		}
		var whole strings.Builder
		var lines []string
		for entry := range strings.Lines(read(t, l.path)) {
			e, ok := ParseLogEntry([]byte(entry))
			if !ok || len(e.Text) > MaxLogLine {
				t.Fatalf("entry %.80q of %d bytes", entry, len(e.Text))
			}
			whole.Write(e.Text)
			if e.Whole {
				lines = append(lines, whole.String())
				whole.Reset()
			}
		}
		if len(lines) != 2 || lines[0] != text || lines[1] != "end" {
			t.Errorf("line of %d bytes: %d lines came back", n, len(lines))
		}
	}
}

func TestLogIsRotatedAndBounded(t *testing.T) {
	dir := t.TempDir()
	l := newLog(t, dir)
	l.max = 10_000
	s := &logStream{log: l, name: "stdout"}
	for i := range 1000 {
		s.write(time.Now(), []byte(strings.Repeat("y", 80)+string(rune('a'+i%26))+"\n"))
	}
	for _, name := range []string{l.path, l.old} {
		fi, err := os.Stat(name)
		if err != nil || fi.Size() > l.max || fi.Size() < l.max/20 && name == l.old {
			t.Errorf("%s: %v, %v", name, fi, err)
		}
	}
	if n := strings.Count(read(t, l.old)+read(t, l.path), "\n"); n < 85 {
		t.Errorf("%d lines kept", n)
	}
	if l.dropped != 0 {
		t.Errorf("%d lines dropped", l.dropped)
	}
}

func TestUnwritableLogDropsAndSaysSo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	l := newLog(t, dir)
	s := &logStream{log: l, name: "stdout"}
	s.write(time.Now(), []byte("a\nb\nc\n"))
	if got := l.droppedLines(); got != 3 {
		t.Errorf("%d lines dropped, want 3", got)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s.write(time.Now(), []byte("d\n"))
	s.write(time.Now(), []byte("e\n"))
	got := read(t, l.path)
	if strings.Count(got, "3 lines of output were dropped") != 1 || !strings.HasSuffix(got, " stdout F e\n") || strings.Count(got, "\n") != 3 {
		t.Errorf("got %q", got)
	}
}

func TestPipesEndAndRestAreLogged(t *testing.T) {
	l := newLog(t, t.TempDir())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		w.WriteString("one\nrest without newline")
		w.Close()
	}()
	(&logStream{log: l, name: "stderr"}).consume(r, &readBuffer{})
	if got := read(t, l.path); !strings.HasSuffix(got, " stderr F rest without newline\n") || strings.Count(got, "\n") != 2 {
		t.Errorf("got %q", got)
	}
}

func FuzzParseLogEntry(f *testing.F) {
	f.Add([]byte("2026-03-04T05:06:07.00000089Z stdout F text\n"))
	f.Add([]byte("2026-03-04T05:06:07Z stderr P "))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, ok := ParseLogEntry(b)
		if ok && !bytes.Contains(b, e.Text) {
			t.Errorf("%q is not of %q", e.Text, b)
		}
	})
}
