package loadtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/musterhq/muster/internal/version"
)

// The bounds of a test of failover.
const (
	LeastFailoverAgents = 3
	MaxFailoverAgents   = 50
	MaxFailoverPods     = 100
	MaxFailoverRounds   = 100
)

// Losses are the kinds of losses that are made.
var Losses = []string{LossKill, LossHang}

// FailoverConfig is a test of how pods move off nodes that are lost.
type FailoverConfig struct {
	// Agents is LeastFailoverAgents to MaxFailoverAgents.
	Agents int
	// Pods are so many of each class, 1 to MaxFailoverPods; 0: as many as agents.
	Pods int
	// Rounds of each of Kinds, which are of Losses, 1 to MaxFailoverRounds.
	Rounds int
	Kinds  []string
	// Seed makes other moments and other nodes.
	Seed uint64
	// Argv starts the process that has the cluster; see FailoverPart. WriterArgv is what its pods run; see Write.
	Argv, WriterArgv []string
	// Discard takes away all that a cluster in a directory has left, and the directory.
	Discard func(ctx context.Context, dir string) error
	// TempDir is where the cluster's data is kept; empty: the system's.
	TempDir string
}

// check says what is wrong with the configuration, and puts in what is derived.
func (c *FailoverConfig) check() error {
	if c.Pods == 0 {
		c.Pods = c.Agents
	}
	within := func(name string, v, least, most int) error {
		if v < least || v > most {
			return fmt.Errorf("%s %d: must be %d to %d", name, v, least, most)
		}
		return nil
	}
	for i, k := range c.Kinds {
		switch {
		case k == "cut":
			return errors.New("kinds cut: not built yet: nodes would need networks of their own")
		case !slices.Contains(Losses, k) || slices.Contains(c.Kinds[:i], k):
			return fmt.Errorf("kinds %s: want each of %s once at most", k, strings.Join(Losses, ", "))
		}
	}
	if len(c.Kinds) == 0 {
		return fmt.Errorf("kinds: want one of %s at least", strings.Join(Losses, ", "))
	}
	return errors.Join(within("agents", c.Agents, LeastFailoverAgents, MaxFailoverAgents), within("pods", c.Pods, 1, MaxFailoverPods),
		within("rounds", c.Rounds, 1, MaxFailoverRounds))
}

// FailoverProgress is how a test goes.
type FailoverProgress struct {
	Doing string
	// Round is from 1, of Rounds in all; 0 before the first.
	Round, Rounds int
}

// FailoverTest is a test of failover. Make one with NewFailover, and run it once.
type FailoverTest struct{ cfg FailoverConfig }

// NewFailover checks the configuration.
func NewFailover(cfg FailoverConfig) (*FailoverTest, error) {
	t := &FailoverTest{cfg: cfg}
	return t, t.cfg.check()
}

// Run measures, and tells progress. The end of ctx ends it early: the result then has the rounds so far, or the error is
// ErrNothing. When it returns, nothing that it has started is left; that goes for a caller that is killed too.
func (t *FailoverTest) Run(ctx context.Context, progress func(FailoverProgress)) (result *FailoverResult, err error) {
	cfg := &t.cfg
	machine := thisMachine()
	dir, err := os.MkdirTemp(cfg.TempDir, "muster-loadtest-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cfg.Discard(ctx, dir)) }() // what a part that was killed has left
	p, err := startPart(cfg.Argv, nil)
	if err != nil {
		return nil, err
	}
	defer func() {
		if stopped := p.stop(); stopped != nil && err == nil {
			err = fmt.Errorf("the cluster: %w", stopped)
		}
	}()
	defer context.AfterFunc(ctx, p.ask)()
	if err := p.say(failoverJob{dir, cfg.Agents, cfg.Pods, cfg.Rounds, cfg.Kinds, cfg.Seed, cfg.WriterArgv}); err != nil {
		return nil, fmt.Errorf("start the cluster: %w", p.died())
	}
	result = &FailoverResult{
		Test: "failover", Version: version.Version, Agents: cfg.Agents, Pods: cfg.Pods, Rounds: cfg.Rounds, Lease: failoverLease.Seconds(), Seed: cfg.Seed,
	}
	for all := cfg.Rounds * len(cfg.Kinds); len(result.Losses) < all; {
		line, err := p.lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if ctx.Err() != nil {
				break
			}
			return nil, fmt.Errorf("the cluster ended early: %w", p.died())
		}
		var s failoverSaid
		if err == nil {
			err = json.Unmarshal(line, &s)
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("hear from the cluster: %w", err)
		case s.Loss != nil:
			result.Losses = append(result.Losses, *s.Loss)
		default:
			progress(FailoverProgress{s.Doing, s.Round, all})
		}
	}
	if len(result.Losses) == 0 {
		return nil, ErrNothing
	}
	machine.LoadAfter = load()
	result.Machine, result.Interrupted = machine, ctx.Err() != nil
	result.account(cfg.Kinds)
	return result, nil
}
