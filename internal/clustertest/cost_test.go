package clustertest

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/musterhq/muster/agent/cgroup"
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

// cpu is what these processes have used themselves, by the scheduler's own figures.
func cpu(t *testing.T, pids []int) (sum time.Duration) {
	t.Helper()
	for _, pid := range pids {
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
	}
	return sum
}

// inContainers is what everything in the containers of a node has used: their inits, and what they have started.
func inContainers(t *testing.T, m *cgroup.Manager) (sum time.Duration, pids map[int]bool) {
	t.Helper()
	pods, err := m.List()
	if err != nil {
		t.Fatal(err)
	}
	pids = map[int]bool{}
	for _, name := range pods {
		g := m.Pod(name)
		u, err := g.Usage()
		if err != nil {
			t.Fatal(err)
		}
		sum += u.CPU
		all, err := g.Processes()
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range all {
			pids[pid] = true
		}
	}
	return sum, pids
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
	agent := c.find(func(argv []string) bool {
		return len(argv) > 1 && argv[1] == "agent" && mentions(argv, c.dataDir("node-1"))
	})
	groups, err := cgroup.New(cgroup.Config{DataDir: c.dataDir("node-1")})
	if err != nil {
		t.Fatal(err)
	}
	containersBefore, inside := inContainers(t, groups)
	if len(agent) != 1 || len(inside) < 2*pods {
		t.Fatalf("%d agents, %d processes in containers: what is there to measure?", len(agent), len(inside))
	}
	outside := slices.DeleteFunc(c.find(func(argv []string) bool { return mentions(append([]string{""}, argv...), c.dataDir("node-1")) }),
		func(pid int) bool { return inside[pid] || pid == agent[0] })
	agentBefore, outsideBefore, counted := cpu(t, agent), cpu(t, outside), c.attempts()
	if err := spawner.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(window)
	in.Close()
	agents, supervisors, done := cpu(t, agent)-agentBefore, cpu(t, outside)-outsideBefore, c.attempts()-counted
	containers, _ := inContainers(t, groups)
	containers -= containersBefore
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
	each, alone := (agents+supervisors+containers)/time.Duration(done), time.Duration(ns/n)
	t.Logf("%v for each of %d attempts: %v the agent, %v %d supervisors, %v inits and commands; a process that only starts the command: %v for each of %d; above it: %v",
		each, done, agents/time.Duration(done), supervisors/time.Duration(done), len(outside), containers/time.Duration(done), alone, n, each-alone)
	if each-alone > 500*time.Microsecond {
		t.Errorf("an attempt costs %v more than its command", each-alone)
	}
}
