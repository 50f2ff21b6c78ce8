//go:build tools

// Package peers pins the programs that Torpor is measured beside: the original's queue-proxy and activator. They are
// built from here as any Go dependency is, by version and checksum.
package peers

import (
	_ "knative.dev/serving/cmd/activator"
	_ "knative.dev/serving/cmd/queue"
)
