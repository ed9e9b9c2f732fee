package serve

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	spanQueueMax  = 4096            // spans that wait to be sent; more are dropped and counted
	spanBatchMax  = 512             // spans in one request
	spanInterval  = 5 * time.Second // between two requests when the batch does not fill
	spanSendMax   = 5 * time.Second // for one request
	spanFlushMax  = 2 * time.Second // for what is left at the end
	spanAnswerMax = 64 << 10        // bytes of an answer that are read, so that the connection can be used again
)

// exporter sends spans to an OpenTelemetry collector in the background, as OTLP/HTTP in JSON. It never blocks a request:
// when the collector is slow or away, spans are dropped and counted. A nil exporter is one that is off, for close alone.
type exporter struct {
	url, service      string
	client            *http.Client
	queue             chan span
	exported, dropped atomic.Uint64
	closing           chan struct{}
	closeOnce         sync.Once
	closed            chan struct{}
	ctx               context.Context // of the requests
	cancel            context.CancelFunc
}

func startExporter(endpoint *url.URL, service string) *exporter {
	e := newExporter(endpoint, service)
	ticker := time.NewTicker(spanInterval)
	go func() {
		defer ticker.Stop()
		e.run(ticker.C)
	}()
	return e
}

func newExporter(endpoint *url.URL, service string) *exporter {
	e := &exporter{
		url: endpoint.JoinPath("v1/traces").String(), service: service,
		client:  &http.Client{Timeout: spanSendMax, Transport: http.DefaultTransport.(*http.Transport).Clone()},
		queue:   make(chan span, spanQueueMax),
		closing: make(chan struct{}), closed: make(chan struct{}),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	return e
}

// add queues a span or drops it.
func (e *exporter) add(s span) {
	select {
	case e.queue <- s:
	default:
		e.dropped.Add(1)
	}
}

// close sends what is queued, for spanFlushMax or until ctx ends, and stops. Spans that come later stay in the queue.
func (e *exporter) close(ctx context.Context) {
	if e == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, spanFlushMax)
	defer cancel()
	defer context.AfterFunc(ctx, e.cancel)()
	e.closeOnce.Do(func() { close(e.closing) })
	<-e.closed
}

// run sends a batch when it is full, at every tick, and at the end.
func (e *exporter) run(ticks <-chan time.Time) {
	defer close(e.closed)
	defer e.client.CloseIdleConnections()
	batch := make([]span, 0, spanBatchMax)
	flush := func() {
		if len(batch) > 0 {
			e.send(batch)
			batch = batch[:0]
		}
	}
	add := func(s span) {
		if batch = append(batch, s); len(batch) == spanBatchMax {
			flush()
		}
	}
	for {
		select {
		case s := <-e.queue:
			add(s)
		case <-ticks:
			flush()
		case <-e.closing:
			for {
				select {
				case s := <-e.queue:
					add(s)
				default:
					flush()
					return
				}
			}
		}
	}
}

// send posts one batch; a failure of any kind drops it. Spans are worth no retry that would hold newer ones up.
func (e *exporter) send(batch []span) {
	if err := e.post(batch); err != nil {
		e.dropped.Add(uint64(len(batch)))
		return
	}
	e.exported.Add(uint64(len(batch)))
}

func (e *exporter) post(batch []span) error {
	body, err := json.Marshal(otlpTraces(e.service, batch))
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(e.ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, spanAnswerMax))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("serve: collector answered %s", resp.Status)
	}
	return nil
}

// The shapes below are the JSON encoding of OTLP's ExportTraceServiceRequest: ids are hex, 64-bit integers are strings.
type (
	otlpRequest struct {
		ResourceSpans []otlpResourceSpans `json:"resourceSpans"`
	}
	otlpResourceSpans struct {
		Resource   otlpResource     `json:"resource"`
		ScopeSpans []otlpScopeSpans `json:"scopeSpans"`
	}
	otlpResource struct {
		Attributes []otlpAttribute `json:"attributes"`
	}
	otlpScopeSpans struct {
		Scope otlpScope  `json:"scope"`
		Spans []otlpSpan `json:"spans"`
	}
	otlpScope struct {
		Name string `json:"name"`
	}
	otlpSpan struct {
		TraceID    string          `json:"traceId"`
		SpanID     string          `json:"spanId"`
		ParentID   string          `json:"parentSpanId,omitempty"`
		Name       string          `json:"name"`
		Kind       int             `json:"kind"`
		Start      string          `json:"startTimeUnixNano"`
		End        string          `json:"endTimeUnixNano"`
		Attributes []otlpAttribute `json:"attributes"`
		Status     otlpStatus      `json:"status"`
	}
	otlpStatus struct {
		Code int `json:"code"` // 0 unset, 2 error
	}
	otlpAttribute struct {
		Key   string            `json:"key"`
		Value map[string]string `json:"value"` // {"stringValue": "…"} or {"intValue": "…"}
	}
)

func otlpString(key, value string) otlpAttribute {
	return otlpAttribute{key, map[string]string{"stringValue": value}}
}

func otlpTraces(service string, batch []span) otlpRequest {
	spans := make([]otlpSpan, len(batch))
	for i, s := range batch {
		spans[i] = s.otlp()
	}
	return otlpRequest{[]otlpResourceSpans{{
		Resource:   otlpResource{[]otlpAttribute{otlpString("service.name", service)}},
		ScopeSpans: []otlpScopeSpans{{Scope: otlpScope{"dongne/serve"}, Spans: spans}},
	}}}
}

func (s *span) otlp() otlpSpan {
	o := otlpSpan{
		TraceID: hex.EncodeToString(s.trace[:]), SpanID: hex.EncodeToString(s.id[:]), Name: s.name, Kind: s.kind,
		Start: strconv.FormatInt(s.start.UnixNano(), 10), End: strconv.FormatInt(s.end.UnixNano(), 10),
		Attributes: []otlpAttribute{otlpString("http.request.method", s.method)},
	}
	if s.parent != [8]byte{} {
		o.ParentID = hex.EncodeToString(s.parent[:])
	}
	if s.route != "" {
		o.Attributes = append(o.Attributes, otlpString("http.route", s.route))
	}
	if s.peer != "" {
		o.Attributes = append(o.Attributes, otlpString("server.address", s.peer))
	}
	if s.status != 0 {
		o.Attributes = append(o.Attributes, otlpAttribute{"http.response.status_code", map[string]string{"intValue": strconv.Itoa(s.status)}})
	}
	if s.failed {
		o.Status.Code = 2
	}
	return o
}
