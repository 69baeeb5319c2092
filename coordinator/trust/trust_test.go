package trust

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/musterhq/muster/coordinator/store"
	"github.com/musterhq/muster/coordinator/store/memory"
	agentv1 "github.com/musterhq/muster/gen/muster/agent/v1"
	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/identity"
	"github.com/musterhq/muster/internal/spec"
)

// clock is the wall clock of a test.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func authority(t testing.TB, s Store) (*Authority, *clock) {
	t.Helper()
	c := &clock{at: time.Now()}
	a, err := Open(t.Context(), s, c.now)
	if err != nil {
		t.Fatal(err)
	}
	return a, c
}

func newRequest(t testing.TB, name string) []byte {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := identity.Request(key, name)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

// token makes one and takes it apart.
func token(t testing.TB, a *Authority, role identity.Role, ttl time.Duration, uses int) identity.Token {
	t.Helper()
	text, err := a.Create(t.Context(), role, ttl, uses)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := identity.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func TestTheCAIsMadeOnceAndKept(t *testing.T) {
	s := memory.New()
	var wg sync.WaitGroup
	as := make([]*Authority, 8)
	for i := range as {
		wg.Go(func() { as[i], _ = authority(t, s) })
	}
	wg.Wait()
	for _, a := range as {
		if !a.CA().Equal(as[0].CA()) || string(a.GossipKey()) != string(as[0].GossipKey()) || a.ClusterID() != as[0].ClusterID() {
			t.Error("two coordinators that started at once have two CAs")
		}
	}
	if n := len(as[0].GossipKey()); n != 32 {
		t.Errorf("a gossip key of %d bytes", n)
	}
	other, _ := authority(t, memory.New())
	if other.ClusterID() == as[0].ClusterID() {
		t.Error("two clusters of one id")
	}
}

func TestADamagedCAIsAnError(t *testing.T) {
	for _, data := range []string{"", "{}", "garbage", `{"certificate":"AAAA"}`} {
		s := memory.New()
		if _, err := s.Commit(t.Context(), store.Txn{Then: []store.Write{{Key: caKey, Value: &spec.Blob{Data: []byte(data)}}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), s, nil); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%q: %v", data, err)
		}
	}
}

// verify holds a certificate to the CA at a time, and reads it.
func verify(t *testing.T, a *Authority, der []byte, at time.Time, usage x509.ExtKeyUsage) (identity.Principal, *x509.Certificate) {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.CA())
	if _, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		t.Errorf("at %v: %v", at, err)
	}
	p, err := identity.FromCertificate(c)
	if err != nil {
		t.Error(err)
	}
	return p, c
}

func TestANodeGetsACertificateThatSpeaksForItAlone(t *testing.T) {
	a, c := authority(t, memory.New())
	tok := token(t, a, identity.RoleNode, 0, 0)
	cert, ca, err := a.Join(t.Context(), tok.ID, tok.Secret, "node-1", newRequest(t, "admin"))
	if err != nil {
		t.Fatal(err)
	}
	if string(ca) != string(a.CA().Raw) || tok.CAHash != identity.CAHash(a.CA()) {
		t.Error("not the CA of the token")
	}
	for _, off := range []time.Duration{-time.Hour, 0, time.Hour} {
		p, leaf := verify(t, a, cert, c.now().Add(off), x509.ExtKeyUsageClientAuth)
		if p != (identity.Principal{Kind: identity.KindNode, Name: "node-1", Role: identity.RoleNode}) {
			t.Errorf("it speaks for %v", p)
		}
		if leaf.IsCA || len(leaf.IPAddresses) != 0 || len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != "node-1.node.muster.internal" {
			t.Errorf("it can pose as %v %v, CA %v", leaf.DNSNames, leaf.IPAddresses, leaf.IsCA)
		}
	}
	fresh, err := a.Rotate("node-1", newRequest(t, "whatever"))
	if err != nil {
		t.Fatal(err)
	}
	if p, _ := verify(t, a, fresh, c.now(), x509.ExtKeyUsageClientAuth); p.Name != "node-1" {
		t.Errorf("rotated for %v", p)
	}
}

