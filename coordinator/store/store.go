// Package store is where the coordinator keeps its state: the Store interface with its keys, records, conditions and
// errors, and the Cache, an in-memory copy of everything, fed by a watch, that all readers are served from.
//
// Keys are grouped in families with one writer each (docs/architecture.md has the table). Every write is a transaction
// conditioned on what was read. coordinator/store/etcd keeps records as proto messages in etcd, embedded or your own;
// coordinator/store/memory is the least implementation; coordinator/store/storetest is the suite that both pass.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/musterhq/muster/internal/spec"
)

// The errors of a store, wrapped with the operation and its object.
var (
	ErrNotFound = errors.New("not found")
	// ErrConflict means that a condition did not hold: nothing was written. Read again, then decide again.
	ErrConflict = errors.New("revision changed")
	// ErrUnknown means that the store did not answer: the write may have happened. Read again.
	ErrUnknown = errors.New("outcome unknown")
	// ErrCompacted means that a watch asked for changes that are gone: list again.
	ErrCompacted = errors.New("revision compacted")
	// ErrTooLarge means that a record or a transaction is over the limit.
	ErrTooLarge = errors.New("too large")
	// ErrFull means that the backend has no room: reads and deletes still work.
	ErrFull = errors.New("store is full")
	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("store closed")
)

// Limits of one write.
const (
	// MaxOps bounds the writes of one transaction, and the transactions of one CommitEach.
	MaxOps = 120
	// MaxRoundOps bounds the transactions of one CommitEach plus the writes, or conditions, of any of them: stock etcd
	// counts so.
	MaxRoundOps = 128
	// MaxValueBytes bounds one encoded record.
	MaxValueBytes = 1 << 20
	// MaxRoundBytes bounds the encoded records of one Commit or CommitEach together. Whoever gathers records of any size
	// into a round gets ErrTooLarge beyond it, and makes smaller rounds.
	MaxRoundBytes = 5 << 18
)

// Family is a group of keys with one writer and one type of value.
type Family string

// The families, with the type of their records.
const (
	Pods         Family = "pods"        // *spec.Pod, by the api and the workloads
	Bindings     Family = "bindings"    // *spec.Binding, by the leader
	Stops        Family = "stops"       // *spec.Stop, by the leader
	PodStatuses  Family = "podstatus"   // *spec.HeldStatus, by the holder
	Nodes        Family = "nodes"       // *spec.Node, by the user
	NodeFacts    Family = "nodefacts"   // *spec.NodeFacts, by the agent
	NodeStatus   Family = "nodestatus"  // *spec.NodeStatus, by the leader
	NodeLeases   Family = "nodelease"   // *spec.NodeLease, by its owner; the leader seals
	NodeNetworks Family = "nodenetwork" // *spec.NodeNetwork, by the leader
	Deployments  Family = "deployments" // *spec.Deployment; Status is by the leader, in a family of its own
	DeployState  Family = "deploystate" // *spec.DeploymentStatus, by the leader
	Services     Family = "services"    // *spec.Service, by the user
	ConfigMaps   Family = "configmaps"  // *spec.ConfigMap, by the user
	Secrets      Family = "secrets"     // *spec.Secret, by the user; encrypted
	// DeployRevisions are named NAME@HASH, after the Deployment and the hash of the template.
	DeployRevisions Family = "deployrevisions" // *spec.DeploymentRevision, by the leader; bounded by revisionHistoryLimit
	Budgets         Family = "budgets"         // *spec.PodDisruptionBudget, by the user
	BudgetStates    Family = "budgetstate"     // *spec.BudgetState, by evictions
	Events          Family = "events"          // *spec.Event, by agents and the coordinator; kept 1 h
	Failovers       Family = "failovers"       // *spec.Failover, by the leader; the last 1,000
	Leader          Family = "leader"          // *spec.Leadership, by the election
	Config          Family = "config"          // *spec.Blob, by trust and the coordinator: CA, tokens, gossip key, generation
)

