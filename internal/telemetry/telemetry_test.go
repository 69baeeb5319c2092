package telemetry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/musterhq/muster/internal/identity"
)

var quiet = slog.New(slog.DiscardHandler)

func TestLogsAreTextOrJSONFromALevelOn(t *testing.T) {
	var b strings.Builder
	log, err := NewLogger(&b, LogConfig{Format: "json", Level: "warn"})
	if err != nil {
		t.Fatal(err)
	}
	log.Info("hidden")
	log.Warn("shown", "node", "n1")
	var record map[string]any
	if err := json.Unmarshal([]byte(b.String()), &record); err != nil || record["msg"] != "shown" || record["node"] != "n1" {
		t.Errorf("log %q: %v", b.String(), err)
	}
	b.Reset()
	if log, err = NewLogger(&b, LogConfig{Format: "text", Level: "debug"}); err != nil {
		t.Fatal(err)
	}
	log.Debug("shown")
	if !strings.Contains(b.String(), "msg=shown") {
		t.Errorf("log %q", b.String())
	}
	for want, c := range map[string]LogConfig{"--log-format": {"xml", "info"}, "--log-level": {"text", "INFO+2"}} {
		if _, err := NewLogger(&b, c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: error %v", c, err)
		}
	}
}

func TestAPartsMetricsAndNobodyElsesAreServed(t *testing.T) {
	m, err := NewMetrics("agent", "n1", "1.2.3", quiet)
	if err != nil {
		t.Fatal(err)
	}
	count, err := m.Meter("github.com/musterhq/muster/agent/prober").Int64Counter("prober_probe")
	if err != nil {
		t.Fatal(err)
	}
	count.Add(t.Context(), 3)
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	w := &response{header: http.Header{}}
	m.Handler().ServeHTTP(w, request)
	out := w.body.String()
	for _, want := range []string{"prober_probe_total 3", `service_instance_id="n1"`, "go_goroutines", "process_resident_memory_bytes"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "promhttp_") {
		t.Errorf("something from the default registry:\n%s", out)
	}
	for range 2 {
		if err := m.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

type response struct {
	header http.Header
	body   strings.Builder
	status int
}

func (r *response) Header() http.Header         { return r.header }
func (r *response) Write(b []byte) (int, error) { return r.body.Write(b) }
func (r *response) WriteHeader(status int)      { r.status = status }

func TestReadinessNamesEveryCheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Health{}
		if ok, lines := h.Ready(t.Context()); !ok || len(lines) != 0 {
			t.Errorf("without checks: %v %v", ok, lines)
		}
		h.Check("store", func(context.Context) error { return errors.New("read\nonly") })
		h.Check("gossip", func(context.Context) error { return nil })
		ok, lines := h.Ready(t.Context())
		if got := strings.Join(lines, "; "); ok || got != "[-]store: read only; [+]gossip ok" {
			t.Errorf("%v %q", ok, got)
		}
		h.Check("store", func(context.Context) error { return nil })
		if ok, _ := h.Ready(t.Context()); !ok {
			t.Error("not ready although the check that replaced the failing one holds")
		}
		h.Check("gossip", func(ctx context.Context) error { <-ctx.Done(); time.Sleep(time.Minute); return nil })
		start := time.Now()
		ok, lines = h.Ready(t.Context())
		if took := time.Since(start); ok || took != checkTimeout || !strings.Contains(lines[1], "no answer") {
			t.Errorf("a check that hangs: %v %v after %v", ok, lines, took)
		}
		time.Sleep(2 * time.Minute)
	})
}

// authority signs for tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	ca   *identity.Credentials
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t: t, cert: cert, ca: &identity.Credentials{Key: key, Certificate: cert, CA: cert}}
}

