package inventory_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/inventory"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

var kinds = []error{
	inventory.ErrNotFound, inventory.ErrConflict, inventory.ErrOutOfStock, inventory.ErrInvalid,
	inventory.ErrChanged, inventory.ErrUnauthorized, inventory.ErrThrottled, inventory.ErrUnavailable,
}

// The table in the package's documentation.
func TestWhatErrorsMean(t *testing.T) {
	cut := errors.New("cut off")
	for _, c := range []struct {
		e         inventory.Error
		kind      error
		permanent bool
		verdict   error
		reason    string
	}{
		{inventory.Error{Status: 404, Code: "not_found"}, inventory.ErrNotFound, true, nil, "not_found"},
		{inventory.Error{Status: 410, Code: "not_found"}, inventory.ErrNotFound, true, nil, "not_found"},
		{inventory.Error{Status: 409}, inventory.ErrConflict, true, nil, "conflict"},
		{inventory.Error{Status: 409, Code: "conflict"}, inventory.ErrConflict, true, nil, "conflict"},
		{inventory.Error{Status: 409, Code: "out_of_stock"}, inventory.ErrOutOfStock, true, nil, "out_of_stock"},
		{inventory.Error{Status: 422, Code: "out_of_stock"}, inventory.ErrOutOfStock, true, nil, "out_of_stock"},
		{inventory.Error{Status: 400}, inventory.ErrInvalid, true, nil, "invalid"},
		{inventory.Error{Status: 413}, inventory.ErrInvalid, true, nil, "invalid"},
		{inventory.Error{Status: 422, Code: "a_new_one"}, inventory.ErrInvalid, true, nil, "invalid"},
		{inventory.Error{Code: "invalid"}, inventory.ErrInvalid, true, nil, "invalid"},
		{inventory.Error{Status: 412, Code: "changed"}, inventory.ErrChanged, false, nil, "changed"},
		{inventory.Error{Status: 412}, inventory.ErrChanged, false, nil, "changed"},
		{inventory.Error{Status: 412, Err: cut}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{Status: 401}, inventory.ErrUnauthorized, false, limiter.ErrMisconfigured, "unauthorized"},
		{inventory.Error{Status: 403, Code: "not_found"}, inventory.ErrUnauthorized, false, limiter.ErrMisconfigured, "unauthorized"},
		{inventory.Error{Status: 403, After: time.Second}, inventory.ErrThrottled, false, limiter.ErrOverload, "throttled"},
		{inventory.Error{Status: 407, Err: cut}, inventory.ErrUnauthorized, false, limiter.ErrMisconfigured, "unauthorized"},
		{inventory.Error{Status: 429}, inventory.ErrThrottled, false, limiter.ErrOverload, "throttled"},
		{inventory.Error{Status: 429, Err: cut, After: 1}, inventory.ErrThrottled, false, limiter.ErrOverload, "throttled"},
		{inventory.Error{Status: 503, After: time.Second}, inventory.ErrUnavailable, false, limiter.ErrOverload, "unavailable"},
		{inventory.Error{Status: 503}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{Status: 500, Code: "not_found", After: time.Second}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{Status: 408}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{Status: 425}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{Status: 200, Err: cut}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{Status: 204}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{Status: 422, Err: cut}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{Status: 404, Err: cut}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{Err: cut}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{Status: 404}, inventory.ErrUnavailable, false, limiter.ErrMisconfigured, "unavailable"},
		{inventory.Error{Status: 405}, inventory.ErrUnavailable, false, limiter.ErrMisconfigured, "unavailable"},
		{inventory.Error{Status: 302}, inventory.ErrUnavailable, false, limiter.ErrMisconfigured, "unavailable"},
		{inventory.Error{Err: &net.DNSError{IsNotFound: true}}, inventory.ErrUnavailable, false, limiter.ErrMisconfigured, "unavailable"},
		{inventory.Error{Err: &net.DNSError{IsTemporary: true}}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
		{inventory.Error{Err: tls.RecordHeaderError{}}, inventory.ErrUnavailable, false, limiter.ErrMisconfigured, "unavailable"},
		{inventory.Error{Err: &net.OpError{Op: "remote error", Err: tls.AlertError(42)}}, inventory.ErrUnavailable, false, limiter.ErrMisconfigured, "unavailable"},
		{inventory.Error{Err: context.DeadlineExceeded}, inventory.ErrUnavailable, false, limiter.ErrUnavailable, "unavailable"},
	} {
		name := fmt.Sprintf("%+v", c.e)
		err := fmt.Errorf("order 7: %w", &c.e)
		for _, kind := range kinds {
			require.Equal(t, kind == c.kind, errors.Is(err, kind), "%s: %v", name, kind)
		}
		require.Equal(t, c.permanent, errors.Is(err, retry.ErrPermanent), name)
		require.Equal(t, c.verdict, limiter.Classify(err), name)
		require.Equal(t, c.reason, retry.Reason(err), name)
		after, ok := limiter.RetryAfter(err)
		require.Equal(t, c.e.After > 0, ok, name)
		if ok {
			require.Equal(t, c.e.After, after, name)
		}
	}
}

func TestErrorTexts(t *testing.T) {
	for want, e := range map[string]inventory.Error{
		`inventory: adjust "A": 422 out_of_stock: 3 left (request r-1)`: {Op: "adjust", SKU: "A", Status: 422, Code: "out_of_stock", Message: "3 left", RequestID: "r-1"},
		`inventory: levels: 503 Service Unavailable`:                    {Op: "levels", Status: 503},
		`inventory: level "A": 599`:                                     {Op: "level", SKU: "A", Status: 599},
		`inventory: level "A\n": cut off`:                               {Op: "level", SKU: "A\n", Err: errors.New("cut off")},
		`inventory: level: invalid: sku is empty`:                       {Op: "level", Code: "invalid", Message: "sku is empty"},
	} {
		require.EqualError(t, &e, want)
	}
}

// The errors that an adaptive limiter counts as a lack of capacity.
func TestTimeouts(t *testing.T) {
	late := fmt.Errorf("no answer within 1s: %w", context.DeadlineExceeded)
	for _, c := range []struct {
		e    inventory.Error
		want bool
	}{
		{inventory.Error{Status: 503}, true},
		{inventory.Error{Status: 503, After: time.Second}, true},
		{inventory.Error{Status: 504}, true},
		{inventory.Error{Err: late}, true},
		{inventory.Error{Status: 200, Err: late}, true},
		{inventory.Error{Err: &net.OpError{Op: "dial", Err: &net.DNSError{IsTimeout: true}}}, true},
		{inventory.Error{Status: 500}, false},
		{inventory.Error{Status: 502}, false},
		{inventory.Error{Status: 408}, false},
		{inventory.Error{Status: 429, After: time.Second}, false},
		{inventory.Error{Status: 422, Code: "out_of_stock"}, false},
		{inventory.Error{Err: errors.New("cut off")}, false},
		{inventory.Error{}, false},
	} {
		var timeout interface{ Timeout() bool }
		require.ErrorAs(t, fmt.Errorf("order 7: %w", &c.e), &timeout)
		require.Equal(t, c.want, timeout.Timeout(), "%+v", c.e)
	}
}
