package main

import (
	"testing"

	"dongne/internal/serve/servetest"
)

func TestContract(t *testing.T) {
	servetest.Routes(t, openapi, service(nil).Routes)
}
