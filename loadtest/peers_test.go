package loadtest

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func window(attempts int64, cpu time.Duration, anonMiB int64) PeerFigures {
	return PeerFigures{Seconds: 10, Attempts: attempts, CPU: cpu, Anon: anonMiB << 20, Told: attempts, Connections: attempts, Missed: -1, LagP99: -1}
}

func TestARatioIsOfTheWindowsOfOneRound(t *testing.T) {
	// The machine is twice as slow in the second round: each round says 3, the medians of the figures alone would say otherwise.
	muster := []PeerFigures{window(1000, 100*time.Millisecond, 10), window(1000, 200*time.Millisecond, 10), window(1000, 100*time.Millisecond, 10)}
	peer := []PeerFigures{window(1000, 300*time.Millisecond, 40), window(1000, 600*time.Millisecond, 40), window(500, 300*time.Millisecond, 45)}
	if got := span(ratios(peer, muster, (*PeerFigures).perProbe), times); got != "3.0× (3.0×–6.0×)" {
		t.Errorf("processor time: %s", got)
	}
	if got := span(ratios(peer, muster, (*PeerFigures).anonMiB), times); got != "4.0× (4.0×–4.5×)" {
		t.Errorf("memory: %s", got)
	}
	if got := span([]float64{2.04, 2.01}, times); got != "2.0×" {
		t.Errorf("alike as they are written: %s", got)
	}
}

