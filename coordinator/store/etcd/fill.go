package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/server/v3/storage/backend"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"
)

// Fill makes the directory of an embedded member that has these records, with the revisions that they say, and goes on after
// revision: everything before it is compacted, so that who watches from there has to list again. No record is newer than revision, and
// at least one is of it. dir must not exist; what is there after an error is worth nothing.
func Fill(ctx context.Context, dir string, revision int64, log *slog.Logger, records func(put func(Raw) error) error) error {
	// A member that has never had a record is what the records are put into.
	open := func() (*Store, error) { return Open(ctx, Config{Dir: dir, Log: log}) }
	s, err := open()
	if err != nil {
		return err
	}
	if err := s.Close(); err != nil {
		return err
	}
	n, err := fill(filepath.Join(dir, "member", "snap", "db"), revision, records)
	if err != nil {
		return err
	}
	// It has to be what a coordinator will find.
	if s, err = open(); err != nil {
		return err
	}
	defer s.Close()
	found, at := 0, int64(0)
	err = s.Copy(ctx, func(r int64) error { at = r; return nil }, func(Raw) error { found++; return nil })
	if err == nil && (found != n || at != revision) {
		err = fmt.Errorf("the store has %d records at revision %d, and should have %d at %d", found, at, n, revision)
	}
	return err
}

func fill(path string, revision int64, records func(put func(Raw) error) error) (n int, err error) {
	b := backend.NewDefaultBackend(zap.NewNop(), path)
	defer func() { err = errors.Join(err, b.Close()) }()
	tx := b.BatchTx()
	tx.LockOutsideApply()
	defer tx.Unlock()
	subs := map[int64]int64{} // how many records each revision has so far: several can be of one transaction
	newest := int64(0)
	err = records(func(r Raw) error {
		if r.Revision > revision {
			return fmt.Errorf("%s is of revision %d, after %d", r.Key, r.Revision, revision)
		}
		value, err := proto.Marshal(&mvccpb.KeyValue{
			Key: []byte(root + r.Key), Value: r.Value, CreateRevision: r.Created, ModRevision: r.Revision, Version: r.Version,
		})
		if err != nil {
			return err
		}
		key := mvcc.RevToBytes(mvcc.Revision{Main: r.Revision, Sub: subs[r.Revision]}, mvcc.NewRevBytes())
		subs[r.Revision]++
		newest = max(newest, r.Revision)
		n++
		tx.UnsafePut(schema.Key, key, value)
		return nil
	})
	if err == nil && newest != revision {
		err = fmt.Errorf("no record is of revision %d", revision)
	}
	mvcc.UnsafeSetScheduledCompact(tx, revision-1)
	mvcc.UnsafeSetFinishedCompact(tx, revision-1)
	return n, err
}
