package loadtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

// This file has what comes in churn after single pods: a Deployment's rollout, and the loss of nodes. A coordinator that was given has
// other nodes and pods, and is spared both.

const (
	// deployed is which part of the pods belongs to a Deployment, mostDeployed how many at most, lost which part of the agents is lost, spare which part more pods
	// each agent takes than its share, for those of the others.
	deployed, mostDeployed, lost, spare = 10, 5000, 100, 10
	// deployment is its name, and that of its label.
	deployment = "rolled"
	// rolloutLimit is how long a rollout may take, and pods to leave nodes that are lost.
	rolloutLimit = 5 * time.Minute
	// closedPort is one of loopback that refuses: a lost node's guard is asked there, and nothing is left of it.
	closedPort = "127.0.0.1:1"
)

// rolling is how many pods belong to the Deployment, and losing how many agents are to be lost: the last ones.
func (f *fleet) rolling() int {
	if !f.job.Churn || f.job.Given != nil {
		return 0
	}
	return min(mostDeployed, max(1, f.job.Agents*f.job.Pods/deployed))
}

func (f *fleet) losing() int {
	if !f.job.Churn || f.job.Given != nil || f.job.Agents < 2 {
		return 0
	}
	return max(1, f.job.Agents/lost)
}

// room is how many pods each agent takes.
func (f *fleet) room() int {
	if f.losing() == 0 {
		return f.job.Pods
	}
	return f.job.Pods + max(1, f.job.Pods/spare)
}

// deploy makes the Deployment, or has its pods replaced by others of that version.
func (f *fleet) deploy(ctx context.Context, version string) error {
	n := f.rolling()
	if n == 0 {
		return nil
	}
	p := f.pod(0)
	p.Labels[deployment] = "yes"
	p.Spec.Containers[0].Env = []spec.EnvVar{{Name: "VERSION", Value: version}}
	d := &spec.Deployment{Meta: spec.Meta{Namespace: testNamespace, Name: deployment}, Spec: spec.DeploymentSpec{
		Replicas: int32(n), Selector: spec.Selector{Labels: map[string]string{deployment: "yes"}},
		Template: spec.PodTemplate{Labels: p.Labels, Spec: p.Spec},
		Strategy: spec.Strategy{Type: spec.RollingUpdate, MaxSurge: &spec.IntOrPercent{}, MaxUnavailable: &spec.IntOrPercent{Value: 25, Percent: true}},
	}}
	return uninterrupted(ctx, func(ctx context.Context) error {
		_, err := musterv1.NewDeploymentServiceClient(f.conn).UpdateDeployment(ctx, &musterv1.UpdateDeploymentRequest{
			Deployment: wire.DeploymentToProto(d), AllowMissing: true,
		})
		return err
	})
}

// roll replaces the Deployment's pods, and returns how long it took until the last was ready.
func (f *fleet) roll(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	if err := f.deploy(ctx, "2"); err != nil {
		return 0, fmt.Errorf("roll the Deployment out: %w", err)
	}
	n := int32(f.rolling())
	err := f.wait(ctx, "the Deployment's rollout", func() (string, error) {
		r, err := musterv1.NewDeploymentServiceClient(f.conn).GetDeployment(ctx, &musterv1.GetDeploymentRequest{Namespace: testNamespace, Name: deployment})
		s := r.GetDeployment().GetStatus()
		if err != nil || s.GetObservedGeneration() == r.GetDeployment().GetMeta().GetGeneration() && s.GetUpdatedReplicas() == n && s.GetReadyReplicas() == n && s.GetReplicas() == n {
			return "", err
		}
		return fmt.Sprintf("%d of %d are up to date, %d ready", s.GetUpdatedReplicas(), n, s.GetReadyReplicas()), nil
	})
	return time.Since(began), err
}

// lose has the last agents go without a word, and nothing be left of their machines but the kernel. It returns how long after that all their
// pods, and how many, were with others. The nodes are then taken away.
func (f *fleet) lose(ctx context.Context) (pods int, took time.Duration, err error) {
	all, first := f.job.Agents*f.job.Pods, len(f.agents)-f.losing()
	gone := f.agents[first:]
	f.agents = f.agents[:first:first]
	f.lost = gone
	began := time.Now()
	for _, a := range gone {
		pods += a.pods.count()
		a.lose()
	}
	err = f.wait(ctx, "the pods of lost nodes to be placed again", func() (string, error) {
		if held := f.held(); held != all {
			return fmt.Sprintf("%d of %d are assigned", held, all), nil
		}
		return "", nil
	})
	took = time.Since(began)
	for i := range gone {
		if err == nil {
			err = f.deleteNode(ctx, f.node(first+i))
		}
	}
	return pods, took, err
}

// wait asks until nothing is missing any more.
func (f *fleet) wait(ctx context.Context, what string, missing func() (string, error)) error {
	for end := time.Now().Add(rolloutLimit); ; {
		left, err := missing()
		switch {
		case err != nil:
			return fmt.Errorf("wait for %s: %w", what, err)
		case left == "":
			return nil
		case time.Now().After(end):
			return fmt.Errorf("wait for %s: %s after %v", what, left, rolloutLimit)
		case !sleep(ctx, 50*time.Millisecond):
			return ctx.Err()
		}
	}
}

// errLost is what a lost agent's connections meet.
var errLost = errors.New("the node is lost")

// lose ends the agent's connection, and every other that it opens.
func (a *simulated) lose() {
	a.mu.Lock()
	a.lost = true
	a.mu.Unlock()
	a.cut()
}

// dialed takes a connection in, unless the agent is lost.
func (a *simulated) dialed(conn *grpc.ClientConn) (*grpc.ClientConn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lost {
		conn.Close()
		return nil, errLost
	}
	a.conn = conn
	return conn, nil
}
