package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/musterhq/muster/agent/supervisor"
	"github.com/musterhq/muster/internal/fence"
)

const (
	// askLimit is how long a guard may take to answer before it counts as stuck and is replaced.
	askLimit = 2 * time.Second
	// launchLimit is how long a guard may take to be ready.
	launchLimit = 10 * time.Second
	// pingEvery is how often Run asks whether the guard still answers.
	pingEvery = 5 * time.Second
)

// Config is what the agent asks of its guard.
type Config struct {
	// DataDir is the agent's data directory, absolute.
	DataDir string
	// Argv starts the tiny binary, such as {"/path/muster-supervisor"}; the first element is an absolute path.
	Argv []string
	// Listen is the guard's TCP address. A running guard moves to it, except that port 0 takes what it has.
	Listen string
	// Loopback is set where the node's address is loopback, so that its pods need a node number for addresses.
	Loopback bool
	// Linger replaces the 30 s that a guard goes on without agent and supervisors; 0 keeps them.
	Linger time.Duration
	// Changed is called by Run when another guard has taken over; with the error when that has failed and is tried
	// again. May be nil.
	Changed func(error)
}

// Info is what a guard says of itself.
type Info struct {
	PID int
	// Addr is the TCP address in use.
	Addr string
	// Node is the node number, 1 to 254; 0 unless Loopback was set.
	Node int
}

// Client is the agent's hold on its guard. It is safe for concurrent use.
type Client struct {
	cfg Config

	mu   sync.Mutex
	conn *net.UnixConn
	info Info
	rec  supervisor.SupervisorRecord
	page *supervisor.MappedPage
}

