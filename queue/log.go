package queue

import (
	"errors"
	"log/slog"
	"time"

	"github.com/rampmeter/rampmeter/limiter"
)

// levelOf is loud for what needs a person.
func levelOf(err error) slog.Level {
	if errors.Is(err, limiter.ErrMisconfigured) {
		return slog.LevelError
	}
	return slog.LevelWarn
}

func attrs(name string, err error, retryIn time.Duration) []slog.Attr {
	return []slog.Attr{slog.String("consumer", name), slog.Any("error", err), slog.Duration("retry_in", retryIn)}
}
