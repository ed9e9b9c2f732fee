package gateway

import (
	"io"
	"os/exec"
	"syscall"
	"time"
)

// outputWait is how long the output of an ended process is still read: a
// process of its own that holds the pipe open must not hold the gateway up.
const outputWait = time.Second

// A Process is one run of a service's program.
type Process interface {
	Pid() int
	// Wait returns when the process has ended and its output was passed on;
	// the error says how, nil meaning exit code 0. It is called once.
	Wait() error
	// Terminate asks the process to end (SIGTERM).
	Terminate() error
	// Kill ends the process and all of its group (SIGKILL).
	Kill() error
}

type program struct {
	cmd  *exec.Cmd
	logs []io.Closer
}

// Exec starts the program at path with the environment env, in a process group
// of its own so that a terminal's Ctrl-C reaches the gateway alone. On Linux
// the kernel kills it when the thread that called Exec ends, which is how even
// a gateway that was killed leaves no orphan; the caller keeps that thread
// locked for as long as the process lives.
func Exec(path string, env []string, stdout, stderr io.WriteCloser) (Process, error) {
	cmd := exec.Command(path)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = OwnGroup()
	cmd.WaitDelay = outputWait
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &program{cmd: cmd, logs: []io.Closer{stdout, stderr}}, nil
}

func (p *program) Pid() int { return p.cmd.Process.Pid }

func (p *program) Wait() error {
	err := p.cmd.Wait()
	for _, l := range p.logs {
		l.Close() // a failing output has failed its writes before
	}
	return err
}

func (p *program) Terminate() error { return p.cmd.Process.Signal(syscall.SIGTERM) }

func (p *program) Kill() error { return syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }
