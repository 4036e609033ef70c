//go:build tools

// Package fleet names the programs that a cluster for tests consists of, so that go.mod and go.sum say which.
package fleet

import (
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubelet"
	_ "sigs.k8s.io/agent-sandbox/cmd/agent-sandbox-controller"
	_ "sigs.k8s.io/agent-sandbox/sandbox-router/cmd"
	_ "sigs.k8s.io/kwok/cmd/kwok"
)
