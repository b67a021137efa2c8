package limiter_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

func TestNilsAreRefused(t *testing.T) {
	s := newSemaphore(t, 1)
	var none *limiter.Breaker
	for want, try := range map[string]func() (any, error){
		"limiter: All: limiters[1] is nil (a *limiter.Breaker)": func() (any, error) { return limiter.All(s, none) },
		"limiter: All: limiters[0] is nil: leave it out":        func() (any, error) { return limiter.All(nil) },
		"limiter: NewTransport: l is nil: must be":              func() (any, error) { return limiter.NewTransport(nil, nil) },
		"limiter: NewTransport: l is nil (a *limiter.Breaker)":  func() (any, error) { return limiter.NewTransport(none, nil) },
		"limiter: NewTransport: base is nil (a *http.Transport)": func() (any, error) {
			return limiter.NewTransport(s, (*http.Transport)(nil))
		},
		"limiter: NewTransport: base is nil (a limiter_test.roundTripper)": func() (any, error) {
			return limiter.NewTransport(s, roundTripper(nil))
		},
		"limiter: Do: l is nil: must be": func() (any, error) {
			return nil, limiter.Do(t.Context(), nil, func(context.Context) error { return errPoison })
		},
		"limiter: Do: l is nil (a *limiter.Breaker)": func() (any, error) {
			return nil, limiter.Do(t.Context(), none, func(context.Context) error { return errPoison })
		},
		"limiter: Do: f is nil": func() (any, error) { return nil, limiter.Do(t.Context(), s, nil) },
	} {
		got, err := try()
		require.ErrorContains(t, err, want)
		require.Nil(t, got, want)
	}
	require.Zero(t, s.Stats().InUse)

	k, err := limiter.NewKeyed(func(string) (limiter.Limiter, error) { return none, nil })
	require.NoError(t, err)
	_, err = k.For("a").Acquire(t.Context())
	require.EqualError(t, err, "limiter: Keyed: key a: create returned nil (a *limiter.Breaker)")
}

// The zero Transport fails as a Transport must, with the body closed.
func TestTheZeroTransportMakesNoRequest(t *testing.T) {
	body := &closing{Reader: errBody{errors.New("not to be read")}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://inventory.test", io.NopCloser(body))
	require.NoError(t, err)
	req.Body = body
	_, err = (&limiter.Transport{}).RoundTrip(req)
	require.ErrorContains(t, err, "make it with NewTransport")
	require.True(t, body.closed)
}

func TestNothingIsNotTripped(t *testing.T) {
	require.False(t, limiter.Tripped(nil))
	require.False(t, limiter.Tripped((*limiter.Breaker)(nil)))
}
