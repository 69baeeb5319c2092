package main

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// token is what both tiers know: it is read at each request, so that it may change while they run.
func token() (string, error) {
	text, err := os.ReadFile(os.Getenv("TOKEN_FILE"))
	return strings.TrimSpace(string(text)), err
}

// serve answers until ctx ends, and then finishes what it has begun.
func serve(ctx context.Context, mux *http.ServeMux) error {
	s := &http.Server{Addr: address(), Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		ending, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = s.Shutdown(ending) // what is left after that is lost
	})
	fmt.Println("serving on", s.Addr)
	err := s.ListenAndServe()
	if !errors.Is(err, http.ErrServerClosed) {
		stop()
		return err
	}
	<-done
	return nil
}

func back(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		want, err := token()
		if err != nil || subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("Bearer "+want)) != 1 {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, "%s from %s\n", os.Getenv("GREETING"), os.Getenv("POD_NAME"))
	})
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
	return serve(ctx, mux)
}

// front asks the back end for every request. Its liveness (/healthz) does not depend on the back end: a front end that is started
// again when the back end is down helps nobody. Its readiness (/ready) does.
func front(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("/ready", func(w http.ResponseWriter, r *http.Request) {
		if _, err := ask(r.Context(), "/ready"); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		said, err := ask(r.Context(), "/")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintf(w, "%s says: %s", os.Getenv("POD_NAME"), said)
	})
	return serve(ctx, mux)
}

// ask asks one of the pods behind the name in $BACKEND, and the next one where that can't be reached: a pod that has gone a
// moment ago may still have been named.
func ask(ctx context.Context, path string) (said string, err error) {
	host, port, err := net.SplitHostPort(os.Getenv("BACKEND"))
	if err != nil {
		return "", fmt.Errorf("BACKEND: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	addresses, err := resolver().LookupHost(ctx, host)
	if err != nil {
		return "", err
	}
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	for _, a := range addresses {
		if said, err = askOne(ctx, "http://"+net.JoinHostPort(a, port)+path); err == nil {
			return said, nil
		}
	}
	return "", err
}

// resolver asks whom /etc/resolv.conf names, or where muster says that it answers: an ordinary user's agent can't do that at the
// usual port.
func resolver() *net.Resolver {
	at := os.Getenv("MUSTER_DNS")
	if at == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, at)
	}}
}

// client keeps no connection: the next request goes to a pod that is there now.
var client = &http.Client{Transport: &http.Transport{
	DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 500 * time.Millisecond}).DialContext,
}}

func askOne(ctx context.Context, url string) (string, error) {
	secret, err := token()
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+secret)
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return string(text), err
}
