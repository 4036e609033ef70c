//go:build tools

// Package helm names Helm, a module by itself: Kubernetes' own dependencies are not to follow it.
package helm

import _ "helm.sh/helm/v3/cmd/helm"
