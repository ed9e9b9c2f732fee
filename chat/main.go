// Chat: rooms, their permanent history, read positions, and one stream of everything that concerns a user.
//
// With STORE=file several processes, each with a durable log of its own, take writes independently and gossip every entry
// to each other. With STORE=etcd://… rooms are spread over logs that all share: every reader on every process sees one
// order, and a process that cannot reach etcd takes no writes. A client can go on with any where it left another.
//
//	PORT              8082         port to listen on
//	DATA_DIR          data/chat    folder of the log, or of this process's copy of the shared logs
//	STORE             file         file, or etcd://host:port,host:port[/prefix]
//	SHARDS            4            how many logs are shared, 1 to 16; fixed by the first process that uses them
//	NODE_ID           n1           this node's name; never given to another node, nor changed
//	PEERS                          the other nodes: n2=http://127.0.0.1:9082,n3=…; of shared logs only to be quick
//	PEER_SECRET                    shared by all nodes, at least 16 bytes; needed with PEERS
//	SENDS_PER_SECOND  20           messages one user may send, for ever; twice as many at once
//
// and what every service has.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"dongne/chat/node"
	"dongne/chat/room"
	"dongne/internal/serve"
	"dongne/internal/sharedlog"
)

//go:embed openapi.yaml
var openapi []byte

//go:embed page.html
var page []byte

const pageSize, pageSizeMax = 50, 200 // rooms or messages in one answer, unasked and at most

var vars = append(serve.Common("chat", 8082),
	serve.Var{Name: "STORE", Default: "file", Help: "file, or etcd://host:port,host:port[/prefix]"},
	serve.Var{Name: "SHARDS", Default: "4", Help: "how many logs are shared, 1 to 16; fixed by the first process that uses them"},
	serve.Var{Name: "NODE_ID", Default: "n1", Help: "this node's name; never given to another node, nor changed"},
	serve.Var{Name: "PEERS", Help: "the other nodes: n2=http://127.0.0.1:9082,n3=…; of shared logs only to be quick"},
	serve.Var{Name: "PEER_SECRET", Help: "shared by all nodes, at least 16 bytes; needed with PEERS"},
	serve.Var{Name: "SENDS_PER_SECOND", Default: "20", Help: "messages one user may send, for ever; twice as many at once"},
)

func main() { serve.Main("chat: rooms, history, one resumable stream for each user", vars, run) }

func run(ctx context.Context, getenv func(string) string, stdout io.Writer) error {
	config, err := configure(getenv, stdout)
	if err != nil {
		return err
	}
	n, err := node.Open(ctx, config)
	if err != nil {
		return err
	}
	return errors.Join(serve.Run(ctx, getenv, stdout, service(n)), n.Close())
}

func configure(getenv func(string) string, stdout io.Writer) (node.Config, error) {
	peers, err1 := node.ParsePeers(getenv("PEERS"), getenv("NODE_ID"))
	shards, err2 := serve.Int(getenv, "SHARDS", 1, node.ShardsMax)
	sends, err3 := serve.Int(getenv, "SENDS_PER_SECOND", 1, 1_000_000)
	logger, err4 := serve.NewLogger(getenv, stdout)
	return node.Config{
		Name: getenv("NODE_ID"), Peers: peers, Secret: []byte(getenv("PEER_SECRET")), SendsPerSecond: sends,
		Dir: getenv("DATA_DIR"), Store: getenv("STORE"), Shards: shards,
		Now: time.Now, Rand: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), Client: &http.Client{}, Logger: logger,
	}, errors.Join(err1, err2, err3, err4)
}

