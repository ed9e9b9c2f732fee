//go:build !linux

package password

import "errors"

func onMainThread() bool { return false }

// lowerPriority cannot: elsewhere a priority belongs to the process as a whole.
func lowerPriority() error {
	return errors.New("password: workers have no priority of their own on this system")
}