func (a *authority) issue(p identity.Principal) *identity.Holder {
	a.t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{p.URI()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(nil, template, a.cert, key.Public(), a.ca.Key)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := identity.NewCredentials(key, der, a.cert.Raw)
	if err != nil {
		a.t.Fatal(err)
	}
	h := &identity.Holder{}
	h.Set(c.TLS())
	return h
}

func TestWhoMayReadWhatOverHTTPS(t *testing.T) {
	a, stranger := newAuthority(t), newAuthority(t)
	ada := identity.Principal{Kind: identity.KindUser, Name: "ada", Role: identity.RoleViewer}
	bearer := func(_ context.Context, token string) (identity.Principal, error) {
		if token != "good" {
			return identity.Principal{}, errors.New("unknown")
		}
		return identity.Principal{Kind: identity.KindUser, Name: "scraper", Role: identity.RoleViewer}, nil
	}
	for _, row := range []struct {
		name, auth, path string
		bearers          bool
		client           *identity.Holder
		header           string
		status           int
		body             string
	}{
		{"metrics without anything", AuthRequired, "/metrics", true, nil, "", 401, "show a client certificate"},
		{"health without anything", AuthRequired, "/healthz", true, nil, "", 401, ""},
		{"readiness without anything", AuthRequired, "/readyz", true, nil, "", 401, ""},
		{"metrics with a certificate", AuthRequired, "/metrics", true, a.issue(ada), "", 200, "go_goroutines"},
		{"metrics with a token", AuthRequired, "/metrics", true, nil, "Bearer good", 200, "go_goroutines"},
		{"a bad token", AuthRequired, "/metrics", true, nil, "Bearer bad", 401, "not accepted"},
		{"a bad token beside a certificate", AuthRequired, "/metrics", true, a.issue(ada), "Bearer bad", 401, ""},
		{"a password", AuthRequired, "/metrics", true, nil, "Basic YTpi", 401, "want a bearer token"},
		{"a token where there are none", AuthRequired, "/metrics", false, nil, "Bearer good", 401, "not built yet"},
		{"open metrics", AuthNone, "/metrics", true, nil, "", 200, "go_goroutines"},
		{"open health", AuthNone, "/healthz", true, nil, "", 200, "ok"},
		{"open readiness, not ready", AuthNone, "/readyz", true, nil, "", 503, "[-]store: down"},
		{"nothing else is open", AuthNone, "/debug", true, nil, "", 401, ""},
		{"the rest knows who asks", AuthRequired, "/who", true, a.issue(ada), "", 200, "user/ada (viewer)"},
		{"reading only", AuthNone, "POST /metrics", true, nil, "", 401, ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			metrics, err := NewMetrics("agent", "n1", "1", quiet)
			if err != nil {
				t.Fatal(err)
			}
			health := &Health{}
			health.Check("store", func(context.Context) error { return errors.New("down") })
			client := identity.ClientTLS(a.cert, row.client)
			status, body := ask(t, a, HTTPSConfig{MetricsAuth: row.auth}, bearer, row.bearers, metrics, health, client, row.path, row.header)
			if status != row.status || !strings.Contains(body, row.body) {
				t.Errorf("%d %q, want %d with %q", status, body, row.status, row.body)
			}
		})
	}
	t.Run("a stranger's certificate", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		stop := serve(t, l, a, HTTPSConfig{MetricsAuth: AuthNone})
		defer stop()
		client := identity.ClientTLS(a.cert, stranger.issue(ada))
		if _, _, err := get(t, l.Addr().String(), client, "/metrics", ""); err == nil {
			t.Error("served")
		}
	})
}

func serve(t *testing.T, l net.Listener, a *authority, cfg HTTPSConfig) (stop func()) {
	t.Helper()
	metrics, err := NewMetrics("agent", "n1", "1", quiet)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listener = l
	cfg.TLS = identity.ServerTLS(a.cert, a.issue(identity.Principal{Kind: identity.KindCoordinator, Name: "c"}))
	return run(t, cfg, HTTPSDeps{Metrics: metrics, Health: &Health{}, Log: quiet})
}

func run(t *testing.T, cfg HTTPSConfig, deps HTTPSDeps) (stop func()) {
	t.Helper()
	server, err := NewHTTPS(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func ask(t *testing.T, a *authority, cfg HTTPSConfig, bearer func(context.Context, string) (identity.Principal, error), bearers bool,
	metrics *Metrics, health *Health, client *tls.Config, path, header string,
) (int, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listener = l
	cfg.TLS = identity.ServerTLS(a.cert, a.issue(identity.Principal{Kind: identity.KindCoordinator, Name: "c"}))
	if bearers {
		cfg.Bearer = bearer
	}
	defer run(t, cfg, HTTPSDeps{
		Metrics: metrics, Health: health, Log: quiet,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, PrincipalOf(r.Context()).String())
		}),
	})()
	status, body, err := get(t, l.Addr().String(), client, path, header)
	if err != nil {
		t.Fatal(err)
	}
	return status, body
}

func get(t *testing.T, address string, client *tls.Config, path, header string) (int, string, error) {
	t.Helper()
	method, path, ok := strings.Cut(path, " ")
	if !ok {
		method, path = http.MethodGet, method
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != "" {
		r.Header.Set("Authorization", header)
	}
	transport := &http.Transport{TLSClientConfig: client}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

func TestAnUnknownMetricsAuthIsRefused(t *testing.T) {
	if _, err := NewHTTPS(HTTPSConfig{MetricsAuth: "some"}, HTTPSDeps{}); err == nil || !strings.Contains(err.Error(), "--metrics-auth") {
		t.Errorf("error %v", err)
	}
}
