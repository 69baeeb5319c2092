package dev

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

// Machines is a cluster on loopback whose nodes can be lost and come back, for a program that measures that. One goroutine at a
// time may use it.
type Machines struct {
	d       *Dev
	join    string
	drained sync.WaitGroup
	// agents are those that nobody has killed, by their node.
	agents map[string]started
}

// started is an agent and when it was.
type started struct {
	*part
	at time.Time
}

// NewMachines checks cfg, of which Program, Dir and Nodes count: nothing else is touched. Logs go to log.
func NewMachines(cfg Config, log io.Writer) (*Machines, error) {
	d, err := New(Config{Program: cfg.Program, Dir: cfg.Dir, Nodes: cfg.Nodes, Images: "ignore", FreePorts: true}, nil, log, log)
	if err != nil {
		return nil, err
	}
	return &Machines{d: d, agents: map[string]started{}}, nil
}

// Start starts the cluster and returns once every node is Ready, with the file of an admin's client config. Stop must follow,
// also after an error.
func (m *Machines) Start(ctx context.Context) (config string, err error) {
	m.drained.Go(func() { // ends with Stop: that a part has ended is no news here
		for range m.d.ended {
		}
	})
	addresses, err := m.d.startCoordinator(ctx)
	if err != nil {
		return "", err
	}
	target, err := m.d.writeContext()
	if err != nil {
		return "", err
	}
	conn, err := target.Dial()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	token, err := m.d.token(ctx, musterv1.NewClusterServiceClient(conn))
	if err != nil {
		return "", err
	}
	m.join = addresses.Listen
	for i := range m.d.cfg.Nodes {
		if err := m.start(nodeName(i), token); err != nil {
			return "", err
		}
	}
	return m.d.clientConfig(), m.d.untilReady(ctx, musterv1.NewNodeServiceClient(conn))
}

func (m *Machines) start(node, token string) error {
	if err := m.d.startAgent(node, m.join, token); err != nil {
		return err
	}
	m.agents[node] = started{m.d.parts[len(m.d.parts)-1], time.Now()}
	return nil
}

// of finds the processes of a node, in the order in which they should die.
func (m *Machines) of(node string) ([]process, error) {
	dir := m.d.dir(node)
	return owned(claimOne(dir), dir)
}

// Kill ends all processes of a node, as a machine that loses its power. It calls first just before the first of them.
func (m *Machines) Kill(ctx context.Context, node string, first func()) error {
	delete(m.agents, node)
	n, err := kill(ctx, func() ([]process, error) {
		found, err := m.of(node)
		if first != nil && len(found) > 0 {
			first()
			first = nil
		}
		return found, err
	})
	if err == nil && n == 0 {
		return fmt.Errorf("nothing of %s was running", node)
	}
	return err
}

// Hang stops all processes of a node, as a machine that stands still. It calls first just before the first of them.
func (m *Machines) Hang(ctx context.Context, node string, first func()) error {
	stopped := map[instance]bool{}
	for ctx.Err() == nil {
		found, err := m.of(node)
		if err != nil {
			return err
		}
		fresh := 0
		for _, p := range found {
			id := instance{p.pid, p.start}
			if stopped[id] {
				continue
			}
			if stopped[id] = true; first != nil {
				first()
				first = nil
			}
			fresh++
			if err := p.signal(unix.SIGSTOP); err != nil {
				return fmt.Errorf("stop process %d: %w", p.pid, err)
			}
		}
		switch { // what was about to be started when its parent was stopped is found the next time
		case len(stopped) == 0:
			return fmt.Errorf("nothing of %s was running", node)
		case fresh == 0:
			return nil
		}
	}
	return ctx.Err()
}

// instance names a process for good.
type instance struct {
	pid   int
	start string
}

// Wake has the processes of a node that hangs go on.
func (m *Machines) Wake(node string) error {
	found, err := m.of(node)
	if err != nil {
		return err
	}
	for _, p := range found {
		if err := p.signal(unix.SIGCONT); err != nil {
			return fmt.Errorf("wake process %d: %w", p.pid, err)
		}
	}
	return nil
}

// Boot starts the agent of a node that was killed, with the data that it had.
func (m *Machines) Boot(node string) error { return m.start(node, "") }

// restartAfter is how soon after its start an agent that has ended is started again.
const restartAfter = 500 * time.Millisecond

// Mend starts agents again that have ended by themselves, as a machine's service manager does: another process of this machine may
// have got the port that a killed agent had, for as long as it needs it.
func (m *Machines) Mend() error {
	for node, a := range m.agents {
		if m.d.alive(a.part) != nil && time.Since(a.at) > restartAfter {
			m.d.say("%s has ended (%s) and is started again", node, a.how())
			if err := m.start(node, ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// Stop kills whatever of the cluster runs, at once.
func (m *Machines) Stop(ctx context.Context) error {
	_, err := kill(context.WithoutCancel(ctx), m.d.everything)
	for _, p := range m.d.parts {
		<-p.done
	}
	m.d.ending.Wait()
	close(m.d.ended)
	m.drained.Wait()
	return err
}

// Discard kills what a cluster in dir has left, and takes dir away with all that is in it.
func Discard(ctx context.Context, dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if _, err := kill(context.WithoutCancel(ctx), func() ([]process, error) { return below(dir) }); err != nil {
		return err
	}
	if err := dropGroups(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
