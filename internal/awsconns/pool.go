// Package awsconns keeps the connections of an AWS client's requests open.
//
// The SDK's own HTTP client, [awshttp.BuildableClient], keeps ten idle connections
// for a host. With more requests in flight than that, the others close their
// connections after the reply, and the next requests dial again. At a few thousand
// requests a second most requests dial, and with TLS that costs more than the requests
// themselves.
package awsconns

import (
	"math"
	"net/http"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// Unlimited is the number of idle connections of a client without a limit on them.
const Unlimited = math.MaxInt

// A Pool chooses the HTTP client of each request. The zero Pool is ready to use;
// it may be used concurrently, and must not be copied.
//
// A Pool has a copy of the SDK's own client that keeps every connection until it has
// been idle for IdleConnTimeout. A request that is the only one in flight goes through
// the SDK's client itself. So Pools that make one request at a time, of which a
// program may have any number, and short-lived Pools share the connections of
// their client and leave none behind.
type Pool struct {
	inFlight atomic.Int64
	first    atomic.Pointer[client]
}

// A client is the caller's HTTP client, and what is known about it. It does not
// change.
type client struct {
	is     aws.HTTPClient           // nil: of an unknown type
	larger *awshttp.BuildableClient // its copy; nil: it is used unchanged
	keeps  int                      // idle connections for a host, including those of larger
}

// Begin counts a request, and returns how many are in flight, including this one. End
// ends it.
func (p *Pool) Begin() int { return int(p.inFlight.Add(1)) }

// End is called once for each Begin, when the response has been read.
func (p *Pool) End() { p.inFlight.Add(-1) }

// Choose returns the HTTP client for a request for which the caller has configured
// c, and Begin has returned n. It also returns how many idle connections that
// client keeps for a host, Unlimited if unknown.
//
// Choose returns a client other than c only if c is the SDK's own, with its default
// connection limits, and only for the first such c: it does not copy each client of a
// caller that makes a new one for every request.
func (p *Pool) Choose(c aws.HTTPClient, n int) (use aws.HTTPClient, keeps int) {
	first := p.first.Load()
	if first == nil {
		p.first.CompareAndSwap(nil, look(c))
		first = p.first.Load()
	}
	switch {
	case first.is != c: // of different types, or two pointers: never panics
		return c, Unlimited
	case first.larger != nil && n > 1:
		return first.larger, first.keeps
	}
	return c, first.keeps
}

// Keeps returns how many idle connections for a host are kept for the requests so
// far: Unlimited if there was no request, or if the number is unknown.
func (p *Pool) Keeps() int {
	if first := p.first.Load(); first != nil {
		return first.keeps
	}
	return Unlimited
}

func look(c aws.HTTPClient) *client {
	switch c := c.(type) {
	case *awshttp.BuildableClient:
		t := c.GetTransport()
		if !isDefault(t) {
			return &client{is: c, keeps: keeps(t)}
		}
		return &client{is: c, keeps: Unlimited, larger: c.WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, math.MaxInt // never more than were in use at once, which MaxConnsPerHost limits
		})}
	case *http.Client:
		rt := c.Transport
		if rt == nil {
			rt = http.DefaultTransport
		}
		if t, ok := rt.(*http.Transport); ok {
			return &client{is: c, keeps: keeps(t)}
		}
		return &client{is: c, keeps: Unlimited}
	}
	return &client{keeps: Unlimited}
}

// isDefault reports whether t has the SDK's default connection limits.
func isDefault(t *http.Transport) bool {
	return t.MaxIdleConnsPerHost == awshttp.DefaultHTTPTransportMaxIdleConnsPerHost &&
		t.MaxIdleConns == awshttp.DefaultHTTPTransportMaxIdleConns &&
		t.MaxConnsPerHost == awshttp.DefaultHTTPTransportMaxConnsPerHost &&
		!t.DisableKeepAlives
}

// keeps returns how many idle connections t keeps for a host.
func keeps(t *http.Transport) int {
	n := t.MaxIdleConnsPerHost
	if n == 0 {
		n = http.DefaultMaxIdleConnsPerHost
	}
	if t.MaxIdleConns != 0 {
		n = min(n, t.MaxIdleConns)
	}
	switch {
	case n < 0 || t.DisableKeepAlives:
		return 0
	case t.MaxConnsPerHost > 0 && t.MaxConnsPerHost <= n:
		return Unlimited // requests wait for connections, so there are never too many
	}
	return n
}
