package proc

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Build builds a command of this module's graph into dir and returns its file.
func Build(ctx context.Context, dir, path string) (string, error) {
	program := filepath.Join(dir, strings.ReplaceAll(path, "/", "-"))
	out, err := exec.CommandContext(ctx, "go", "build", "-o", program, path).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build %s: %w: %s", path, err, out)
	}
	return program, nil
}

// Installed finds a program and asks it for its version, the part with digits and dots of what it says.
func Installed(name, flag string) (path, version string, err error) {
	if path, err = exec.LookPath(name); err != nil {
		return "", "", err
	}
	out, err := exec.Command(path, flag).CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("%s %s: %w: %s", path, flag, err, out)
	}
	at := strings.IndexAny(string(out), "0123456789")
	if at < 0 {
		return "", "", fmt.Errorf("%s %s: no version in %q", path, flag, out)
	}
	version, _, _ = strings.Cut(strings.Fields(string(out)[at:])[0], "+")
	return path, version, nil
}

// FreeAddrs returns n loopback addresses, whose ports were free a moment ago, and their ports.
func FreeAddrs(n int) (addrs, ports []string, err error) {
	for range n {
		addr, err := FreeAddr()
		if err != nil {
			return nil, nil, err
		}
		addrs = append(addrs, addr)
		ports = append(ports, addr[strings.LastIndexByte(addr, ':')+1:])
	}
	return addrs, ports, nil
}