func service(n *node.Node) serve.Service {
	h := handlers{n}
	return serve.Service{
		Name:     "chat",
		OpenAPI:  openapi,
		Metrics:  n.Metrics,
		Streams:  []string{"GET /stream"},
		Quiet:    []string{"POST /gossip"},
		Refusals: refusals,
		Routes: map[string]serve.Handler{
			"GET /{$}":                                serve.Page(page),
			"POST /rooms":                             change[room.CreateBody](n, room.Created, h.showRoom),
			"GET /rooms":                              in(h.rooms),
			"GET /rooms/{room}":                       in(h.room),
			"PATCH /rooms/{room}":                     change[room.RenameBody](n, room.Renamed, h.showRoom),
			"POST /rooms/{room}/members":              change[room.MemberBody](n, room.Joined, noContent),
			"DELETE /rooms/{room}/members/{user}":     change[room.NoBody](n, room.Left, noContent),
			"POST /rooms/{room}/messages":             change[room.MessageBody](n, room.Posted, h.showMessage),
			"GET /rooms/{room}/messages":              in(h.messages),
			"PATCH /rooms/{room}/messages/{message}":  change[room.EditBody](n, room.Edited, h.showMessage),
			"DELETE /rooms/{room}/messages/{message}": change[room.NoBody](n, room.Deleted, noContent),
			"PUT /rooms/{room}/read":                  in(h.read),
			"POST /rooms/{room}/typing":               in(h.typing),
			"PUT /blocks/{user}":                      change[room.NoBody](n, room.Blocked, noContent),
			"DELETE /blocks/{user}":                   change[room.NoBody](n, room.Unblocked, noContent),
			"GET /stream":                             in(h.stream),
			"POST /gossip":                            h.gossip,
		},
	}
}

// change makes the handler of a request that writes a fact: path and body say which, show answers with what it made.
func change[B room.Body](n *node.Node, kind room.Kind, show func(http.ResponseWriter, *room.Fact, room.Answer) error) serve.Handler {
	return in(func(w http.ResponseWriter, r *http.Request, user string, id room.ID) error {
		key, err := serve.IdempotencyKey(r)
		if err != nil {
			return err
		}
		f := room.Fact{Kind: kind, By: user, Room: id, Target: r.PathValue("user")}
		if f.Message, err = pathID(r, "message"); err != nil {
			return err
		}
		var body B
		if _, none := any(body).(room.NoBody); !none {
			if err := serve.Decode(r, &body); err != nil {
				return err
			}
		}
		if err := body.Fill(&f); err != nil {
			return err
		}
		answer, err := n.Do(r.Context(), f, key)
		if err != nil {
			return err
		}
		if answer.Replayed {
			w.Header().Set("Idempotency-Replayed", "true")
		}
		return show(w, &f, answer)
	})
}

type handlers struct{ node *node.Node }

func (h handlers) showRoom(w http.ResponseWriter, f *room.Fact, a room.Answer) error {
	found, err := h.node.Room(a.ID, f.By)
	if err != nil {
		return err
	}
	if f.Kind == room.Created && !a.NoChange {
		return serve.JSON(w, http.StatusCreated, found)
	}
	return serve.JSON(w, http.StatusOK, found)
}

func (h handlers) showMessage(w http.ResponseWriter, f *room.Fact, a room.Answer) error {
	m, err := f.View(a.ID), error(nil)
	if f.Kind != room.Posted || a.Replayed { // reading back what was just written would cost a tenth of a post
		m, err = h.node.Message(f.Room, f.By, a.ID)
	}
	if err != nil {
		return err
	}
	if f.Kind == room.Posted {
		return serve.JSON(w, http.StatusCreated, m)
	}
	return serve.JSON(w, http.StatusOK, m)
}

func noContent(w http.ResponseWriter, _ *room.Fact, _ room.Answer) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (h handlers) rooms(w http.ResponseWriter, r *http.Request, user string, _ room.ID) error {
	limit, err := serve.Limit(r, pageSize, pageSizeMax)
	if err != nil {
		return err
	}
	rooms, next, err := h.node.Rooms(user, r.URL.Query().Get("cursor"), limit)
	if err != nil {
		return err
	}
	return serve.List(w, rooms, next)
}

func (h handlers) room(w http.ResponseWriter, r *http.Request, user string, id room.ID) error {
	return h.showRoom(w, &room.Fact{By: user}, room.Answer{ID: id})
}

func (h handlers) messages(w http.ResponseWriter, r *http.Request, user string, id room.ID) error {
	limit, err := serve.Limit(r, pageSize, pageSizeMax)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	messages, next, err := h.node.History(id, user, query.Get("before"), query.Get("after"), limit)
	if err != nil {
		return err
	}
	return serve.List(w, messages, next)
}

func (h handlers) read(w http.ResponseWriter, r *http.Request, user string, id room.ID) error {
	var body room.ReadBody
	if err := serve.Decode(r, &body); err != nil {
		return err
	}
	err := h.node.Read(room.Position{User: user, Room: id, Message: body.Message})
	if err == nil {
		w.WriteHeader(http.StatusAccepted)
	}
	return err
}

