//go:build !supervisor_embedded

package embedded

// Binary is empty in this build.
var Binary []byte