// Ensure finds the data directory's guard or starts one, registers this process as the agent, and takes the page. A
// guard that does not answer is killed and replaced. Close the client in the end; the guard goes on.
func Ensure(ctx context.Context, cfg Config) (*Client, error) {
	if !filepath.IsAbs(cfg.DataDir) || len(cfg.Argv) == 0 || !filepath.IsAbs(cfg.Argv[0]) {
		return nil, fmt.Errorf("guard: data directory %q and argv %q: want absolute paths", cfg.DataDir, cfg.Argv)
	}
	c := &Client{cfg: cfg}
	if err := c.ensure(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Client) ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, launchLimit)
	defer cancel()
	for {
		err := c.connect(ctx)
		var said *refusedError
		if err == nil || errors.As(err, &said) {
			return err
		}
		// Nobody answers: none runs, or it is stuck and keeps the lock.
		if rec, rerr := supervisor.ReadIdentity(filepath.Join(c.cfg.DataDir, guardFile)); rerr == nil && rec.Alive() {
			if kerr := rec.Kill(); kerr != nil {
				return kerr
			}
		}
		if lerr := c.launch(ctx); lerr != nil && !errors.Is(lerr, errBusy) {
			return lerr
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; last: %w", ctx.Err(), err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// refusedError is a guard's own word.
type refusedError struct{ text string }

func (e *refusedError) Error() string { return e.text }

// connect registers this agent on a connection that is kept, and takes the page over another.
func (c *Client) connect(ctx context.Context) error {
	ask, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	conn, err := supervisor.Dial(ask, c.cfg.DataDir, supervisor.GuardSocket)
	if err != nil {
		return err
	}
	me, err := supervisor.ReadStat(os.Getpid())
	if err != nil {
		conn.Close()
		return err
	}
	loopback := "0"
	if c.cfg.Loopback {
		loopback = "1"
	}
	said, err := request(ask, conn, "agent "+strconv.Itoa(me.PID)+" "+strconv.FormatUint(me.StartTime, 10)+" "+loopback+" "+c.cfg.Listen)
	if err != nil {
		conn.Close()
		return err
	}
	f := strings.Fields(said)
	if len(f) < 4 {
		conn.Close()
		return errors.New("guard: unexpected answer " + strconv.Quote(said))
	}
	pid, e1 := strconv.Atoi(f[0])
	start, e2 := strconv.ParseUint(f[1], 10, 64)
	node, e3 := strconv.Atoi(f[3])
	rec := supervisor.SupervisorRecord{PID: pid, StartTime: start, BootID: supervisor.BootID()}
	if err := errors.Join(e1, e2, e3); err != nil || !rec.Alive() {
		conn.Close()
		return errors.New("guard: unexpected answer " + strconv.Quote(said))
	}
	page, err := supervisor.FetchPage(ask, c.cfg.DataDir)
	if err != nil {
		conn.Close()
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close()
	}
	c.conn, c.info, c.rec = conn, Info{PID: pid, Addr: f[2], Node: node}, rec
	if c.page == nil || !c.page.Same(page) {
		c.page = page // an older one stays mapped: someone may still write to it
	} else {
		page.Close()
	}
	return nil
}

// request sends a line and returns the answer's words behind "ok".
func request(ctx context.Context, conn net.Conn, line string) (string, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", err
	}
	said, err := readLine(conn)
	if err != nil {
		return "", err
	}
	if text, ok := strings.CutPrefix(said, "error "); ok {
		return "", &refusedError{text}
	}
	rest, ok := strings.CutPrefix(said, "ok")
	if !ok {
		return "", errors.New("guard: unexpected answer " + strconv.Quote(said))
	}
	return strings.TrimPrefix(rest, " "), nil
}

// launch starts a guard in a session of its own and returns once it is ready.
func (c *Client) launch(ctx context.Context) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		write.Close()
		return err
	}
	defer null.Close()
	argv := append(slices.Clip(c.cfg.Argv), "guard", c.cfg.DataDir, c.cfg.Listen)
	if c.cfg.Linger > 0 {
		argv = append(argv, c.cfg.Linger.String())
	}
	proc, err := os.StartProcess(argv[0], argv, &os.ProcAttr{
		Dir: "/", Env: supervisor.RuntimeEnv, Files: []*os.File{null, null, null, write}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	write.Close()
	if err != nil {
		return err
	}
	go proc.Wait() // owned by the child's life: reaps it should it end before this process
	stop := context.AfterFunc(ctx, func() { read.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	said, err := io.ReadAll(io.LimitReader(read, maxLine))
	switch {
	case err != nil:
		proc.Kill()
		return err
	case string(said) == "ok":
		return nil
	case string(said) == errBusy.Error():
		return errBusy
	case len(said) == 0:
		return errors.New("guard ended at once")
	}
	return errors.New(string(said))
}

// Info is what the guard says of itself.
func (c *Client) Info() Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.info
}

// Page is the node's page, mapped for writing. It is another one after a guard has been replaced while no supervisor
// held the old one: ask again for every use.
func (c *Client) Page() *supervisor.MappedPage {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.page
}

// Expired tells whether the time of a slot is over for that epoch. It serves the process runtime.
func (c *Client) Expired(slot int, epoch int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.page.Expired(slot, epoch)
}

// Run keeps a guard running until ctx ends: when it dies or no longer answers, another one takes over.
func (c *Client) Run(ctx context.Context) error {
	pause := 100 * time.Millisecond
	for {
		c.attend(ctx)
		if ctx.Err() != nil {
			return nil
		}
		err := c.ensure(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if c.cfg.Changed != nil {
			c.cfg.Changed(err)
		}
		if err == nil {
			pause = 100 * time.Millisecond
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// attend returns when the guard is gone or stuck, or ctx has ended. A guard's end is the end of the connection on which
// this agent registered.
func (c *Client) attend(ctx context.Context) {
	c.mu.Lock()
	conn, rec := c.conn, c.rec
	c.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		var b [1]byte
		conn.Read(b[:])
	}()
	defer func() {
		conn.SetReadDeadline(time.Unix(1, 0))
		<-gone
	}()
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-gone:
			return
		case <-tick.C:
			if err := c.ping(ctx); err != nil && ctx.Err() == nil {
				rec.Kill()
				return
			}
		}
	}
}

func (c *Client) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	conn, err := supervisor.Dial(ctx, c.cfg.DataDir, supervisor.GuardSocket)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = request(ctx, conn, "ping")
	return err
}

// Close lets go of the guard without ending it.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.page.Close()
	return c.conn.Close()
}

// Stop ends the guard of a data directory, if one runs, and returns when it is gone: at once by SIGTERM, by SIGKILL when
// ctx ends first.
func Stop(ctx context.Context, dataDir string) error {
	rec, err := supervisor.ReadIdentity(filepath.Join(dataDir, guardFile))
	if err != nil || !rec.Alive() {
		return nil
	}
	if err := unix.Kill(rec.PID, unix.SIGTERM); err != nil && err != unix.ESRCH {
		return os.NewSyscallError("kill guard", err)
	}
	for rec.Alive() {
		select {
		case <-ctx.Done():
			return rec.Kill()
		case <-time.After(2 * time.Millisecond):
		}
	}
	return nil
}

// Query asks the guard at addr. It is bounded by ctx, and by a second in any case.
func Query(ctx context.Context, addr string) (fence.GuardAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fence.GuardAnswer{}, fmt.Errorf("ask guard %s: %w", addr, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	line, err := io.ReadAll(io.LimitReader(conn, fence.MaxGuardAnswer+1))
	if err != nil {
		return fence.GuardAnswer{}, fmt.Errorf("ask guard %s: %w", addr, err)
	}
	a, err := fence.ParseGuardAnswer(string(line))
	if err != nil {
		return fence.GuardAnswer{}, fmt.Errorf("ask guard %s: %w", addr, err)
	}
	return a, nil
}
