package inventorytest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
)

// Transport returns a round tripper whose requests the server handles in this
// process, whatever their host: without sockets, so that time in a synctest bubble
// can advance. A dropped connection is a *[net.OpError]. As on a network, only the
// client abandons a request whose context ends: the server continues to handle it,
// in a goroutine that ends when it is done.
func (s *Server) Transport() http.RoundTripper { return transport{s} }

type transport struct{ s *Server }

func (t transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(req.Body)
		_ = req.Body.Close() // it was read
		if err != nil {
			return nil, fmt.Errorf("inventorytest: read the request's body: %w", err)
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	in := req.Clone(context.WithoutCancel(ctx))
	in.Body = io.NopCloser(bytes.NewReader(body))
	in.RequestURI = req.URL.RequestURI()

	done := make(chan *http.Response, 1) // so that the handler never waits for a client that has gone
	go func() { done <- t.s.handle(in, req) }()
	select {
	case res := <-done:
		if res == nil {
			return nil, &net.OpError{Op: "read", Net: "tcp", Err: io.ErrUnexpectedEOF}
		}
		return res, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// handle returns nil when the connection was dropped.
func (s *Server) handle(in, req *http.Request) (res *http.Response) {
	w := &recorder{header: make(http.Header)}
	defer func() {
		switch p := recover(); {
		case p == http.ErrAbortHandler: //nolint:errorlint // it is compared so by net/http, too
			res = nil
		case p != nil:
			panic(p)
		}
	}()
	s.ServeHTTP(w, in)
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)),
		StatusCode:    w.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        w.header,
		Body:          io.NopCloser(&w.body),
		ContentLength: int64(w.body.Len()),
		Request:       req,
	}
}

// A recorder keeps a response.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header { return w.header }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