func (h handlers) typing(w http.ResponseWriter, r *http.Request, user string, id room.ID) error {
	if err := h.node.Typing(id, user); err != nil {
		return err
	}
	return noContent(w, nil, room.Answer{})
}

func (h handlers) stream(w http.ResponseWriter, r *http.Request, user string, _ room.ID) error {
	return h.node.Stream(w, r, user, cmp.Or(r.Header.Get("Last-Event-ID"), r.URL.Query().Get("last_event_id")))
}

func (h handlers) gossip(w http.ResponseWriter, r *http.Request) error {
	serve.LimitBody(r, node.MessageBytesMax)
	body, err := io.ReadAll(r.Body)
	if err == nil {
		err = h.node.Receive(r.Context(), r.Header, body)
	}
	if err != nil {
		return unwritten(err)
	}
	return noContent(w, nil, room.Answer{})
}

// in is the handler of something that a user does, in a room if the path names one.
func in(handle func(w http.ResponseWriter, r *http.Request, user string, id room.ID) error) serve.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		user, err := serve.User(r)
		if err != nil {
			return err
		}
		id, err := pathID(r, "room")
		if err != nil {
			return err
		}
		return unwritten(handle(w, r, user, id))
	}
}

func pathID(r *http.Request, name string) (room.ID, error) {
	text := r.PathValue(name)
	if text == "" {
		return 0, nil
	}
	id, err := room.ParseID(text)
	if err != nil { // whatever it is, it names nothing here
		return 0, serve.Problem(http.StatusNotFound, name+"-unknown", "%s %q: %v", name, text, err)
	}
	return id, nil
}

// refusals says what each refusal of the engine is over HTTP.
var refusals = []serve.Refusal{
	serve.Refuse(room.ErrInvalid, http.StatusBadRequest, "request-invalid"),
	serve.Refuse(room.ErrRoomUnknown, http.StatusNotFound, "room-unknown"),
	serve.Refuse(room.ErrMessageUnknown, http.StatusNotFound, "message-unknown"),
	serve.Refuse(room.ErrNotMember, http.StatusForbidden, "not-a-member"),
	serve.Refuse(room.ErrForbidden, http.StatusForbidden, "not-allowed"),
	serve.Refuse(room.ErrBlocked, http.StatusForbidden, "blocked"),
	serve.Refuse(room.ErrFull, http.StatusConflict, "limit-reached"),
	serve.Refuse(room.ErrKeyReused, http.StatusUnprocessableEntity, "idempotency-key-reused"),
	serve.Refuse(node.ErrInFlight, http.StatusConflict, "idempotency-key-in-flight"),
	serve.Refuse(node.ErrQuery, http.StatusBadRequest, "query-invalid"),
	serve.Refuse(node.ErrPosition, http.StatusBadRequest, "position-invalid"),
	serve.Refuse(node.ErrStreams, http.StatusTooManyRequests, "too-many-streams"),
	serve.Refuse(node.ErrTooFast, http.StatusTooManyRequests, "too-many-messages"),
	serve.Refuse(node.ErrSignature, http.StatusUnauthorized, "signature-invalid"),
	serve.Refuse(node.ErrMessage, http.StatusBadRequest, "message-malformed"),
	serve.Refuse(node.ErrClock, http.StatusConflict, "clock-ahead"),
	serve.Refuse(sharedlog.ErrFull, http.StatusInsufficientStorage, "disk-full"),
	serve.Refuse(sharedlog.ErrTooLarge, http.StatusRequestEntityTooLarge, "too-large"),
}

// unavailable says what each passing failure of the log is over HTTP.
var unavailable = map[error]string{
	sharedlog.ErrStopped: "log-stopped", sharedlog.ErrClosed: "closing",
	sharedlog.ErrBusy: "busy", node.ErrStore: "store-unreachable",
}

// unwritten makes a problem of such a failure, with what is known of the request's effect.
func unwritten(err error) error {
	failed, ok := errors.AsType[*sharedlog.Error](err)
	for is, code := range unavailable {
		if ok && errors.Is(err, is) {
			return serve.Problem(http.StatusServiceUnavailable, code, "%v", err).Outcome(failed.Outcome.String()).RetryAfter(time.Second)
		}
	}
	return err
}
