// Package peer is how the processes of one cluster talk to each other: a message is a POST to /gossip at the other's
// URL, signed with a secret that all of them share.
//
// What a signature covers is the purpose of the cluster, the sender, the receiver, the time and the body, so a message
// goes nowhere but where it was sent. Within two minutes it can be brought again: what a message says must be fit to be
// heard twice, as gossip is. Nothing is encrypted; https URLs do that.
package peer

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"dongne/internal/gossip"
)

// MessageBytesMax bounds one message.
const MessageBytesMax = 4 << 20

const (
	sendTimeout     = 5 * time.Second
	signatureAgeMax = 2 * time.Minute
	secretMin       = 16      // bytes
	answerBytesMax  = 4 << 10 // of a refusal, to be shown
)

// Headers of a message.
const (
	headerFrom      = "X-Peer-From"
	headerTo        = "X-Peer-To"
	headerTime      = "X-Peer-Time" // Unix milliseconds
	headerSignature = "X-Peer-Signature"
)

// ErrSignature: not a message that a node of this cluster signed for this node just now.
var ErrSignature = errors.New("not signed by a node of this cluster")

// A Cluster is the nodes as one of them sees them. It is not changed once it is used, and then safe for concurrent use.
type Cluster struct {
	Purpose string            // what they talk about, and in which version: "dongne-chat-1"
	Self    string            // this node's name
	URLs    map[string]string // of the others, by name, without a slash at the end
	Secret  []byte            // shared by all nodes
	Now     func() time.Time
	Client  *http.Client
}

// Parse reads "n2=http://127.0.0.1:9082,n3=…", the other nodes' names and URLs. Its errors name the variable PEERS.
func Parse(list, self string) (map[string]string, error) {
	urls := make(map[string]string)
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, at, _ := strings.Cut(item, "=")
		u, err := url.Parse(at)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("PEERS: %q is not name=http://host:port", item)
		}
		if _, twice := urls[name]; twice || name == self {
			return nil, fmt.Errorf("PEERS: %q: the name %q is taken", item, name)
		}
		urls[name] = strings.TrimSuffix(at, "/")
	}
	return urls, nil
}

// Check makes sure that names are names, and that messages can be signed. Its errors name the variables NODE_ID, PEERS
// and PEER_SECRET.
func (c *Cluster) Check() error {
	for _, name := range append(c.Names(), c.Self) {
		if err := gossip.ValidName(name); err != nil {
			return fmt.Errorf("NODE_ID or PEERS: %w", err)
		}
	}
	if len(c.URLs) > 0 && len(c.Secret) < secretMin {
		return fmt.Errorf("PEER_SECRET: %d bytes; with PEERS it must be a secret of at least %d that all nodes share",
			len(c.Secret), secretMin)
	}
	return nil
}

// Names returns the other nodes' names in order.
func (c *Cluster) Names() []string { return slices.Sorted(maps.Keys(c.URLs)) }

// Send brings a message to another node and waits until that has taken it, for 5 s at most. After an error it may have.
func (c *Cluster) Send(ctx context.Context, to string, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.URLs[to]+"/gossip", bytes.NewReader(body))
	if err != nil {
		return err
	}
	at := strconv.FormatInt(c.Now().UnixMilli(), 10)
	r.Header.Set("Content-Type", "application/octet-stream")
	r.Header.Set(headerFrom, c.Self)
	r.Header.Set(headerTo, to)
	r.Header.Set(headerTime, at)
	r.Header.Set(headerSignature, hex.EncodeToString(c.sign(c.Self, to, at, body)))
	response, err := c.Client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, answerBytesMax))
	if err == nil && response.StatusCode != http.StatusNoContent {
		err = fmt.Errorf("status %d: %s", response.StatusCode, text)
	}
	return err
}

// Verify says who sent a message, which has at least one byte. The error wraps ErrSignature.
func (c *Cluster) Verify(h http.Header, body []byte) (from string, err error) {
	from = h.Get(headerFrom)
	at, err := strconv.ParseInt(h.Get(headerTime), 10, 64)
	given, err2 := hex.DecodeString(h.Get(headerSignature))
	_, known := c.URLs[from]
	if err != nil || err2 != nil || !known || len(body) == 0 || h.Get(headerTo) != c.Self ||
		!hmac.Equal(given, c.sign(from, c.Self, h.Get(headerTime), body)) {
		return "", ErrSignature
	}
	if age := c.Now().Sub(time.UnixMilli(at)); age.Abs() > signatureAgeMax {
		return "", fmt.Errorf("%w: signed %v ago", ErrSignature, age)
	}
	return from, nil
}

func (c *Cluster) sign(from, to, at string, body []byte) []byte {
	mac := hmac.New(sha256.New, c.Secret)
	fmt.Fprintf(mac, "%s\n%s\n%s\n%s\n", c.Purpose, from, to, at)
	mac.Write(body)
	return mac.Sum(nil)
}
