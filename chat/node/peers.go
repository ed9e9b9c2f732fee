package node

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"dongne/chat/room"
	"dongne/internal/gossip"
)

// MessageBytesMax bounds one message between nodes.
const MessageBytesMax = 4 << 20

// Limits between nodes.
const (
	linkQueueMax    = 64 // messages to one node; more are dropped, and asked for again by anti-entropy
	linkPassingMax  = 8  // of what is not asked for again
	linkTimeout     = 5 * time.Second
	signatureAgeMax = 2 * time.Minute
	secretMin       = 16 // bytes
)

// The body of a message between nodes is its kind and its content.
const (
	kindGossip   = 'g' // a gossip.Message
	kindPassing  = 'p' // a passing, as JSON
	kindHint     = 'h' // of each shared log, how many slots the sender has: uvarints
	signatureFor = "dongne-chat-1"
)

// Headers of a message between nodes.
const (
	headerFrom      = "X-Peer-From"
	headerTo        = "X-Peer-To"
	headerTime      = "X-Peer-Time" // Unix milliseconds
	headerSignature = "X-Peer-Signature"
)

var (
	// ErrSignature: not a message that a node of this cluster signed for this node just now.
	ErrSignature = errors.New("not signed by a node of this cluster")
	// ErrClock: the other node's clock is too far ahead.
	ErrClock = errors.New("clock ahead")
	// ErrMessage: signed, but not to be understood.
	ErrMessage = errors.New("malformed message")
)

// passing is what nodes tell each other and forget.
type passing struct {
	Typing  *typing  `json:"typing,omitempty"`
	Online  []string `json:"online,omitempty"`
	Offline []string `json:"offline,omitempty"`
	Whole   bool     `json:"whole,omitempty"` // Online is everybody, not just who came
}

type typing struct {
	Room room.ID `json:"room"`
	User string  `json:"user"`
}

// link is the way to another node.
type link struct {
	name, url string
	queue     chan []byte // of gossip, which goes first
	passing   chan []byte
	hint      chan struct{} // there is news in the log
	dropped   atomic.Int64
	failed    atomic.Int64
}

// ParsePeers reads "n2=http://127.0.0.1:9082,n3=…", the other nodes' names and URLs.
func ParsePeers(list, self string) (map[string]string, error) {
	peers := make(map[string]string)
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, at, _ := strings.Cut(item, "=")
		u, err := url.Parse(at)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("PEERS: %q is not name=http://host:port", item)
		}
		if _, twice := peers[name]; twice || name == self {
			return nil, fmt.Errorf("PEERS: %q: the name %q is taken", item, name)
		}
		peers[name] = strings.TrimSuffix(at, "/")
	}
	return peers, nil
}

// check makes sure that names are names, and that messages between nodes can be signed.
func (c Config) check() error {
	for _, name := range append(sortedNames(c.Peers), c.Name) {
		if err := gossip.ValidName(name); err != nil {
			return fmt.Errorf("NODE_ID or PEERS: %w", err)
		}
	}
	if len(c.Peers) > 0 && len(c.Secret) < secretMin {
		return fmt.Errorf("PEER_SECRET: %d bytes; with PEERS it must be a secret of at least %d that all nodes share", len(c.Secret), secretMin)
	}
	return nil
}

func sortedNames(peers map[string]string) []string { return slices.Sorted(maps.Keys(peers)) }

func (n *Node) startLinks(ctx context.Context) {
	for name, url := range n.config.Peers {
		l := &link{name: name, url: url, queue: make(chan []byte, linkQueueMax), passing: make(chan []byte, linkPassingMax), hint: make(chan struct{}, 1)}
		n.links[name] = l
		n.loop(ctx, func(ctx context.Context) { n.runLink(ctx, l) })
	}
}

func (l *link) send(to chan []byte, body []byte) {
	select {
	case to <- body:
	default:
		l.dropped.Add(1)
	}
}

func (n *Node) runLink(ctx context.Context, l *link) {
	for {
		var body []byte
		select {
		case body = <-l.queue:
		default:
			select {
			case <-ctx.Done():
				return
			case body = <-l.queue:
			case body = <-l.passing:
			case <-l.hint:
				body = n.log.hint() // as things are now: while one is on its way, all that comes is in the next
			}
		}
		if err := n.post(ctx, l, body); err != nil {
			if ctx.Err() != nil {
				return
			}
			l.failed.Add(1)
			n.config.Logger.Debug("message to another node", "to", l.name, "err", err)
		}
	}
}

func (n *Node) post(ctx context.Context, l *link, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, linkTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.url+"/gossip", bytes.NewReader(body))
	if err != nil {
		return err
	}
	at := strconv.FormatInt(n.config.Now().UnixMilli(), 10)
	r.Header.Set("Content-Type", "application/octet-stream")
	r.Header.Set(headerFrom, n.config.Name)
	r.Header.Set(headerTo, l.name)
	r.Header.Set(headerTime, at)
	r.Header.Set(headerSignature, hex.EncodeToString(n.sign(n.config.Name, l.name, at, body)))
	response, err := n.config.Client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<10))
	if err == nil && response.StatusCode != http.StatusNoContent {
		err = fmt.Errorf("status %d: %s", response.StatusCode, text)
	}
	return err
}

func (n *Node) sign(from, to, at string, body []byte) []byte {
	mac := hmac.New(sha256.New, n.config.Secret)
	fmt.Fprintf(mac, "%s\n%s\n%s\n%s\n", signatureFor, from, to, at)
	mac.Write(body)
	return mac.Sum(nil)
}

// Receive takes a message from another node.
func (n *Node) Receive(ctx context.Context, h http.Header, body []byte) error {
	from, err := n.verify(h, body)
	if err != nil {
		return err
	}
	if body[0] != kindPassing {
		return n.log.receive(ctx, from, body[0], body[1:])
	}
	var p passing
	if err := json.Unmarshal(body[1:], &p); err != nil {
		return fmt.Errorf("%w: %v", ErrMessage, err)
	}
	n.passed(from, p)
	return nil
}

func (n *Node) verify(h http.Header, body []byte) (from string, err error) {
	from = h.Get(headerFrom)
	at, err := strconv.ParseInt(h.Get(headerTime), 10, 64)
	given, err2 := hex.DecodeString(h.Get(headerSignature))
	_, known := n.config.Peers[from]
	if err != nil || err2 != nil || !known || len(body) == 0 || h.Get(headerTo) != n.config.Name ||
		!hmac.Equal(given, n.sign(from, n.config.Name, h.Get(headerTime), body)) {
		return "", ErrSignature
	}
	if age := n.config.Now().Sub(time.UnixMilli(at)); age.Abs() > signatureAgeMax {
		return "", fmt.Errorf("%w: signed %v ago", ErrSignature, age)
	}
	return from, nil
}

// wake sends to a channel that holds one, which is then full.
func wake(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// tellPeers sends something that is not worth keeping to every other node.
func (n *Node) tellPeers(p passing) {
	body, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("node: a message that cannot be encoded: %v", err))
	}
	for _, l := range n.links {
		l.send(l.passing, append([]byte{kindPassing}, body...))
	}
}
