package etcd

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// copyPage is how many records one request of Copy reads: each has at most 1 MiB.
const copyPage = 64

// Raw is a record as it is in etcd.
type Raw struct {
	// Key is below the root.
	Key   string
	Value []byte
	// Revision, Created and Version are etcd's.
	Revision, Created, Version int64
}

// Copy reads all records at one revision, by the order of their keys: begin is told the revision first. It may fail with
// store.ErrCompacted when it takes so long that the store forgets that revision.
func (s *Store) Copy(ctx context.Context, begin func(revision int64) error, each func(Raw) error) error {
	revision := int64(0)
	for from, end := root, clientv3.GetPrefixRangeEnd(root); ; {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(copyPage)}
		if revision != 0 {
			opts = append(opts, clientv3.WithRev(revision))
		}
		bctx, cancel := s.bound(ctx)
		resp, err := s.client.Get(bctx, from, opts...)
		cancel()
		if err != nil {
			return fmt.Errorf("copy the store: %w", s.failed(ctx, err, false))
		}
		if revision == 0 {
			revision = resp.Header.Revision
			if err := begin(revision); err != nil {
				return err
			}
		}
		for _, kv := range resp.Kvs {
			r := Raw{Key: strings.TrimPrefix(string(kv.Key), root), Value: kv.Value, Revision: kv.ModRevision, Created: kv.CreateRevision, Version: kv.Version}
			if err := each(r); err != nil {
				return err
			}
		}
		if !resp.More {
			return nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}
