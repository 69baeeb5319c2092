package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// Holder has the certificate that a process shows, and lets it be replaced while connections are being made: TLS takes
// the newest with each handshake. It is safe for concurrent use; the zero value holds none.
type Holder struct {
	cert atomic.Pointer[tls.Certificate]
}

// Set replaces the certificate.
func (h *Holder) Set(c *tls.Certificate) { h.cert.Store(c) }

// Get returns the certificate, nil before Set.
func (h *Holder) Get() *tls.Certificate { return h.cert.Load() }

// RenewAt is when a certificate should be replaced: at two thirds of its life. c.Leaf must be set.
func RenewAt(c *tls.Certificate) time.Time {
	life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
	return c.Leaf.NotBefore.Add(life * 2 / 3)
}

// ServerTLS is how a server speaks: it shows the holder's certificate, and takes clients with a certificate of the
// cluster or with none. What the latter may do is for the server to say.
func ServerTLS(ca *x509.Certificate, h *Holder) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.VerifyClientCertIfGiven,
		ClientCAs:  pool,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := h.Get(); c != nil {
				return c, nil
			}
			return nil, errors.New("no certificate yet")
		},
	}
}

// ClientTLS is how agents and clients reach a coordinator at whatever address: the other side must be a coordinator of
// the cluster with this CA. h may be nil: then no certificate is shown.
func ClientTLS(ca *x509.Certificate, h *Holder) *tls.Config {
	return client(h, func(chain []*x509.Certificate) error { return verify(chain, ca) })
}

// JoinTLS is how a newcomer reaches a coordinator with nothing but a token: the other side must be a coordinator of the
// cluster whose CA the token names. The handshake is over before anything secret is sent.
func JoinTLS(t Token) *tls.Config {
	return client(nil, func(chain []*x509.Certificate) error {
		for _, c := range chain[1:] {
			if c.IsCA && CAHash(c) == t.CAHash {
				return verify(chain, c)
			}
		}
		return fmt.Errorf("%w: the coordinator at this address belongs to another cluster than the token", ErrWrongCA)
	})
}

// client checks the other side by verify instead of by its address: coordinators move, and clients reach them under
// names that no certificate can foresee.
func client(h *Holder, verify func(chain []*x509.Certificate) error) *tls.Config {
	c := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 {
				return fmt.Errorf("the coordinator has shown no certificate: %w", ErrNoIdentity)
			}
			return verify(s.PeerCertificates)
		},
	}
	if h != nil {
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if cert := h.Get(); cert != nil {
				return cert, nil
			}
			return &tls.Certificate{}, nil // none is shown
		}
	}
	return c
}

// verify holds a server's chain to be a coordinator's of that CA.
func verify(chain []*x509.Certificate, ca *x509.Certificate) error {
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	leaf := chain[0]
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	if invalid := (x509.CertificateInvalidError{}); errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return fmt.Errorf("%w: the coordinator's lasts from %s to %s, and here it is %s: is this clock right?", ErrClock,
			leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
	}
	if err != nil {
		return fmt.Errorf("%w: the coordinator at this address belongs to another cluster", ErrWrongCA)
	}
	p, err := FromCertificate(leaf)
	if err != nil {
		return err
	}
	if p.Kind != KindCoordinator {
		return fmt.Errorf("%s answers where a coordinator should: %w", p, ErrNoIdentity)
	}
	return nil
}
