package cli

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/coordinator/restored"
	"github.com/musterhq/muster/coordinator/snapshot"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
)

func snapshotCommand(o *options) *cobra.Command {
	return parent("snapshot", "Save the cluster's state to a file, check such a file, make a coordinator's directory of it",
		snapshotSaveCommand(o), snapshotVerifyCommand(o), snapshotRestoreCommand(o))
}

func snapshotSaveCommand(o *options) *cobra.Command {
	force := false
	cmd := &cobra.Command{
		Use: "save FILE", Short: "Save a copy of the whole state, of one moment, to a file", Args: cobra.ExactArgs(1),
		Example: "  muster snapshot save muster-$(date +%F).snapshot\n  muster snapshot save --force latest.snapshot      # takes the place of the last one",
		Long: "Save a copy of the whole state to a file: all objects, where pods are bound, tokens, and the cluster's CA with its key. It is of one\n" +
			"moment, and the cluster goes on meanwhile. It takes the role admin, on an embedded store as on an etcd of your own.\n\n" +
			"The file appears under its name only when it is whole and has been checked, and is for its owner only (0600): whoever has it can\n" +
			"make certificates that the cluster trusts. Secrets in it are encrypted; their key, DIR/secrets.key, is not in it: keep that elsewhere.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				s, err := saveSnapshot(ctx, c, args[0], force)
				if err != nil {
					return err
				}
				fmt.Fprintf(o.world.Stdout, "%s saved: %d records of revision %d\n", args[0], s.Records, s.Revision)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace the file if there is one")
	o.connectFlags(cmd)
	return cmd
}

// saveSnapshot writes the file beside its place first. What is there is neither touched before the new one is whole nor, without
// force, at all.
func saveSnapshot(ctx context.Context, c *client, path string, force bool) (s *snapshot.Summary, err error) {
	exists := fmt.Errorf("%s exists: choose another name, or pass --force to replace it", path)
	if info, err := os.Lstat(path); err == nil && (!force || !info.Mode().IsRegular()) {
		if !info.Mode().IsRegular() {
			exists = fmt.Errorf("%s is no file: choose another name", path)
		}
		return nil, exists
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp") // 0600
	if err != nil {
		return nil, fmt.Errorf("save %s: %w", path, errors.Unwrap(err))
	}
	defer os.Remove(f.Name()) // gone by then if all went well
	out := bufio.NewWriterSize(f, 1<<20)
	err = receiveSnapshot(ctx, c, out)
	if err == nil {
		err = errors.Join(out.Flush(), f.Sync())
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return nil, fmt.Errorf("save %s: the disk is full: free some space, or choose another place", path)
		}
		return nil, err
	}
	if s, err = snapshot.Read(f.Name(), nil); err != nil {
		return nil, fmt.Errorf("what the coordinator sent is not whole: try again: %w", err)
	}
	if force {
		err = os.Rename(f.Name(), path)
	} else if err = unix.Renameat2(unix.AT_FDCWD, f.Name(), unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = os.Link(f.Name(), path) // a file system that cannot
	}
	if errors.Is(err, os.ErrExist) {
		return nil, exists
	}
	if err != nil {
		return nil, fmt.Errorf("save %s: %w", path, err)
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	return s, errors.Join(dir.Sync(), dir.Close())
}

func receiveSnapshot(ctx context.Context, c *client, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.cluster.SaveSnapshot(ctx, &musterv1.SaveSnapshotRequest{})
	if err != nil {
		return err
	}
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := out.Write(piece.GetData()); err != nil {
			return err
		}
	}
}

func snapshotVerifyCommand(o *options) *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify FILE", Short: "Check a snapshot and say what is in it", Args: cobra.ExactArgs(1),
		Example: "  muster snapshot verify muster-2026-11-27.snapshot\n  muster snapshot verify latest.snapshot -o json",
		Long: "Check a snapshot and say what is in it. No cluster is needed. The checksum finds every change of the file and every missing part; the\n" +
			"exit status is 0 for a whole snapshot and 1 for everything else. It is no signature: it tells accidents, not forgeries.",
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := newPrinter(o.world.Stdout, o.output)
			if err != nil {
				return err
			}
			s, err := snapshot.Read(args[0], nil)
			if err != nil {
				return err
			}
			if p.format != "table" {
				return p.value(snapshotValue(s))
			}
			return printSnapshot(o.world.Stdout, s)
		},
	}
	o.outputFlag(cmd, "json", "yaml", "jsonpath=…")
	return cmd
}

