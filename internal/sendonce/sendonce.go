// Package sendonce keeps an HTTP client from sending a request twice that may have
// been processed.
package sendonce

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// Err is what a request fails with that would have to be sent again.
var Err = errors.New("the server closed the connection without an answer: the request may have been processed and is not sent again")

// Request returns req as one that net/http sends once, unless it is sure that it
// was not processed: the server said so (HTTP/2 REFUSED_STREAM, GOAWAY), or writing
// had not begun. Without this, GETs and requests with an Idempotency-Key are also sent
// again when a kept connection is closed before its answer. The request on the wire
// is the same. It ends with Err where it would have been sent again. done must be
// called when its response's body is no longer needed.
//
// A request is kept from being sent again by what it reports to its trace, because
// net/http has no setting for it, and a body that can't be rewound, which would
// also do, is seen on the wire in HTTP/2.
func Request(req *http.Request) (once *http.Request, done func()) {
	ctx, cancel := context.WithCancelCause(req.Context())
	var written, again atomic.Bool
	trace := &httptrace.ClientTrace{
		WroteHeaderField: func(name string, _ []string) {
			if name == "Host" { // the first field in HTTP/1; HTTP/2 has :authority
				written.Store(true)
			}
		},
		GotFirstResponseByte: func() { written.Store(false) }, // what comes next is not of net/http
		GetConn: func(string) {
			if written.Load() {
				again.Store(true)
				cancel(Err)
			}
		},
		GotConn: func(info httptrace.GotConnInfo) {
			if again.Load() { // it may have been ready before net/http looked at the context
				_ = info.Conn.Close()
			}
		},
	}
	return req.WithContext(httptrace.WithClientTrace(ctx, trace)), func() { cancel(nil) }
}
