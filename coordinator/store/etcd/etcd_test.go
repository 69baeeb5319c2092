package etcd

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

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
