package gateway

import (
	_ "embed"

	"dongne/internal/serve"
)

//go:embed page.html
var page []byte

// Page is the start page: log-in, every service with its links, and for operators what is set on the routes.
func Page() serve.Handler { return serve.PageWith(page, "form-action 'self'") }
