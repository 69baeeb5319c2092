// Command sample is the program that muster's examples run. It does little, and can be made to fail.
//
//	sample web        serve HTTP on $POD_IP:$PORT: /, /healthz, /ready, the last two after $DELAY, such as 80ms; POST or
//	                  GET /fail makes /healthz answer 500
//	sample echo       accept TCP connections on $POD_IP:$PORT and send back what comes
//	sample worker     write a heartbeat into $HOME/heartbeat each second
//	sample check      exit 0 while the heartbeat is younger than three seconds: an exec probe
//	sample counter    count aloud, and into $COUNTER_FILE where it is set, with the pod's epoch in each line
//	sample back       serve HTTP on $POD_IP:$PORT for who knows the token in $TOKEN_FILE: $GREETING
//	sample front      serve HTTP on $POD_IP:$PORT: what the back end at $BACKEND, NAME:PORT, says
//	sample get URL    print what a URL answers; exit 1 unless it is a 2xx
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "sample:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	verb := ""
	if len(args) > 0 {
		verb = args[0]
	}
	switch verb {
	case "web":
		return web(ctx)
	case "echo":
		return echo(ctx)
	case "worker":
		return worker(ctx)
	case "check":
		return check()
	case "counter":
		return counter(ctx)
	case "back":
		return back(ctx)
	case "front":
		return front(ctx)
	case "get":
		if len(args) == 2 {
			return get(ctx, args[1])
		}
	}
	return errors.New("usage: sample web|echo|worker|check|counter|back|front|get URL")
}

// address is where to listen: the pod's own address, so that two pods of a node may use one port.
func address() string {
	port := os.Getenv("PORT")
	if port == "" {
		port = "8080"
	}
	return net.JoinHostPort(os.Getenv("POD_IP"), port)
}

func web(ctx context.Context) error {
	var sick atomic.Bool
	delay, err := time.ParseDuration(cmp.Or(os.Getenv("DELAY"), "0s"))
	if err != nil {
		return fmt.Errorf("DELAY: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "hello from %s on %s\n", os.Getenv("POD_NAME"), os.Getenv("NODE_NAME"))
	})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(delay)
		fmt.Fprintln(w, "ready")
	})
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(delay)
		if sick.Load() {
			http.Error(w, "told to fail", http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("/fail", func(w http.ResponseWriter, _ *http.Request) {
		sick.Store(true)
		fmt.Fprintln(w, "/healthz fails from now on")
	})
	s := &http.Server{Addr: address(), Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stopped := context.AfterFunc(ctx, func() { _ = s.Close() }) // it is ending anyway
	defer stopped()
	fmt.Println("serving on", s.Addr)
	if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func echo(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address())
	if err != nil {
		return err
	}
	stopped := context.AfterFunc(ctx, func() { _ = l.Close() }) // it is ending anyway
	defer stopped()
	fmt.Println("echoing on", l.Addr())
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c) // whoever closes ends it
		}()
	}
}

func heartbeat() string { return filepath.Join(os.Getenv("HOME"), "heartbeat") }

// each calls f now and then every second until ctx ends.
func each(ctx context.Context, f func(n int) error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 1; ; n++ {
		if err := f(n); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func worker(ctx context.Context) error {
	return each(ctx, func(n int) error {
		fmt.Println("heartbeat", n)
		return os.WriteFile(heartbeat(), fmt.Appendln(nil, n), 0o644)
	})
}

func check() error {
	fi, err := os.Stat(heartbeat())
	if err != nil {
		return err
	}
	if old := time.Since(fi.ModTime()); old > 3*time.Second {
		return fmt.Errorf("the last heartbeat is %v old", old.Round(time.Millisecond))
	}
	return nil
}

func counter(ctx context.Context) error {
	out := os.Stdout
	if path := os.Getenv("COUNTER_FILE"); path != "" {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		out = f
	}
	return each(ctx, func(n int) error {
		_, err := fmt.Fprintf(out, "epoch %s count %d on %s\n", os.Getenv("MUSTER_EPOCH"), n, os.Getenv("NODE_NAME"))
		return err
	})
}

func get(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(os.Stdout, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return nil
}
