// Package etcdtest gives tests a real etcd.
package etcdtest

import (
	"context"
	"os"
	"testing"
	"time"

	"dongne/internal/etcd"
)

// startMax is how long a cluster may take to serve on a busy machine.
const startMax = 60 * time.Second

// Start starts a cluster of 1 or 3 servers that ends with the test. Without the program it skips the test with a
// message that says how to get it, and fails it when the environment sets CI.
func Start(t testing.TB, nodes int) *etcd.Cluster {
	t.Helper()
	return StartWith(t, etcd.Config{Nodes: nodes})
}

// StartWith is Start with more to say. Dir is a temporary one of the test when empty.
func StartWith(t testing.TB, config etcd.Config) *etcd.Cluster {
	t.Helper()
	if _, err := etcd.Find(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	if config.Dir == "" {
		config.Dir = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(t.Context(), startMax)
	defer cancel()
	cluster, err := etcd.Start(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Error(err)
		}
	})
	return cluster
}