func TestAPersonGetsTheTokensRole(t *testing.T) {
	a, c := authority(t, memory.New())
	for _, role := range []identity.Role{identity.RoleViewer, identity.RoleEditor, identity.RoleAdmin} {
		tok := token(t, a, role, time.Hour, 1)
		cert, _, err := a.Login(t.Context(), tok.ID, tok.Secret, newRequest(t, "ada"))
		if err != nil {
			t.Fatal(err)
		}
		p, leaf := verify(t, a, cert, c.now(), x509.ExtKeyUsageClientAuth)
		if p != (identity.Principal{Kind: identity.KindUser, Name: "ada", Role: role}) || len(leaf.ExtKeyUsage) != 1 {
			t.Errorf("%v with %v, want a client with role %s", p, leaf.ExtKeyUsage, role)
		}
	}
}

func TestWhatIsWrongWithAJoinIsSaidInOneLine(t *testing.T) {
	ctx := t.Context()
	a, c := authority(t, memory.New())
	good := token(t, a, identity.RoleNode, time.Hour, 1)
	used := token(t, a, identity.RoleNode, time.Hour, 1)
	if _, _, err := a.Join(ctx, used.ID, used.Secret, "n1", newRequest(t, "")); err != nil {
		t.Fatal(err)
	}
	revoked := token(t, a, identity.RoleNode, time.Hour, 1)
	if err := a.Revoke(ctx, revoked.ID); err != nil {
		t.Fatal(err)
	}
	expired := token(t, a, identity.RoleNode, time.Minute, 1)
	admin := token(t, a, identity.RoleAdmin, time.Hour, 1)
	c.add(2 * time.Minute)
	secretOf := func(tok identity.Token) string { return tok.Secret }
	for _, row := range []struct {
		name, id, secret, node string
		csr                    []byte
		want                   error
	}{
		{"used", used.ID, secretOf(used), "n2", newRequest(t, ""), ErrTokenUsed},
		{"revoked", revoked.ID, secretOf(revoked), "n2", newRequest(t, ""), ErrTokenRevoked},
		{"expired", expired.ID, secretOf(expired), "n2", newRequest(t, ""), ErrTokenExpired},
		{"unknown", "nosuchtoken", secretOf(good), "n2", newRequest(t, ""), ErrTokenUnknown},
		{"another one's secret", good.ID, secretOf(used), "n2", newRequest(t, ""), ErrTokenUnknown},
		{"no secret", good.ID, "", "n2", newRequest(t, ""), ErrTokenUnknown},
		{"used, wrong secret", used.ID, secretOf(good), "n2", newRequest(t, ""), ErrTokenUnknown},
		{"revoked, wrong secret", revoked.ID, secretOf(good), "n2", newRequest(t, ""), ErrTokenUnknown},
		{"an id from a path", "../ca", secretOf(good), "n2", newRequest(t, ""), ErrTokenUnknown},
		{"for people", admin.ID, secretOf(admin), "n2", newRequest(t, ""), ErrTokenRole},
		{"bad name", good.ID, secretOf(good), "Node 2", newRequest(t, ""), ErrRequest},
		{"no name", good.ID, secretOf(good), "", newRequest(t, ""), ErrRequest},
		{"bad request", good.ID, secretOf(good), "n2", []byte("x"), ErrRequest},
		{"large request", good.ID, secretOf(good), "n2", make([]byte, 1<<20), ErrRequest},
	} {
		_, _, err := a.Join(ctx, row.id, row.secret, row.node, row.csr)
		if !errors.Is(err, row.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %v", row.name, err, row.want)
		}
		if err != nil && row.secret != "" && strings.Contains(err.Error(), row.secret) {
			t.Errorf("%s: the error has the secret: %v", row.name, err)
		}
	}
	if _, _, err := a.Join(ctx, good.ID, good.Secret, "n2", newRequest(t, "")); err != nil {
		t.Errorf("refused joins have used the token up: %v", err)
	}
	if _, _, err := a.Login(ctx, good.ID, good.Secret, newRequest(t, "ada")); !errors.Is(err, ErrTokenRole) {
		t.Errorf("a node's token for a person: %v", err)
	}
	if _, _, err := a.Login(ctx, admin.ID, admin.Secret, newRequest(t, "a\nb")); !errors.Is(err, ErrRequest) {
		t.Errorf("a name of two lines: %v", err)
	}
}

