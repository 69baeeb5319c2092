// Command peers measures muster's prober beside the kubelet's own and Debian's blackbox_exporter, and writes how they compare. It is
// for "make bench-peers", which builds what it needs; muster itself knows nothing of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/musterhq/muster/loadtest"
)

// scrape is the argument that makes this program the process that asks a blackbox_exporter.
const scrape = "scrape"

// What --quick measures.
const (
	quickRounds   = 1
	quickDuration = 5 * time.Second
)

func init() {
	runtime.LockOSThread() // the exporter ends with the thread that has started it, and the first one ends last
}

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	var err error
	if len(os.Args) == 2 && os.Args[1] == scrape {
		err = loadtest.Scrape(ctx, os.Stdin, os.Stdout)
	} else {
		err = run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	}
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	cfg := loadtest.PeersConfig{Rounds: 5, Duration: 8 * time.Second, Muster: "bin/muster", Kubelet: "bin/kubelet-prober", Blackbox: "prometheus-blackbox-exporter"}
	quick, write, loads := false, "", []string{}
	for _, l := range loadtest.DefaultLoads {
		loads = append(loads, l.String())
	}
	f := pflag.NewFlagSet("peers", pflag.ContinueOnError)
	f.SetOutput(stderr)
	f.SortFlags = false
	f.StringSliceVar(&loads, "loads", loads, "what to measure, each KIND:TARGETS:PERIOD; a kind is http or tcp, a period whole seconds")
	f.IntVar(&cfg.Rounds, "rounds", cfg.Rounds, "how often each prober has each load, 1 to 100")
	f.DurationVar(&cfg.Duration, "duration", cfg.Duration, "how long to measure each time, 1s to 1h, after a warm-up of a period and a second")
	f.BoolVar(&quick, "quick", false, fmt.Sprintf("%d round of %v, and nothing is written: whether it works, and about what comes out", quickRounds, quickDuration))
	f.StringVar(&write, "write", "", "put the table into this file, between its lines that say so")
	f.StringVar(&cfg.Muster, "muster", cfg.Muster, "muster's program")
	f.StringVar(&cfg.Kubelet, "kubelet", cfg.Kubelet, "the program of loadtest/peers/kubelet")
	f.StringVar(&cfg.Blackbox, "blackbox", cfg.Blackbox, "the blackbox_exporter's program, or its name in PATH; where there is none it is left out")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("argument %q: there are only flags", f.Arg(0))
	}
	if quick {
		if f.Changed("rounds") || f.Changed("duration") {
			return errors.New("--quick has rounds and a duration of its own: leave out --rounds and --duration")
		}
		cfg.Rounds, cfg.Duration, write = quickRounds, quickDuration, ""
	}
	for _, text := range loads {
		l, err := loadtest.ParseLoad(text)
		if err != nil {
			return err
		}
		cfg.Loads = append(cfg.Loads, l)
	}
	var document []byte
	if write != "" { // that it can't be written to is best known before
		var err error
		if document, err = os.ReadFile(write); err != nil {
			return err
		}
		if _, err := loadtest.Insert(document, ""); err != nil {
			return fmt.Errorf("%s: %w", write, err)
		}
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cfg.ScrapeArgv = []string{program, scrape}
	peers, err := loadtest.NewPeers(cfg)
	if err != nil {
		return err
	}
	for name, why := range peers.Skipped() {
		fmt.Fprintf(stderr, "%s is left out: %s\n", name, why)
	}
	fmt.Fprintf(stderr, "about %v\n", peers.Time().Round(10*time.Second))
	result, err := peers.Run(ctx, func(p loadtest.PeersProgress) { fmt.Fprintln(stderr, p) })
	if err != nil {
		return err
	}
	table := result.Markdown(command(args))
	if write != "" {
		if document, err = os.ReadFile(write); err != nil { // it may have changed meanwhile
			return err
		}
		if document, err = loadtest.Insert(document, table); err != nil {
			return fmt.Errorf("%s: %w", write, err)
		}
		if err := os.WriteFile(write, document, 0o644); err != nil { //nolint:gosec // a document, for all to read
			return err
		}
	}
	_, err = io.WriteString(stdout, table)
	return err
}

// command is how make is told to measure this once more.
func command(args []string) string {
	var flags []string
	for i := 0; i < len(args); i++ {
		name, _, whole := strings.Cut(args[i], "=")
		switch name {
		case "--write", "--muster", "--kubelet", "--blackbox": // those are make's, and this machine's
			if !whole {
				i++
			}
		default:
			flags = append(flags, args[i])
		}
	}
	if len(flags) == 0 {
		return "make bench-peers"
	}
	return fmt.Sprintf("make bench-peers PEERS='%s'", strings.Join(flags, " "))
}
