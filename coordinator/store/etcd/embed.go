package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/musterhq/muster/coordinator/store"
)

// startTimeout bounds how long the embedded member may take to be ready.
const startTimeout = 60 * time.Second

// Config is what an embedded member is made from.
type Config struct {
	// Dir is the member's directory. The caller holds the lock of the data directory that it is in: a second member on
	// one directory would wait for the first one's file lock without a word.
	Dir string
	// QuotaBytes bounds the backend; default 2 GiB, at least 16 MiB.
	QuotaBytes int64
	// UnsafeNoSync leaves out fsync: for tests only.
	UnsafeNoSync bool
	Codec        Codec
	Log          *slog.Logger
}

const minQuota = 16 << 20

// Open starts an embedded member without any listener and returns the store on it. Close ends both.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.QuotaBytes == 0 {
		cfg.QuotaBytes = 2 << 30
	}
	if cfg.QuotaBytes < minQuota {
		return nil, fmt.Errorf("store quota: %d bytes, at least %d", cfg.QuotaBytes, minQuota)
	}
	ec := embed.NewConfig()
	ec.Name, ec.Dir = "member", cfg.Dir
	ec.ListenPeerUrls, ec.ListenClientUrls = nil, nil
	// An identity that is never bound: nothing of etcd can be reached from outside.
	self := []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	ec.AdvertisePeerUrls, ec.AdvertiseClientUrls = self, self
	ec.InitialCluster = ec.InitialClusterFromName(ec.Name)
	ec.AutoCompactionMode, ec.AutoCompactionRetention = embed.CompactorModePeriodic, "5m"
	ec.QuotaBackendBytes = cfg.QuotaBytes
	ec.TickMs, ec.ElectionMs = 10, 100 // a lone member elects itself: ready in 0.1 s rather than 1 s
	ec.UnsafeNoFsync = cfg.UnsafeNoSync
	stopping := &atomic.Bool{}
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(zapToSlog{handler: cfg.Log.Handler(), min: zapcore.WarnLevel, stopping: stopping}))
	if err := os.MkdirAll(filepath.Dir(cfg.Dir), 0o700); err != nil {
		return nil, err
	}
	e, err := embed.StartEtcd(ec)
	if err != nil {
		return nil, fmt.Errorf("start the embedded store in %s: %w", cfg.Dir, err)
	}
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case <-e.Server.ReadyNotify():
	case err, ok := <-e.Err():
		e.Close()
		if !ok || err == nil {
			err = errors.New("it stopped")
		}
		return nil, fmt.Errorf("start the embedded store in %s: %w", cfg.Dir, err)
	case <-timeout.C:
		e.Close()
		return nil, fmt.Errorf("start the embedded store in %s: not ready within %v", cfg.Dir, startTimeout)
	case <-ctx.Done():
		e.Close()
		return nil, ctx.Err()
	}
	s := NewFromClient(v3client.New(e.Server), cfg.Codec, cfg.Log)
	s.server, s.stopping = e, stopping
	// Whoever starts a full store again wants to know whether there is room now.
	if errors.Is(s.Writable(ctx), store.ErrFull) {
		if err := s.Reclaim(ctx); err != nil {
			cfg.Log.Warn("store is full", "err", err)
		}
	}
	return s, nil
}

// zapToSlog lets etcd's log go where muster's goes.
type zapToSlog struct {
	handler slog.Handler
	min     zapcore.Level
	fields  []zapcore.Field
	// stopping is when warnings are of what was cut short: nobody can act on them either.
	stopping *atomic.Bool
}

// noise are warnings that every start gives and nobody can act on.
var noise = []string{
	"simple token", "storage version", "schema version", "Running http and grpc server on single port", "snapshot file", "apply request took too long",
}

func (z zapToSlog) Enabled(l zapcore.Level) bool { return l >= z.min }

func (z zapToSlog) With(fields []zapcore.Field) zapcore.Core {
	z.fields = append(append([]zapcore.Field(nil), z.fields...), fields...)
	return z
}

func (z zapToSlog) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if !z.Enabled(e.Level) {
		return ce
	}
	return ce.AddCore(e, z)
}

func (z zapToSlog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if e.Level <= zapcore.WarnLevel && z.stopping.Load() {
		return nil
	}
	for _, n := range noise {
		if strings.Contains(e.Message, n) {
			return nil
		}
	}
	level := slog.LevelWarn
	if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range append(append([]zapcore.Field(nil), z.fields...), fields...) {
		f.AddTo(enc)
	}
	r := slog.NewRecord(e.Time, level, "etcd: "+e.Message, 0)
	for k, v := range enc.Fields {
		r.AddAttrs(slog.Any(k, v))
	}
	return z.handler.Handle(context.Background(), r)
}

func (z zapToSlog) Sync() error { return nil }
