// Package api serves muster.v1: what people and programs read and write. It validates and stores what users want,
// joins what is stored into objects, and streams changes. It decides nothing about where pods run: that is the
// leader's, which sees what was stored here.
package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/musterhq/muster/coordinator/endpoints"
	"github.com/musterhq/muster/coordinator/fleet"
	"github.com/musterhq/muster/coordinator/placement"
	"github.com/musterhq/muster/coordinator/probes"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/usage"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/membership"
	"github.com/musterhq/muster/internal/spec"
)

const (
	// defaultPage and maxPage bound a page of a list.
	defaultPage, maxPage = 500, 5000
	// maxSelector bounds a label selector, in bytes.
	maxSelector = 4 << 10
)

// Config is what the API knows of its cluster.
type Config struct {
	// Version is muster's.
	Version, ClusterID string
	LeaseTTL           time.Duration
	// Addresses has the listen addresses by name.
	Addresses map[string]string
	// Validation are the rules that the coordinator's flags set.
	Validation spec.Options
}

// Sessions is what the API needs of coordinator/dispatch.
type Sessions interface {
	// Connected tells whether a node's session is up.
	Connected(node string) bool
	// Ask puts a question to a node's agent.
	Ask(ctx context.Context, node string, ask *agentv1.Ask, take func(*agentv1.AnswerRequest) error) error
	// Exec has a node's agent run a command: it hears what is said, and take what the command writes.
	Exec(ctx context.Context, node string, ask *agentv1.Ask, said <-chan *agentv1.InteractResponse, take func(*agentv1.InteractRequest) error) error
}

// Leader is what the API needs of coordinator/leader.
type Leader interface {
	// Frozen says why failover is frozen; empty when it is not.
	Frozen() string
	// Resume lets a frozen failover go on; false when it was not frozen.
	Resume() bool
	// Move binds a pod anew elsewhere.
	Move(ctx context.Context, pod spec.ObjectName, acceptRisk bool) error
	// Forget ends a deleted pod's binding without waiting for its fence.
	Forget(ctx context.Context, pod spec.ObjectName) error
	// Elsewhere says why a pod fits on no node but the one it is on; empty when it does.
	Elsewhere(pod *fleet.Pod) string
	// Evict moves a bare pod, in one transaction with guard.
	Evict(ctx context.Context, pod *fleet.Pod, guard store.Txn) error
	// Explain says why a pod fits nowhere; empty when it fits.
	Explain(pod *spec.Pod) string
	// Where says to which node a pod that is not stored would go now, or why to none.
	Where(pod *spec.Pod) (node, why string)
	// ExplainNodes says of each node why a pod does not fit it.
	ExplainNodes(pod *spec.Pod) []placement.Refusal
}

// Tokens is what the API needs of coordinator/trust.
type Tokens interface {
	Create(ctx context.Context, role musterv1.Role, ttl time.Duration, uses int) (token string, err error)
	List(ctx context.Context) ([]*musterv1.Token, error)
	Revoke(ctx context.Context, id string) error
	// Login redeems a token of a person; both results are DER.
	Login(ctx context.Context, id, secret string, csr []byte) (cert, ca []byte, err error)
}

// Deps are the parts that the API works on.
type Deps struct {
	Store  store.Store
	Cache  *store.Cache
	Fleet  *fleet.Shared
	Probes *probes.Table
	Usage  *usage.Table
	// Endpoints are those of all Services.
	Endpoints *endpoints.Table
	Sessions  Sessions
	Leader    Leader
	// ResumeRestarts lets the held restarts of a Deployment, by its uid, go on; false when none are held.
	ResumeRestarts func(uid string) bool
	Tokens         Tokens
	// Waits says what everything waits for after a restore, empty when nothing does; nil: never.
	Waits func() string
	// Snapshot writes a copy of the store as the bytes of a file; it fails when out does. Nil where there is none.
	Snapshot func(ctx context.Context, out io.Writer) error
	// Members lists the gossip.
	Members func() []membership.Member
	Log     *slog.Logger
	Now     func() time.Time
}

// API is the services of muster.v1.
type API struct {
	cfg  Config
	deps Deps
	// copying has a place for each snapshot that is being sent.
	copying chan struct{}
}

// New builds the services.
func New(cfg Config, deps Deps) *API {
	return &API{cfg: cfg, deps: deps, copying: make(chan struct{}, maxCopies)}
}

// Register puts the services on a server.
func (a *API) Register(s grpc.ServiceRegistrar) {
	musterv1.RegisterPodServiceServer(s, &podService{API: a})
	musterv1.RegisterNodeServiceServer(s, &nodeService{API: a})
	musterv1.RegisterEventServiceServer(s, &eventService{API: a})
	musterv1.RegisterDeploymentServiceServer(s, &deploymentService{API: a})
	musterv1.RegisterPodDisruptionBudgetServiceServer(s, &budgetService{API: a})
	musterv1.RegisterProbeServiceServer(s, &probeService{API: a})
	musterv1.RegisterServiceServiceServer(s, newServiceService(a))
	musterv1.RegisterEndpointsServiceServer(s, &endpointsService{API: a})
	musterv1.RegisterConfigMapServiceServer(s, newConfigMapService(a))
	musterv1.RegisterSecretServiceServer(s, newSecretService(a))
	musterv1.RegisterPlacementServiceServer(s, &placementService{API: a})
	musterv1.RegisterUsageServiceServer(s, &usageService{API: a})
	musterv1.RegisterClusterServiceServer(s, &clusterService{API: a})
}

