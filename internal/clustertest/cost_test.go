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
	"github.com/musterhq/muster/coordinator/store/etcd/etcdtest"
)

// spawnerEnv makes the test's own binary a process that does nothing but start a command at a steady rate: "PERIOD".
const spawnerEnv = "MUSTER_TEST_SPAWN"

func TestMain(m *testing.M) {
	etcdtest.Main()
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

// private is what these processes have of memory that they share with nobody, in bytes.
func private(t *testing.T, pids []int) (sum int64) {
	t.Helper()
	for _, pid := range pids {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			words := strings.Fields(line)
			if strings.HasPrefix(line, "Private_") && len(words) == 3 {
				kib, err := strconv.ParseInt(words[1], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				sum += kib << 10
			}
		}
	}
	return sum
}

func TestAPodStartsAndLivesCheaply(t *testing.T) {
	if rounds(t) < 20 {
		t.Skip("a benchmark: make soak runs it")
	}
	t.Run("OnTheNodesNetwork", func(t *testing.T) { testCheapPods(t, Start(t, 1)) })
	t.Run("OnAPodNetwork", func(t *testing.T) { testCheapPods(t, Start(t, 1, OnHosts(t, 1))) })
}

func testCheapPods(t *testing.T, c *Cluster) {
	const pods = 100
	own := func(role string) []int {
		return c.find(func(argv []string) bool {
			return len(argv) > 1 && argv[1] == role && mentions(argv, c.dataDir("node-1"))
		})
	}
	agent := own("agent")
	time.Sleep(5 * time.Second)
	idle := cpu(t, agent)
	time.Sleep(10 * time.Second)
	before, memory := cpu(t, agent), private(t, agent)
	idle = (before - idle) / 10
	begun := time.Now()
	c.Apply(strings.Replace(sleepers("many", pods), `readinessProbe: {exec: {command: ["true"]}, periodSeconds: 1}`, "", 1))
	for !c.running("app=many", pods) { // asked seldom: to be asked costs, too
		if time.Since(begun) > 2*time.Minute {
			t.Fatal("the pods do not run")
		}
		time.Sleep(5 * time.Second)
	}
	supervisors, inits := own("pod"), own("init")
	if len(supervisors) != pods || len(inits) != pods {
		t.Fatalf("%d supervisors and %d inits of %d pods", len(supervisors), len(inits), pods)
	}
	agents := cpu(t, agent) - before - time.Duration(float64(idle)*time.Since(begun).Seconds())
	each := (agents + cpu(t, supervisors) + cpu(t, inits)) / pods
	time.Sleep(20 * time.Second) // until what came with the start has been let go of
	kept := (private(t, supervisors) + private(t, inits) + private(t, agent) - memory) / pods
	t.Logf("a pod's start: %v of CPU (%v the agent, %v its supervisor, %v its init); its private memory: %d KiB (%d its supervisor, %d its init)",
		each, agents/pods, cpu(t, supervisors)/pods, cpu(t, inits)/pods, kept>>10, private(t, supervisors)/pods>>10, private(t, inits)/pods>>10)
	if each > 50*time.Millisecond || kept > 4<<20 {
		t.Errorf("%v and %d bytes a pod, want at most about 10ms and 4 MiB", each, kept)
	}
}
