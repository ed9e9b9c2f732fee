package gateway

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const rootSpec = `openapi: 3.1.0
info:
  title: dongne
paths:
  /:
    get:
      operationId: page
      responses:
        "200": { description: the page }
components:
  schemas:
    Problem:
      type: object
`

const chatSpec = `# chat speaks so
openapi: 3.1.0
info:
  title: chat
  description: |
    paths:
      not a path
servers:
  - url: http://127.0.0.1:8082
security:
  - caller: []
paths:
  /:
    get:
      operationId: page
      security: []
      responses:
        "200": { description: the page }
  /rooms/{room}:
    parameters:
      - $ref: "#/components/parameters/room"
    get: # reads
      operationId: getRoom
      responses:
        "200":
          content:
            application/json:
              schema: { $ref: "#/components/schemas/Problem" }
    put:
      operationId: putRoom
      security: [{ caller: [] }, { other: [] }]
      responses:
        "204": { description: done }

    delete:
      security:
        - other: []
      responses:
        "204": { description: done }
  /stream:
    get:
      responses:
        "200":
          content:
            text/event-stream: {}
components:
  parameters:
    room:
      name: room
      in: path
  schemas:
    Problem:
      properties:
        cause: { $ref: '#/components/schemas/Problem' }
  securitySchemes:
    caller: { type: apiKey, in: header, name: X-User }
    other: { type: http, scheme: bearer }
`

const wantSpec = `openapi: 3.1.0
info:
  title: dongne
paths:
  /:
    get:
      operationId: page
      responses:
        "200": { description: the page }
  /chat/:
    get:
      operationId: chat_page
      security: []
      responses:
        "200": { description: the page }
  /chat/rooms/{room}:
    parameters:
      - $ref: "#/components/parameters/chat_room"
    get: # reads
      security:
        - chat_caller: []
      operationId: chat_getRoom
      responses:
        "200":
          content:
            application/json:
              schema: { $ref: "#/components/schemas/chat_Problem" }
    put:
      operationId: chat_putRoom
      security: [{ chat_caller: [] }, { chat_other: [] }]
      responses:
        "204": { description: done }

    delete:
      security:
        - chat_other: []
      responses:
        "204": { description: done }
  /chat/stream:
    get:
      security:
        - chat_caller: []
      responses:
        "200":
          content:
            text/event-stream: {}
components:
  parameters:
    chat_room:
      name: room
      in: path
  schemas:
    Problem:
      type: object
    chat_Problem:
      properties:
        cause: { $ref: '#/components/schemas/chat_Problem' }
  securitySchemes:
    chat_caller: { type: apiKey, in: header, name: X-User }
    chat_other: { type: http, scheme: bearer }
`

func backend(name, spec string) *Backend { return NewBackend(name, []byte(spec), nil, nil) }

func TestMergeSpecs(t *testing.T) {
	got, err := MergeSpecs([]byte(rootSpec), []*Backend{backend("chat", chatSpec)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantSpec, string(got)); diff != "" {
		t.Errorf("MergeSpecs mismatch (-want +got):\n%s", diff)
	}
}

// The same specification under two names does not collide with itself.
func TestMergeSpecsTwice(t *testing.T) {
	got, err := MergeSpecs([]byte(rootSpec), []*Backend{backend("chat", chatSpec), backend("geo", chatSpec)})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"\n  /chat/rooms/{room}:\n", "\n  /geo/rooms/{room}:\n", "\n    chat_Problem:\n", "\n    geo_Problem:\n"} {
		if strings.Count(string(got), want) != 1 {
			t.Errorf("%q does not stand there once:\n%s", want, got)
		}
	}
}

func TestMergeSpecsRefuses(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"webhooks", "servers:", "webhooks:", `section "webhooks" cannot be combined`},
		{"another version", "openapi: 3.1.0", "openapi: 3.0.3", "differs from the gateway's"},
		{"no paths", "\npaths:", "\nx-paths:", "cannot be combined"},
		{"a section twice", "servers:", "info:", `line 8: "info" stands here a second time`},
		{"a tab", "  /stream:", "\t/stream:", "line 40: a tab"},
		{"an anchor", "/stream:", "/stream: &s", "line 40: a tab, an anchor"},
		{"a quoted path", "/stream:", `"/stream":`, "not a plain key"},
		{"a dangling reference", "schemas/Problem\"", "schemas/Nothing\"", "#/components/schemas/chat_Nothing is referred to and not there"},
		{"a path twice", "/stream:", "/rooms/{room}:", "path /chat/rooms/{room} stands there twice"},
		{"an operation id twice", "putRoom", "getRoom", "operationId chat_getRoom stands there twice"},
		{"a component twice", "    other:", "    caller:", "#/components/securitySchemes/chat_caller stands there twice"},
		{"loose text", "# chat speaks so", "chat speaks so", "line 1: \"chat speaks so\" stands in no section"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bad := strings.Replace(chatSpec, c.from, c.to, 1)
			_, err := MergeSpecs([]byte(rootSpec), []*Backend{backend("chat", bad)})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("MergeSpecs with %q for %q: error %v, want %q", c.to, c.from, err, c.want)
			}
		})
	}
}

func TestTitle(t *testing.T) {
	if got := title([]byte(chatSpec)); got != "chat" {
		t.Errorf("title = %q, want chat", got)
	}
}
