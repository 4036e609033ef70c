//go:build tools

// Package wireguard names the program that the bundle has besides, so that go.mod and go.sum say which.
package wireguard

import _ "golang.zx2c4.com/wireguard"
