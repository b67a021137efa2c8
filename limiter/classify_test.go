package limiter_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/retry"
)

// A grpcError is like those of google.golang.org/grpc/status.
type (
	grpcError  struct{ s *grpcStatus }
	grpcStatus struct{ code grpcCode }
	grpcCode   uint32
)

func (e *grpcError) Error() string           { return fmt.Sprint("rpc error: code ", e.s.code) }
func (e *grpcError) GRPCStatus() *grpcStatus { return e.s }
func (s *grpcStatus) Code() grpcCode         { return s.code }

func grpc(code grpcCode) error { return &grpcError{&grpcStatus{code}} }

// Types that only look like it.
type (
	grpcString  struct{ error }
	grpcArg     struct{ error }
	grpcNil     struct{ error }
	grpcCodeInt struct{ error }
	intCode     struct{}
)

func (grpcString) GRPCStatus() string      { return "14" }
func (grpcArg) GRPCStatus(int) *grpcStatus { return &grpcStatus{14} }
func (grpcNil) GRPCStatus() *grpcStatus    { return nil }
func (grpcCodeInt) GRPCStatus() *intCode   { return &intCode{} }
func (*intCode) Code() int                 { return 14 }

// An sdkTimeout is like the timeouts of SDKs: a net.Error of their own, or what an
// SDK makes of an ended context.
type sdkTimeout struct{ error }

func (sdkTimeout) Timeout() bool   { return true }
func (sdkTimeout) Temporary() bool { return true }

type sdkCanceled struct{ err error }

func (e sdkCanceled) Error() string { return "canceled, " + e.err.Error() }
func (e sdkCanceled) Unwrap() error { return e.err }

// How every timeout that a Go program meets is classified, and what ends without a
// timeout.
func TestClassifyTimeouts(t *testing.T) {
	get := func(err error) error { return &url.Error{Op: "Get", URL: "http://x", Err: err} }
	refused := &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	for name, c := range map[string]struct{ err, class error }{
		"context":                         {context.DeadlineExceeded, limiter.ErrUnavailable},
		"context, in a client":            {get(context.DeadlineExceeded), limiter.ErrUnavailable},
		"client":                          {get(sdkTimeout{errors.New("Client.Timeout exceeded while awaiting headers")}), limiter.ErrUnavailable},
		"client, without a type":          {get(errors.New("net/http: request canceled (Client.Timeout exceeded)")), limiter.ErrUnavailable},
		"dial":                            {get(&net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}), limiter.ErrUnavailable},
		"DNS":                             {&net.DNSError{IsTimeout: true}, limiter.ErrUnavailable},
		"DNS, server failure":             {&net.DNSError{IsTemporary: true}, limiter.ErrUnavailable},
		"DNS, no such host":               {&net.DNSError{IsNotFound: true}, limiter.ErrMisconfigured},
		"TLS handshake":                   {get(errors.New("net/http: TLS handshake timeout")), limiter.ErrUnavailable},
		"response header":                 {get(errors.New("net/http: timeout awaiting response headers")), limiter.ErrUnavailable},
		"body":                            {&net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, limiter.ErrUnavailable},
		"connection deadline":             {os.ErrDeadlineExceeded, limiter.ErrUnavailable},
		"HTTP/2 ping":                     {get(errors.New("http2: client connection lost")), limiter.ErrUnavailable},
		"SDK":                             {fmt.Errorf("operation error: %w", sdkTimeout{errors.New("timed out")}), limiter.ErrUnavailable},
		"SDK, context":                    {sdkCanceled{context.DeadlineExceeded}, limiter.ErrUnavailable},
		"SDK, cancelled":                  {sdkCanceled{context.Canceled}, nil},
		"gRPC Canceled":                   {grpc(1), nil},
		"gRPC InvalidArgument":            {grpc(3), nil},
		"gRPC DeadlineExceeded":           {grpc(4), limiter.ErrUnavailable},
		"gRPC NotFound":                   {grpc(5), nil},
		"gRPC PermissionDenied":           {grpc(7), limiter.ErrMisconfigured},
		"gRPC ResourceExhausted":          {grpc(8), limiter.ErrOverload},
		"gRPC Internal":                   {grpc(13), limiter.ErrUnavailable},
		"gRPC Unavailable":                {fmt.Errorf("get: %w", grpc(14)), limiter.ErrUnavailable},
		"gRPC Unavailable, joined":        {errors.Join(errPoison, grpc(14)), limiter.ErrUnavailable},
		"gRPC Unauthenticated":            {grpc(16), limiter.ErrMisconfigured},
		"gRPC nil status":                 {grpcNil{errPoison}, nil},
		"gRPC nil error":                  {(*grpcError)(nil), nil},
		"another GRPCStatus":              {grpcString{errPoison}, nil},
		"another GRPCStatus, an argument": {grpcArg{errPoison}, nil},
		"another Code":                    {grpcCodeInt{errPoison}, nil},
		"cancelled":                       {get(context.Canceled), nil},
		"cancelled while dialing":         {get(&net.OpError{Op: "dial", Err: context.Canceled}), nil},
		"malformed answer":                {get(errors.New(`net/http: malformed HTTP response "x"`)), limiter.ErrUnavailable},
		"malformed URL":                   {&url.Error{Op: "parse", URL: "::", Err: errors.New("missing protocol scheme")}, nil},
		"server without TLS":              {get(tls.RecordHeaderError{}), limiter.ErrMisconfigured},
		"client certificate refused":      {get(&net.OpError{Op: "remote error", Err: tls.AlertError(42)}), limiter.ErrMisconfigured},
		"end of file":                     {io.ErrUnexpectedEOF, nil}, // of a file, perhaps

		"retry: attempts used up":              {&retry.Error{Cause: retry.ErrExhausted, Err: refused}, limiter.ErrUnavailable},
		"retry: ran into the deadline":         {&retry.Error{Cause: context.DeadlineExceeded, Err: errPoison}, nil},
		"retry: ran into the deadline, outage": {&retry.Error{Cause: context.DeadlineExceeded, Err: refused}, limiter.ErrUnavailable},
		"retry: no attempt":                    {&retry.Error{Cause: context.DeadlineExceeded}, nil},
		"retry: cancelled, outage":             {&retry.Error{Cause: context.Canceled, Err: refused}, limiter.ErrUnavailable},
		"retry: cancelled":                     {fmt.Errorf("order: %w", &retry.Error{Cause: context.Canceled, Err: errPoison}), nil},
	} {
		require.Equal(t, c.class, limiter.Classify(c.err), name)
	}
}

