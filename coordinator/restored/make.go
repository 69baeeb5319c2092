package restored

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/musterhq/muster/coordinator/snapshot"
	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/etcd"
	"github.com/musterhq/muster/coordinator/trust"
	"github.com/musterhq/muster/internal/datadir"
	"github.com/musterhq/muster/internal/fence"
	"github.com/musterhq/muster/internal/spec"
	"github.com/musterhq/muster/internal/wire"
)

const (
	// bump is how far revisions rise at a restore at least, and perSecond how much more for each second since the snapshot: more
	// than any store can have written meanwhile.
	bump, perSecond = 1_000_000_000, 100_000
)

// base is the revision at which a store begins that is restored now: above all that the lost one can have reached.
func base(revision int64, taken, now time.Time) int64 {
	return revision + bump + perSecond*max(0, int64(now.Sub(taken)/time.Second))
}

// The errors of making a directory.
var (
	ErrNotEmpty = errors.New("is not empty: choose a new directory")
	// ErrSecretsKey means that the snapshot has Secrets, and that there is no key that opens them.
	ErrSecretsKey = errors.New("the snapshot has Secrets, and their key is not in it")
)

// Options say how a directory is made.
type Options struct {
	// SecretsKey is the file with the key of Secrets; empty: none.
	SecretsKey string
	// WithoutSecrets lets Secrets stay that cannot be read.
	WithoutSecrets bool
	Now            time.Time
	Log            *slog.Logger
}

// Make makes a coordinator's data directory of a snapshot. dir must be new, or empty. It appears when it is whole.
func Make(ctx context.Context, file, dir string, o Options) (*snapshot.Summary, *State, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, nil, err
	}
	switch entries, err := os.ReadDir(dir); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, nil, fmt.Errorf("data directory: %w", err)
	case len(entries) > 0:
		return nil, nil, fmt.Errorf("data directory %s %w", dir, ErrNotEmpty)
	}
	longest := fence.HoldTTL // it may have been stopped in order after the snapshot
	sum, err := snapshot.Read(file, func(r snapshot.Record) error {
		if r.Family() == string(store.NodeLeases) {
			l, err := leaseOf(&r)
			if err != nil {
				return err
			}
			longest = max(longest, l.TTL)
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	state := &State{Generation: base(sum.Revision, sum.Time, o.Now), Snapshot: sum.Revision, Time: sum.Time, Longest: max(longest, sum.LeaseTTL), Pending: true}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, nil, err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".restoring-") // 0700
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(tmp) // gone by then if all went well
	if err := build(ctx, file, tmp, state, o); err != nil {
		return nil, nil, err
	}
	err = os.Rename(tmp, dir) // over an empty directory, too
	if errors.Is(err, os.ErrExist) {
		return nil, nil, fmt.Errorf("data directory %s %w", dir, ErrNotEmpty) // since just now
	}
	if err != nil {
		return nil, nil, fmt.Errorf("data directory: %w", err)
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return nil, nil, err
	}
	return sum, state, errors.Join(parent.Sync(), parent.Close())
}

func build(ctx context.Context, file, dir string, state *State, o Options) error {
	mark, err := datadir.Lock(dir, datadir.Coordinator, "")
	if err != nil {
		return err
	}
	defer mark.Close()
	if err := mark.Room(roomBytes); err != nil {
		return err
	}
	var codec wire.Codec
	if o.SecretsKey != "" {
		text, err := os.ReadFile(o.SecretsKey)
		if err != nil {
			return fmt.Errorf("--secrets-key: %w", err)
		}
		if err := writeSynced(filepath.Join(dir, trust.SecretKeyFile), text); err != nil {
			return err
		}
	}
	// Without a file there is a new key from now on.
	key, err := trust.LoadSecretKey(dir)
	if err != nil && o.SecretsKey == "" {
		return err
	}
	if err != nil {
		return fmt.Errorf("--secrets-key %s is no key of Secrets: want 64 hex digits", o.SecretsKey)
	}
	codec.Secrets = key
	value, err := encode(*state)
	if err != nil {
		return err
	}
	data, err := codec.Encode(value)
	if err != nil {
		return err
	}
	return etcd.Fill(ctx, filepath.Join(dir, "etcd"), state.Generation, o.Log, func(put func(etcd.Raw) error) error {
		mine := etcd.Raw{Key: Key.String(), Value: data, Revision: state.Generation, Created: state.Generation, Version: 1}
		if err := put(mine); err != nil {
			return err
		}
		_, err := snapshot.Read(file, func(r snapshot.Record) error {
			keep, err := change(&r, codec, state, o)
			if err != nil || !keep {
				return err
			}
			return put(etcd.Raw(r))
		})
		return err
	})
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// roomBytes is what has to be free at least: a segment of the store's log, and some data.
const roomBytes = 80 << 20

// change makes of a record what it is after a restore; false leaves it out. Each is held to be one that this muster can read.
func change(r *snapshot.Record, codec wire.Codec, state *State, o Options) (keep bool, err error) {
	family := store.Family(r.Family())
	value, err := codec.Decode(string(family), r.Value)
	if err != nil {
		return false, fmt.Errorf("record %s of the snapshot: %w", r.Key, err)
	}
	switch family {
	case store.Events, store.Leader:
		return false, nil // they are kept by leases of the store, of which there is none any more
	case store.Config:
		// Who served, and what an earlier restore left.
		return r.Key != Key.String() && !strings.HasPrefix(r.Key, "config/serving"), nil
	case store.Secrets:
		if s := value.(*spec.Secret); s.Unreadable != "" && !o.WithoutSecrets {
			return false, fmt.Errorf("%w: pass --secrets-key OLD-DATA-DIR/%s, or --without-secrets to go on and apply them anew (%s: %s)", ErrSecretsKey, trust.SecretKeyFile, r.Key, s.Unreadable)
		}
	case store.NodeLeases:
		// Whatever became of it since, acknowledgements of the longest T may be under way.
		l := *value.(*spec.NodeLease)
		l.State, l.TTL, l.Remaining, l.Barred = spec.LeaseOpen, state.Longest, 0, false
		if r.Value, err = codec.Encode(&l); err != nil {
			return false, err
		}
		r.Revision, r.Version = state.Generation, r.Version+1
	}
	return true, nil
}

func leaseOf(r *snapshot.Record) (*spec.NodeLease, error) {
	v, err := wire.Codec{}.Decode(r.Family(), r.Value)
	if err != nil {
		return nil, fmt.Errorf("record %s of the snapshot: %w", r.Key, err)
	}
	return v.(*spec.NodeLease), nil
}
