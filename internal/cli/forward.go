package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/reason"
)

const (
	// maxForwarded bounds the connections of one port-forward at any moment, and maxForwardedPorts its ports.
	maxForwarded      = 100
	maxForwardedPorts = 100
	// forwardPiece is what is sent in one message, in bytes.
	forwardPiece = 32 << 10
)

func forwardCommand(o *options) *cobra.Command {
	addresses := []string{"localhost"}
	cmd := &cobra.Command{
		Use:   "port-forward POD|TYPE/NAME [LOCAL:]REMOTE…",
		Short: "Forward local ports to a pod",
		Long: "Listen on local ports, and connect whoever comes to a port of a pod: through the coordinator and the agent of the\n" +
			"pod's node, inside the pod's network. REMOTE is a number or the name of a container's port; LOCAL is REMOTE unless\n" +
			"it is given, and a free port where it is empty or 0. deployment/NAME and service/NAME mean one of their pods that is\n" +
			"ready; REMOTE is then a Service's own port.\n\n" +
			fmt.Sprintf("At most %d connections at a time. A connection that is refused is told of, and the others go on. Ctrl-C ends it.", maxForwarded),
		Example: "  muster port-forward web 8080:80\n  muster port-forward deployment/site :http      # any free local port\n" +
			"  muster port-forward pod/web 8080 9090 --address 0.0.0.0",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := forwardTarget(args[0])
			if err != nil {
				return err
			}
			ports, err := parseForwards(args[1:])
			if err != nil {
				return err
			}
			hosts, err := parseAddresses(addresses)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), func(ctx context.Context, c *client) error { return o.forward(ctx, c, target, ports, hosts) })
		},
	}
	cmd.Flags().StringSliceVar(&addresses, "address", addresses, "local addresses to listen on: localhost or IP addresses")
	o.connectFlags(cmd)
	cmd.Flags().Lookup("timeout").Usage = "end after this time; 0: at Ctrl-C"
	o.namespaceFlag(cmd)
	cmd.ValidArgsFunction = completePod(o)
	return cmd
}

// forwardTarget understands POD, pod/NAME, deployment/NAME and service/NAME.
func forwardTarget(word string) (objectName, error) {
	if !strings.Contains(word, "/") {
		return objectName{podKind, word}, nil
	}
	objects, err := parseObjects([]string{word})
	if err != nil {
		return objectName{}, err
	}
	if k := objects[0].kind; k != podKind && k != deploymentKind && k != serviceKind {
		return objectName{}, usagef("%s: want a pod, a deployment or a service", word)
	}
	return objects[0], nil
}

// portPair is one port to forward. remote is a number or a name.
type portPair struct {
	local  int // 0: any that is free
	same   bool
	remote string
}

func parseForwards(words []string) ([]portPair, error) {
	if len(words) > maxForwardedPorts {
		return nil, usagef("%d ports, at most %d", len(words), maxForwardedPorts)
	}
	number := func(word, text string, least int) (int, error) {
		n, err := strconv.Atoi(text)
		if err != nil || n < least || n > 65535 {
			return 0, usagef("port %q: want [LOCAL:]REMOTE, such as 8080:80, each from 1 to 65535", word)
		}
		return n, nil
	}
	var ports []portPair
	for _, word := range words {
		local, remote, both := strings.Cut(word, ":")
		if !both {
			local, remote = word, word
		}
		p := portPair{remote: remote, same: !both}
		var err error
		if remote == "" || strings.Contains(remote, ":") {
			_, err = number(word, "", 1)
		} else if remote[0] >= '0' && remote[0] <= '9' {
			_, err = number(word, remote, 1)
		}
		if err == nil && both && local != "" {
			p.local, err = number(word, local, 0)
		}
		if err != nil {
			return nil, err
		}
		ports = append(ports, p)
	}
	return ports, nil
}

func parseAddresses(words []string) (hosts []string, err error) {
	for _, w := range words {
		switch {
		case w == "localhost":
			hosts = append(hosts, "127.0.0.1", "::1")
		case net.ParseIP(w) != nil:
			hosts = append(hosts, w)
		default:
			return nil, usagef("--address %q: want localhost or an IP address", w)
		}
	}
	if len(hosts) == 0 {
		return nil, usagef("--address: want localhost or an IP address")
	}
	slices.Sort(hosts)
	return slices.Compact(hosts), nil
}

