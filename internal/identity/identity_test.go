package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// authority signs for tests.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-1000 * time.Hour), NotAfter: time.Now().Add(1000 * time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{t, key, cert}
}

// issue makes credentials whose certificate is valid from -before to +after from now.
func (a *authority) issue(p Principal, before, after time.Duration) *Credentials {
	a.t.Helper()
	key, err := NewKey()
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-before), NotAfter: time.Now().Add(after), URIs: []*url.URL{p.URI()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(nil, template, a.cert, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := NewCredentials(key, der, a.cert.Raw)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

var (
	coordinator = Principal{Kind: KindCoordinator, Name: "c"}
	node        = Principal{Kind: KindNode, Name: "node-1", Role: RoleNode}
)

func TestAPrincipalSurvivesItsCertificate(t *testing.T) {
	a := newAuthority(t)
	for _, p := range []Principal{
		coordinator, node, {KindUser, "ada@example.org", RoleAdmin}, {KindUser, "grace+1", RoleViewer}, {KindNode, "a.b.c", RoleNode},
	} {
		c := a.issue(p, time.Hour, time.Hour)
		if got := c.Principal(); got != p {
			t.Errorf("got %v, want %v", got, p)
		}
	}
}

func TestCertificatesThatSayNothingClearAreNobody(t *testing.T) {
	for _, uris := range [][]string{
		{},
		{"https://node/n1"},
		{"muster://node/n1", "muster://node/n2"},
		{"muster://node/"},
		{"muster://king/n1"},
		{"muster://user/ada"},
		{"muster://user/ada?role=node"},
		{"muster://user/ada?role=god"},
	} {
		c := &x509.Certificate{}
		for _, u := range uris {
			parsed, err := url.Parse(u)
			if err != nil {
				t.Fatal(err)
			}
			c.URIs = append(c.URIs, parsed)
		}
		if p, err := FromCertificate(c); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("%v is %v, %v", uris, p, err)
		}
	}
	if _, err := FromTLS(&tls.ConnectionState{PeerCertificates: []*x509.Certificate{newAuthority(t).issue(node, 1, time.Hour).Certificate}}); !errors.Is(err, ErrNoIdentity) {
		t.Errorf("a certificate that nobody verified counts: %v", err)
	}
}

func TestATokenSurvivesItsText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tok := Token{
			CAHash: rapid.StringMatching(`[0-9a-f]{64}`).Draw(t, "hash"), ID: rapid.StringMatching(`[a-z0-9]{1,32}`).Draw(t, "id"),
			Secret: rapid.StringMatching(`[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]`).Draw(t, "secret"),
		}
		got, err := ParseToken(" " + tok.String() + "\n")
		if err != nil || got != tok {
			t.Fatalf("%s: %+v, %v", tok, got, err)
		}
		// Cut anywhere, it is refused, and the error keeps the secret to itself.
		text := tok.String()
		cut := text[:rapid.IntRange(0, len(text)-1).Draw(t, "cut")]
		if _, err := ParseToken(cut); !errors.Is(err, ErrToken) || strings.Contains(err.Error(), tok.Secret[:8]) {
			t.Fatalf("%q: %v", cut, err)
		}
	})
}

func FuzzTokensFromOutsideAreWholeOrRefused(f *testing.F) {
	f.Add("muster:v1:::")
	f.Add("muster:v2:a:b:c")
	f.Fuzz(func(t *testing.T, text string) {
		if tok, err := ParseToken(text); err == nil && tok.String() != strings.TrimSpace(text) {
			t.Errorf("%q became %q", text, tok)
		}
	})
}

func TestRequestsAreCheckedBeforeTheyAreSigned(t *testing.T) {
	request := func(key any) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "n"}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	ec := func(c elliptic.Curve) *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(c, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := request(ec(elliptic.P256()))
	forged[len(forged)-1] ^= 1
	for _, row := range []struct {
		name string
		der  []byte
		want string
	}{
		{"P-256", request(ec(elliptic.P256())), ""},
		{"P-384", request(ec(elliptic.P384())), ""},
		{"Ed25519", request(ed), ""},
		{"P-521", request(ec(elliptic.P521())), "P-521"},
		{"RSA", request(weak), "RSA"},
		{"forged", forged, "signature"},
		{"garbage", []byte("garbage"), "not a certificate signing request"},
		{"nothing", nil, "not a certificate signing request"},
		{"too large", make([]byte, MaxRequest+1), "at most"},
	} {
		_, err := ParseRequest(row.der)
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}

// handshake connects a client to a server and returns what each says of it.
func handshake(t *testing.T, server, client *tls.Config) (atServer, atClient error, state tls.ConnectionState) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s := tls.Server(a, server)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		err := s.HandshakeContext(ctx)
		if err == nil {
			_, err = s.Write([]byte("x"))
		} else {
			a.Close()
		}
		done <- err
	}()
	c := tls.Client(b, client)
	atClient = c.HandshakeContext(ctx)
	if atClient == nil {
		_, atClient = c.Read(make([]byte, 1)) // what the server thinks of the client's certificate comes after
	}
	b.Close()
	return <-done, atClient, s.ConnectionState()
}

