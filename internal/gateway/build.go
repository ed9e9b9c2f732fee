package gateway

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Variable names the environment variable that says where a service is:
// "CHAT_URL" for "chat".
func Variable(service string) string { return strings.ToUpper(service) + "_URL" }

// Build compiles the named services of module into folder, one program each,
// with the Go toolchain. The error names the variables that make it unnecessary.
func Build(ctx context.Context, module, folder string, services []string) error {
	err := build(ctx, "auto", module, folder, services)
	if err != nil && strings.Contains(err.Error(), "VCS status") {
		// Somebody else's checkout, or a damaged one: the programs say "unknown" then.
		err = build(ctx, "false", module, folder, services)
	}
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	variables := make([]string, len(services))
	for i, s := range services {
		variables[i] = Variable(s)
	}
	return fmt.Errorf("%s: not set, and there is no building %s here: %w",
		strings.Join(variables, ", "), strings.Join(services, ", "), err)
}

func build(ctx context.Context, vcs, module, folder string, services []string) error {
	args := []string{"build", "-buildvcs=" + vcs, "-o", folder + string(filepath.Separator)}
	for _, s := range services {
		args = append(args, module+"/"+s)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "GOTMPDIR="+folder) // interrupted early enough, it leaves its temporary files behind
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	output, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, bytes.TrimSpace(output))
	}
	return nil
}
