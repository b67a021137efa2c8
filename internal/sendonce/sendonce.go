// Package sendonce prevents an HTTP client from resending a request that may have been
// processed.
package sendonce

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// Err is the error of a request that net/http would have sent again.
var Err = errors.New("the server closed the connection without an answer: the request may have been processed and is not sent again")

// Request returns a copy of req that net/http sends once, unless the request was
// certainly not processed: the server said so (HTTP/2 REFUSED_STREAM, GOAWAY), or
// writing had not begun. Without this, net/http also resends GETs and requests with an
// Idempotency-Key when a reused connection is closed before the response. The request
// on the wire is the same. Where it would have been resent, it fails with Err. done
// must be called when the response's body is no longer needed.
//
// Request prevents the resend from the request's trace, because net/http has no
// setting for it. A body that can't be rewound would work too, but is visible on the
// wire in HTTP/2.
func Request(req *http.Request) (once *http.Request, done func()) {
	ctx, cancel := context.WithCancelCause(req.Context())
	var written, again atomic.Bool
	trace := &httptrace.ClientTrace{
		WroteHeaderField: func(name string, _ []string) {
			if name == "Host" { // the first field in HTTP/1; HTTP/2 has :authority
				written.Store(true)
			}
		},
		GotFirstResponseByte: func() { written.Store(false) }, // what follows is not a resend by net/http
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