func TestWhoTrustsWhom(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	hold := func(c *Credentials) *Holder {
		h := &Holder{}
		h.Set(c.TLS())
		return h
	}
	good := a.issue(coordinator, time.Hour, time.Hour)
	joining := JoinTLS(Token{CAHash: CAHash(a.cert)})
	// An impostor that shows the right CA behind its own certificate.
	impostor := other.issue(coordinator, time.Hour, time.Hour)
	impostor.CA = a.cert
	for _, row := range []struct {
		name   string
		server *Credentials
		client *tls.Config
		want   error
		who    Principal
	}{
		{"node to coordinator", good, ClientTLS(a.cert, hold(a.issue(node, time.Hour, time.Hour))), nil, node},
		{"nobody to coordinator", good, ClientTLS(a.cert, nil), nil, Principal{}},
		{"holder without a certificate", good, ClientTLS(a.cert, &Holder{}), nil, Principal{}},
		{"newcomer to coordinator", good, joining, nil, Principal{}},
		{"newcomer to another cluster", other.issue(coordinator, time.Hour, time.Hour), joining, ErrWrongCA, Principal{}},
		{"newcomer to an impostor", impostor, joining, ErrWrongCA, Principal{}},
		{"newcomer to a node", a.issue(node, time.Hour, time.Hour), joining, ErrNoIdentity, Principal{}},
		{"node to another cluster", other.issue(coordinator, time.Hour, time.Hour), ClientTLS(a.cert, nil), ErrWrongCA, Principal{}},
		{"node to a node", a.issue(node, time.Hour, time.Hour), ClientTLS(a.cert, nil), ErrNoIdentity, Principal{}},
		{"clock behind", a.issue(coordinator, -time.Hour, 2*time.Hour), ClientTLS(a.cert, nil), ErrClock, Principal{}},
		{"clock ahead", a.issue(coordinator, 2*time.Hour, -time.Hour), joining, ErrClock, Principal{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			atServer, atClient, state := handshake(t, ServerTLS(a.cert, hold(row.server)), row.client)
			if !errors.Is(atClient, row.want) || row.want == nil && atClient != nil {
				t.Fatalf("client: %v, want %v", atClient, row.want)
			}
			if row.want != nil {
				if strings.Contains(atClient.Error(), "\n") {
					t.Errorf("more than one line: %v", atClient)
				}
				return
			}
			if atServer != nil {
				t.Fatalf("server: %v", atServer)
			}
			if got, _ := FromTLS(&state); got != row.who || state.Version != tls.VersionTLS13 {
				t.Errorf("the server sees %v over %x", got, state.Version)
			}
		})
	}
	t.Run("a stranger's certificate", func(t *testing.T) {
		client := ClientTLS(a.cert, hold(other.issue(node, time.Hour, time.Hour)))
		if _, atClient, _ := handshake(t, ServerTLS(a.cert, hold(good)), client); atClient == nil {
			t.Error("let in")
		}
	})
	t.Run("TLS 1.2", func(t *testing.T) {
		old := &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}
		if _, atClient, _ := handshake(t, ServerTLS(a.cert, hold(good)), old); atClient == nil {
			t.Error("let in")
		}
	})
}

func TestACertificateIsReplacedWhileItIsInUse(t *testing.T) {
	a := newAuthority(t)
	h := &Holder{}
	server, client := ServerTLS(a.cert, h), ClientTLS(a.cert, nil)
	if _, err, _ := handshake(t, server, client); err == nil {
		t.Error("a server without a certificate was trusted")
	}
	for range 2 {
		c := a.issue(coordinator, time.Hour, time.Hour)
		h.Set(c.TLS())
		var shown *x509.Certificate
		watching := client.Clone()
		verify := client.VerifyConnection
		watching.VerifyConnection = func(s tls.ConnectionState) error {
			shown = s.PeerCertificates[0]
			return verify(s)
		}
		if _, err, _ := handshake(t, server, watching); err != nil || !shown.Equal(c.Certificate) {
			t.Errorf("the newest certificate is not shown: %v", err)
		}
	}
}

func TestRenewalIsDueAtTwoThirdsOfALife(t *testing.T) {
	c := newAuthority(t).issue(node, 10*time.Hour, 20*time.Hour)
	if d := time.Until(RenewAt(c.TLS())); d < 10*time.Hour-time.Minute || d > 10*time.Hour+time.Minute {
		t.Errorf("due in %v, want 10h", d)
	}
}

func TestCredentialsSurviveTheirFile(t *testing.T) {
	a := newAuthority(t)
	path := filepath.Join(t.TempDir(), "node.pem")
	if _, err := Load(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	c := a.issue(node, time.Hour, time.Hour)
	if err := c.Save(path); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	got, err := Load(path)
	if err != nil || !got.Key.Equal(c.Key) || !got.Certificate.Equal(c.Certificate) || !got.CA.Equal(c.CA) {
		t.Errorf("loaded %+v, %v", got, err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"empty": nil, "cut": whole[:len(whole)/2], "garbage": []byte("garbage"), "large": make([]byte, maxFile+1),
		"two clusters": slices.Concat(whole[:strings.LastIndex(string(whole), "-----BEGIN")], otherCA(t)),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".credentials-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func otherCA(t *testing.T) []byte {
	ca, _, _, err := newAuthority(t).issue(node, time.Hour, time.Hour).PEM()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func TestAnAnswerForAnotherKeyIsRefused(t *testing.T) {
	a := newAuthority(t)
	c := a.issue(node, time.Hour, time.Hour)
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewCredentials(key, c.Certificate.Raw, a.cert.Raw); err == nil {
		t.Error("accepted")
	}
	if _, err := NewCredentials(c.Key, c.Certificate.Raw, newAuthority(t).cert.Raw); !errors.Is(err, ErrWrongCA) {
		t.Errorf("another CA: %v", err)
	}
}
