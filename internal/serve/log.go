package serve

import (
	"context"
	"io"
	"log/slog"
)

// NewLogger returns the logger of a service: JSON lines to stdout, times in UTC, from LOG_LEVEL up. It is for what run
// itself has to say; a handler uses Logger.
func NewLogger(getenv func(string) string, stdout io.Writer) (*slog.Logger, error) {
	var level slog.Level
	switch value := getenv("LOG_LEVEL"); value {
	case "debug":
		level = slog.LevelDebug
	case "info":
		level = slog.LevelInfo
	case "warn":
		level = slog.LevelWarn
	case "error":
		level = slog.LevelError
	default:
		return nil, badValue("LOG_LEVEL", value, "want debug, info, warn or error")
	}
	return slog.New(utcHandler{slog.NewJSONHandler(stdout, &slog.HandlerOptions{Level: level})}), nil
}

// utcHandler writes every time in UTC, so that lines of several machines compare as text.
type utcHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h utcHandler) Handle(ctx context.Context, r slog.Record) error {
	r.Time = r.Time.UTC()
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h utcHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return utcHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h utcHandler) WithGroup(name string) slog.Handler { return utcHandler{h.Handler.WithGroup(name)} }

// Logger returns the logger for a request's context: every line carries its trace id. Outside of a request the lines go
// nowhere.
func Logger(ctx context.Context) *slog.Logger {
	if x := exchangeOf(ctx); x != nil {
		return x.server.log.With("trace_id", x.traceID)
	}
	return slog.New(slog.DiscardHandler)
}
