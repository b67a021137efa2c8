package sqsqueue

import (
	"fmt"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"

	"github.com/rampmeter/rampmeter/internal/awsconns"
)

// manyDials is how many requests dial before a warning is logged: an occasional burst
// does no harm.
const manyDials = 100

// connections are those of a queue's requests.
type connections struct {
	awsconns.Pool
	requests atomic.Int64 // through an HTTP client that keeps a limited number
	dials    atomic.Int64 // by these requests, with more in flight than connections kept
	tooFew   sync.Once    // logs that the client keeps too few
}

// watchDials returns req with a trace that logs when many requests dial because
// the caller's HTTP client did not keep enough connections. A dial while fewer
// requests are in flight has another reason, such as a server that closes each
// connection.
func (r *request) watchDials(req *http.Request) *http.Request {
	conns := &r.q.conns
	requests := conns.requests.Add(1)
	if r.inFlight <= max(r.keeps, 1) {
		return req
	}
	return req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		ConnectDone: func(_, _ string, err error) {
			if err != nil {
				return
			}
			dials := conns.dials.Add(1)
			if dials < manyDials || dials*10 < requests {
				return
			}
			conns.tooFew.Do(func() {
				r.q.cfg.Logger.Warn("sqsqueue: the HTTP client keeps too few idle connections, so requests dial; raise its transport's MaxIdleConnsPerHost",
					"queue", r.q.url, "kept", r.keeps, "in_flight", r.inFlight, "requests", requests, "dials", dials)
			})
		},
	}))
}

// connections checks how many connections the client's HTTP client keeps.
func (c *checks) connections() {
	slots := c.cfg.Consumer.Concurrency
	if slots == 0 {
		slots = 10
	}
	kept, most := c.q.conns.Keeps(), 2*slots
	if c.cfg.Lambda || kept >= most {
		return // the service itself receives for a function
	}
	c.found = append(c.found, Finding{
		Queue: c.q.url, Attribute: "HTTPClient.MaxIdleConnsPerHost",
		Problem: fmt.Sprintf("keeps %d idle connections, and a consumer with a Concurrency of %d has up to %d requests in flight (a receive and an ack for each handler): each one beyond %d dials, which at full speed and over TLS triples the CPU time per message",
			kept, slots, most, kept),
		Fix: fmt.Sprintf("set it to at least %d, with keep-alives enabled and MaxIdleConns 0 or as high; or leave the SDK's defaults, and this package keeps enough", most),
	})
}
