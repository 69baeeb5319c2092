// Package etcd keeps records in etcd: in a member embedded in this process, which nothing outside can reach, or
// through any client of a cluster of one's own. Keys live under /muster/v1/; values are what the codec makes of them.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/coordinator/store"
)

const (
	// root is the prefix of every key.
	root = "/muster/v1/"
	// requestTimeout bounds one request where the caller's context does not: a store that hangs must not hang us.
	requestTimeout = 10 * time.Second
	// reclaimTimeout bounds Reclaim; the shrinking itself cannot be interrupted.
	reclaimTimeout = 2 * time.Minute
	// listPage is how many records one request of a list reads. For each the store counts all that lie behind it as well: small pages
	// of a large store take long.
	listPage = 20_000
	// decodeAtOnce is how many records one goroutine decodes in a row.
	decodeAtOnce = 1000
)

// Codec turns records into bytes and back.
type Codec interface {
	Encode(value any) ([]byte, error)
	Decode(family string, data []byte) (any, error)
}

// Store is a store.Store on etcd.
type Store struct {
	client *clientv3.Client
	codec  Codec
	log    *slog.Logger
	page   int // listPage but in tests

	server   *embed.Etcd // nil for a cluster of one's own
	stopping *atomic.Bool
	closed   context.Context
	close    context.CancelFunc

	mu      sync.Mutex // orders Close and the beginning of watches
	watches sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

// NewFromClient returns a store on a client, which it owns from now on.
func NewFromClient(c *clientv3.Client, codec Codec, log *slog.Logger) *Store {
	s := &Store{client: c, codec: codec, log: log, page: listPage, stopping: &atomic.Bool{}}
	s.closed, s.close = context.WithCancel(context.Background())
	return s
}

// Close implements store.Store.
func (s *Store) Close() error {
	s.mu.Lock()
	was := s.closed.Err() != nil
	s.close()
	s.mu.Unlock()
	s.watches.Wait()
	if was {
		return nil
	}
	s.stopping.Store(true)
	err := s.client.Close()
	if errors.Is(err, context.Canceled) {
		err = nil // what an in-process client says of its own end
	}
	if s.server != nil {
		s.server.Close()
	}
	return err
}

// bound gives one request its time, and ends it when the store is closed.
func (s *Store) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	stop := context.AfterFunc(s.closed, cancel)
	return ctx, func() { stop(); cancel() }
}

func path(k store.Key) string { return root + k.String() }

// parse is the inverse of path; false for keys that are not ours to read.
func parse(p string) (store.Key, bool) {
	rest, ok := strings.CutPrefix(p, root)
	if !ok {
		return store.Key{}, false
	}
	parts := strings.Split(rest, "/")
	switch len(parts) {
	case 2:
		return store.Key{Family: store.Family(parts[0]), Name: parts[1]}, true
	case 3:
		return store.Key{Family: store.Family(parts[0]), Namespace: parts[1], Name: parts[2]}, true
	}
	return store.Key{}, false
}

// failed turns etcd's errors into the store's. write says that the request may have changed something.
func (s *Store) failed(ctx context.Context, err error, write bool) error {
	switch {
	case s.closed.Err() != nil:
		return store.ErrClosed
	case errors.Is(err, rpctypes.ErrNoSpace):
		return store.ErrFull
	case errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrRequestTooLarge):
		return store.ErrTooLarge
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return fmt.Errorf("lease: %w", store.ErrNotFound)
	case errors.Is(err, rpctypes.ErrCompacted):
		return store.ErrCompacted
	case write && ambiguous(err):
		return fmt.Errorf("%w: %w", store.ErrUnknown, err)
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return err
}

// ambiguous tells whether a write that failed so may still have happened, or may yet.
func ambiguous(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	if e, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return e.Code() == codes.Unavailable || e.Code() == codes.DeadlineExceeded
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown:
		return true
	}
	return false
}

func (s *Store) decode(k store.Key, data []byte, mod, created int64) (store.Record, error) {
	v, err := s.codec.Decode(string(k.Family), data)
	if err != nil {
		return store.Record{}, fmt.Errorf("decode %s: %w", k, err)
	}
	return store.Record{Key: k, Value: v, Revision: mod, Created: created}, nil
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, k store.Key) (store.Record, error) {
	bctx, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.client.Get(bctx, path(k))
	if err != nil {
		return store.Record{}, fmt.Errorf("get %s: %w", k, s.failed(ctx, err, false))
	}
	if len(resp.Kvs) == 0 {
		return store.Record{}, fmt.Errorf("%s: %w", k, store.ErrNotFound)
	}
	kv := resp.Kvs[0]
	return s.decode(k, kv.Value, kv.ModRevision, kv.CreateRevision)
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, families ...store.Family) ([]store.Record, int64, error) {
	prefixes := []string{root}
	if len(families) > 0 {
		prefixes = nil
		for _, f := range families {
			prefixes = append(prefixes, root+string(f)+"/")
		}
	}
	var out []store.Record
	var revision int64
	for _, prefix := range prefixes {
		from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
		for {
			bctx, cancel := s.bound(ctx)
			opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(int64(s.page))}
			if revision != 0 {
				opts = append(opts, clientv3.WithRev(revision))
			}
			resp, err := s.client.Get(bctx, from, opts...)
			cancel()
			if err != nil {
				return nil, 0, fmt.Errorf("list %s: %w", prefix, s.failed(ctx, err, false))
			}
			if revision == 0 {
				revision = resp.Header.Revision
			}
			if out, err = s.decodeAll(out, resp.Kvs); err != nil {
				return nil, 0, err
			}
			if !resp.More {
				break
			}
			from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
		}
	}
	return out, revision, nil
}

