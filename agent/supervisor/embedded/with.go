//go:build supervisor_embedded

package embedded

import _ "embed"

// Binary is the tiny binary.
//
//go:embed supervisor
var Binary []byte
