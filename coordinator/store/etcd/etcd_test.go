package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/storetest"
	"github.com/musterhq/muster/internal/spec"
)

// jsonCodec is enough for the records that the suite writes.
type jsonCodec struct{}

func (jsonCodec) Encode(v any) ([]byte, error) {
	if b, ok := v.(*spec.Blob); ok {
		return b.Data, nil
	}
	return json.Marshal(v)
}

func (jsonCodec) Decode(family string, data []byte) (any, error) {
	switch store.Family(family) {
	case store.Bindings:
		b := &spec.Binding{}
		return b, json.Unmarshal(data, b)
	case store.Config:
		return &spec.Blob{Data: data}, nil
	}
	return nil, fmt.Errorf("family %q", family)
}

func open(t *testing.T, dir string, quota int64) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{
		Dir: filepath.Join(dir, "etcd"), QuotaBytes: quota, UnsafeNoSync: true, Codec: jsonCodec{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestEmbeddedEtcdConforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) storetest.Harness {
		t.Parallel()
		s := open(t, t.TempDir(), 0)
		return storetest.Harness{Store: s, Compact: func(t *testing.T, revision int64) {
			if _, err := s.client.Compact(t.Context(), revision); err != nil {
				t.Fatal(err)
			}
		}}
	})
}

func TestRecordsOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, 0)
	key := store.Key{Family: store.Config, Name: "a"}
	rev, err := s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: key, Value: &spec.Blob{Data: []byte("x")}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := open(t, dir, 0).Get(t.Context(), key)
	if err != nil || r.Revision != rev || string(r.Value.(*spec.Blob).Data) != "x" {
		t.Errorf("read %+v, %v; want x at revision %d", r, err, rev)
	}
}

func TestAFullStoreStillReadsAndDeletes(t *testing.T) {
	s := open(t, t.TempDir(), minQuota)
	key := func(i int) store.Key { return store.Key{Family: store.Config, Name: fmt.Sprint(i)} }
	var err error
	n := 0
	for ; n < 200 && err == nil; n++ {
		_, err = s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: key(n), Value: &spec.Blob{Data: make([]byte, 512<<10)}}}})
	}
	if !errors.Is(err, store.ErrFull) {
		t.Fatalf("after %d writes of 512 KiB under a quota of 16 MiB: %v, want ErrFull", n, err)
	}
	if err := s.Writable(t.Context()); !errors.Is(err, store.ErrFull) {
		t.Errorf("writable: %v, want ErrFull", err)
	}
	if _, err := s.Get(t.Context(), key(0)); err != nil {
		t.Errorf("read: %v", err)
	}
	if _, err := s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: key(0)}}}); err != nil {
		t.Errorf("delete: %v", err)
	}
}

func TestAFullStoreHasRoomAgainAfterDeletes(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, minQuota)
	key := func(i int) store.Key { return store.Key{Family: store.Config, Name: fmt.Sprint(i)} }
	fill := func(s *Store) (n int) {
		for err := error(nil); !errors.Is(err, store.ErrFull); n++ {
			if _, err = s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: key(n), Value: &spec.Blob{Data: make([]byte, 512<<10)}}}}); err != nil && !errors.Is(err, store.ErrFull) {
				t.Fatal(err)
			}
		}
		return n
	}
	empty := func(s *Store, n int) {
		for i := range n {
			if _, err := s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: key(i)}}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	n := fill(s)
	if err := s.Reclaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if again := fill(s); again > n {
		t.Errorf("%d writes of the same keys fit into what was full after %d", again, n)
	}
	empty(s, n)
	if err := s.Reclaim(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Writable(t.Context()); err != nil {
		t.Errorf("writable: %v", err)
	}
	// A restart does the same by itself.
	empty(s, fill(s))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, minQuota)
	if _, err := s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: key(0), Value: &spec.Blob{Data: make([]byte, 512<<10)}}}}); err != nil {
		t.Errorf("write after a restart: %v", err)
	}
}

func TestAClusterOfOnesOwnIsNotReclaimed(t *testing.T) {
	inner := open(t, t.TempDir(), 0)
	s := NewFromClient(v3client.New(inner.server.Server), jsonCodec{}, slog.New(slog.DiscardHandler))
	if _, err := s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: store.Key{Family: store.Config, Name: "a"}, Value: &spec.Blob{}}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Reclaim(t.Context()); err == nil {
		t.Error("it was reclaimed")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := inner.Get(t.Context(), store.Key{Family: store.Config, Name: "a"}); err != nil {
		t.Errorf("the cluster ended with its client: %v", err)
	}
}

func TestWithoutAnAnswerTheOutcomeIsUnknown(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	txn := store.Txn{Then: []store.Write{{Key: store.Key{Family: store.Config, Name: "a"}, Value: &spec.Blob{}}}}
	if _, err := s.Commit(ctx, txn); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("commit: %v, want ErrUnknown", err)
	}
	if _, _, err := s.CommitEach(ctx, []store.Txn{txn}); !errors.Is(err, store.ErrUnknown) {
		t.Errorf("commit each: %v, want ErrUnknown", err)
	}
	for err, want := range map[error]bool{
		rpctypes.ErrTimeout: true, rpctypes.ErrNoLeader: true, rpctypes.ErrLeaderChanged: true, rpctypes.ErrStopped: true,
		context.DeadlineExceeded: true, status.Error(codes.Unavailable, "x"): true,
		rpctypes.ErrEmptyKey: false, rpctypes.ErrDuplicateKey: false, status.Error(codes.InvalidArgument, "x"): false,
	} {
		if got := errors.Is(s.failed(t.Context(), err, true), store.ErrUnknown); got != want {
			t.Errorf("a write that failed with %v: unknown is %v, want %v", err, got, want)
		}
		if errors.Is(s.failed(t.Context(), err, false), store.ErrUnknown) {
			t.Errorf("a read that failed with %v is unknown", err)
		}
	}
}