func snapshotRestoreCommand(o *options) *cobra.Command {
	dir, opts := "", restored.Options{}
	cmd := &cobra.Command{
		Use: "restore FILE --data-dir DIR", Short: "Make a new coordinator's data directory of a snapshot", Args: cobra.ExactArgs(1),
		Example: "  muster snapshot restore muster-2026-11-27.snapshot --data-dir /var/lib/muster/coordinator-2 \\\n" +
			"      --secrets-key /var/lib/muster/coordinator/secrets.key\n" +
			"  muster coordinator --data-dir /var/lib/muster/coordinator-2 --listen HOST:PORT       # where agents look for it",
		Long: "Make a new data directory of a snapshot, with an embedded store; no cluster is needed. The coordinator that the snapshot is of, and every\n" +
			"other one of that cluster, must have ended for good before one starts on the new directory. Start it at the old address: agents come back\n" +
			"by themselves, with the certificates they have.\n\n" +
			"Containers that run and are in the snapshot, on the node where they are, run on; fenced ones if the new coordinator is up before their\n" +
			"lease ends, about 100 s after an orderly stop of the old one. Everything else waits for 2 min 24 s, or longer with a lease above 2 min:\n" +
			"\"muster status\" says for how long. Pods that are not in the snapshot are stopped.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if dir == "" {
				return usagef("--data-dir is required: the new directory")
			}
			if opts.SecretsKey != "" && opts.WithoutSecrets {
				return usagef("--secrets-key and --without-secrets do not go together")
			}
			opts.Now, opts.Log = time.Now(), slog.New(slog.NewTextHandler(o.world.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			s, state, err := restored.Make(cmd.Context(), args[0], dir, opts)
			if err != nil {
				return err
			}
			fmt.Fprintf(o.world.Stdout, "%s made of %s: %d records of revision %d, taken %s; generation %d\n", dir, args[0], s.Records, s.Revision,
				s.Time.Format(time.RFC3339), state.Generation)
			fmt.Fprintf(o.world.Stderr, "next: muster coordinator --data-dir %s, with the old one's --listen; the old one must not run any more\n", dir)
			return nil
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "the directory to make; it must be new or empty")
	cmd.Flags().StringVar(&opts.SecretsKey, "secrets-key", "", "the old coordinator's file secrets.key; needed where the snapshot has Secrets")
	cmd.Flags().BoolVar(&opts.WithoutSecrets, "without-secrets", false, "go on without the key: Secrets stay unreadable until they are applied anew")
	return cmd
}

func snapshotValue(s *snapshot.Summary) any {
	return map[string]any{
		"format": s.Format, "muster": s.Muster, "cluster": s.Cluster, "generation": s.Generation, "revision": s.Revision,
		"time": s.Time.Format(time.RFC3339Nano), "records": s.Records, "bytes": s.Bytes, "kinds": s.Families, "sha256": hex.EncodeToString(s.SHA256[:]),
	}
}

func printSnapshot(out io.Writer, s *snapshot.Summary) error {
	rows := [][2]string{
		{"snapshot", fmt.Sprintf("whole, format %d, written by muster %s", s.Format, s.Muster)},
		{"time", s.Time.Format(time.RFC3339)},
		{"cluster", fmt.Sprintf("%s, generation %d", s.Cluster, s.Generation)},
		{"revision", fmt.Sprint(s.Revision)},
		{"records", fmt.Sprintf("%d, %d bytes", s.Records, s.Bytes)},
		{"sha256", hex.EncodeToString(s.SHA256[:])},
	}
	var families []string
	for f := range s.Families {
		families = append(families, f)
	}
	slices.Sort(families)
	for _, f := range families {
		rows = append(rows, [2]string{"  " + f, fmt.Sprint(s.Families[f])})
	}
	for _, r := range rows {
		if _, err := fmt.Fprintf(out, "%-18s%s\n", r[0]+":", oneLine(r[1])); err != nil {
			return err
		}
	}
	return nil
}
