// Package servetest holds a service to its own contract: Routes compares openapi.yaml with the route table, and Record
// keeps every exchange of a service's tests so that a validator can hold them against the contract.
//
// # The record
//
// Record does nothing unless the environment variable DONGNE_EXCHANGES names a directory. Then every exchange of the test
// is appended to <directory>/<service>.jsonl, one JSON object a line, of the type Exchange:
//
//	{"test":"TestRooms/create","method":"POST","url":"/rooms?x=1","host":"127.0.0.1:41234","route":"POST /rooms",
//	 "stream":false,
//	 "request":{"header":{"Content-Type":["application/json"]},"body":"{…}"},
//	 "response":{"status":201,"header":{"Content-Type":["application/json"]},"body":"{…}"}}
//
// route is the ServeMux pattern, "" when none matched. The shell's own routes (serve.ShellRoutes) are recorded too; no
// service's contract has to describe them. A body that is not UTF-8 is in base64, with "base64":true. The request's body
// is as much of it as the handler read; a body that went on after what is kept has "truncated":true. Headers that net/http
// adds by itself (Date, Content-Length, a sniffed Content-Type) are in the record of a hijacked answer alone. With
// "stream":true the answer was flushed in the middle or hijacked, and its body is the first bytes of the stream. Exchanges
// whose connection was cut on purpose are not recorded: they have no answer.
package servetest

import (
	"bufio"
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"dongne/internal/serve"
)

// Routes fails the test unless the operations of an OpenAPI document and the patterns of a route table are the same:
// every path with every method, path parameters under the same names. In a pattern "{$}" at the end counts as nothing and
// "{rest...}" as "{rest}". The shell's own routes may be in the document or not. A pattern without a method that ends in
// a slash is a mount: what is below it is another document's.
//
// The document is read line by line: "paths:" at the margin, paths indented by two spaces, methods by four.
func Routes(t testing.TB, openapi []byte, routes map[string]serve.Handler) {
	t.Helper()
	for _, problem := range compare(openapi, slices.Sorted(maps.Keys(routes))) {
		t.Error(problem)
	}
}

// compare returns what is wrong, in words.
func compare(openapi []byte, patterns []string) []string {
	described, err := operations(openapi)
	if err != nil {
		return []string{err.Error()}
	}
	var problems []string
	served := map[string]bool{}
	for _, pattern := range patterns {
		method, path, ok := strings.Cut(pattern, " ")
		if !ok && strings.HasSuffix(pattern, "/") {
			continue
		}
		if !ok {
			problems = append(problems, fmt.Sprintf("pattern %q has no method", pattern))
			continue
		}
		path = strings.ReplaceAll(strings.TrimSuffix(path, "{$}"), "...}", "}")
		served[method+" "+path] = true
		if !described[method+" "+path] {
			problems = append(problems, fmt.Sprintf("%q is served, but not in openapi.yaml", pattern))
		}
	}
	for _, op := range slices.Sorted(maps.Keys(described)) {
		if !served[op] && !slices.Contains(serve.ShellRoutes, op) {
			problems = append(problems, fmt.Sprintf("%q is in openapi.yaml, but not served", op))
		}
	}
	return problems
}

// operationKeys are the keys of an OpenAPI 3.1 path item; true for those that are methods.
var operationKeys = map[string]bool{
	"get": true, "put": true, "post": true, "delete": true, "options": true, "head": true, "patch": true, "trace": true,
	"parameters": false, "summary": false, "description": false, "servers": false,
}

// operations returns the operations of a document as a set of "GET /path".
func operations(openapi []byte) (map[string]bool, error) {
	ops := map[string]bool{}
	inPaths, path, seen := false, "", map[string]bool{}
	scanner := bufio.NewScanner(bytes.NewReader(openapi))
	scanner.Buffer(nil, 1<<20)
	for n := 1; scanner.Scan(); n++ {
		line := strings.TrimRight(scanner.Text(), " \r")
		text := strings.TrimLeft(line, " ")
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		indent := len(line) - len(text)
		key, _, isKey := strings.Cut(text+" ", ": ") // a path may have colons of its own
		key = strings.Trim(key, `"'`)
		fail := func(what string) error { return fmt.Errorf("openapi.yaml:%d: %s: %s", n, what, text) }
		switch {
		case strings.HasPrefix(text, "\t"):
			return nil, fail("indented by a tab")
		case indent == 0:
			inPaths = key == "paths"
		case !inPaths || indent > 4:
		case indent == 2 && isKey && strings.HasPrefix(key, "/"):
			if seen[key] {
				return nil, fail("path comes twice")
			}
			path, seen[key] = key, true
		case indent == 4 && isKey && path != "":
			method, known := operationKeys[key]
			op := strings.ToUpper(key) + " " + path
			if !known {
				return nil, fail("not a method or another key of a path")
			}
			if ops[op] {
				return nil, fail("method comes twice")
			}
			if method {
				ops[op] = true
			}
		default:
			return nil, fail("want a path indented by 2 spaces or a method indented by 4")
		}
	}
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("openapi.yaml: %w", err)
	}
	if len(seen) == 0 {
		return nil, fmt.Errorf("openapi.yaml: it has no paths")
	}
	return ops, nil
}
