package trust

import (
	"testing"
	"time"

	"github.com/musterhq/muster/coordinator/store/memory"
)

func TestAMachineWhoseClockIsAnHourBehindTrustsAFreshCertificate(t *testing.T) {
	a, c := authority(t, memory.New())
	server, err := a.IssueCoordinator("coordinator", []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	behind := c.now().Add(-time.Hour)
	leaf := server.TLS().Leaf
	if leaf.NotBefore.After(behind) || a.CA().NotBefore.After(behind) {
		t.Errorf("valid from %v, the CA from %v: not at %v", leaf.NotBefore, a.CA().NotBefore, behind)
	}
}
