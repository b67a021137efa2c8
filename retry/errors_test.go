package retry_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/retry"
)

func TestPermanent(t *testing.T) {
	require.NoError(t, retry.Permanent(nil))
	err := retry.Permanent(errFlaky)
	require.ErrorIs(t, err, retry.ErrPermanent)
	require.ErrorIs(t, err, errFlaky)
	require.EqualError(t, err, "flaky")
}

func TestAfter(t *testing.T) {
	require.NoError(t, retry.After(time.Second, nil))
	for d, want := range map[time.Duration]time.Duration{time.Hour: time.Hour, 0: 0, -1: 0} {
		err := retry.After(d, errFlaky)
		require.ErrorIs(t, err, errFlaky)
		require.EqualError(t, err, "flaky")
		var after interface{ RetryAfter() time.Duration }
		require.ErrorAs(t, err, &after)
		require.Equal(t, want, after.RetryAfter())
	}
}

func TestErrorWithoutParts(t *testing.T) {
	err := error(&retry.Error{})
	require.NotPanics(t, func() { _ = err.Error() })
	require.NotErrorIs(t, err, errFlaky)
	require.Equal(t, retry.ReasonPermanent, retry.Reason(err))
}

func TestReason(t *testing.T) {
	stock := reasonError("out_of_stock")
	for _, c := range []struct {
		err  error
		want string
	}{
		{nil, retry.ReasonPermanent},
		{errFlaky, retry.ReasonPermanent},
		{retry.Permanent(errFlaky), retry.ReasonPermanent},
		{fmt.Errorf("order 7: %w", stock), "out_of_stock"},
		{retry.Permanent(stock), "out_of_stock"},
		{errors.Join(errFlaky, reasonError(""), fmt.Errorf("b: %w", stock), reasonError("later")), "out_of_stock"},
		{wrapReason{"", stock}, "out_of_stock"},
		{wrapReason{"outer", stock}, "outer"},
		{fmt.Errorf("a: %w", retry.ErrExhausted), retry.ReasonExhausted},
		{&retry.Error{Attempts: 12, Cause: retry.ErrExhausted, Err: stock}, retry.ReasonExhausted},
		{&retry.Error{Attempts: 1, Cause: context.Canceled, Err: stock}, "out_of_stock"},
		{fmt.Errorf("%w: %w", retry.ErrExhausted, stock), "out_of_stock"},
	} {
		require.Equal(t, c.want, retry.Reason(c.err), "%v", c.err)
	}
}

type reasonError string

func (e reasonError) Error() string  { return "reason " + string(e) }
func (e reasonError) Reason() string { return string(e) }

type wrapReason struct {
	reason string
	err    error
}

func (e wrapReason) Error() string  { return e.err.Error() }
func (e wrapReason) Unwrap() error  { return e.err }
func (e wrapReason) Reason() string { return e.reason }