// decodeAll appends the records of kvs that are ours to read.
func (s *Store) decodeAll(out []store.Record, kvs []*mvccpb.KeyValue) ([]store.Record, error) {
	all := make([]store.Record, len(kvs))
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for from := 0; from < len(kvs); from += decodeAtOnce {
		g.Go(func() (err error) {
			for i := from; i < min(from+decodeAtOnce, len(kvs)) && err == nil; i++ {
				if k, ok := parse(string(kvs[i].Key)); ok {
					all[i], err = s.decode(k, kvs[i].Value, kvs[i].ModRevision, kvs[i].CreateRevision)
				}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return append(out, slices.DeleteFunc(all, func(r store.Record) bool { return r.Revision == 0 })...), nil
}

// compares and ops turn a transaction into etcd's terms; room is what the round may still have in bytes.
func compares(conds []store.Cond) []clientv3.Cmp {
	out := make([]clientv3.Cmp, len(conds))
	for i, c := range conds {
		out[i] = clientv3.Compare(clientv3.ModRevision(path(c.Key)), "=", c.Revision)
	}
	return out
}

func (s *Store) ops(writes []store.Write, room *int) ([]clientv3.Op, error) {
	out := make([]clientv3.Op, 0, len(writes))
	for _, w := range writes {
		if w.Value == nil {
			out = append(out, clientv3.OpDelete(path(w.Key)))
			continue
		}
		data, err := s.codec.Encode(w.Value)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", w.Key, err)
		}
		if len(data) > store.MaxValueBytes {
			return nil, fmt.Errorf("write %s: %d bytes, at most %d: %w", w.Key, len(data), store.MaxValueBytes, store.ErrTooLarge)
		}
		if *room -= len(data); *room < 0 {
			return nil, fmt.Errorf("write %s: more than %d bytes in one round: %w", w.Key, store.MaxRoundBytes, store.ErrTooLarge)
		}
		var opts []clientv3.OpOption
		if w.Lease != 0 {
			opts = append(opts, clientv3.WithLease(clientv3.LeaseID(w.Lease)))
		}
		out = append(out, clientv3.OpPut(path(w.Key), string(data), opts...))
	}
	return out, nil
}

// Commit implements store.Store.
func (s *Store) Commit(ctx context.Context, t store.Txn) (int64, error) {
	if err := store.CheckTxns([]store.Txn{t}); err != nil {
		return 0, err
	}
	room := store.MaxRoundBytes
	ops, err := s.ops(t.Then, &room)
	if err != nil {
		return 0, err
	}
	bctx, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.client.Txn(bctx).If(compares(t.If)...).Then(ops...).Commit()
	if err != nil {
		return 0, s.failed(ctx, err, true)
	}
	if !resp.Succeeded {
		return resp.Header.Revision, store.ErrConflict
	}
	return resp.Header.Revision, nil
}

// CommitEach implements store.Store: one transaction of nested ones.
func (s *Store) CommitEach(ctx context.Context, ts []store.Txn) (int64, []error, error) {
	if err := store.CheckTxns(ts); err != nil {
		return 0, nil, err
	}
	nested := make([]clientv3.Op, len(ts))
	room := store.MaxRoundBytes
	for i, t := range ts {
		ops, err := s.ops(t.Then, &room)
		if err != nil {
			return 0, nil, err
		}
		nested[i] = clientv3.OpTxn(compares(t.If), ops, nil)
	}
	bctx, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.client.Txn(bctx).Then(nested...).Commit()
	if err != nil {
		return 0, nil, s.failed(ctx, err, true)
	}
	errs := make([]error, len(ts))
	for i, r := range resp.Responses {
		if !r.GetResponseTxn().GetSucceeded() {
			errs[i] = store.ErrConflict
		}
	}
	return resp.Header.Revision, errs, nil
}

// watch is a running watch.
type watch struct {
	c   chan store.Changes
	mu  sync.Mutex
	err error
}

func (w *watch) C() <-chan store.Changes { return w.c }

func (w *watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Watch implements store.Store.
func (s *Store) Watch(ctx context.Context, after int64) store.Watch {
	w := &watch{c: make(chan store.Changes)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Err() != nil {
		w.end(store.ErrClosed)
		return w
	}
	s.watches.Go(func() { w.end(s.follow(ctx, w, after)) }) // ends with ctx or the store
	return w
}

func (w *watch) end(err error) {
	w.mu.Lock()
	w.err = err
	w.mu.Unlock()
	close(w.c)
}

func (s *Store) follow(ctx context.Context, w *watch, after int64) error {
	wctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	defer context.AfterFunc(s.closed, cancel)()
	for resp := range s.client.Watch(wctx, root, clientv3.WithPrefix(), clientv3.WithRev(after+1)) {
		if resp.CompactRevision != 0 {
			return fmt.Errorf("watch after revision %d: %w: the oldest known is %d", after, store.ErrCompacted, resp.CompactRevision)
		}
		if err := resp.Err(); err != nil {
			return s.failed(ctx, err, false)
		}
		var changes store.Changes
		for _, e := range resp.Events {
			k, ok := parse(string(e.Kv.Key))
			if !ok {
				continue
			}
			c := store.Change{Key: k, Revision: e.Kv.ModRevision}
			if e.Type == clientv3.EventTypePut {
				r, err := s.decode(k, e.Kv.Value, e.Kv.ModRevision, e.Kv.CreateRevision)
				if err != nil {
					return err
				}
				c.Record = &r
			}
			changes.Changes = append(changes.Changes, c)
			changes.Revision = e.Kv.ModRevision
		}
		if len(changes.Changes) == 0 {
			continue
		}
		select {
		case w.c <- changes:
		case <-wctx.Done():
		}
	}
	if s.closed.Err() != nil {
		return store.ErrClosed
	}
	if ctx.Err() != nil {
		return nil
	}
	return errors.New("the watch ended")
}

// Grant implements store.Store.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (store.LeaseID, error) {
	bctx, cancel := s.bound(ctx)
	defer cancel()
	seconds := int64(max(2*time.Second, ttl)+time.Second-1) / int64(time.Second)
	resp, err := s.client.Grant(bctx, seconds)
	if err != nil {
		return 0, fmt.Errorf("grant a lease: %w", s.failed(ctx, err, false))
	}
	return store.LeaseID(resp.ID), nil
}

// KeepAlive implements store.Store.
func (s *Store) KeepAlive(ctx context.Context, id store.LeaseID) error {
	bctx, cancel := s.bound(ctx)
	defer cancel()
	if _, err := s.client.KeepAliveOnce(bctx, clientv3.LeaseID(id)); err != nil {
		return fmt.Errorf("keep lease %d alive: %w", id, s.failed(ctx, err, false))
	}
	return nil
}

// Revoke implements store.Store.
func (s *Store) Revoke(ctx context.Context, id store.LeaseID) error {
	bctx, cancel := s.bound(ctx)
	defer cancel()
	if _, err := s.client.Revoke(bctx, clientv3.LeaseID(id)); err != nil {
		return fmt.Errorf("revoke lease %d: %w", id, s.failed(ctx, err, true))
	}
	return nil
}

// Writable implements store.Store.
func (s *Store) Writable(ctx context.Context) error {
	bctx, cancel := s.bound(ctx)
	defer cancel()
	resp, err := s.client.AlarmList(bctx)
	if err != nil {
		return fmt.Errorf("list alarms: %w", s.failed(ctx, err, false))
	}
	for _, a := range resp.Alarms {
		if a.Alarm == etcdserverpb.AlarmType_CORRUPT {
			return errors.New("etcd says that its data is corrupt")
		}
	}
	if len(resp.Alarms) > 0 {
		return store.ErrFull
	}
	return nil
}

// Reclaim gives a full embedded store its room back after records have been deleted: it forgets the history, so that
// watches must list again, shrinks the file, and lets writes in. A store that is as full as before says so at the next
// write. Nothing else is answered while the file shrinks. A cluster of one's own is its operators' to repair.
func (s *Store) Reclaim(ctx context.Context) error {
	if s.server == nil {
		return errors.New("reclaim room: the store is a cluster of your own: use etcdctl there")
	}
	ctx, cancel := context.WithTimeout(ctx, reclaimTimeout)
	defer cancel()
	now, err := s.client.Get(ctx, root, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("reclaim room: %w", s.failed(ctx, err, false))
	}
	// Physical: the room is free when the call returns. In 3.7 Defragment panics through an in-process client.
	if _, err := s.client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical()); err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("reclaim room: compact: %w", s.failed(ctx, err, false))
	}
	if err := s.server.Server.Backend().Defrag(); err != nil {
		return fmt.Errorf("reclaim room: shrink the file: %w", err)
	}
	if _, err := s.client.AlarmDisarm(ctx, &clientv3.AlarmMember{}); err != nil {
		return fmt.Errorf("reclaim room: %w", s.failed(ctx, err, false))
	}
	s.log.Info("room of the store reclaimed", "revision", now.Header.Revision, "size_bytes", s.server.Server.Backend().Size())
	return nil
}
