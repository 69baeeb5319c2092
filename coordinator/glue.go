package coordinator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/musterhq/muster/coordinator/failover"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/snapshot"
	"github.com/musterhq/muster/coordinator/store/etcd"
	"github.com/musterhq/muster/coordinator/trust"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/fence"
	"github.com/musterhq/muster/internal/identity"
	"github.com/musterhq/muster/internal/membership"
)

// guardOf is what a guard's answer means for the verdict on its node.
func guardOf(s membership.GuardSign) failover.Guard {
	switch s.State {
	case membership.GuardRefused:
		return failover.GuardRefused
	case membership.GuardAnswered:
		switch {
		case s.Answer.Agent == fence.AgentRunning:
			return failover.GuardAgentRuns
		case s.Answer.Supervisors > 0:
			return failover.GuardAgentDown
		case s.Answer.Agent == fence.AgentDead:
			return failover.GuardNothingLeft
		default:
			// A stopped agent without pods: nothing is left that could run.
			return failover.GuardNothingLeft
		}
	}
	return failover.GuardSilent
}

func askGuard(ctx context.Context, address string) failover.Guard {
	return guardOf(membership.AskGuard(ctx, address))
}

// members is the gossip's word on each member.
func members(m *membership.Membership) func() map[string]string {
	return func() map[string]string {
		all := m.Members()
		out := make(map[string]string, len(all))
		for _, member := range all {
			out[member.Name] = string(member.State)
		}
		return out
	}
}

// witnesses asks agents that are alive, those of other zones first.
func witnesses(m *membership.Membership) func(context.Context, *fleet.Node, int, func(failover.Witness)) int {
	return func(ctx context.Context, n *fleet.Node, most int, heard func(failover.Witness)) int {
		zone := n.Meta().Labels["topology.kubernetes.io/zone"]
		var able []membership.Member
		for _, member := range m.Members() {
			if member.Name != n.Name && member.State == membership.Alive && member.Meta.Role == membership.Agent {
				able = append(able, member)
			}
		}
		slices.SortStableFunc(able, func(a, b membership.Member) int {
			bit := func(m membership.Member) int {
				if m.Meta.Zone != zone {
					return 0
				}
				return 1
			}
			return bit(a) - bit(b)
		})
		able = able[:min(most, len(able))]
		ctx, cancel := context.WithTimeout(ctx, 1500*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		var answered atomic.Int32
		for _, member := range able {
			wg.Go(func() {
				sight, err := m.Ask(ctx, member.Name, membership.Request{
					Node: n.Name, Gossip: n.Facts.GossipAddress, Guard: n.Facts.GuardAddress,
				})
				if err != nil {
					return // a witness that does not answer says nothing
				}
				answered.Add(1)
				heard(failover.Witness{
					Member: member.Name, Domain: member.Meta.Zone, Guard: guardOf(sight.Guard), AgentAnswered: sight.Agent,
				})
			})
		}
		wg.Wait()
		return int(answered.Load())
	}
}

// tokens speaks of tokens as the API does.
type tokens struct{ *trust.Authority }

var roles = map[musterv1.Role]identity.Role{
	musterv1.Role_ROLE_NODE: identity.RoleNode, musterv1.Role_ROLE_VIEWER: identity.RoleViewer,
	musterv1.Role_ROLE_EDITOR: identity.RoleEditor, musterv1.Role_ROLE_ADMIN: identity.RoleAdmin,
}

func (t tokens) Create(ctx context.Context, role musterv1.Role, ttl time.Duration, uses int) (string, error) {
	return t.Authority.Create(ctx, roles[role], ttl, uses)
}

func (t tokens) List(ctx context.Context) ([]*musterv1.Token, error) {
	all, err := t.Authority.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []*musterv1.Token
	for _, k := range all {
		pb := &musterv1.Token{
			Id: k.ID, ExpireTime: timestamppb.New(k.ExpireTime), CreateTime: timestamppb.New(k.CreateTime), UsesLeft: int32(k.UsesLeft),
		}
		for r, role := range roles {
			if role == k.Role {
				pb.Role = r
			}
		}
		out = append(out, pb)
	}
	return out, nil
}

// boottime reads the clock that goes on while the machine is suspended.
func boottime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic("no boot time: " + err.Error()) // every kernel that we run on has it
	}
	return time.Duration(now.Nano())
}

// homeFile has an id of the data directory.
const homeFile = "directory.id"

// homeID is the id of a data directory, made where there is none.
func homeID(dir string) (string, error) {
	path := filepath.Join(dir, homeFile)
	text, err := os.ReadFile(path)
	if err == nil && len(text) > 0 {
		return strings.TrimSpace(string(text)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("id of the data directory: %w", err)
	}
	id := fleet.NewUID()
	if err := os.WriteFile(path, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("id of the data directory: %w", err)
	}
	return id, nil
}

// writeSnapshot writes a copy of the store; the header's revision is what the store says.
func writeSnapshot(ctx context.Context, db *etcd.Store, out io.Writer, h snapshot.Header) error {
	var w *snapshot.Writer
	begin := func(revision int64) (err error) {
		h.Revision = revision
		w, err = snapshot.NewWriter(out, h)
		return err
	}
	if err := db.Copy(ctx, begin, func(r etcd.Raw) error { return w.Add(snapshot.Record(r)) }); err != nil {
		return err
	}
	return w.Close()
}
