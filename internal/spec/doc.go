// Package spec has the plain values of muster: what a user asks for (Pod, Deployment, Node), what is seen of it
// (PodStatus, NodeFacts), and the records that the coordinator keeps (Binding, NodeLease and their kin), each with
// its defaults and its validation.
//
// It knows neither Kubernetes YAML (internal/manifest converts that) nor protobuf (internal/wire converts that), has
// no clock, no goroutine and no logger, and imports the standard library only, so that every pure package may use it.
//
// Values are treated as immutable once they have been handed to another package: whoever wants to change one clones
// it first.
package spec
