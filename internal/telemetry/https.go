package telemetry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/musterhq/muster/internal/identity"
)

const (
	// stopTimeout is how long requests in flight may take when the server stops.
	stopTimeout = 2 * time.Second
	// maxHeader bounds the header of a request, in bytes.
	maxHeader = 64 << 10
)

// The values of --metrics-auth.
const (
	AuthRequired = "required"
	AuthNone     = "none"
)

// HTTPSConfig says how a server's HTTPS behaves.
type HTTPSConfig struct {
	// Listener is bound already, without TLS; Run closes it.
	Listener net.Listener
	// TLS is the server's: see identity.ServerTLS.
	TLS *tls.Config
	// MetricsAuth is AuthRequired, or AuthNone to let everybody read metrics and health. Nothing else is ever open.
	MetricsAuth string
	// Bearer says who a bearer token stands for; nil: bearer tokens are refused.
	Bearer func(ctx context.Context, token string) (identity.Principal, error)
}

// HTTPSDeps are what is served.
type HTTPSDeps struct {
	Metrics *Metrics
	Health  *Health
	// Probes serves /metrics/probes, to those who may read the metrics; nil: 404.
	Probes http.Handler
	// Handler gets every other path, from callers who have shown who they are; see PrincipalOf. nil: 404.
	Handler http.Handler
	Log     *slog.Logger
}

// HTTPS serves /metrics, /metrics/probes, /healthz and /readyz, and the handler that it was given.
type HTTPS struct {
	cfg    HTTPSConfig
	deps   HTTPSDeps
	server *http.Server
}

// NewHTTPS checks cfg; nothing is served before Run.
func NewHTTPS(cfg HTTPSConfig, deps HTTPSDeps) (*HTTPS, error) {
	if cfg.MetricsAuth != AuthRequired && cfg.MetricsAuth != AuthNone {
		return nil, fmt.Errorf("--metrics-auth %q: want %s or %s", cfg.MetricsAuth, AuthRequired, AuthNone)
	}
	h := &HTTPS{cfg: cfg, deps: deps}
	mux := http.NewServeMux()
	guarded := h.identified
	if cfg.MetricsAuth == AuthNone {
		guarded = func(next http.Handler) http.Handler { return next }
	}
	mux.Handle("GET /metrics", guarded(deps.Metrics.Handler()))
	if deps.Probes != nil {
		mux.Handle("GET /metrics/probes", guarded(deps.Probes))
	}
	mux.Handle("GET /healthz", guarded(http.HandlerFunc(live)))
	mux.Handle("GET /readyz", guarded(http.HandlerFunc(deps.Health.ready)))
	rest := deps.Handler
	if rest == nil {
		rest = http.NotFoundHandler()
	}
	mux.Handle("/", h.identified(rest))
	h.server = &http.Server{
		Handler: mux, TLSConfig: cfg.TLS.Clone(),
		ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHeader,
		ErrorLog: log.New(&errorLog{deps.Log}, "", 0),
	}
	return h, nil
}

// Run serves until ctx ends, gives requests in flight 2 s, and returns nil. An error is a server that failed.
func (h *HTTPS) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		// The certificate comes from the TLS config.
		if err := h.server.ServeTLS(h.cfg.Listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("https on %s: %w", h.cfg.Listener.Addr(), err)
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		defer cancel()
		if h.server.Shutdown(limit) != nil {
			_ = h.server.Close() // what is cut off has had its time
		}
		return nil
	})
	return g.Wait()
}

type principalKey struct{}

// PrincipalOf is who makes a request: a handler of HTTPS always has one.
func PrincipalOf(ctx context.Context) identity.Principal {
	p, _ := ctx.Value(principalKey{}).(identity.Principal)
	return p
}

// identified lets only requests through that show a client certificate of the cluster or a bearer token.
func (h *HTTPS) identified(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := h.identify(r)
		if err != nil {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), principalKey{}, p)))
	})
}

func (h *HTTPS) identify(r *http.Request) (identity.Principal, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		p, err := identity.FromTLS(r.TLS)
		if err != nil {
			return p, errors.New("show a client certificate or a bearer token")
		}
		return p, nil
	}
	token, ok := strings.CutPrefix(header, "Bearer ")
	if !ok {
		return identity.Principal{}, errors.New("authorization: want a bearer token")
	}
	if h.cfg.Bearer == nil {
		return identity.Principal{}, errors.New("bearer tokens on an agent: not built yet; show a client certificate")
	}
	p, err := h.cfg.Bearer(r.Context(), token)
	if err != nil {
		h.deps.Log.Info("bearer token refused", "remote", r.RemoteAddr, "err", err)
		return p, errors.New("the bearer token is not accepted")
	}
	return p, nil
}

// errorLog takes what net/http says: mostly handshakes of strangers.
type errorLog struct{ log *slog.Logger }

func (w *errorLog) Write(line []byte) (int, error) {
	w.log.Debug("https", "says", strings.TrimSpace(string(line)))
	return len(line), nil
}
