package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/reason"
)

// exitCannotStart is the exit status of a command that was found, or not, but can not be run.
const exitCannotStart = 126

// exitCode ends muster with a status of somebody else's.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("command ended with exit code %d", int(e)) }

func execCommand(o *options) *cobra.Command {
	start := &musterv1.ExecStart{}
	cmd := &cobra.Command{
		Use: "exec POD [-c CONTAINER] [-it] -- COMMAND [ARGUMENT…]", Short: "Run a command in a container",
		Long: "Run a command in a running container. The exit status is the command's, 128 + the signal's number for a death by\n" +
			"signal, and 126 where it can not be started. Without -t, Ctrl-C ends the command with all that came from it.",
		Example: "  muster exec web -- ls /tmp                    # the first container's files\n" +
			"  muster exec web -c sidecar -it -- sh          # a shell, on a terminal\n" +
			"  muster exec web -i -- sh -c 'cat > /tmp/x' < x   # a file into the container",
		RunE: func(cmd *cobra.Command, args []string) error {
			dash := cmd.ArgsLenAtDash()
			switch {
			case dash < 0:
				return usagef("what is to be run comes after --: muster exec POD -- COMMAND")
			case dash != 1:
				return usagef("one POD is wanted before --, not %d words", dash)
			case len(args) == 1:
				return usagef("a command is wanted after --")
			}
			name, err := podName(args[0])
			if err != nil {
				return err
			}
			start.Name, start.Command = name, args[1:]
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error {
				start.Namespace = o.namespace
				return o.exec(ctx, c, start)
			})
		},
	}
	f := cmd.Flags()
	f.StringVarP(&start.Container, "container", "c", "", "the container (default: the pod's first)")
	f.BoolVarP(&start.Stdin, "stdin", "i", false, "hand stdin on to the command")
	f.BoolVarP(&start.Tty, "tty", "t", false, "run it on a terminal")
	o.connectFlags(cmd)
	o.namespaceFlag(cmd)
	cmd.ValidArgsFunction = completePod(o)
	return cmd
}

func (o *options) exec(ctx context.Context, c *client, start *musterv1.ExecStart) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the command, should it still run
	terminal, _ := o.world.Stdin.(*os.File)
	if start.GetTty() && (terminal == nil || !term.IsTerminal(int(terminal.Fd()))) {
		fmt.Fprintln(o.world.Stderr, "stdin is no terminal: the command runs without one")
		start.Tty = false
	}
	if start.GetTty() {
		start.Size = sizeOf(terminal)
	}
	stream, err := c.pods.ExecPod(ctx)
	if err != nil {
		return err
	}
	in := &toCommand{stream: stream}
	if err := in.send(&musterv1.ExecPodRequest{Input: &musterv1.ExecPodRequest_Start{Start: start}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	first, err := stream.Recv() // says why there is no such command
	if err != nil {
		return o.execError(ctx, c, start, err)
	}
	if start.GetContainer() == "" {
		if p, err := c.pods.GetPod(ctx, &musterv1.GetPodRequest{Namespace: start.GetNamespace(), Name: start.GetName()}); err == nil && len(p.GetPod().GetSpec().GetContainers()) > 1 {
			fmt.Fprintf(o.world.Stderr, "runs in container %s: -c chooses another\n", first.GetContainer())
		}
	}
	if start.GetTty() {
		back, err := raw(terminal)
		if err != nil {
			return fmt.Errorf("make the terminal raw: %w", err)
		}
		defer back()
		stop := in.follow(terminal)
		defer stop()
	}
	if start.GetStdin() {
		go in.copy(o.world.Stdin) // its Read ends with the process
	}
	return o.execError(ctx, c, start, o.fromCommand(stream))
}

// fromCommand writes what the command writes, and returns its exit code as an error unless it is 0.
func (o *options) fromCommand(stream musterv1.PodService_ExecPodClient) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return errors.New("the command's end was not told")
		}
		if err != nil {
			return err
		}
		switch out := m.GetOutput().(type) {
		case *musterv1.ExecPodResponse_Stdout:
			_, err = o.world.Stdout.Write(out.Stdout)
		case *musterv1.ExecPodResponse_Stderr:
			_, err = o.world.Stderr.Write(out.Stderr)
		case *musterv1.ExecPodResponse_ExitCode:
			if out.ExitCode == 0 {
				return nil
			}
			return exitCode(out.ExitCode)
		}
		if err != nil {
			return err
		}
	}
}

// execError says what is wrong in the words of whoever asks.
func (o *options) execError(ctx context.Context, c *client, start *musterv1.ExecStart, err error) error {
	switch reason.Of(err) {
	case reason.NotFound:
		if _, perr := podKind.get(ctx, c, start.GetNamespace(), start.GetName()); perr != nil {
			return doomed{podKind, start.GetNamespace(), start.GetName()}.named(err)
		}
	case reason.CannotStart:
		fmt.Fprintln(o.world.Stderr, explain(err))
		return exitCode(exitCannotStart)
	}
	return err
}

// toCommand says things to a command; its methods may be called from any goroutine.
type toCommand struct {
	mu     sync.Mutex
	stream musterv1.PodService_ExecPodClient
}

func (t *toCommand) send(m *musterv1.ExecPodRequest) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.stream.Send(m)
}

// copy sends what is read, and its end.
func (t *toCommand) copy(from io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && t.send(&musterv1.ExecPodRequest{Input: &musterv1.ExecPodRequest_Stdin{Stdin: buf[:n]}}) != nil {
			return // the command has ended
		}
		if err != nil {
			_ = t.send(&musterv1.ExecPodRequest{Input: &musterv1.ExecPodRequest_StdinClosed{StdinClosed: true}})
			return
		}
	}
}

// follow tells the size of the terminal whenever it changes, until stop is called.
func (t *toCommand) follow(terminal *os.File) (stop func()) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-changed:
				if size := sizeOf(terminal); size != nil {
					_ = t.send(&musterv1.ExecPodRequest{Input: &musterv1.ExecPodRequest_Size{Size: size}})
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		close(done)
	}
}

// sizeOf is the terminal's size; nil where it does not say.
func sizeOf(terminal *os.File) *musterv1.TerminalSize {
	columns, rows, err := term.GetSize(int(terminal.Fd()))
	if err != nil {
		return nil
	}
	return &musterv1.TerminalSize{Columns: uint32(columns), Rows: uint32(rows)}
}

// raw hands the terminal's keys on as they are, until back is called.
func raw(terminal *os.File) (back func(), err error) {
	fd := int(terminal.Fd())
	was, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(fd, was) }, nil
}
