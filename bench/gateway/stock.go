package main

import (
	"context"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"

	"dongne/bench/proc"
)

// stockVariable tells this program to be the proxy that Go's library has: "host:port host:port", its own address and the service's.
const stockVariable = "DONGNE_BENCH_STOCK"

// stockMain serves as that proxy and does not return, if this process was started to be it.
func stockMain() {
	own, service, found := strings.Cut(os.Getenv(stockVariable), " ")
	if !found {
		return
	}
	target := &url.URL{Scheme: "http", Host: service}
	proxy := &httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Path = strings.TrimPrefix(r.In.URL.Path, "/chat")
			r.SetURL(target)
			r.SetXForwarded()
		},
	}
	http.ListenAndServe(own, proxy)
	os.Exit(1)
}

func startStock(ctx context.Context, _ string, b behind) (*server, error) {
	addr, err := proc.FreeAddr()
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p, err := proc.Start([]string{stockVariable + "=" + addr + " " + b.upstream}, program)
	if err != nil {
		return nil, err
	}
	return &server{addr: addr, process: p}, stopOn(p.AwaitTCP(ctx, addr), p)
}
