package stream

import (
	"bufio"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestHappy(t *testing.T) {
	h := New(context.Background(), Config{Last: []byte("event: bye\ndata:\n\n")})
	closed := make(chan *Conn, 1)
	conns := make(chan *Conn, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := h.Accept(w, r, func(c *Conn) { closed <- c })
		if err != nil {
			t.Error(err)
			return
		}
		h.Subscribe(c, "a", "b")
		h.Publish([]Event{{"a", []byte("data: 1\n\n")}})
		c.Uncork([]byte("retry: 3\n\n"))
		conns <- c
	}))
	defer srv.Close()
	res, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	<-conns
	h.Publish([]Event{{"b", []byte("data: 2\n\n")}, {"a", []byte("data: 3\n\n")}})
	go h.Close()
	sc := bufio.NewScanner(res.Body)
	for sc.Scan() {
		t.Log(sc.Text())
	}
	t.Log(res.Header, sc.Err())
	<-closed
	t.Logf("%+v", h.Stats())
}