// forwarded finds the pod that is meant, which must run, and the ports of it that are: those of a Service are its own.
func (o *options) forwarded(ctx context.Context, c *client, t objectName, ports []portPair) (*musterv1.Pod, []portPair, error) {
	switch t.kind {
	case deploymentKind:
		r, err := c.deployments.GetDeployment(ctx, &musterv1.GetDeploymentRequest{Namespace: o.namespace, Name: t.name})
		if err != nil {
			return nil, nil, doomed{deploymentKind, o.namespace, t.name}.named(err)
		}
		uid := r.GetDeployment().GetMeta().GetUid()
		pod, err := o.anyOf(ctx, c, t, selectorOf(r.GetDeployment()), func(p *musterv1.Pod) bool { return p.GetMeta().GetOwner().GetUid() == uid })
		return pod, ports, err
	case serviceKind:
		r, err := c.services.GetService(ctx, &musterv1.GetServiceRequest{Namespace: o.namespace, Name: t.name})
		if err != nil {
			return nil, nil, doomed{serviceKind, o.namespace, t.name}.named(err)
		}
		selector := r.GetService().GetSpec().GetSelector()
		if len(selector) == 0 {
			return nil, nil, fmt.Errorf("service/%s selects no pods: name a pod", t.name)
		}
		if ports, err = targetPorts(r.GetService(), ports); err != nil {
			return nil, nil, err
		}
		pod, err := o.anyOf(ctx, c, t, strings.Join(labelTerms(selector), ","), func(*musterv1.Pod) bool { return true })
		return pod, ports, err
	}
	r, err := c.pods.GetPod(ctx, &musterv1.GetPodRequest{Namespace: o.namespace, Name: t.name})
	if err != nil {
		return nil, nil, doomed{podKind, o.namespace, t.name}.named(err)
	}
	return r.GetPod(), ports, running(r.GetPod())
}

// anyOf is one of the pods of a Deployment or Service that run, a ready one if there is one.
func (o *options) anyOf(ctx context.Context, c *client, t objectName, selector string, meant func(*musterv1.Pod) bool) (best *musterv1.Pod, err error) {
	pods, _, err := listPods(ctx, c, &musterv1.PodFilter{Namespace: o.namespace, LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	for _, p := range pods {
		if meant(p) && p.GetMeta().GetDeleteTime() == nil && running(p) == nil && (best == nil || isReady(p) && !isReady(best)) {
			best = p
		}
	}
	if best == nil {
		return nil, fmt.Errorf(`%s/%s has no pod that runs: "muster get pods" shows where they stand`, t.kind.singular, t.name)
	}
	return best, nil
}

// targetPorts are the pods' ports in place of a Service's.
func targetPorts(s *musterv1.Service, ports []portPair) ([]portPair, error) {
	var out []portPair
	for _, p := range ports {
		var have []string
		found := false
		for _, port := range s.GetSpec().GetPorts() {
			number := strconv.Itoa(int(port.GetPort()))
			if have = append(have, number); number != p.remote && (port.GetName() == "" || port.GetName() != p.remote) {
				continue
			}
			if port.GetProtocol() == "UDP" {
				return nil, fmt.Errorf("port %s of service/%s is UDP: only TCP is forwarded", p.remote, s.GetMeta().GetName())
			}
			found = true
			if p.same {
				p.local, p.same = int(port.GetPort()), false
			}
			p.remote = fmt.Sprint(portValue(port.GetTargetPort()))
			break
		}
		if !found {
			return nil, fmt.Errorf("service/%s has no port %s: it has %s", s.GetMeta().GetName(), p.remote, orNone(strings.Join(have, ", ")))
		}
		out = append(out, p)
	}
	return out, nil
}

func isReady(p *musterv1.Pod) bool {
	return slices.ContainsFunc(p.GetStatus().GetConditions(), func(c *musterv1.Condition) bool { return c.GetType() == "Ready" && c.GetStatus() == "True" })
}

// running refuses a pod that cannot be connected to.
func running(p *musterv1.Pod) error {
	if phase := p.GetStatus().GetPhase(); phase != musterv1.PodPhase_POD_PHASE_RUNNING {
		name := p.GetMeta().GetName()
		return fmt.Errorf(`pod/%s is %s, not Running: "muster describe pod %s" says why`, name, podPhase(phase), name)
	}
	return nil
}

// remotePort is a port's number.
func remotePort(p *musterv1.Pod, remote string) (int, error) {
	if n, err := strconv.Atoi(remote); err == nil {
		return n, nil
	}
	var names []string
	for _, c := range slices.Concat(p.GetSpec().GetInitContainers(), p.GetSpec().GetContainers()) {
		for _, port := range c.GetPorts() {
			switch {
			case port.GetName() == remote && port.GetProtocol() == "UDP":
				return 0, fmt.Errorf("port %q of pod/%s is UDP: only TCP is forwarded", remote, p.GetMeta().GetName())
			case port.GetName() == remote:
				return int(port.GetNumber()), nil
			case port.GetName() != "":
				names = append(names, port.GetName())
			}
		}
	}
	return 0, fmt.Errorf("pod/%s has no port named %q: it has %s; a number does too", p.GetMeta().GetName(), remote, orNone(strings.Join(names, ", ")))
}

// forward listens until the context ends, which is no failure, or the pod is no more.
func (o *options) forward(ctx context.Context, c *client, target objectName, ports []portPair, hosts []string) error {
	pod, ports, err := o.forwarded(ctx, c, target, ports)
	if err != nil {
		return err
	}
	f := &forwarder{
		world: o.world, client: c, namespace: pod.GetMeta().GetNamespace(), pod: pod.GetMeta().GetName(), room: make(chan struct{}, maxForwarded),
	}
	running, stop := context.WithCancelCause(ctx)
	defer f.wg.Wait()
	defer stop(nil)
	f.stop = stop
	for _, p := range ports {
		number, err := remotePort(pod, p.remote)
		if err != nil {
			return err
		}
		if p.same {
			p.local = number
		}
		listeners, err := listenOn(ctx, hosts, p.local)
		if err != nil {
			return err
		}
		for _, l := range listeners {
			fmt.Fprintf(o.world.Stdout, "Forwarding from %s -> %d\n", l.Addr(), number)
			f.wg.Go(func() { f.accept(running, l, number) })
		}
	}
	<-running.Done()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(running)
}

// listenOn listens on every host that there is, on the same port. Many machines have no ::1, which is no failure beside
// another.
func listenOn(ctx context.Context, hosts []string, port int) (all []net.Listener, err error) {
	var config net.ListenConfig
	for _, h := range hosts {
		l, err := config.Listen(ctx, "tcp", net.JoinHostPort(h, strconv.Itoa(port)))
		switch {
		case err == nil:
			all = append(all, l)
			port = l.Addr().(*net.TCPAddr).Port
		case h != "::1" || len(all) == 0:
			for _, l := range all {
				l.Close()
			}
			return nil, fmt.Errorf("cannot listen: %w", err)
		}
	}
	return all, nil
}

// forwarder connects whoever comes to one pod.
type forwarder struct {
	world          World
	client         *client
	namespace, pod string
	// room has a place for each connection.
	room chan struct{}
	stop context.CancelCauseFunc
	wg   sync.WaitGroup
	mu   sync.Mutex // held to write a line
}

func (f *forwarder) say(to io.Writer, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(to, format+"\n", args...)
}

func (f *forwarder) accept(ctx context.Context, l net.Listener, port int) {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			f.stop(fmt.Errorf("listen on %s: %w", l.Addr(), err))
			return
		}
		select {
		case f.room <- struct{}{}:
		default:
			f.say(f.world.Stderr, "connection from %s is turned away: there are %d already; end some of them", conn.RemoteAddr(), maxForwarded)
			conn.Close()
			continue
		}
		f.say(f.world.Stdout, "Handling connection for %d", l.Addr().(*net.TCPAddr).Port)
		f.wg.Go(func() {
			defer func() { <-f.room }()
			f.serve(ctx, conn.(*net.TCPConn), port)
		})
	}
}

