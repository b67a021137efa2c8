package secret

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

const (
	// fresh is for how long a token is used without asking for it again.
	fresh = 5 * time.Minute
	// again is for how long the last token is used after a fetch that failed,
	// before the next one.
	again = 30 * time.Second
	// timeout is how long a fetch may take, the SDK's own retries included.
	timeout = 3 * time.Second
)

// API is the part of the SDK that a [Token] calls. A *secretsmanager.Client is one.
type API interface {
	GetSecretValue(context.Context, *secretsmanager.GetSecretValueInput, ...func(*secretsmanager.Options)) (*secretsmanager.GetSecretValueOutput, error)
}

var _ API = (*secretsmanager.Client)(nil)

// Config configures a [Token]. The zero Config works.
type Config struct {
	// Logger gets a line when the last token is kept because no newer one is
	// available. Default slog.Default().
	Logger *slog.Logger
}

// A Token is a secret that is fetched when it is needed. Make one with [New].
// Its methods may be called concurrently.
type Token struct {
	client API
	id     string
	log    *slog.Logger

	mu      sync.Mutex // guards all below
	value   string     // the last good one; "" before the first
	due     time.Time  // when it is to be fetched again
	refused bool       // the API refuses value
	flight  *flight    // the fetch under way, nil if there is none
}

// A flight is one fetch, shared by all callers that wait for it. Its fields are set before
// done is closed.
type flight struct {
	done      chan struct{}
	err       error // why there is no token
	abandoned bool  // it ended with the context of the caller that made it
}

// New returns the secret with that name or ARN. Nothing is fetched yet. It
// fails when client is nil or id is empty.
func New(client API, id string, cfg Config) (*Token, error) {
	if c, ok := client.(*secretsmanager.Client); client == nil || ok && c == nil {
		return nil, errors.New("secret: New: client is nil")
	}
	if id == "" {
		return nil, errors.New("secret: New: id is empty: must be a secret's name or ARN")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	return &Token{client: client, id: id, log: cfg.Logger}, nil
}

// Get returns the token, and fetches it if necessary. It fails when no token was
// ever fetched, and when the last one was refused and there is no other; limiters
// can classify the error. After such a refusal the next Get returns the refused
// token again, since the API may have been wrong.
func (t *Token) Get(ctx context.Context) (string, error) {
	for {
		t.mu.Lock()
		if t.value != "" && !t.refused && time.Now().Before(t.due) {
			defer t.mu.Unlock()
			return t.value, nil
		}
		f := t.flight
		if f == nil {
			f = &flight{done: make(chan struct{})}
			t.flight = f
			t.mu.Unlock()
			return t.fetch(ctx, f)
		}
		t.mu.Unlock()

		select {
		case <-f.done:
		case <-ctx.Done():
			return "", fmt.Errorf("secret: get %q: %w", t.id, context.Cause(ctx))
		}
		if f.err != nil && !f.abandoned {
			return "", f.err
		}
	}
}

// Refuse reports that the API refused a token that Get returned, so the next Get
// fetches it again. It ignores a token that has been replaced in the
// meantime.
func (t *Token) Refuse(value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if value == t.value {
		t.refused = true
	}
}

// fetch makes the flight f.
func (t *Token) fetch(ctx context.Context, f *flight) (value string, err error) {
	value, err = t.ask(ctx)
	f.abandoned = err != nil && ctx.Err() != nil
	kept := false
	defer func() {
		if kept {
			t.log.Warn("secret: the last token is used on", "secret", t.id, "error", err)
			err = nil
		}
	}()

	t.mu.Lock()
	defer t.mu.Unlock()
	defer close(f.done)
	t.flight = nil
	before, refused := t.value, t.refused
	if f.abandoned {
		err = fmt.Errorf("secret: get %q: %w", t.id, context.Cause(ctx))
		f.err = err
		return "", err
	}
	t.refused, t.due = false, time.Now().Add(fresh)
	switch {
	case err == nil && refused && value == before:
		err = fmt.Errorf("secret: get %q: the API refuses the token, and Secrets Manager has no other: %w", t.id, limiter.ErrMisconfigured)
	case err == nil:
		t.value = value
		return value, nil
	default:
		t.due = time.Now().Add(again)
		if before != "" && !refused {
			kept = true
			return before, err
		}
	}
	f.err = err
	return "", err
}

// ask calls Secrets Manager.
func (t *Token) ask(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out, err := t.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: &t.id})
	if err != nil {
		return "", explain(t.id, err)
	}
	if out.SecretString == nil || strings.TrimSpace(*out.SecretString) == "" {
		return "", fmt.Errorf("secret: get %q: it has no string: put the token there as plain text: %w", t.id, limiter.ErrMisconfigured)
	}
	return strings.TrimSpace(*out.SecretString), nil
}

// Transport returns a transport that inspects the responses of next: a 401 calls
// Refuse with the request's bearer token. It makes no request of its own.
func (t *Token) Transport(next http.RoundTripper) http.RoundTripper { return &transport{t, next} }

type transport struct {
	token *Token
	next  http.RoundTripper
}

func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.next.RoundTrip(r)
	if err == nil && res.StatusCode == http.StatusUnauthorized {
		if value, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			t.token.Refuse(value)
		}
	}
	return res, err
}

// Retry returns the policy of a client that sends its request a second time,
// at once, when the first failed with unauthorized. The token is fetched again for
// it; if there is no other token, the second request is not sent. Nothing else is
// retried.
func Retry(unauthorized error) *retry.Policy {
	return &retry.Policy{
		MaxAttempts: 2, BaseDelay: time.Millisecond, MaxDelay: time.Millisecond,
		Retryable: func(err error) bool { return errors.Is(err, unauthorized) },
	}
}
