package limiter_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
)

func TestDo(t *testing.T) {
	l := newRecorder(t)
	for _, want := range []error{nil, errPoison} {
		got := limiter.Do(t.Context(), l, func(ctx context.Context) error {
			require.Equal(t, 1, l.Stats().InUse)
			require.Equal(t, t.Context(), ctx)
			return want
		})
		require.Equal(t, want, got)
	}
	require.Equal(t, []error{nil, errPoison}, l.reported)

	require.PanicsWithValue(t, "handler", func() {
		_ = limiter.Do(t.Context(), l, func(context.Context) error { panic("handler") })
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = limiter.Do(t.Context(), l, func(context.Context) error { runtime.Goexit(); return nil })
	}()
	<-done
	require.Len(t, l.reported, 2)
	require.Equal(t, 2, l.abstained)
	require.Zero(t, l.Stats().InUse)

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errGaveUp)
	err := limiter.Do(ctx, l, func(context.Context) error { panic("not called") })
	require.Equal(t, errGaveUp, err)
	require.Zero(t, l.Stats().InUse)
}

func TestZeroPermitDoesNothing(t *testing.T) {
	limiter.Permit{}.Release(errPoison)
	limiter.Permit{}.Abstain()
	limiter.Permit{}.Cancel()
}

func TestClassify(t *testing.T) {
	timeout := &url.Error{Op: "Get", URL: "http://x", Err: context.DeadlineExceeded}
	for _, test := range []struct{ err, class error }{
		{nil, nil},
		{errPoison, nil},
		{io.EOF, nil},
		{context.Canceled, nil},
		{&url.Error{Op: "Get", URL: "http://x", Err: context.Canceled}, nil},
		{&net.OpError{Op: "dial", Err: context.Canceled}, nil},
		{limiter.ErrOverload, limiter.ErrOverload},
		{overload(1), limiter.ErrOverload},
		{fmt.Errorf("adjust: %w", limiter.ErrUnavailable), limiter.ErrUnavailable},
		{errors.Join(errPoison, limiter.ErrMisconfigured), limiter.ErrMisconfigured},
		{context.DeadlineExceeded, limiter.ErrUnavailable},
		{timeout, limiter.ErrUnavailable},
		{&url.Error{Op: "Get", URL: "http://x", Err: fmt.Errorf("sign: %w", context.DeadlineExceeded)}, limiter.ErrUnavailable},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, limiter.ErrUnavailable},
		{&url.Error{Op: "Get", URL: "http://x", Err: &net.OpError{Op: "read", Err: syscall.ECONNRESET}}, limiter.ErrUnavailable},
		{&net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}, limiter.ErrMisconfigured},
		{&net.OpError{Op: "dial", Err: &net.DNSError{IsTemporary: true}}, limiter.ErrUnavailable},
		{&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}, limiter.ErrMisconfigured},
		{x509.UnknownAuthorityError{}, limiter.ErrMisconfigured},
		{x509.HostnameError{Certificate: &x509.Certificate{}}, limiter.ErrMisconfigured},
		{x509.CertificateInvalidError{}, limiter.ErrMisconfigured},
	} {
		require.Equal(t, test.class, limiter.Classify(test.err), "%v", test.err)
	}
}

func TestRetryAfter(t *testing.T) {
	for _, test := range []struct {
		err  error
		want time.Duration
		ok   bool
	}{
		{nil, 0, false},
		{errPoison, 0, false},
		{overload(-1), 0, false},
		{overload(0), 0, true},
		{fmt.Errorf("adjust: %w", overload(time.Minute)), time.Minute, true},
	} {
		d, ok := limiter.RetryAfter(test.err)
		require.Equal(t, test.ok, ok, "%v", test.err)
		if ok {
			require.Equal(t, test.want, d)
		}
	}
}