func TestAListLongerThanAPageIsOfOneRevision(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	s.page = 1000
	n := 2*s.page + 1
	for i := 0; i < n; i += store.MaxOps {
		var writes []store.Write
		for j := i; j < min(n, i+store.MaxOps); j++ {
			writes = append(writes, store.Write{Key: store.Key{Family: store.Config, Name: fmt.Sprint(j)}, Value: &spec.Blob{}})
		}
		if _, err := s.Commit(t.Context(), store.Txn{Then: writes}); err != nil {
			t.Fatal(err)
		}
	}
	recs, _, err := s.List(t.Context(), store.Config)
	seen := map[store.Key]bool{}
	for _, r := range recs {
		seen[r.Key] = true
	}
	if err != nil || len(seen) != n || len(recs) != n {
		t.Errorf("%d records, %d of them different, %v; want %d", len(recs), len(seen), err, n)
	}
}

func TestEveryListIsOfOneRevisionWhileOthersWrite(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	s.page = 1000
	key := func(name string) store.Key { return store.Key{Family: store.Config, Name: name} }
	for i := 0; i <= s.page; i += store.MaxOps {
		var writes []store.Write
		for j := range store.MaxOps {
			writes = append(writes, store.Write{Key: key(fmt.Sprint("m", i+j)), Value: &spec.Blob{}})
		}
		if _, err := s.Commit(t.Context(), store.Txn{Then: writes}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ctx.Err() == nil; i++ {
			v := &spec.Blob{Data: fmt.Append(nil, i)}
			_, _ = s.Commit(ctx, store.Txn{Then: []store.Write{{Key: key("a"), Value: v}, {Key: key("z"), Value: v}}})
		}
	}()
	for range 50 {
		recs, _, err := s.List(t.Context(), store.Config)
		if err != nil {
			t.Fatal(err)
		}
		values := map[string]string{}
		for _, r := range recs {
			values[r.Key.Name] = string(r.Value.(*spec.Blob).Data)
		}
		if values["a"] != values["z"] {
			t.Fatalf("the first page is of write %s, the last of write %s", values["a"], values["z"])
		}
	}
	stop()
	<-done
}

func TestEncodedSizesAreBoundedBeforeAnythingIsWritten(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	record := func(i, size int) store.Txn {
		return store.Txn{Then: []store.Write{{Key: store.Key{Family: store.Bindings, Name: fmt.Sprint(i)}, Value: &spec.Binding{Node: strings.Repeat("x", size)}}}}
	}
	if _, err := s.Commit(t.Context(), record(0, store.MaxValueBytes)); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("a record over the limit: %v, want ErrTooLarge", err)
	}
	var round []store.Txn
	for i := range store.MaxRoundBytes / (64 << 10) {
		round = append(round, record(i, 64<<10)) // a little more, with what else a binding has
	}
	if _, _, err := s.CommitEach(t.Context(), round); !errors.Is(err, store.ErrTooLarge) {
		t.Errorf("a round over the limit: %v, want ErrTooLarge", err)
	}
	if recs, _, err := s.List(t.Context()); err != nil || len(recs) != 0 {
		t.Errorf("%d records were written, %v; want none", len(recs), err)
	}
	if _, _, err := s.CommitEach(t.Context(), round[1:]); err != nil {
		t.Errorf("a round below the limit: %v", err)
	}
}

func TestAStartSaysNothingThatNobodyCanActOn(t *testing.T) {
	var out bytes.Buffer
	dir := t.TempDir()
	for range 2 { // a new directory, and one that is there
		s, err := Open(t.Context(), Config{Dir: filepath.Join(dir, "etcd"), UnsafeNoSync: true, Codec: jsonCodec{}, Log: slog.New(slog.NewTextHandler(&out, nil))})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if out.Len() > 0 {
		t.Errorf("the log says:\n%s", out.String())
	}
}

func TestAQuotaBelowTheLeastIsRefused(t *testing.T) {
	if _, err := Open(t.Context(), Config{Dir: t.TempDir(), QuotaBytes: minQuota - 1, Codec: jsonCodec{}, Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("it was opened")
	}
}

func TestKeysThatAreNotOursAreLeftAlone(t *testing.T) {
	s := open(t, t.TempDir(), 0)
	if _, err := s.client.Put(t.Context(), root+"a/b/c/d", "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Put(t.Context(), "/other", "x"); err != nil {
		t.Fatal(err)
	}
	recs, _, err := s.List(t.Context())
	if err != nil || len(recs) != 0 {
		t.Errorf("list: %v, %v; want nothing", recs, err)
	}
	if resp, err := s.client.Get(t.Context(), "/", clientv3.WithPrefix()); err != nil || len(resp.Kvs) != 2 {
		t.Errorf("they are %v, %v; want both still there", resp, err)
	}
}
