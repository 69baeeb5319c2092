package process_test

import (
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/agent/container"
	"github.com/musterhq/muster/agent/container/process"
)

// echo answers on the loopback of wherever it runs, several at a time: what it has read to its end comes back.
const echo = `exec perl -e 'use Socket; $|=1; socket(S,PF_INET,SOCK_STREAM,0); setsockopt(S,SOL_SOCKET,SO_REUSEADDR,1);
bind(S,sockaddr_in(8080,INADDR_LOOPBACK)) or die; listen(S,64); print "listens\n"; $SIG{CHLD}="IGNORE";
while(accept(C,S)){ if(!fork){ local $/; my $all=<C>; print C $all; close C; exit } close C }'`

func TestADialReachesThePodsOwnLoopbackAndNobodyElses(t *testing.T) {
	w := &wires{pods: map[container.PodRef]string{}}
	b := newBench(t, func(c *process.Config) { c.Network = w })
	b.needs("full")
	own := func(c *container.PodConfig) { c.OwnNetwork = true }
	ref, other := b.podOf(own), b.podOf(own)
	c, err := b.StartContainer(b.ctx, ref, container.ContainerConfig{
		Name: "echo", Argv: []string{"/bin/sh", "-c", echo}, WorkingDir: "/", UID: -1, GID: -1, Env: []string{"PATH=/usr/bin:/bin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.until("the listener", func() bool { return b.log(c.ID) == "listens\n" })

	var g errgroup.Group
	for range 50 {
		g.Go(func() error {
			conn, err := b.Dial(b.ctx, ref, 8080)
			if err != nil {
				return err
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, "hello"); err != nil {
				return err
			}
			if err := conn.CloseWrite(); err != nil {
				return err
			}
			text, err := io.ReadAll(conn)
			if err == nil && string(text) != "hello" {
				err = errors.New("came back as " + string(text))
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := b.Dial(b.ctx, other, 8080); !errors.Is(err, container.ErrCannotConnect) {
		t.Errorf("another pod's loopback answers: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := b.Dial(b.ctx, ref, l.Addr().(*net.TCPAddr).Port); !errors.Is(err, container.ErrCannotConnect) {
		t.Errorf("the node's loopback answers: %v", err)
	}
}

func TestADialOfAPodWithoutANetworkGoesToItsAddress(t *testing.T) {
	b := newBench(t)
	ref := b.podOf(func(*container.PodConfig) {})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	conn, err := b.Dial(b.ctx, ref, port)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	l.Close()
	if _, err := b.Dial(b.ctx, ref, port); !errors.Is(err, container.ErrCannotConnect) {
		t.Errorf("nothing listens: %v", err)
	}
	if err := b.RemovePod(b.ctx, ref); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Dial(b.ctx, ref, port); !errors.Is(err, container.ErrNotFound) {
		t.Errorf("the pod is gone: %v", err)
	}
}
