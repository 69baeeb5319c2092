// Package version has muster's own version, which agents and coordinators show each other.
package version

// Version is this build's version, in the form of semantic versioning without a leading v. Agent and coordinator may be
// one minor version apart.
const Version = "0.1.0"
