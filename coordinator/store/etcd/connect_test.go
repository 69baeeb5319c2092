package etcd

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/etcd/etcdtest"
	"github.com/musterhq/muster/coordinator/store/storetest"
	"github.com/musterhq/muster/internal/spec"
)

func TestMain(m *testing.M) {
	etcdtest.Main()
	os.Exit(m.Run())
}

func configFor(s *etcdtest.Server) ClientConfig {
	return ClientConfig{Endpoints: []string{s.URL}, CA: s.CA, Cert: s.Cert, Key: s.Key, Codec: jsonCodec{}, Log: slog.New(slog.DiscardHandler)}
}

func connect(t *testing.T, cfg ClientConfig) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := Connect(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// withUser has a server ask for a user, and returns the file with its password.
func withUser(t *testing.T, s *etcdtest.Server) string {
	t.Helper()
	root := connect(t, configFor(s))
	for _, step := range []func() error{
		func() error { _, err := root.client.UserAdd(t.Context(), "root", "secret"); return err },
		func() error { _, err := root.client.RoleAdd(t.Context(), "root"); return err },
		func() error { _, err := root.client.UserGrantRole(t.Context(), "root", "root"); return err },
		func() error { _, err := root.client.AuthEnable(t.Context()); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestAnEtcdOfOnesOwnConforms(t *testing.T) {
	t.Parallel()
	suite := func(start func(t *testing.T) ClientConfig) func(t *testing.T) {
		return func(t *testing.T) {
			t.Parallel()
			cfg, compacted := start(t), false
			outer := t
			storetest.Run(t, func(t *testing.T) storetest.Harness {
				if compacted { // the others begin with all of the history
					cfg, compacted = start(outer), false
				}
				s := connect(t, cfg)
				if _, err := s.client.Delete(t.Context(), root, clientv3.WithPrefix()); err != nil { // what the case before has left
					t.Fatal(err)
				}
				return storetest.Harness{Store: s, Compact: func(t *testing.T, revision int64) {
					compacted = true
					if _, err := s.client.Compact(t.Context(), revision); err != nil {
						t.Fatal(err)
					}
				}}
			})
		}
	}
	t.Run("Plain", suite(func(t *testing.T) ClientConfig { return configFor(etcdtest.Start(t, etcdtest.Config{})) }))
	t.Run("WithTLSAndAUser", suite(func(t *testing.T) ClientConfig {
		s := etcdtest.Start(t, etcdtest.Config{TLS: true})
		cfg := configFor(s)
		cfg.User, cfg.PasswordFile = "root", withUser(t, s)
		return cfg
	}))
}

func TestWhoMayNotComeInIsToldAtOnceAndWhoIsEarlyWaits(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.Config{})
	cfg := configFor(s)
	cfg.User, cfg.PasswordFile = "root", withUser(t, s)
	if err := os.WriteFile(cfg.PasswordFile, []byte("wrong"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "authentication failed") {
		t.Errorf("with a wrong password: %v", err)
	}
	cfg.User, cfg.PasswordFile = "", ""
	if _, err := Connect(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "user name is empty") {
		t.Errorf("without a user: %v", err)
	}

	late := etcdtest.Start(t, etcdtest.Config{})
	late.Kill()
	connected := make(chan error, 1)
	go func() {
		s, err := Connect(t.Context(), configFor(late))
		if err == nil {
			err = s.Close()
		}
		connected <- err
	}()
	select {
	case err := <-connected:
		t.Fatalf("connected to nobody: %v", err)
	case <-time.After(2 * time.Second):
	}
	late.Restart()
	if err := <-connected; err != nil {
		t.Error(err)
	}
}

func TestAnEtcdThatIsGoneForAWhileIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	s := etcdtest.Start(t, etcdtest.Config{})
	db := connect(t, configFor(s))
	key := store.Key{Family: store.Config, Name: "a"}
	revision := int64(0) // that was read last: a write that comes late must find another one
	var took time.Duration
	put := func(text string) error {
		began := time.Now()
		_, err := db.Commit(t.Context(), store.Txn{
			If:   []store.Cond{{Key: key, Revision: revision}},
			Then: []store.Write{{Key: key, Value: &spec.Blob{Data: []byte(text)}}},
		})
		took = time.Since(began)
		if r, read := db.Get(t.Context(), key); read == nil {
			revision = r.Revision
		}
		return err
	}
	if err := put("before"); err != nil {
		t.Fatal(err)
	}
	for name, away := range map[string]struct{ leave, back func() }{
		"killed": {s.Kill, s.Restart}, "standing still": {s.Stop, s.Continue},
	} {
		away.leave()
		if err := put("while " + name); !errors.Is(err, store.ErrUnknown) {
			t.Errorf("%s: a write says %v, want that its outcome is unknown", name, err)
		}
		if took > requestTimeout+5*time.Second {
			t.Errorf("%s: a write hangs for %v", name, took)
		}
		away.back()
		etcdtest.Until(t.Context(), t, "writes are taken again after it was "+name, func() bool { return put("after "+name) == nil })
		r, err := db.Get(t.Context(), key)
		if err != nil || string(r.Value.(*spec.Blob).Data) != "after "+name {
			t.Errorf("%s: read %v, %v", name, r, err)
		}
	}
}

func TestAFullEtcdOfOnesOwnSaysSo(t *testing.T) {
	t.Parallel()
	db := connect(t, configFor(etcdtest.Start(t, etcdtest.Config{QuotaBytes: minQuota})))
	var err error
	for i := 0; i < 200 && err == nil; i++ {
		_, err = db.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: store.Key{Family: store.Config, Name: "a"}, Value: &spec.Blob{Data: make([]byte, 512<<10)}}}})
	}
	if !errors.Is(err, store.ErrFull) || !errors.Is(db.Writable(t.Context()), store.ErrFull) {
		t.Errorf("%v, want ErrFull", err)
	}
	if _, err := db.Get(t.Context(), store.Key{Family: store.Config, Name: "a"}); err != nil {
		t.Errorf("read: %v", err)
	}
}

