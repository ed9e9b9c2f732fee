package etcdlog

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"sync/atomic"

	"dongne/internal/sharedlog"
)

const (
	slotKeys      = "slot"
	floorKeys     = "floor"
	numberDigits  = 20
	afterNumbers  = "/:" // sorts after the slash and any digit
	errorBytesMax = 512  // of a message that is passed on
)

var (
	// errUnsent: no byte of the request left.
	errUnsent = errors.New("nothing was sent")
	// errUnclear: etcd has decided the request, which may have been applied or not, and will not be applied later.
	errUnclear = errors.New("decided one way or the other")
	// errReplyTooLong: the answer is longer than replyBytesMax, or was not read in time.
	errReplyTooLong = errors.New("answer too long")
)

// The requests, as the gateway wants them: bytes in base64, which encoding/json does for []byte, and 64-bit integers as
// strings.
type (
	rangeRequest struct {
		Key      []byte `json:"key"`
		End      []byte `json:"range_end,omitempty"`
		Limit    int64  `json:"limit,string,omitempty"`
		Order    string `json:"sort_order,omitempty"`
		Target   string `json:"sort_target,omitempty"`
		KeysOnly bool   `json:"keys_only,omitempty"`
	}
	putRequest struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value,omitempty"`
	}
	// condition is that the keys from Key to before End have the create revision 0: that none of them exists.
	condition struct {
		Key      []byte `json:"key"`
		End      []byte `json:"range_end,omitempty"`
		Target   string `json:"target"`
		Result   string `json:"result"`
		Revision string `json:"create_revision"`
	}
	operation struct {
		Put    *putRequest   `json:"request_put,omitempty"`
		Range  *rangeRequest `json:"request_range,omitempty"`
		Delete *rangeRequest `json:"request_delete_range,omitempty"`
	}
	txnRequest struct {
		Conditions []condition `json:"compare,omitempty"`
		Success    []operation `json:"success"`
		Failure    []operation `json:"failure,omitempty"`
	}
)

// The answers. Whatever is zero, false or empty is left out of them.
type (
	header struct {
		Revision int64 `json:"revision,string"`
	}
	keyValue struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
	}
	rangeReply struct {
		Header header     `json:"header"`
		KVs    []keyValue `json:"kvs"`
	}
	deleteReply struct {
		Header header `json:"header"`
	}
	txnReply struct {
		Succeeded bool `json:"succeeded"`
		Responses []struct {
			Put   *struct{}   `json:"response_put"`
			Range *rangeReply `json:"response_range"`
		} `json:"responses"`
	}
)

// key returns the key of a number.
func (l *Log) key(kind string, n uint64) []byte {
	return fmt.Appendf(nil, "%s/%s/%0*d", l.prefix, kind, numberDigits, n)
}

// number is the reverse of key.
func (l *Log) number(kind string, key []byte) (uint64, bool) {
	digits, ok := strings.CutPrefix(string(key), l.prefix+"/"+kind+"/")
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, ok && err == nil && len(digits) == numberDigits
}

func absent(key, end []byte) condition {
	return condition{Key: key, End: end, Target: "CREATE", Result: "EQUAL", Revision: "0"}
}

// createRequest puts a slot, or reads it and some of those that follow, and the floor.
func (l *Log) createRequest(slot uint64, data []byte, batch int) txnRequest {
	slots, floor := l.slotsRequest(slot, batch), l.floorRequest(slot)
	return txnRequest{
		Conditions: []condition{absent(l.key(slotKeys, slot), nil), absent(floor.Key, floor.End)},
		Success:    []operation{{Put: &putRequest{Key: l.key(slotKeys, slot), Value: data}}},
		Failure:    []operation{{Range: &slots}, {Range: &floor}},
	}
}

// slotsRequest reads a slot and those that follow, count in all.
func (l *Log) slotsRequest(slot uint64, count int) rangeRequest {
	r := rangeRequest{Key: l.key(slotKeys, slot), Limit: int64(count)}
	if end := slot + uint64(count); count > 1 && end > slot {
		r.End = l.key(slotKeys, end)
	}
	return r
}

// floorRequest reads the floor, if it is above a slot.
func (l *Log) floorRequest(slot uint64) rangeRequest {
	return rangeRequest{Key: l.key(floorKeys, slot+1), End: []byte(l.prefix + "/" + floorKeys + afterNumbers),
		Limit: 1, Order: "DESCEND", Target: "KEY", KeysOnly: true}
}

// setFloorRequest sets the floor. A higher one stands beside it, and counts.
func (l *Log) setFloorRequest(floor uint64) txnRequest {
	lower := rangeRequest{Key: l.key(floorKeys, 0), End: l.key(floorKeys, floor)}
	return txnRequest{Success: []operation{{Put: &putRequest{Key: l.key(floorKeys, floor)}}, {Delete: &lower}}}
}

func encode(request any) []byte {
	body, err := json.Marshal(request)
	if err != nil {
		panic("etcdlog: " + err.Error()) // these types have an encoding
	}
	return body
}

// post makes one request at one endpoint and reads its answer. The error wraps errUnsent only when no byte was sent,
// sharedlog.ErrFull or sharedlog.ErrTooLarge when etcd says so, and names the endpoint.
func (l *Log) post(ctx context.Context, endpoint, path string, body []byte, answer any) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w: %w", endpoint, errUnsent, err)
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	var connected atomic.Bool
	trace := httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }}
	traced, url := httptrace.WithClientTrace(ctx, &trace), "http://"+endpoint+path
	r, err := http.NewRequestWithContext(traced, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s: %w: %w", endpoint, errUnsent, err)
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := l.client.Do(r)
	if err != nil {
		if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" && !connected.Load() {
			return fmt.Errorf("%s: %w: %w", endpoint, errUnsent, dial)
		}
		return fmt.Errorf("%s: %w", endpoint, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, replyBytesMax+1))
	switch {
	case len(text) > replyBytesMax, err != nil && ctx.Err() != nil:
		return fmt.Errorf("%s: %w: %d bytes and no end", endpoint, errReplyTooLong, len(text))
	case err != nil:
		return fmt.Errorf("%s: read the answer: %w", endpoint, err)
	case response.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: %w", endpoint, refusal(response.StatusCode, text))
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("%s: read the answer: %w", endpoint, err)
	}
	return nil
}

// refusal reads the body of an error. etcd 3.4 and 3.5 write {"error","message","code"}, newer versions
// {"code","message","details"}.
func refusal(status int, body []byte) error {
	var e struct {
		Error   json.RawMessage `json:"error"`
		Message string          `json:"message"`
	}
	message := ""
	if json.Unmarshal(body, &e) == nil {
		json.Unmarshal(e.Error, &message) // anything but a string is left
	}
	message = cmp.Or(e.Message, message, string(body))
	message = message[:min(len(message), errorBytesMax)]
	err := fmt.Errorf("%d %q", status, message)
	switch {
	case strings.Contains(message, "database space exceeded"):
		return fmt.Errorf("%w (%w): %w", sharedlog.ErrFull, errUnclear, err)
	case strings.Contains(message, "message larger than max"):
		return fmt.Errorf("%w (%w): %w", sharedlog.ErrTooLarge, errUnclear, err)
	case strings.Contains(message, "request is too large"):
		return fmt.Errorf("%w: %w", sharedlog.ErrTooLarge, err)
	}
	return err
}
