//go:build tools

// Package interpreter names the module that carries the bundle's CPython, so that go.mod and go.sum say which.
package interpreter

import _ "github.com/kluctl/go-embed-python/python"