func TestALostAnswerCanBeAskedForAgain(t *testing.T) {
	ctx := t.Context()
	a, _ := authority(t, memory.New())
	tok := token(t, a, identity.RoleNode, time.Hour, 1)
	csr := newRequest(t, "")
	for range 3 {
		if _, _, err := a.Join(ctx, tok.ID, tok.Secret, "n1", csr); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := a.Join(ctx, tok.ID, tok.Secret, "n2", csr); !errors.Is(err, ErrTokenUsed) {
		t.Errorf("the same key for another node: %v", err)
	}
}

// TestATokenIsNeverUsedMoreOftenThanItMay lets many redeem at once, with a store that loses races and answers.
func TestATokenIsNeverUsedMoreOftenThanItMay(t *testing.T) {
	csrs := make([][]byte, 12)
	for i := range csrs {
		csrs[i] = newRequest(t, "")
	}
	rapid.Check(t, func(rt *rapid.T) {
		uses := rapid.IntRange(1, 5).Draw(rt, "uses")
		s := &flaky{Store: memory.New(), every: rapid.IntRange(2, 6).Draw(rt, "every")}
		a, _ := authority(t, s)
		tok := token(t, a, identity.RoleNode, time.Hour, uses)
		s.on.Lock()
		s.broken = true
		s.on.Unlock()
		var wg sync.WaitGroup
		errs := make([]error, len(csrs))
		for i, csr := range csrs {
			wg.Go(func() { _, _, errs[i] = a.Join(context.Background(), tok.ID, tok.Secret, fmt.Sprintf("n%d", i), csr) })
		}
		wg.Wait()
		won := 0
		for i, err := range errs {
			switch {
			case err == nil:
				won++
			case !errors.Is(err, ErrTokenUsed):
				rt.Errorf("n%d: %v", i, err)
			}
		}
		if won != uses {
			rt.Errorf("%d joined with %d uses", won, uses)
		}
	})
}

// flaky is a store that does not answer some writes, having made them or not.
type flaky struct {
	Store
	on     sync.Mutex
	broken bool
	every  int
	n      int
}

func (f *flaky) Commit(ctx context.Context, t store.Txn) (int64, error) {
	f.on.Lock()
	f.n++
	n, broken := f.n, f.broken
	f.on.Unlock()
	if broken && n%f.every == 0 {
		if n%(2*f.every) == 0 {
			_, _ = f.Store.Commit(ctx, t)
		}
		return 0, store.ErrUnknown
	}
	return f.Store.Commit(ctx, t)
}

func TestTokensAreBounded(t *testing.T) {
	a, _ := authority(t, memory.New())
	for _, row := range []struct {
		role identity.Role
		ttl  time.Duration
		uses int
		ok   bool
	}{
		{identity.RoleNode, 0, 0, true},
		{identity.RoleNode, MinTTL, 1, true},
		{identity.RoleAdmin, MaxTTL, MaxUses, true},
		{identity.RoleNode, MinTTL - 1, 1, false},
		{identity.RoleNode, MaxTTL + 1, 1, false},
		{identity.RoleNode, -time.Hour, 1, false},
		{identity.RoleNode, time.Hour, -1, false},
		{identity.RoleNode, time.Hour, MaxUses + 1, false},
		{"king", time.Hour, 1, false},
		{"", time.Hour, 1, false},
	} {
		if _, err := a.Create(t.Context(), row.role, row.ttl, row.uses); (err == nil) != row.ok || err != nil && !errors.Is(err, ErrTokenBounds) {
			t.Errorf("%q %v %d: %v", row.role, row.ttl, row.uses, err)
		}
	}
}

func TestTheNumberOfTokensIsBoundedAndExpiredOnesMakeRoom(t *testing.T) {
	a, c := authority(t, memory.New())
	for i := range MaxTokens - 1 {
		if err := a.put(t.Context(), fmt.Sprint(i), 0, &tokenRecord{Role: identity.RoleNode, Expires: c.now().Add(time.Hour), Uses: 1}); err != nil {
			t.Fatal(err)
		}
	}
	token(t, a, identity.RoleNode, time.Hour, 1)
	if _, err := a.Create(t.Context(), identity.RoleNode, time.Hour, 1); !errors.Is(err, ErrTooManyTokens) {
		t.Errorf("error %v", err)
	}
	c.add(time.Hour)
	token(t, a, identity.RoleNode, time.Hour, 1)
	recs, _, err := a.store.List(t.Context(), store.Config)
	if err != nil || len(recs) != 2 {
		t.Errorf("%d records are left, %v, want the CA and one token", len(recs), err)
	}
}

func TestListShowsWhatCanStillBeUsedWithoutSecrets(t *testing.T) {
	ctx := t.Context()
	s := memory.New()
	a, c := authority(t, s)
	two := token(t, a, identity.RoleNode, time.Hour, 2)
	gone := token(t, a, identity.RoleViewer, time.Minute, 1)
	revoked := token(t, a, identity.RoleViewer, time.Hour, 1)
	if err := a.Revoke(ctx, revoked.ID); err != nil {
		t.Fatal(err)
	}
	if _, _, err := a.Join(ctx, two.ID, two.Secret, "n1", newRequest(t, "")); err != nil {
		t.Fatal(err)
	}
	c.add(2 * time.Minute)
	list, err := a.List(ctx)
	if err != nil || len(list) != 1 || list[0].ID != two.ID || list[0].UsesLeft != 1 || list[0].Role != identity.RoleNode {
		t.Errorf("list %+v, %v", list, err)
	}
	recs, _, err := s.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range recs {
		for _, tok := range []identity.Token{two, gone, revoked} {
			if strings.Contains(string(rec.Value.(*spec.Blob).Data), tok.Secret) {
				t.Errorf("%s has a secret", rec.Key)
			}
		}
	}
	if err := a.Revoke(ctx, revoked.ID); err != nil {
		t.Errorf("revoked twice: %v", err)
	}
	for _, id := range []string{"nosuchtoken", "../ca", ""} {
		if err := a.Revoke(ctx, id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("revoke %q: %v", id, err)
		}
	}
}

func TestBearerTokensStandForPeopleAndAreNotUsedUp(t *testing.T) {
	ctx := t.Context()
	a, c := authority(t, memory.New())
	other, _ := authority(t, memory.New())
	viewer, node := token(t, a, identity.RoleViewer, time.Hour, 1), token(t, a, identity.RoleNode, time.Hour, 1)
	for range 3 {
		if p, err := a.Bearer(ctx, viewer.String()); err != nil || p.Role != identity.RoleViewer || p.Kind != identity.KindUser {
			t.Errorf("%v, %v", p, err)
		}
	}
	forged := viewer
	forged.Secret = node.Secret
	for text, want := range map[string]error{
		node.String(): ErrTokenRole, forged.String(): ErrTokenUnknown, "x": identity.ErrToken,
		token(t, other, identity.RoleAdmin, time.Hour, 1).String(): identity.ErrWrongCA,
	} {
		if p, err := a.Bearer(ctx, text); !errors.Is(err, want) {
			t.Errorf("%v, %v, want %v", p, err, want)
		}
	}
	c.add(time.Hour)
	if _, err := a.Bearer(ctx, viewer.String()); !errors.Is(err, ErrTokenExpired) {
		t.Errorf("expired: %v", err)
	}
}

func TestCoordinatorsAreReachedUnderTheirNames(t *testing.T) {
	a, _ := authority(t, memory.New())
	c, err := a.IssueCoordinator("c1", []string{"10.1.2.3", "muster.example.org", "", "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"10.1.2.3", "muster.example.org", "localhost", "127.0.0.1", "::1"} {
		if err := c.Certificate.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	if c.Certificate.VerifyHostname("10.1.2.4") == nil {
		t.Error("reached under any address")
	}
	if p := c.Principal(); p.Kind != identity.KindCoordinator || p.Name != "c1" {
		t.Errorf("it speaks for %v", p)
	}
	if _, err := a.IssueCoordinator("C 1", nil); !errors.Is(err, ErrRequest) {
		t.Errorf("a bad name: %v", err)
	}
	if u, err := a.IssueUser("admin", identity.RoleAdmin); err != nil || u.Principal().Role != identity.RoleAdmin {
		t.Errorf("user: %v", err)
	}
	for _, role := range []identity.Role{identity.RoleNode, "king", ""} {
		if _, err := a.IssueUser("admin", role); !errors.Is(err, ErrRequest) {
			t.Errorf("role %q: %v", role, err)
		}
	}
}

func TestNoCertificateOutlivesTheCA(t *testing.T) {
	a, c := authority(t, memory.New())
	c.add(caLife - time.Hour)
	u, err := a.IssueUser("ada", identity.RoleViewer)
	if err != nil || u.Certificate.NotAfter.After(a.CA().NotAfter) {
		t.Errorf("until %v, the CA until %v, %v", u.Certificate.NotAfter, a.CA().NotAfter, err)
	}
}

func TestWhoMayCallWhat(t *testing.T) {
	callers := map[string]identity.Principal{
		"nobody": {}, "node": {Kind: identity.KindNode, Name: "n1", Role: identity.RoleNode},
		"coordinator": {Kind: identity.KindCoordinator, Name: "c"},
		"viewer":      {Kind: identity.KindUser, Name: "v", Role: identity.RoleViewer},
		"editor":      {Kind: identity.KindUser, Name: "e", Role: identity.RoleEditor},
		"admin":       {Kind: identity.KindUser, Name: "a", Role: identity.RoleAdmin},
	}
	for method, allowed := range map[string]string{
		"/muster.v1.PodService/ListPods":                                 "viewer editor admin",
		"/muster.v1.PodService/ReadPodLogs":                              "viewer editor admin",
		"/muster.v1.PodService/GetPodStory":                              "viewer editor admin",
		"/muster.v1.PodService/DeletePod":                                "editor admin",
		"/muster.v1.NodeService/UpdateNode":                              "editor admin",
		"/muster.v1.ClusterService/CreateToken":                          "admin",
		"/muster.v1.ClusterService/Resume":                               "admin",
		"/muster.v1.ClusterService/Login":                                "nobody node coordinator viewer editor admin",
		"/muster.agent.v1.AgentService/Join":                             "nobody node coordinator viewer editor admin",
		"/muster.agent.v1.AgentService/Connect":                          "node",
		"/muster.agent.v1.AgentService/RotateCertificate":                "node",
		"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      "node coordinator viewer editor admin",
		"/grpc.health.v1.Health/Check":                                   "node coordinator viewer editor admin",
		"/muster.v1.PodService/Explode":                                  "",
		"/muster.v2.PodService/ListPods":                                 "",
		"/grpc.channelz.v1.Channelz/GetServers":                          "",
		"":                                                               "",
		"/muster.agent.v1.AgentService/../muster.v1.PodService/ListPods": "node",
	} {
		for name, p := range callers {
			err := Allow(p, method)
			if want := strings.Contains(" "+allowed+" ", " "+name+" "); (err == nil) != want || err != nil && !errors.Is(err, ErrDenied) {
				t.Errorf("%s calls %s: %v, want allowed %v", name, method, err, want)
			}
		}
	}
}

func TestEveryMethodOfTheAPIHasAClass(t *testing.T) {
	for _, file := range []protoreflect.FileDescriptor{
		musterv1.File_muster_v1_pod_proto, musterv1.File_muster_v1_node_proto, musterv1.File_muster_v1_event_proto,
		musterv1.File_muster_v1_deployment_proto, musterv1.File_muster_v1_probe_proto, musterv1.File_muster_v1_cluster_proto,
		agentv1.File_muster_agent_v1_session_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := "/" + string(service.FullName()) + "/" + string(service.Methods().Get(j).Name())
				if classOf(method) == 0 {
					t.Errorf("nobody may call %s", method)
				}
			}
		}
	}
}

func TestCallsThatChangeSomethingAreAudited(t *testing.T) {
	var b strings.Builder
	access := UnaryAccess(slog.New(slog.NewTextHandler(&b, nil)))
	ctx := context.WithValue(t.Context(), principalKey{}, identity.Principal{Kind: identity.KindUser, Name: "ada", Role: identity.RoleEditor})
	call := func(method string, req any, answer error) error {
		_, err := access(ctx, req, &grpc.UnaryServerInfo{FullMethod: method}, func(ctx context.Context, _ any) (any, error) {
			if got := Principal(ctx).Name; got != "ada" {
				t.Errorf("the handler sees %q", got)
			}
			return nil, answer
		})
		return err
	}
	if err := call("/muster.v1.PodService/GetPod", &musterv1.GetPodRequest{Name: "web"}, nil); err != nil || b.Len() != 0 {
		t.Errorf("a read: %v, log %q", err, b.String())
	}
	if err := call("/muster.v1.PodService/DeletePod", &musterv1.DeletePodRequest{Namespace: "prod", Name: "web", AllowSecondCopy: true}, errors.New("boom")); err == nil {
		t.Error("the handler's error is lost")
	}
	for _, want := range []string{"audit", "user/ada (editor)", "DeletePod", "namespace=prod", "name=web", "allow_second_copy=true", "err=boom"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in %q", want, b.String())
		}
	}
	if err := call("/muster.v1.ClusterService/CreateToken", &musterv1.CreateTokenRequest{}, nil); !errors.Is(err, ErrDenied) {
		t.Errorf("an editor made a token: %v", err)
	}
}
