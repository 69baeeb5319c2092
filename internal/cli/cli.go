// Package cli is muster's command line: it turns arguments into calls of the API and answers into text. It starts the
// servers too, but knows nothing of how they work, and it holds no rule about pods that the coordinator does not hold.
//
// Results go to stdout, everything else to stderr; each message says what the next step is. The exit status is 0 when
// what was asked for is done, 1 when it is not, 2 when the command line itself was wrong.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/version"
)

// World is what a command sees of the world around it.
type World struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv and Environ are those of package os outside tests.
	Getenv  func(string) string
	Environ func() []string
	// Exec puts this program, started anew with that environment, in this process's place. It returns only when that fails;
	// nil where there is nothing to put in place, as in tests.
	Exec func(env []string) error
}

// Process is the world of this process.
func Process() World {
	return World{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Environ: os.Environ, Exec: exec}
}

func exec(env []string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(program, os.Args, env)
}

// The exit statuses.
const (
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// errReported is a failure that has been told on stderr already.
var errReported = errors.New("reported")

// Main runs the command line and returns the exit status. It blocks until the command is done or ctx has ended.
func Main(ctx context.Context, args []string, w World) int {
	root := newRoot(w)
	root.SetArgs(args)
	root.SetIn(w.Stdin)
	root.SetOut(w.Stdout)
	root.SetErr(w.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	usage := (*usageError)(nil)
	if code := exitCode(0); errors.As(err, &code) {
		return int(code)
	}
	switch {
	case errors.Is(err, errReported):
	case errors.As(err, &usage):
		fmt.Fprintf(w.Stderr, "%v: see %q\n", err, cmd.CommandPath()+" --help")
		return exitUsage
	case ctx.Err() != nil:
		// Ctrl-C: the person knows.
	default:
		fmt.Fprintln(w.Stderr, explain(err))
	}
	return exitFailed
}

func newRoot(w World) *cobra.Command {
	o := &options{world: w}
	root := &cobra.Command{
		Use:           "muster",
		Short:         "Keeps pods alive across a fleet",
		Long:          "muster keeps pods alive across a fleet: agents run and probe them, a coordinator moves them off lost nodes.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownCommand,
		RunE:          needsCommand,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.CompletionOptions.HiddenDefaultCmd = false
	groups := []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"servers", "Servers:", serverCommands(w)},
		{"objects", "Objects:", []*cobra.Command{
			applyCommand(o), diffCommand(o), getCommand(o), describeCommand(o), deleteCommand(o), waitCommand(o), scaleCommand(o), rolloutCommand(o),
			markCommand(o, labelMarks), markCommand(o, annotationMarks),
		}},
		{"pods", "Pods and their probes:", []*cobra.Command{
			logsCommand(o), execCommand(o), forwardCommand(o), moveCommand(o), probeCommand(o), whyCommand(o), topCommand(o),
		}},
		{"cluster", "The cluster:", []*cobra.Command{
			statusCommand(o), resumeCommand(o), cordonCommand(o, true), cordonCommand(o, false), drainCommand(o), taintCommand(o), tokenCommand(o),
			configCommand(o), snapshotCommand(o), loadtestCommand(o), versionCommand(o),
		}},
		{"unbuilt", "Not built yet:", unbuiltCommands()},
	}
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.AddCommand(supervisorCommand())
	strict(root)
	return root
}

// strict makes every error that is found in the arguments one of usage.
func strict(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error {
			err := check(c, args)
			if _, unbuilt := errors.AsType[*unbuiltError](err); err == nil || unbuilt {
				return named(c, err)
			}
			return &usageError{err}
		}
	}
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(c *cobra.Command, args []string) error { return named(c, run(c, args)) }
	}
	for _, c := range cmd.Commands() {
		strict(c)
	}
}

// named puts the verb in front of a type that is not built: "get services: not built yet".
func named(c *cobra.Command, err error) error {
	if unbuilt, ok := errors.AsType[*unbuiltError](err); ok && unbuilt.isType {
		return notBuilt(c.Name() + " " + unbuilt.what)
	}
	return err
}

// unknownCommand is the Args of commands that only have others below them.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	msg := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		msg += fmt.Sprintf(`: did you mean "%s"?`, strings.Join(near, `" or "`))
	}
	return errors.New(msg)
}

// needsCommand shows the help and is a usage error.
func needsCommand(cmd *cobra.Command, _ []string) error {
	cmd.SetOut(cmd.ErrOrStderr())
	if err := cmd.Help(); err != nil {
		return err
	}
	return usagef("a command is missing")
}

// parent is a command that only has others below it.
func parent(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: unknownCommand, RunE: needsCommand}
	c.AddCommand(commands...)
	return c
}

// annotationUnbuilt marks a verb that is refused.
const annotationUnbuilt = "unbuilt"

// unbuilt is a verb that is refused by name, whatever its arguments.
func unbuilt(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, DisableFlagParsing: true, Annotations: map[string]string{annotationUnbuilt: "true"},
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, a := range args {
				if a == "-h" || a == "--help" {
					return cmd.Help()
				}
			}
			return notBuilt(strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" "))
		},
	}
}

// unbuiltError refuses what there is not yet, by its name.
type unbuiltError struct {
	what string
	// isType is set for a type of objects, which takes the verb in front of it.
	isType bool
}

func (e *unbuiltError) Error() string { return e.what + ": not built yet" }

func notBuilt(what string) error { return &unbuiltError{what: what} }

func unbuiltCommands() []*cobra.Command {
	return []*cobra.Command{
		unbuilt("ui", "Open the dashboard"),
		unbuilt("simulate", "Tell what would happen if nodes were lost"),
		unbuilt("drill", "Lose a node on purpose"),
	}
}

func versionCommand(o *options) *cobra.Command {
	clientOnly := false
	cmd := &cobra.Command{
		Use: "version", Short: "Show the versions of this client and of the coordinator", Args: cobra.NoArgs,
		Example: "  muster version\n  muster version --client -o json",
		RunE:    func(cmd *cobra.Command, _ []string) error { return runVersion(cmd.Context(), o, clientOnly) },
	}
	cmd.Flags().BoolVar(&clientOnly, "client", false, "this client's version only")
	o.connectFlags(cmd)
	o.outputFlag(cmd, "json", "yaml")
	return cmd
}

// defaultConfig is where a client looks for its config when nothing says otherwise; empty without a home.
func defaultConfig(getenv func(string) string) string {
	home := getenv("HOME")
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".config", "muster", "config.yaml")
}

// binaryVersion is what "muster version" shows of this client.
func binaryVersion() string { return version.Version }
