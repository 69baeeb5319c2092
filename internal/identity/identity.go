// Package identity says who a process is and who it is talking to: certificates and what is in them, the TLS settings
// of servers and clients, and the token with which a newcomer joins. Agents, coordinators and the command line share it;
// coordinator/trust alone signs, keeps tokens and knows what each role may do.
//
// A certificate names its holder in one URI: muster://coordinator/NAME, muster://node/NAME or
// muster://user/NAME?role=ROLE. All keys are ECDSA on P-256 or P-384, or Ed25519; all connections are TLS 1.3.
package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// The errors of this package, each one clear line where it is wrapped.
var (
	// ErrWrongCA means that the other side's certificate was not signed by the cluster that was expected.
	ErrWrongCA = errors.New("not this cluster's CA")
	// ErrClock means that a certificate is not valid at this machine's time.
	ErrClock = errors.New("certificate is not valid at this machine's time")
	// ErrToken means that a text is no join token.
	ErrToken = errors.New("not a join token")
	// ErrNoIdentity means that a certificate says nothing that muster understands, or that there is none.
	ErrNoIdentity = errors.New("no identity")
)

// MaxRequest bounds a certificate signing request, in bytes.
const MaxRequest = 8 << 10

// Kind is what sort of thing a certificate speaks for.
type Kind string

// The kinds.
const (
	KindCoordinator Kind = "coordinator"
	KindNode        Kind = "node"
	KindUser        Kind = "user"
)

// Role is what a certificate or token may do.
type Role string

// The roles. Each of viewer, editor and admin may do what the one before it may.
const (
	RoleNode   Role = "node"
	RoleViewer Role = "viewer"
	RoleEditor Role = "editor"
	RoleAdmin  Role = "admin"
)

// Valid tells whether there is such a role.
func (r Role) Valid() bool {
	return r == RoleNode || r == RoleViewer || r == RoleEditor || r == RoleAdmin
}

// Principal is who a certificate speaks for.
type Principal struct {
	Kind Kind
	Name string
	// Role is RoleNode for nodes, one of the others for users, and empty for coordinators.
	Role Role
}

// String is for logs: "node/node-1", "user/ada (admin)".
func (p Principal) String() string {
	if p.Kind == KindUser {
		return fmt.Sprintf("%s/%s (%s)", p.Kind, p.Name, p.Role)
	}
	return string(p.Kind) + "/" + p.Name
}

// URI is the principal as its certificate has it.
func (p Principal) URI() *url.URL {
	u := &url.URL{Scheme: "muster", Host: string(p.Kind), Path: "/" + p.Name}
	if p.Kind == KindUser {
		u.RawQuery = url.Values{"role": {string(p.Role)}}.Encode()
	}
	return u
}

// FromCertificate reads the principal out of a certificate that has been verified. ErrNoIdentity when there is not
// exactly one.
func FromCertificate(c *x509.Certificate) (Principal, error) {
	var found []*url.URL
	for _, u := range c.URIs {
		if u.Scheme == "muster" {
			found = append(found, u)
		}
	}
	if len(found) != 1 {
		return Principal{}, fmt.Errorf("certificate of %q: %w", c.Subject.CommonName, ErrNoIdentity)
	}
	u := found[0]
	p := Principal{Kind: Kind(u.Host), Name: strings.TrimPrefix(u.Path, "/")}
	switch p.Kind {
	case KindNode:
		p.Role = RoleNode
	case KindUser:
		p.Role = Role(u.Query().Get("role"))
	}
	if p.Name == "" || p != (Principal{KindCoordinator, p.Name, ""}) && p != (Principal{KindNode, p.Name, RoleNode}) &&
		(p.Kind != KindUser || p.Role == RoleNode || !p.Role.Valid()) {
		return Principal{}, fmt.Errorf("certificate for %s: %w", u, ErrNoIdentity)
	}
	return p, nil
}

// FromTLS reads the principal of the other side of a connection. ErrNoIdentity when it has shown no certificate, or one
// that was not verified.
func FromTLS(s *tls.ConnectionState) (Principal, error) {
	if s == nil || len(s.PeerCertificates) == 0 || len(s.VerifiedChains) == 0 {
		return Principal{}, fmt.Errorf("no client certificate: %w", ErrNoIdentity)
	}
	return FromCertificate(s.PeerCertificates[0])
}

// NewKey makes a private key.
func NewKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// Request makes a certificate signing request for the key, DER. name is who asks: a person's name, or a node's.
func Request(key *ecdsa.PrivateKey, name string) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
}

// ParseRequest checks a certificate signing request from outside: its size, its signature, its kind of key. Nothing but
// the key and the name is to be taken from it.
func ParseRequest(der []byte) (*x509.CertificateRequest, error) {
	if len(der) > MaxRequest {
		return nil, fmt.Errorf("%d bytes, at most %d", len(der), MaxRequest)
	}
	r, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, errors.New("not a certificate signing request in DER")
	}
	if err := r.CheckSignature(); err != nil {
		return nil, errors.New("its signature does not fit its key")
	}
	switch key := r.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return nil, fmt.Errorf("a key on curve %s: want P-256 or P-384", key.Curve.Params().Name)
		}
	default:
		return nil, fmt.Errorf("a key of kind %s: want ECDSA or Ed25519", r.PublicKeyAlgorithm)
	}
	return r, nil
}

// CAHash is what a join token says of the CA: SHA-256 over its public key, in hex.
func CAHash(ca *x509.Certificate) string {
	sum := sha256.Sum256(ca.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}
