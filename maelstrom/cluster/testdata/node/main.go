// A node for the tests of package cluster, right or wrong as its argument says.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

type message struct {
	Src  string         `json:"src"`
	Dest string         `json:"dest"`
	Body map[string]any `json:"body"`
}

var (
	mode  = os.Args[1]
	me    string
	peers []string
	out   = bufio.NewWriter(os.Stdout)
	count int
)

const inFlight = 200 // of each relay's messages to each other node

func main() {
	in := bufio.NewReaderSize(os.Stdin, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		if mode == "relay" && me != "" {
			bounce(line)
		} else {
			take(line)
		}
		if in.Buffered() == 0 {
			out.Flush()
		}
	}
}

func send(src, dest string, body map[string]any) {
	b, err := json.Marshal(message{src, dest, body})
	if err != nil {
		panic(err)
	}
	out.Write(append(b, '\n'))
}

// bounce sends a line of the harness back to where it came from, without reading what it says.
func bounce(line []byte) {
	from := line[bytes.Index(line, []byte(`"src":"`))+7:]
	from = from[:bytes.IndexByte(from, '"')]
	body := line[bytes.Index(line, []byte(`"body":`)):]
	out.WriteString(`{"src":"` + me + `","dest":"`)
	out.Write(from)
	out.WriteString(`",`)
	out.Write(body)
}

func take(line []byte) {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		panic(err)
	}
	body := map[string]any{"type": m.Body["type"].(string) + "_ok", "in_reply_to": m.Body["msg_id"]}
	if m.Body["type"] == "init" {
		start(m, body)
		return
	}
	count++
	body["echo"] = m.Body["echo"]
	switch mode {
	case "quits":
		if count == 3 {
			fmt.Fprintln(os.Stderr, "giving up")
			os.Exit(3)
		}
	case "impostor":
		send("n1", m.Src, body)
		return
	case "nobody":
		send(me, "n77", map[string]any{"type": "hello"})
	case "deaf":
		return
	case "late":
		time.AfterFunc(300*time.Millisecond, func() {
			send(me, m.Src, body)
			out.Flush()
		})
		return
	case "chatty":
		fmt.Fprintln(out, "got an echo")
	case "remember":
		remember()
		body["echo"] = fmt.Sprint(remembered())
	}
	send(me, m.Src, body)
}

func start(m message, body map[string]any) {
	me = m.Body["node_id"].(string)
	for _, id := range m.Body["node_ids"].([]any) {
		if id != me {
			peers = append(peers, id.(string))
		}
	}
	switch mode {
	case "silent":
		return
	case "dies":
		fmt.Fprintln(os.Stderr, "no configuration")
		os.Exit(1)
	case "refuses":
		body = map[string]any{"type": "error", "in_reply_to": m.Body["msg_id"], "code": 10}
	}
	fmt.Fprintln(os.Stderr, "started as", me)
	send(me, m.Src, body)
	if mode == "relay" {
		for range inFlight {
			for _, p := range peers {
				send(me, p, map[string]any{"type": "ping", "text": "some 30 bytes of text in a body"})
			}
		}
	}
}

func remember() {
	f, err := os.OpenFile(file(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if _, err := f.WriteString("x"); err != nil {
		panic(err)
	}
}

func remembered() int {
	b, err := os.ReadFile(file())
	if err != nil {
		panic(err)
	}
	return len(b)
}

func file() string { return filepath.Join(os.Getenv("MAELSTROM_NODE_DIR"), "count") }