// Key names a record. Namespace is empty for what has none; no part has a slash.
type Key struct {
	Family          Family
	Namespace, Name string
}

// String is the path of the key below the store's root: "pods/default/web".
func (k Key) String() string {
	if k.Namespace == "" {
		return string(k.Family) + "/" + k.Name
	}
	return string(k.Family) + "/" + k.Namespace + "/" + k.Name
}

// PodKey, BindingKey, StopKey and StatusKey name the records of one pod.
func PodKey(n spec.ObjectName) Key     { return Key{Pods, n.Namespace, n.Name} }
func BindingKey(n spec.ObjectName) Key { return Key{Bindings, n.Namespace, n.Name} }
func StopKey(n spec.ObjectName) Key    { return Key{Stops, n.Namespace, n.Name} }
func StatusKey(n spec.ObjectName) Key  { return Key{PodStatuses, n.Namespace, n.Name} }

// Value is one of the record types that the families name. It is immutable once written or read.
type Value any

// Record is a value with its key and revisions.
type Record struct {
	Key   Key
	Value Value
	// Revision is the store revision of the last write, Created that of the first since the key last was absent.
	Revision, Created int64
}

// Cond is what must hold for a transaction to be written.
type Cond struct {
	Key Key
	// Revision is the revision that the key must have; 0 means that it must be absent.
	Revision int64
}

// Write is one put or delete.
type Write struct {
	Key Key
	// Value is nil for a delete. Deleting an absent key is no error.
	Value Value
	// Lease ties the key to a lease; 0 means none.
	Lease LeaseID
}

// Txn is written whole if every condition holds, and not at all otherwise.
type Txn struct {
	If   []Cond
	Then []Write
}

// LeaseID names a store lease (not a node's lease): keys tied to it vanish when it expires.
type LeaseID int64

// Store keeps records. All methods may be called from any goroutine.
type Store interface {
	// Get reads one record, linearizably; ErrNotFound when it is absent.
	Get(ctx context.Context, k Key) (Record, error)
	// List reads all records of the families (all families when none is given) at one revision.
	List(ctx context.Context, families ...Family) (recs []Record, revision int64, err error)
	// Commit writes t and returns its revision, or ErrConflict. ErrUnknown means that it may have been written.
	Commit(ctx context.Context, t Txn) (revision int64, err error)
	// CommitEach writes every transaction whose conditions held before the round, each by itself, in one round; the errors
	// are nil or ErrConflict, one for each. Two of them must not write one key. err is about the whole round: nothing was
	// written, or with ErrUnknown perhaps everything.
	CommitEach(ctx context.Context, ts []Txn) (revision int64, errs []error, err error)
	// Watch delivers all changes after the revision, in order, whole revisions at a time. The channel is closed when
	// ctx ends or the watch is broken; err then tells why: ErrCompacted means list again.
	Watch(ctx context.Context, after int64) Watch
	// Grant makes a lease that lasts for ttl (rounded up to whole seconds, at least 2 s) unless kept alive.
	Grant(ctx context.Context, ttl time.Duration) (LeaseID, error)
	// KeepAlive renews a lease once; ErrNotFound when it has expired.
	KeepAlive(ctx context.Context, id LeaseID) error
	// Revoke ends a lease and deletes its keys.
	Revoke(ctx context.Context, id LeaseID) error
	// Writable tells why the store takes no writes just now: ErrFull, or nil when it does.
	Writable(ctx context.Context) error
	// Close ends everything; calls in flight fail with ErrClosed.
	Close() error
}

// Watch is a running watch.
type Watch interface {
	// C delivers changes until it is closed.
	C() <-chan Changes
	// Err says why C was closed: nil when ctx ended.
	Err() error
}

// Changes are all the changes of one or more whole revisions.
type Changes struct {
	// Revision is the newest revision that is contained whole.
	Revision int64
	Changes  []Change
}

// Change is one put or delete.
type Change struct {
	Key Key
	// Record is nil for a delete.
	Record *Record
	// Revision is that of the change.
	Revision int64
}