func TestWrongSettingsAreRefusedByTheirFlags(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.pem")
	if err := os.WriteFile(bad, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	const ok = "https://10.0.0.1:2379"
	for want, cfg := range map[string]ClientConfig{
		"--etcd-endpoints 10.0.0.1:2379: want https":            {Endpoints: []string{"10.0.0.1:2379"}},
		"--etcd-endpoints https://10.0.0.1: want":               {Endpoints: []string{"https://10.0.0.1"}},
		"--etcd-endpoints https://10.0.0.1:2379/x: want":        {Endpoints: []string{ok + "/x"}},
		"all of them with TLS, or none":                         {Endpoints: []string{ok, "http://10.0.0.2:2379"}},
		"are for endpoints with https":                          {Endpoints: []string{"http://10.0.0.1:2379"}, CA: bad},
		"--etcd-cert and --etcd-key go together":                {Endpoints: []string{ok}, Cert: bad},
		"--etcd-user and --etcd-password-file go together":      {Endpoints: []string{ok}, User: "x"},
		"--etcd-password-file: open":                            {Endpoints: []string{ok}, User: "x", PasswordFile: filepath.Join(dir, "none")},
		"--etcd-ca: open":                                       {Endpoints: []string{ok}, CA: filepath.Join(dir, "none")},
		"--etcd-ca " + bad + ": no certificate":                 {Endpoints: []string{ok}, CA: bad},
		"--etcd-cert " + bad + ", --etcd-key " + bad + ": tls:": {Endpoints: []string{ok}, Cert: bad, Key: bad},
	} {
		if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := (&ClientConfig{Endpoints: []string{ok, "https://[::1]:2379/"}}).Check(); err != nil {
		t.Error(err)
	}
}
