package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	"github.com/musterhq/muster/internal/identity"
)

const (
	// identityFile has the node's key and certificate, in the data directory.
	identityFile = "identity.pem"
	// joinTimeout bounds one attempt to join, joinRetry is the pause between two.
	joinTimeout, joinRetry = 10 * time.Second, time.Second
)

// identity loads the node's certificate, or gets one for the token. It tries on while no coordinator answers.
func (a *Agent) identity(ctx context.Context, dir string) (*identity.Credentials, error) {
	path := filepath.Join(dir, identityFile)
	creds, err := identity.Load(path)
	switch {
	case err == nil:
		if p := creds.Principal(); p.Kind != identity.KindNode || p.Name != a.cfg.Node {
			return nil, fmt.Errorf("%s is for %s, not for node %s", path, p, a.cfg.Node)
		}
		return creds, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case a.cfg.Token == "":
		return nil, fmt.Errorf("node %s has no certificate yet: pass --token with what \"muster token create\" prints", a.cfg.Node)
	}
	token, err := identity.ParseToken(a.cfg.Token)
	if err != nil {
		return nil, err
	}
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := identity.Request(key, a.cfg.Node)
	if err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		resp, err := a.join(ctx, a.cfg.Join[n%len(a.cfg.Join)], token, csr)
		if err == nil {
			if creds, err = identity.NewCredentials(key, resp.GetCertificate(), resp.GetCa()); err != nil {
				return nil, fmt.Errorf("join: %w", err)
			}
			a.cfg.Log.Info("joined", "node", a.cfg.Node)
			return creds, creds.Save(path)
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		why := status.Convert(err)
		// gRPC hands on the text of a failed handshake only.
		wrongCA := strings.Contains(why.Message(), identity.ErrWrongCA.Error())
		if why.Code() != codes.Unavailable && why.Code() != codes.DeadlineExceeded || wrongCA {
			return nil, fmt.Errorf("join: %s", why.Message())
		}
		a.cfg.Log.Warn("not joined yet", "err", err)
		if !sleep(ctx, joinRetry) {
			return nil, nil
		}
	}
}

func (a *Agent) join(ctx context.Context, to string, token identity.Token, csr []byte) (*agentv1.JoinResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+to, grpc.WithTransportCredentials(credentials.NewTLS(identity.JoinTLS(token))))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return agentv1.NewAgentServiceClient(conn).Join(ctx, &agentv1.JoinRequest{
		TokenId: token.ID, Secret: token.Secret, Node: a.cfg.Node, Csr: csr,
	})
}

// rotate replaces the certificate at two thirds of its life; while that fails it is tried again each minute.
func (a *Agent) rotate(ctx context.Context, d *dialer, h *identity.Holder, path string, creds *identity.Credentials) error {
	for {
		if !sleep(ctx, time.Until(identity.RenewAt(h.Get()))) {
			return nil
		}
		fresh, err := a.renew(ctx, d, creds)
		if err == nil {
			err = fresh.Save(path)
		}
		if err != nil {
			a.cfg.Log.Warn("certificate not renewed", "err", err)
			if !sleep(ctx, time.Minute) {
				return nil
			}
			continue
		}
		h.Set(fresh.TLS())
		creds = fresh
		a.cfg.Log.Info("certificate renewed")
	}
}

func (a *Agent) renew(ctx context.Context, d *dialer, creds *identity.Credentials) (*identity.Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := identity.Request(key, a.cfg.Node)
	if err != nil {
		return nil, err
	}
	conn, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	resp, err := agentv1.NewAgentServiceClient(conn).RotateCertificate(ctx, &agentv1.RotateCertificateRequest{Csr: csr})
	if err != nil {
		return nil, err
	}
	return identity.NewCredentials(key, resp.GetCertificate(), creds.CA.Raw)
}
