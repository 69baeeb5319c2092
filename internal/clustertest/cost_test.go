package clustertest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// spawnerEnv makes the test's own binary a process that does nothing but start a command at a steady rate: "PERIOD".
const spawnerEnv = "MUSTER_TEST_SPAWN"

func TestMain(m *testing.M) {
	if period := os.Getenv(spawnerEnv); period != "" {
		spawn(period)
	}
	os.Exit(m.Run())
}

// spawn starts "true" at each tick until its input ends, and says then how often and at which cost, children included.
func spawn(period string) {
	d, err := time.ParseDuration(period)
	if err != nil {
		panic(err)
	}
	end := make(chan struct{})
	go func() {
		bufio.NewReader(os.Stdin).ReadByte()
		close(end)
	}()
	tick := time.NewTicker(d)
	for n := 0; ; n++ {
		select {
		case <-tick.C:
			if _, err := exec.Command("true").CombinedOutput(); err != nil {
				panic(err)
			}
		case <-end:
			var self, children syscall.Rusage
			syscall.Getrusage(syscall.RUSAGE_SELF, &self)
			syscall.Getrusage(syscall.RUSAGE_CHILDREN, &children)
			fmt.Println(n, self.Utime.Nano()+self.Stime.Nano()+children.Utime.Nano()+children.Stime.Nano())
			os.Exit(0)
		}
	}
}

// cpu is what these processes have used, the children that they have waited for included.
func cpu(t *testing.T, pids []int) time.Duration {
	t.Helper()
	var sum time.Duration
	for _, pid := range pids {
		// The scheduler's own figure of a thread is exact; that of dead children comes in hundredths of a second.
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		for _, f := range tasks {
			b, err := os.ReadFile(f)
			if err != nil {
				continue
			}
			ns, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += time.Duration(ns)
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		f := strings.Fields(rest)
		for _, i := range []int{13, 14} { // cutime, cstime
			n, err := strconv.ParseInt(f[i], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += time.Duration(n) * 10 * time.Millisecond
		}
	}
	return sum
}

// attempts is how many attempts of probes that never changed their verdict the coordinator knows of.
func (c *Cluster) attempts() (sum int) {
	c.t.Helper()
	var list struct {
		Items []struct {
			RunLength int `json:"run_length"`
		}
	}
	if err := c.JSON(&list, "get", "probes"); err != nil {
		c.t.Fatal(err)
	}
	for _, p := range list.Items {
		sum += p.RunLength
	}
	return sum
}

func TestAnExecProbeCostsLittleMoreThanItsCommand(t *testing.T) {
	const pods, probes = 110, 3
	const window = 2 * time.Minute
	if rounds(t) < 20 {
		t.Skip("a benchmark of two minutes: make soak runs it")
	}
	c := Start(t, 1)
	probe := func(kind string) string { return kind + ": {exec: {command: [\"true\"]}, periodSeconds: 10}" }
	c.Apply(strings.Replace(sleepers("costly", pods), `readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}`,
		strings.Join([]string{probe("livenessProbe"), probe("readinessProbe")}, "\n        ")+
			"\n      - name: second\n        command: [sleep, \"1000000\"]\n        "+probe("readinessProbe"), 1))
	c.Eventually(2*time.Minute, "the pods are ready", func() bool { return c.running("app=costly", pods) })
	time.Sleep(10 * time.Second) // what comes with the start is over

	spawner := exec.Command(os.Args[0])
	spawner.Env = append(os.Environ(), fmt.Sprintf("%s=%v", spawnerEnv, 10*time.Second/(pods*probes)))
	in, err := spawner.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	spawner.Stdout = &said
	node := c.find(func(argv []string) bool { return mentions(append([]string{""}, argv...), c.dataDir("node-1")) })
	before, counted := cpu(t, node), c.attempts()
	if err := spawner.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(window)
	in.Close()
	used, done := cpu(t, node)-before, c.attempts()-counted
	if err := spawner.Wait(); err != nil {
		t.Fatal(err)
	}
	var n, ns int64
	if _, err := fmt.Sscan(said.String(), &n, &ns); err != nil {
		t.Fatal(err)
	}
	if done < 1 || n < 1 {
		t.Fatalf("%d attempts, %d commands", done, n)
	}
	each, alone := used/time.Duration(done), time.Duration(ns/n)
	t.Logf("%d processes of the node: %v for each of %d attempts; a process that only starts the command: %v for each of %d; above it: %v",
		len(node), each, done, alone, n, each-alone)
	if each-alone > 500*time.Microsecond {
		t.Errorf("an attempt costs %v more than its command", each-alone)
	}
}