// What retry returns when it runs into a real deadline.
func TestClassifyOfRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := retry.Do(ctx, retry.Policy{BaseDelay: time.Minute, Jitter: -1}, func(context.Context) error { return errPoison })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, limiter.Classify(err))
		err = retry.Do(ctx, retry.Policy{}, func(ctx context.Context) error { <-ctx.Done(); return errPoison })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, limiter.Classify(err))
	})
}

// The deadline of the context passed to Do is the caller's; that of a call
// within it limits the downstream.
func TestDoKnowsWhoseDeadlineItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			outer, inner time.Duration
			reported     int
		}{
			{outer: time.Second, inner: time.Minute, reported: 0},
			{outer: time.Minute, inner: time.Second, reported: 1},
		} {
			l := newRecorder(t)
			ctx, cancel := context.WithTimeout(t.Context(), c.outer)
			err := limiter.Do(ctx, l, func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, c.inner)
				defer cancel()
				<-ctx.Done()
				return ctx.Err()
			})
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Len(t, l.reported, c.reported)
			require.Equal(t, 1-c.reported, l.abstained)
			require.Zero(t, l.Stats().InUse)
		}
		// An error that says more is classified by that, whether or not the context
		// has ended.
		for _, failure := range []error{limiter.ErrUnavailable, overload(1), errPoison, nil} {
			l := newRecorder(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			require.Equal(t, failure, limiter.Do(ctx, l, func(context.Context) error { cancel(errGaveUp); return failure }))
			require.Equal(t, []error{failure}, l.reported)
		}
		l := newRecorder(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		require.Equal(t, errGaveUp, limiter.Do(ctx, l, func(ctx context.Context) error { cancel(errGaveUp); return context.Cause(ctx) }))
		require.Equal(t, 1, l.abstained)
	})
}

// Each byte builds one more error out of those before it.
func FuzzClassify(f *testing.F) {
	f.Add([]byte{0, 20, 4, 21})
	f.Add([]byte{5, 6, 22, 23, 7})
	f.Add([]byte{3, 24, 8, 22, 1})
	leaves := []error{
		nil, errPoison, limiter.ErrOverload, limiter.ErrUnavailable, limiter.ErrMisconfigured, context.Canceled, context.DeadlineExceeded,
		io.EOF, syscall.ECONNRESET, os.ErrDeadlineExceeded, &net.DNSError{IsNotFound: true}, tls.AlertError(42), grpc(8), grpc(14), (*grpcError)(nil), overload(5),
		sdkTimeout{errPoison},
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		var err, last error
		for _, b := range program {
			switch n := int(b) % (len(leaves) + 8); n {
			default:
				last, err = err, leaves[n]
			case len(leaves):
				err = fmt.Errorf("wrapped: %w", err)
			case len(leaves) + 1:
				err = errors.Join(last, err)
			case len(leaves) + 2:
				err = &net.OpError{Op: "dial", Err: errors.Join(errPoison, err)}
			case len(leaves) + 3:
				err = &url.Error{Op: "Get", URL: "http://x", Err: errors.Join(errPoison, err)}
			case len(leaves) + 4:
				err = &retry.Error{Cause: last, Err: err}
			case len(leaves) + 5:
				err = retry.Permanent(err)
			case len(leaves) + 6:
				err = retry.After(time.Second, err)
			case len(leaves) + 7:
				err = sdkCanceled{errors.Join(errPoison, err)}
			}
		}
		class := limiter.Classify(err)
		_, _ = limiter.RetryAfter(err)
		switch {
		case err == nil:
			require.NoError(t, class)
			return
		case errors.Is(err, limiter.ErrMisconfigured):
			require.Equal(t, limiter.ErrMisconfigured, class)
		case errors.Is(err, limiter.ErrOverload):
			require.Equal(t, limiter.ErrOverload, class)
		case errors.Is(err, limiter.ErrUnavailable):
			require.Equal(t, limiter.ErrUnavailable, class)
		}
		require.Contains(t, []error{nil, limiter.ErrOverload, limiter.ErrUnavailable, limiter.ErrMisconfigured}, class)
		require.Equal(t, class, limiter.Classify(fmt.Errorf("order 7: %w", err)), "wrapping changes nothing")
		var attempts *retry.Error
		if !errors.As(err, &attempts) && errors.Is(err, context.Canceled) && class != nil {
			require.ErrorIs(t, err, class, "our own cancellation says nothing")
		}
	})
}
