package stream_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	"dongne/chat/stream"
)

func Example() {
	hub := stream.New(context.Background(), stream.Config{Last: stream.AppendEvent(nil, "", "bye", []byte("soon"))})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := hub.Accept(w, r, nil)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		hub.Subscribe(c, "room-1", "room-2")
		c.Uncork(stream.AppendRetry(nil, 2*time.Second)) // and what the client missed
	}))
	defer srv.Close()

	res, err := http.Get(srv.URL)
	if err != nil {
		panic(err)
	}
	defer res.Body.Close()
	hub.Publish([]stream.Event{
		{Topic: "room-2", Frame: stream.AppendEvent(nil, "41", "message", []byte("hi\nall"))},
		{Topic: "room-3", Frame: stream.AppendEvent(nil, "42", "message", []byte("to others"))},
	})
	hub.Close()
	body, err := io.ReadAll(res.Body)
	fmt.Print(string(body), err)
	// Output:
	// retry: 2000
	//
	// id: 41
	// event: message
	// data: hi
	// data: all
	//
	// event: bye
	// data: soon
	//
	// <nil>
}
