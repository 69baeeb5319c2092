package clustertest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// peerArg makes this program a container: it answers whoever connects with the address it sees, and asks others.
	peerArg  = "be-a-peer"
	peerPort = "8080"
	// peerHostPort is the port of each node that leads to its peer.
	peerHostPort = 18080
	// peerEvery is how often each of the others is asked, and how long an answer may take.
	peerEvery = 200 * time.Millisecond
)

func init() {
	if len(os.Args) == 3 && os.Args[1] == peerArg {
		fmt.Fprintln(os.Stderr, bePeer(os.Args[2], os.Getenv("POD"), os.Getenv("IP")))
		os.Exit(1)
	}
}

// answers has for every peer's address which address it has seen, or why there was no answer.
type answers map[string]string

// bePeer writes its address to DIR/NAME.address, asks all that are there, and writes what they say to DIR/NAME.answers.
func bePeer(dir, name, addr string) error {
	l, err := net.Listen("tcp4", ":"+peerPort)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprint(c, host)
			c.Close()
		}
	}()
	if err := replace(filepath.Join(dir, name+".address"), []byte(addr)); err != nil {
		return err
	}
	for {
		peers, err := addresses(dir)
		if err != nil {
			return err
		}
		got := answers{}
		var mu sync.Mutex
		var all sync.WaitGroup
		for _, peer := range peers {
			all.Go(func() {
				said := ask(peer)
				mu.Lock()
				defer mu.Unlock()
				got[peer] = said
			})
		}
		all.Wait()
		b, err := json.Marshal(got)
		if err == nil {
			err = replace(filepath.Join(dir, name+".answers"), b)
		}
		if err != nil {
			return err
		}
		time.Sleep(peerEvery)
	}
}

func addresses(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.address"))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		all = append(all, string(b))
	}
	return all, nil
}

func ask(peer string) string {
	c, err := net.DialTimeout("tcp4", net.JoinHostPort(peer, peerPort), peerEvery)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(peerEvery)) // the connection is a socket
	b, err := io.ReadAll(c)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// replace writes a file that others read at any time.
func replace(path string, b []byte) error {
	if err := os.WriteFile(path+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// peers are some pods that ask each other.
type peers struct {
	c   *Cluster
	dir string
	// addrs has the pods' addresses by their names.
	addrs map[string]string
}

// startPeers runs a peer on every node, which stays there whatever happens, and waits until all know each other.
func (c *Cluster) startPeers() *peers {
	c.t.Helper()
	p := &peers{c: c, dir: filepath.Join(c.Dir, "shared"), addrs: map[string]string{}}
	if err := os.MkdirAll(p.dir, 0o777); err != nil {
		c.t.Fatal(err)
	}
	own, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	b, err := os.ReadFile(own)
	if err != nil {
		c.t.Fatal(err)
	}
	program := filepath.Join(p.dir, "peer")
	if err := os.WriteFile(program, b, 0o755); err != nil {
		c.t.Fatal(err)
	}
	nodes := c.ReadyNodes()
	for i, node := range nodes {
		c.Apply(fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: peer-%d
  annotations: {muster.dev/failover: stay}
spec:
  terminationGracePeriodSeconds: 0
  nodeSelector: {kubernetes.io/hostname: %s}
  containers:
  - name: peer
    command: [%s, %s, %s]
    ports: [{containerPort: %[6]s, hostPort: %[7]d}]
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    volumeMounts:
    - {name: shared, mountPath: %[5]s}
  volumes:
  - {name: shared, hostPath: {path: %[5]s}}
`, i+1, node, program, peerArg, p.dir, peerPort, peerHostPort))
	}
	c.Eventually(20*time.Second, "every peer runs on its node", func() bool {
		for i, node := range nodes {
			pod := c.Pod(fmt.Sprintf("peer-%d", i+1))
			if pod.Status.PodIP == "" || pod.Spec.NodeName != node || !pod.Ready() {
				return false
			}
			p.addrs[pod.Metadata.Name] = pod.Status.PodIP
		}
		return true
	})
	return p
}

// answers reads what a peer has heard since then; an error while there is nothing.
func (p *peers) answers(name string, since time.Time) (answers, error) {
	path := filepath.Join(p.dir, name+".answers")
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.ModTime().Before(since.Add(2 * peerEvery)) {
		return nil, errors.New("it has not asked since")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var a answers
	return a, json.Unmarshal(b, &a)
}

// trouble says who, having asked after since, does not reach whom at their own addresses; empty when all do.
func (p *peers) trouble(since time.Time) string {
	var b strings.Builder
	for name, own := range p.addrs {
		got, err := p.answers(name, since)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", name, err)
			continue
		}
		for other, addr := range p.addrs {
			if got[addr] != own {
				fmt.Fprintf(&b, "%s (%s) asks %s (%s), which says %q\n", name, own, other, addr, got[addr])
			}
		}
	}
	return b.String()
}

// mustReach waits until all reach each other, asked from now on.
func (p *peers) mustReach(within time.Duration, when string) {
	p.c.t.Helper()
	since, trouble := time.Now(), ""
	deadline := since.Add(within)
	for trouble = p.trouble(since); trouble != ""; trouble = p.trouble(since) {
		if time.Now().After(deadline) {
			p.c.dump()
			p.c.t.Fatalf("%s, not all reach each other within %v:\n%s", when, within, trouble)
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.c.t.Logf("%s, all reach each other after %v", when, time.Since(since).Round(10*time.Millisecond))
}

// mustPublish waits until a port of each node leads to its peer, asked from another node.
func (p *peers) mustPublish() {
	p.c.t.Helper()
	for i, to := range []string{"node-1", "node-2", "node-3"} {
		from := []string{"node-2", "node-3", "node-1"}[i]
		at := net.JoinHostPort(p.c.net.Address(to), strconv.Itoa(peerHostPort))
		var said string
		p.c.Eventually(10*time.Second, from+" is not answered at "+at, func() bool {
			err := p.c.net.Do(from, func() error {
				conn, err := net.DialTimeout("tcp4", at, time.Second)
				if err != nil {
					return err
				}
				defer conn.Close()
				if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
					return err
				}
				b, err := io.ReadAll(io.LimitReader(conn, 64))
				said = string(b)
				return err
			})
			return err == nil && said != ""
		})
		if want := p.c.net.Address(from); said != want {
			p.c.t.Errorf("at %s the peer saw %s, want %s", at, said, want)
		}
	}
}

// routeTime is how long routes may take to be right again.
const routeTime = 5 * time.Second

func TestOnHostsPodsReachEachOtherAtTheirOwnAddressesWheneverTheirHostsDo(t *testing.T) {
	Binary(t)
	t.Parallel()
	c := Start(t, 3, OnHosts(t, 3))
	p := c.startPeers()
	p.mustReach(20*time.Second, "at first")
	p.mustPublish()
	for _, tc := range []struct {
		what, after string
		begin, end  func()
	}{
		{"cut off", "healed", func() { c.net.Cut("node-2") }, func() { c.net.Heal("node-2") }},
		{"down inside", "up again", func() { c.net.LinkDown("node-2") }, func() { c.net.LinkUp("node-2") }},
	} {
		tc.begin()
		begun := time.Now()
		c.Eventually(routeTime, "nobody reaches the node that is "+tc.what, func() bool {
			return strings.Count(p.trouble(begun), "asks peer-2") == 2
		})
		tc.end()
		p.mustReach(routeTime, tc.after)
	}
}
