package wire

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/proto"

	musterv1 "github.com/musterhq/muster/gen/muster/v1"
	"github.com/musterhq/muster/internal/spec"
)

// deterministic makes equal values equal bytes.
var deterministic = proto.MarshalOptions{Deterministic: true}

// message returns the message that a record is kept as.
func message(v any) (proto.Message, error) {
	switch v := v.(type) {
	case *spec.Pod:
		return PodToProto(v), nil
	case *spec.Binding:
		return bindingToProto(v), nil
	case *spec.Stop:
		return &musterv1.Stop{Epoch: v.Epoch, Reason: v.Reason}, nil
	case *spec.HeldStatus:
		return HeldStatusToProto(v), nil
	case *spec.Node:
		return nodeToProto(v), nil
	case *spec.NodeFacts:
		return NodeFactsToProto(v), nil
	case *spec.NodeStatus:
		return NodeStatusToProto(v), nil
	case *spec.NodeLease:
		return NodeLeaseToProto(v), nil
	case *spec.NodeNetwork:
		return nodeNetworkToProto(v), nil
	case *spec.Deployment:
		return DeploymentToProto(v), nil
	case *spec.DeploymentStatus:
		return deploymentStatusToProto(v), nil
	case *spec.Service:
		return ServiceToProto(v), nil
	case *spec.ConfigMap:
		return ConfigMapToProto(v), nil
	case *spec.Secret:
		return SecretToProto(v), nil
	case *spec.DeploymentRevision:
		return DeploymentRevisionToProto(v), nil
	case *spec.PodDisruptionBudget:
		return PodDisruptionBudgetToProto(v, nil), nil
	case *spec.BudgetState:
		return &musterv1.BudgetState{Uid: v.UID, Evictions: v.Evictions}, nil
	case *spec.Event:
		return EventToProto(v), nil
	case *spec.Failover:
		return FailoverToProto(v), nil
	case *spec.Leadership:
		return &musterv1.Leadership{Owner: v.Owner}, nil
	case *spec.Blob:
		return &musterv1.Blob{Data: v.Data}, nil
	}
	return nil, fmt.Errorf("a %T is no record", v)
}

// decode unmarshals a message and converts it.
func decode[M proto.Message, T any](data []byte, m M, convert func(M) (T, error)) (any, error) {
	if err := proto.Unmarshal(data, m); err != nil {
		return nil, err
	}
	return convert(m)
}

// Codec turns the records of the store into bytes and back, by the names of the store's families.
type Codec struct {
	// Secrets encrypts Secrets; without it they are refused.
	Secrets Sealer
}

// Encode returns the record's bytes; equal records have equal bytes, but for Secrets.
func (c Codec) Encode(v any) ([]byte, error) {
	if s, ok := v.(*spec.Secret); ok {
		m, err := c.seal(s)
		if err != nil {
			return nil, err
		}
		return deterministic.Marshal(m)
	}
	return encode(v)
}

func encode(v any) ([]byte, error) {
	m, err := message(v)
	if err != nil {
		return nil, err
	}
	return deterministic.Marshal(m)
}

// Decode is the inverse of Encode.
func (c Codec) Decode(family string, data []byte) (any, error) {
	switch family {
	case "pods":
		return decode(data, &musterv1.Pod{}, PodFromProto)
	case "bindings":
		return decode(data, &musterv1.Binding{}, bindingFromProto)
	case "stops":
		return decode(data, &musterv1.Stop{}, func(m *musterv1.Stop) (*spec.Stop, error) {
			return &spec.Stop{Epoch: m.GetEpoch(), Reason: m.GetReason()}, nil
		})
	case "podstatus":
		return decode(data, &musterv1.HeldStatus{}, HeldStatusFromProto)
	case "nodes":
		return decode(data, &musterv1.Node{}, nodeFromProto)
	case "nodefacts":
		return decode(data, &musterv1.NodeFacts{}, NodeFactsFromProto)
	case "nodestatus":
		return decode(data, &musterv1.NodeStatus{}, nodeStatusFromProto)
	case "nodelease":
		return decode(data, &musterv1.NodeLease{}, nodeLeaseFromProto)
	case "nodenetwork":
		return decode(data, &musterv1.NodeNetwork{}, nodeNetworkFromProto)
	case "deployments":
		return decode(data, &musterv1.Deployment{}, DeploymentFromProto)
	case "deploystate":
		return decode(data, &musterv1.DeploymentStatus{}, func(m *musterv1.DeploymentStatus) (*spec.DeploymentStatus, error) {
			p := &parser{}
			s := p.deploymentStatus(m)
			return &s, p.err
		})
	case "services":
		return decode(data, &musterv1.Service{}, ServiceFromProto)
	case "configmaps":
		return decode(data, &musterv1.ConfigMap{}, ConfigMapFromProto)
	case "secrets":
		return decode(data, &musterv1.SealedSecret{}, c.unseal)
	case "deployrevisions":
		return decode(data, &musterv1.DeploymentRevision{}, deploymentRevisionFromProto)
	case "budgets":
		return decode(data, &musterv1.PodDisruptionBudget{}, PodDisruptionBudgetFromProto)
	case "budgetstate":
		return decode(data, &musterv1.BudgetState{}, func(m *musterv1.BudgetState) (*spec.BudgetState, error) {
			return &spec.BudgetState{UID: m.GetUid(), Evictions: m.GetEvictions()}, nil
		})
	case "events":
		return decode(data, &musterv1.Event{}, EventFromProto)
	case "failovers":
		return decode(data, &musterv1.Failover{}, FailoverFromProto)
	case "leader":
		return decode(data, &musterv1.Leadership{}, func(m *musterv1.Leadership) (*spec.Leadership, error) {
			return &spec.Leadership{Owner: m.GetOwner()}, nil
		})
	case "config":
		return decode(data, &musterv1.Blob{}, func(m *musterv1.Blob) (*spec.Blob, error) {
			return &spec.Blob{Data: m.GetData()}, nil
		})
	}
	return nil, fmt.Errorf("unknown family %q", family)
}

// Equal tells whether two records would be kept as the same bytes.
func Equal(a, b any) bool {
	x, err := encode(a)
	if err != nil {
		return false
	}
	y, err := encode(b)
	return err == nil && bytes.Equal(x, y)
}
