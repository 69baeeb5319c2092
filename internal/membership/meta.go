package membership

import (
	"encoding/json"
	"fmt"

	"github.com/hashicorp/memberlist"
)

// Meta is what a member tells the others of itself, encoded at most 512 bytes.
type Meta struct {
	Role Role `json:"r"`
	// BootID is the kernel's id of the machine's boot.
	BootID string `json:"b,omitempty"`
	// Run is new with every start of the process. Set by New.
	Run string `json:"n,omitempty"`
	// Zone is the failure domain; empty: the one of all members that name none.
	Zone string `json:"z,omitempty"`
	// Guard is HOST:PORT of a node's guard, API of a coordinator's gRPC, HTTP of the HTTPS.
	Guard string `json:"g,omitempty"`
	API   string `json:"a,omitempty"`
	HTTP  string `json:"h,omitempty"`
	// Leaving is set before an orderly stop.
	Leaving bool `json:"l,omitempty"`
}

func (m Meta) encode() ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	if len(b) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("what this member says of itself has %d bytes, at most %d: shorten its addresses or its zone", len(b), memberlist.MetaMaxSize)
	}
	return b, nil
}

// decodeMeta reads what encode wrote; fields that a later version has added are skipped.
func decodeMeta(b []byte) (Meta, error) {
	var m Meta
	err := json.Unmarshal(b, &m)
	return m, err
}

// delegate gives memberlist what it asks for. Its methods may be called under memberlist's locks.
type delegate Membership

// NodeMeta implements memberlist.Delegate.
func (d *delegate) NodeMeta(int) []byte {
	m := (*Membership)(d)
	m.mu.Lock()
	defer m.mu.Unlock()
	meta := m.cfg.Meta
	meta.Leaving = m.leaving
	b, _ := meta.encode() // New has tried the longest one
	return b
}

// NotifyMsg implements memberlist.Delegate; b is only valid during the call.
func (d *delegate) NotifyMsg(b []byte) { (*Membership)(d).asks.receive(b) }

// GetBroadcasts, LocalState and MergeRemoteState implement memberlist.Delegate: nothing rides along with the gossip.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate.
func (d *delegate) MergeRemoteState([]byte, bool) {}
