// Child is a program for tests of the gateway. MODE says how it behaves:
// "polite" ends at SIGTERM with code 0, "stubborn" only says that it got one,
// "parent" is stubborn and has a child of its own, which holds its output open.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	mode := os.Getenv("MODE")
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	if mode == "parent" {
		child := exec.Command(os.Args[0])
		child.Env = []string{"MODE=stubborn", "PORT=" + os.Getenv("PORT")} // either may be the first to say that it listens
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		if err := child.Start(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	fmt.Println(`{"msg":"listening","addr":"127.0.0.1:` + os.Getenv("PORT") + `"}`)
	for range signals {
		if mode == "polite" {
			fmt.Fprint(os.Stderr, "bye")
			return
		}
		fmt.Println("no")
	}
}