// objectName reads a request's namespace and name.
func objectName(namespace, name string) (spec.ObjectName, error) {
	if namespace == "" {
		namespace = "default"
	}
	if name == "" {
		return spec.ObjectName{}, invalid("name", "required")
	}
	return spec.ObjectName{Namespace: namespace, Name: name}, nil
}

func selector(s string) (spec.Selector, error) {
	if len(s) > maxSelector {
		return spec.Selector{}, invalid("filter.label_selector", fmt.Sprintf("%d bytes, at most %d", len(s), maxSelector))
	}
	sel, err := spec.ParseSelector(s)
	if err != nil {
		return spec.Selector{}, invalid("filter.label_selector", err.Error())
	}
	return sel, nil
}

// page cuts one page out of items, which are sorted by key; token is where the last page ended.
func page[T any](items []T, key func(*T) string, size int32, token string) ([]T, string, error) {
	return pageAt(len(items), func(i int) *T { return &items[i] }, func(*T) bool { return true }, key, size, token)
}

// pageWhere is the page of those items that match, which are in order of their keys. What lies behind it is not looked at.
func pageWhere[T any](items []*T, match func(*T) bool, key func(*T) string, size int32, token string) ([]T, string, error) {
	return pageAt(len(items), func(i int) *T { return items[i] }, match, key, size, token)
}

func pageAt[T any](all int, at func(int) *T, match func(*T) bool, key func(*T) string, size int32, token string) (page []T, next string, err error) {
	n, after, err := pageAfter(size, token)
	if err != nil {
		return nil, "", err
	}
	begin := 0
	if token != "" {
		begin = sort.Search(all, func(i int) bool { return key(at(i)) > after })
	}
	for i := begin; i < all && len(page) <= n; i++ {
		if item := at(i); match(item) {
			page = append(page, *item)
		}
	}
	page, next = cut(page, key, n)
	return page, next, nil
}

// pageAfter is how many items a page has, and the key that it comes after where there is a token.
func pageAfter(size int32, token string) (n int, after string, err error) {
	switch {
	case size < 0 || size > maxPage:
		return 0, "", invalid("page_size", fmt.Sprintf("%d, must be 0 to %d", size, maxPage))
	case size == 0:
		size = defaultPage
	}
	key, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return 0, "", invalid("page_token", "not from a list")
	}
	return int(size), string(key), nil
}

// cut leaves n items, and says with which token to go on if there are more.
func cut[T any](items []T, key func(*T) string, n int) (page []T, next string) {
	if len(items) <= n {
		return items, ""
	}
	return items[:n], base64.RawURLEncoding.EncodeToString([]byte(key(&items[n-1])))
}

// sortKey orders by namespace, then name: NUL sorts before everything a name may have.
func sortKey(parts ...string) string {
	var key strings.Builder
	for _, p := range parts {
		key.WriteString(p + "\x00")
	}
	return key.String()
}

// commit writes one record under the condition that it is still as it was read.
func (a *API) commit(ctx context.Context, key store.Key, revision int64, value store.Value) (int64, error) {
	rev, err := a.deps.Store.Commit(ctx, store.Txn{
		If:   []store.Cond{{Key: key, Revision: revision}},
		Then: []store.Write{{Key: key, Value: value}},
	})
	if err != nil {
		return 0, fmt.Errorf("write %s: %w", key, err)
	}
	// What was written is what the next read shows.
	if err := a.deps.Cache.Wait(ctx, rev); err != nil {
		return 0, fmt.Errorf("write %s: wait for revision %d: %w", key, rev, err)
	}
	return rev, nil
}

// read returns a record and its revision; a nil record and 0 when it is absent.
func read[T any](ctx context.Context, s store.Store, key store.Key) (T, int64, error) {
	var none T
	rec, err := s.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return none, 0, nil
	}
	if err != nil {
		return none, 0, fmt.Errorf("read %s: %w", key, err)
	}
	return rec.Value.(T), rec.Revision, nil
}

func notFound(kind string, name spec.ObjectName) error {
	return fmt.Errorf("%s %s: %w", kind, name, store.ErrNotFound)
}

// checkRevision holds an update to the revision that it names. An object that was read carries the newest revision of
// all the keys that it is joined from, so it has seen what is stored under this one unless that is newer.
func checkRevision(key store.Key, given, stored int64) error {
	if given != 0 && given < stored {
		return fmt.Errorf("write %s: %w: it is at %d", key, store.ErrConflict, stored)
	}
	return nil
}