func TestFiguresAreWrittenAsPeopleReadThem(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 999.4: "999", 999.6: "1,000", 12345: "12,345", 1234567: "1,234,567"} {
		if got := thousands(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
	for v, want := range map[float64]string{0.84: "0.8×", 9.94: "9.9×", 9.96: "10×", 123.4: "123×"} {
		if got := times(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

// compared is a comparison as one might come out.
func compared() *PeersResult {
	muster := func(missed int64, lag float64) PeerFigures {
		f := window(10_000, 800*time.Millisecond, 40)
		f.Missed, f.LagP99 = missed, lag
		return f
	}
	failing := window(1300, 300*time.Millisecond, 320)
	failing.Failed, failing.Connections = 650, 2600
	return &PeersResult{
		Machine: Machine{CPU: "A processor", CPUs: 2, Kernel: "6.1", Go: "go1.26"}, Rounds: 2, Duration: 10 * time.Second,
		Versions: map[string]string{Kubelet: "v1.37.2"}, Skipped: map[string]string{Blackbox: "no such program"},
		Loads: []LoadFigures{{
			Load: Load{KindHTTP, 10_000, 10 * time.Second},
			Of:   map[string][]PeerFigures{Muster: {muster(0, 4), muster(3, 6)}, Kubelet: {window(10_000, 2400*time.Millisecond, 320), failing}},
		}},
	}
}

func TestTheTableHasEveryProberAndSaysWhatIsMissing(t *testing.T) {
	r := compared()
	text := r.Markdown("make bench-peers")
	for _, want := range []string{
		"`make bench-peers`: medians of 2 rounds, in brackets the least and the most, windows of 10s.",
		"A processor, 2 processors, Linux 6.1, go1.26.",
		"kubelet: v1.37.2.\nblackbox_exporter: not measured (no such program).",
		"| HTTP, 10,000 at 10s | muster | 80 | 1 | 1,000 | 8 | 40 | 1 |",
		"|  | kubelet | 235 (231–240) | 2.9× (2.9×–3.0×) | 565 (130–1,000) of 1,000, 5.8 % failed | 14 (3–24) | 320 | 8.0× |",
		"- http:10000:10s: muster missed 3, lag p99 5.0 (4.0–6.0) ms.",
		"- http:10000:10s: kubelet tells of attempts that have ended; its target has seen 1.50 connections for each of them.",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "| blackbox_exporter") || strings.Contains(text, "busy machine") {
		t.Errorf("a row of nobody's, or a busy machine, in\n%s", text)
	}
}

func TestABusyMachineIsSaid(t *testing.T) {
	r := compared()
	for _, runs := range r.Loads[0].Of {
		for i := range runs {
			runs[i].Others = time.Second
		}
	}
	if text := r.Markdown(""); !strings.Contains(text, "busy 10 % of a window in the median, 10 % at most") || !strings.Contains(text, "**These figures are from a busy machine**") {
		t.Error(text)
	}
}

func TestATableGoesBetweenItsLinesAndNowhereElse(t *testing.T) {
	place := PeersBegin + "\nold\n" + PeersEnd + "\n"
	got, err := Insert([]byte("before\n"+place+"after\n"), "\nnew\n")
	if want := "before\n" + PeersBegin + "\n\nnew\n\n" + PeersEnd + "\nafter\n"; err != nil || string(got) != want {
		t.Errorf("%v, %q, want %q", err, got, want)
	}
	again, err := Insert(got, "new")
	if err != nil || string(again) != string(got) {
		t.Errorf("written twice: %v, %q", err, again)
	}
	for _, document := range []string{"", "before\n", PeersBegin + "\n", PeersEnd + "\n" + PeersBegin + "\n", place + place, PeersBegin + PeersEnd} {
		if got, err := Insert([]byte(document), "new"); !errors.Is(err, ErrNoPlace) || got != nil {
			t.Errorf("%q: %q, %v, want ErrNoPlace", document, got, err)
		}
	}
}

func TestALoadIsReadAsItIsWrittenAndRefusedByItsField(t *testing.T) {
	for _, l := range DefaultLoads {
		if got, err := ParseLoad(l.String()); err != nil || got != l {
			t.Errorf("%s: %v, %v", l, got, err)
		}
	}
	for text, want := range map[string]string{
		"": "want KIND:TARGETS:PERIOD", "http:10": "want KIND", "http:x:1s": "want KIND", "http:10:1": "want KIND", "http:10:1s:": "want KIND",
		"exec:10:1s": "kind", "http:0:1s": "targets", "http:200001:1s": "targets", "tcp:1:1500ms": "period", "tcp:1:0s": "period", "tcp:1:2h": "period",
	} {
		if _, err := ParseLoad(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want it to name %s", text, err, want)
		}
	}
}

func TestAComparisonThatMakesNoSenseIsRefused(t *testing.T) {
	self := self(t)
	good := PeersConfig{Loads: DefaultLoads, Rounds: 1, Duration: time.Second, Muster: self, Kubelet: self}
	for want, change := range map[string]func(*PeersConfig){
		"loads": func(c *PeersConfig) { c.Loads = nil }, "load ": func(c *PeersConfig) { c.Loads = []Load{{}} },
		"rounds": func(c *PeersConfig) { c.Rounds = 0 }, "duration": func(c *PeersConfig) { c.Duration = time.Millisecond },
		"nowhere":           func(c *PeersConfig) { c.Kubelet = "/nowhere" },
		"k8s.io/kubernetes": func(*PeersConfig) {}, // it is not in this test
	} {
		c := good
		change(&c)
		if _, err := NewPeers(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want it to name %s", err, want)
		}
	}
}

func TestAProcessorIsBusyWithAllButIdleness(t *testing.T) {
	const stat = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 9 9 9 9 9 9 9 9 9 9\ncpu1 100 20 3 70000 5000 40 5 600 0 0\nintr 5\n"
	if got, err := busyIn(stat, 1); err != nil || got != 7680*time.Millisecond {
		t.Errorf("%v, %v; want 768 ticks", got, err)
	}
	if _, err := busyIn(stat, 2); err == nil {
		t.Error("there is no third processor")
	}
}

func TestAnotherProcessesClockAgreesWithItsOwn(t *testing.T) {
	end := time.Now().Add(50 * time.Millisecond)
	for n := 0; time.Now().Before(end); n++ {
		_ = strconv.Itoa(n)
	}
	own := processorTime()
	got, err := processorClock(os.Getpid())
	if err != nil || got < own-5*time.Millisecond || got > own+time.Second {
		t.Errorf("%v, %v; this process itself says %v", got, err, own)
	}
	if _, err := processorClock(1 << 22); err == nil {
		t.Error("there is no such process")
	}
}

func self(t *testing.T) string {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return program
}

// pinned is a comparison of muster and a stand-in for the exporter.
func pinned(t *testing.T) *Peers {
	t.Helper()
	cpus, err := processors()
	if err != nil {
		t.Fatal(err)
	}
	if len(cpus) < 2 {
		t.Skip("one processor")
	}
	n := len(cpus) - 1
	p := &Peers{cpu: cpus[n], others: cpus[:n], cfg: PeersConfig{
		Loads: []Load{{KindHTTP, 50, time.Second}}, Rounds: 2, Duration: time.Second,
		Muster: self(t), Blackbox: self(t), ScrapeArgv: []string{self(t), "scrape"},
	}}
	p.contenders = []contender{{Muster, p.startMuster}, {Blackbox, p.startBlackbox}}
	return p
}

func TestProbersAreMeasuredInTurnFromOutside(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 12 s")
	}
	t.Parallel()
	p := pinned(t)
	var order []string
	r, err := p.Run(t.Context(), func(p PeersProgress) { order = append(order, p.Prober) })
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(order, " "); got != "muster blackbox_exporter blackbox_exporter muster" {
		t.Errorf("measured %s: want another one first in each round", got)
	}
	for name, runs := range r.Loads[0].Of {
		if len(runs) != 2 {
			t.Fatalf("%s: %d windows, want 2", name, len(runs))
		}
		for _, f := range runs {
			if f.Seconds < 1 || f.rate() < 20 || f.rate() > 100 || f.CPU <= 0 || f.Anon < 1<<20 || f.RSS < f.Anon {
				t.Errorf("%s: implausible: %+v", name, f)
			}
			if seen := float64(f.Connections) / float64(f.Told); seen < 0.9 || seen > 1.2 || f.Failed != 0 {
				t.Errorf("%s: %d connections of %d attempts, %d failed", name, f.Connections, f.Told, f.Failed)
			}
			if punctual := f.Missed >= 0 && f.LagP99 >= 0; punctual != (name == Muster) {
				t.Errorf("%s: missed %d, lag %v", name, f.Missed, f.LagP99)
			}
		}
	}
}

func TestTheExporterIsAskedForEachTargetAndEndsWithWhoAsks(t *testing.T) {
	t.Parallel()
	p := pinned(t)
	// Nothing listens at the odd addresses' port: the exporter says that half the probes fail.
	l, err := net.Listen("tcp4", "127.93.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	job := scrapeJob{peerJob{KindTCP, 2, time.Second, netip.MustParseAddr("127.93.0.1"), l.Addr().(*net.TCPAddr).Port}, self(t), p.cpu}
	scraper, told, err := startPeer([]string{self(t), "scrape"}, p.others, &job)
	if err != nil {
		t.Fatal(err)
	}
	pid := int(told["pid"])
	if err := syscall.Kill(pid, 0); err != nil {
		t.Errorf("the exporter, process %d: %v", pid, err)
	}
	var f PeerFigures
	for deadline := time.Now().Add(30 * time.Second); f.Failed < 2 || f.Told-f.Failed < 2; time.Sleep(50 * time.Millisecond) {
		f = PeerFigures{}
		if _, err := askPeer(scraper, nil, &f); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("still %+v, want two of each", f)
		}
	}
	if err := scraper.stop(); err != nil {
		t.Error(err)
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the exporter, process %d, is left: %v", pid, err)
	}
}

func TestNoExporterOutlivesAScraperThatIsKilled(t *testing.T) {
	t.Parallel()
	p := pinned(t)
	job := scrapeJob{peerJob{KindTCP, 1, time.Second, netip.MustParseAddr("127.93.0.1"), 9}, self(t), p.cpu}
	scraper, told, err := startPeer([]string{self(t), "scrape"}, p.others, &job)
	if err != nil {
		t.Fatal(err)
	}
	_ = scraper.cmd.Process.Kill()
	_ = scraper.stop()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", told["pid"]))
		if err != nil || strings.Contains(string(stat), ") Z ") { // whoever collects orphans may be slow
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the exporter, process %d, is left", told["pid"])
		}
	}
}

func TestAnExporterThatEndsIsToldWithItsWords(t *testing.T) {
	t.Parallel()
	p := pinned(t)
	job := scrapeJob{peerJob{KindTCP, 1, time.Second, netip.MustParseAddr("127.93.0.1"), 9}, "/bin/ls", p.cpu} // it does not know the flags
	_, _, err := startPeer([]string{self(t), "scrape"}, p.others, &job)
	if err == nil || !strings.Contains(err.Error(), "config.file") {
		t.Errorf("%v, want what ls says of --config.file", err)
	}
}

func TestTheExportersVersionIsItsOwnWord(t *testing.T) {
	if v, err := blackboxVersion(self(t)); err != nil || v != "0.0.1, built with go1.19" {
		t.Errorf("%q, %v", v, err)
	}
	if _, err := blackboxVersion("/bin/echo"); err == nil || !strings.Contains(err.Error(), "no blackbox_exporter") {
		t.Errorf("%v, want that echo is none", err)
	}
}

// standInExporter does what a blackbox_exporter does, as far as a scraper sees it: it connects to what it is asked to probe.
func standInExporter(args []string) error {
	if args[0] == "--version" {
		_, err := fmt.Println("blackbox_exporter, version 0.0.1 (branch: b, revision: r)\n  go version:       go1.19")
		return err
	}
	address := ""
	for i, arg := range args {
		if arg == "--web.listen-address" {
			address = args[i+1]
		}
	}
	var first sync.Once
	http.HandleFunc("/-/healthy", func(w http.ResponseWriter, _ *http.Request) {
		first.Do(func() { w.WriteHeader(http.StatusServiceUnavailable) }) // it has just started
	})
	http.HandleFunc("/probe", func(w http.ResponseWriter, r *http.Request) {
		success, target := 0, r.FormValue("target")
		switch r.FormValue("module") {
		case KindHTTP:
			if resp, err := http.Get(target); err == nil { //nolint:gosec // a test's own
				resp.Body.Close()
				success = 1
			}
		case KindTCP:
			if conn, err := net.Dial("tcp", target); err == nil {
				conn.Close()
				success = 1
			}
		}
		fmt.Fprintf(w, "# HELP probe_success whether it was one\nprobe_success %d\n", success)
	})
	return http.ListenAndServe(address, nil) //nolint:gosec // a test's own
}
