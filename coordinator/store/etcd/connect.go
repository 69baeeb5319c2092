package etcd

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ClientConfig says where a cluster of one's own is, and as whom to ask it.
type ClientConfig struct {
	// Endpoints are URLs, http://HOST:PORT or https://HOST:PORT, all of one kind.
	Endpoints []string
	// CA, Cert and Key are PEM files, for https: who the servers' certificates are signed by (default: whom this machine trusts),
	// and what to show them.
	CA, Cert, Key string
	// User and PasswordFile are for a cluster with authentication; the file has the password, and perhaps a newline.
	User, PasswordFile string
	Codec              Codec
	Log                *slog.Logger
}

const (
	// tryTimeout bounds one try to reach the cluster, retryPause is between two.
	tryTimeout, retryPause = 5 * time.Second, time.Second
	// remind is how often it is said that the cluster does not answer.
	remind = 30 * time.Second
)

// Check finds what is wrong with the configuration; errors name the flags.
func (c *ClientConfig) Check() error {
	_, err := c.client()
	return err
}

func (c *ClientConfig) client() (clientv3.Config, error) {
	out := clientv3.Config{
		Endpoints: c.Endpoints, DialTimeout: tryTimeout, Username: c.User,
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 3 * time.Second, PermitWithoutStream: true,
	}
	scheme := ""
	for _, e := range c.Endpoints {
		u, err := url.Parse(e)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Port() == "" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
			return out, fmt.Errorf("--etcd-endpoints %s: want https://HOST:PORT or http://HOST:PORT", e)
		}
		if scheme != "" && u.Scheme != scheme {
			return out, fmt.Errorf("--etcd-endpoints %s: all of them with TLS, or none", e)
		}
		scheme = u.Scheme
	}
	if scheme == "http" && c.CA+c.Cert+c.Key != "" {
		return out, errors.New("--etcd-ca, --etcd-cert and --etcd-key are for endpoints with https://")
	}
	if (c.Cert == "") != (c.Key == "") {
		return out, errors.New("--etcd-cert and --etcd-key go together")
	}
	if (c.User == "") != (c.PasswordFile == "") {
		return out, errors.New("--etcd-user and --etcd-password-file go together")
	}
	if c.PasswordFile != "" {
		text, err := os.ReadFile(c.PasswordFile)
		if err != nil {
			return out, fmt.Errorf("--etcd-password-file: %w", err)
		}
		out.Password = strings.TrimRight(string(text), "\r\n")
	}
	if scheme == "http" {
		return out, nil
	}
	out.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return out, fmt.Errorf("--etcd-ca: %w", err)
		}
		if out.TLS.RootCAs = x509.NewCertPool(); !out.TLS.RootCAs.AppendCertsFromPEM(pem) {
			return out, fmt.Errorf("--etcd-ca %s: no certificate in PEM in it", c.CA)
		}
	}
	if c.Cert != "" {
		// Read at each handshake: a certificate that is renewed on disk is used without a restart.
		if _, err := tls.LoadX509KeyPair(c.Cert, c.Key); err != nil {
			return out, fmt.Errorf("--etcd-cert %s, --etcd-key %s: %w", c.Cert, c.Key, err)
		}
		out.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
			return &pair, err
		}
	}
	return out, nil
}

// Connect returns a store on a cluster of one's own once that answers, however long it takes: it may start after us. That we may not
// come in is an error at once.
func Connect(ctx context.Context, cfg ClientConfig) (*Store, error) {
	cc, err := cfg.client()
	if err != nil {
		return nil, err
	}
	stopping := &atomic.Bool{}
	cc.Logger = zap.New(zapToSlog{handler: cfg.Log.Handler(), min: zapcore.ErrorLevel, stopping: stopping})
	var told time.Time
	for {
		c, err := reach(ctx, cc)
		if err == nil {
			s := NewFromClient(c, cfg.Codec, cfg.Log)
			s.stopping = stopping
			return s, nil
		}
		if refused(err) {
			return nil, fmt.Errorf("etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
		}
		if ctx.Err() == nil && time.Since(told) > remind {
			told = time.Now()
			cfg.Log.Warn("etcd does not answer: waiting for it", "endpoints", cfg.Endpoints, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(retryPause):
		}
	}
}

// reach connects and reads something; the error says why not, where the client itself only says that it took too long.
func reach(ctx context.Context, cc clientv3.Config) (*clientv3.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	c, err := clientv3.New(cc) // with a user it asks for a token at once
	if err == nil {
		if _, err = c.Get(ctx, root, clientv3.WithCountOnly(), clientv3.WithPrefix()); err == nil {
			return c, nil
		}
		_ = c.Close()
	}
	if refused(err) {
		return nil, err
	}
	for _, e := range cc.Endpoints {
		if why := dial(ctx, e, cc.TLS); why != nil {
			return nil, why
		}
	}
	return nil, err
}

// dial tries an endpoint without etcd's client, for the reason why it can not be reached.
func dial(ctx context.Context, endpoint string, cfg *tls.Config) error {
	u, err := url.Parse(endpoint)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	d := net.Dialer{}
	if cfg == nil {
		c, err := d.DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return err
		}
		return c.Close()
	}
	own := cfg.Clone()
	c, err := (&tls.Dialer{NetDialer: &d, Config: own}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return fmt.Errorf("%s: %w", u.Host, err)
	}
	return c.Close()
}

// refused tells of an answer that waiting does not change.
func refused(err error) bool {
	if errors.Is(err, rpctypes.ErrAuthFailed) || errors.Is(err, rpctypes.ErrAuthNotEnabled) || errors.Is(err, rpctypes.ErrPermissionDenied) ||
		errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrGRPCAuthFailed) || errors.Is(err, rpctypes.ErrGRPCUserEmpty) ||
		errors.Is(err, rpctypes.ErrGRPCAuthNotEnabled) {
		return true
	}
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated:
		return true
	}
	return false
}
