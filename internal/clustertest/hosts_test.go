package clustertest

import (
	"syscall"
	"testing"
)

// bootedMachine loses its power and gets it back.
var bootedMachine = badDay{
	deadMachine.begin,
	func(c *Cluster, node string) {
		c.net.Boot(node)
		c.StartAgent(node)
	},
}

// stoppedMachine stands still as a whole, its clock apart. The kernel kills its fenced pods meanwhile.
var stoppedMachine = badDay{
	func(c *Cluster, node string) { c.net.Signal(node, syscall.SIGSTOP, nil) },
	func(c *Cluster, node string) { c.net.Signal(node, syscall.SIGCONT, nil) },
}

func cut(how func(c *Cluster, node string)) badDay {
	return badDay{how, func(c *Cluster, node string) { c.net.Heal(node) }}
}

// Each kind of bad day has a cluster of its own, at the same time as the others.
func TestOnHostsASingleInstancePodMovesOffWhateverHappensAndNeverHasTwoWriters(t *testing.T) {
	for _, tc := range []struct {
		name string
		badDay
	}{
		{"the node is cut off", cut(func(c *Cluster, node string) { c.net.Cut(node) })},
		{"the coordinator does not hear the node", cut(func(c *Cluster, node string) { c.net.CutOneWay(node, "coordinator") })},
		{"the node does not hear the coordinator", cut(func(c *Cluster, node string) { c.net.CutOneWay("coordinator", node) })},
		{"the agent hangs", hungAgent},
		{"the machine loses its power", bootedMachine},
		{"agent and supervisors stand still", stoppedSupervisors},
		{"the whole machine stands still", stoppedMachine},
	} {
		t.Run(tc.name, func(t *testing.T) {
			Binary(t)
			t.Parallel()
			Start(t, 3, OnHosts(t, 3)).mustMove(tc.badDay)
		})
	}
}