// serve moves one connection's bytes until both sides have ended, one has failed, or ctx has ended.
func (f *forwarder) serve(ctx context.Context, conn *net.TCPConn, port int) {
	from := conn.RemoteAddr()
	err := f.move(ctx, conn, port)
	if err == nil {
		conn.Close()
		return
	}
	_ = conn.SetLinger(0) // it has failed, and the other side is to see that
	conn.Close()
	if ctx.Err() != nil {
		return
	}
	if reason.Of(err) == reason.NotFound {
		f.stop(doomed{podKind, f.namespace, f.pod}.named(err))
		return
	}
	f.say(f.world.Stderr, "connection from %s to port %d of pod/%s: %s", from, port, f.pod, explain(err))
}

func (f *forwarder) move(ctx context.Context, conn *net.TCPConn, port int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := f.client.pods.PortForwardPod(ctx)
	if err != nil {
		return err
	}
	start := &musterv1.PortForwardStart{Namespace: f.namespace, Name: f.pod, Port: int32(port)}
	if err := stream.Send(&musterv1.PortForwardPodRequest{Input: &musterv1.PortForwardPodRequest_Start{Start: start}}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if _, err := stream.Recv(); err != nil { // says why there is no connection
		return err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	local := make(chan error, 1)
	f.wg.Go(func() {
		err := toPod(conn, stream)
		local <- err
		if err != nil {
			cancel() // nobody is there to read what comes
		}
	})
	if err := fromPod(stream, conn); err != nil {
		select {
		case broken := <-local:
			if broken != nil {
				return nil // the local side has gone: nothing to tell
			}
		default:
		}
		return err
	}
	return nil
}

// toPod sends what is read, and its end. An error is that of the local side.
func toPod(conn *net.TCPConn, stream musterv1.PodService_PortForwardPodClient) error {
	buf := make([]byte, forwardPiece)
	for {
		n, err := conn.Read(buf)
		if n > 0 && stream.Send(&musterv1.PortForwardPodRequest{Input: &musterv1.PortForwardPodRequest_Data{Data: buf[:n]}}) != nil {
			return nil // fromPod says why
		}
		if errors.Is(err, io.EOF) {
			_ = stream.Send(&musterv1.PortForwardPodRequest{Input: &musterv1.PortForwardPodRequest_DataClosed{DataClosed: true}})
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fromPod writes what comes, and its end, until both directions have ended.
func fromPod(stream musterv1.PodService_PortForwardPodClient, conn *net.TCPConn) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch m.GetOutput().(type) {
		case *musterv1.PortForwardPodResponse_Data:
			if _, err := conn.Write(m.GetData()); err != nil {
				return nil // the local side reads no more
			}
		case *musterv1.PortForwardPodResponse_DataClosed:
			_ = conn.CloseWrite() // it may have gone already
		}
	}
}
