package awsconns_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/awsconns"
)

// A server counts connections, and answers no request of a wave before all have
// come.
type server struct {
	*httptest.Server
	opened atomic.Int64
	wave   atomic.Pointer[sync.WaitGroup]
}

func newServer(t *testing.T, secure bool) *server {
	s := &server{}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		wave := s.wave.Load()
		wave.Done()
		wave.Wait()
		_, _ = io.WriteString(w, "answer")
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.opened.Add(1)
		}
	}
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	return s
}

// stock is the SDK's HTTP client, which trusts the server.
func (s *server) stock() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		if s.TLS != nil {
			t.TLSClientConfig.RootCAs = s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
		}
	})
}

// waves makes requests, n at once, so often.
func (s *server) waves(t *testing.T, p *awsconns.Pool, c aws.HTTPClient, n, times int) {
	t.Helper()
	request := func() error {
		in := p.Begin()
		defer p.End()
		use, _ := p.Choose(c, in)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, http.NoBody)
		if err != nil {
			return err
		}
		res, err := use.Do(req)
		if err != nil {
			return err
		}
		_, err = io.ReadAll(res.Body)
		return errors.Join(err, res.Body.Close())
	}
	for range times {
		var arrived, done sync.WaitGroup
		arrived.Add(n)
		s.wave.Store(&arrived)
		errs := make([]error, n)
		for i := range n {
			done.Go(func() { errs[i] = request() })
		}
		done.Wait()
		require.NoError(t, errors.Join(errs...))
	}
}

// The SDK's client keeps the connections of all requests in flight.
func TestConnectionsAreKept(t *testing.T) {
	const n, times = 60, 10
	for name, secure := range map[string]bool{"HTTP": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, secure)
			s.waves(t, new(awsconns.Pool), s.stock(), n, times)
			require.LessOrEqual(t, s.opened.Load(), int64(2*n), "%d requests", n*times)
		})
	}
}

// A client with a pool of the caller's is used as it is.
func TestCallersPoolStays(t *testing.T) {
	const n, times = 60, 10
	s := newServer(t, false)
	few := s.stock().WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = 5 })
	s.waves(t, new(awsconns.Pool), few, n, times)
	require.GreaterOrEqual(t, s.opened.Load(), int64(n*times/2), "%d requests", n*times)
}

// Pools with one request in flight share the connections of their client.
func TestPoolsOfOneRequestShare(t *testing.T) {
	s := newServer(t, false)
	c := s.stock()
	for range 100 {
		s.waves(t, new(awsconns.Pool), c, 1, 2)
	}
	require.LessOrEqual(t, s.opened.Load(), int64(2))
}

type doFunc func(*http.Request) (*http.Response, error)

func (f doFunc) Do(r *http.Request) (*http.Response, error) { return f(r) }

func TestKeeps(t *testing.T) {
	sdk := awshttp.NewBuildableClient()
	with := func(set func(*http.Transport)) aws.HTTPClient { return sdk.WithTransportOptions(set) }
	for name, c := range map[string]struct {
		client aws.HTTPClient
		keeps  int
		copied bool
	}{
		"the SDK's":                       {sdk, awsconns.Unlimited, true},
		"with a timeout":                  {sdk.WithTimeout(time.Minute), awsconns.Unlimited, true},
		"with a dialer":                   {sdk.WithDialerOptions(func(d *net.Dialer) { d.Timeout = time.Second }), awsconns.Unlimited, true},
		"another idle timeout":            {with(func(t *http.Transport) { t.IdleConnTimeout = time.Second }), awsconns.Unlimited, true},
		"more for a host":                 {with(func(t *http.Transport) { t.MaxIdleConnsPerHost = 50 }), 50, false},
		"fewer for a host":                {with(func(t *http.Transport) { t.MaxIdleConnsPerHost = 5 }), 5, false},
		"more for a host and in all":      {with(func(t *http.Transport) { t.MaxIdleConns, t.MaxIdleConnsPerHost = 0, 5000 }), awsconns.Unlimited, false},
		"fewer in all":                    {with(func(t *http.Transport) { t.MaxIdleConns = 4 }), 4, false},
		"more in all":                     {with(func(t *http.Transport) { t.MaxIdleConns = 1000 }), 10, false},
		"as many as may be open":          {with(func(t *http.Transport) { t.MaxConnsPerHost = 10 }), awsconns.Unlimited, false},
		"as many open as one likes":       {with(func(t *http.Transport) { t.MaxConnsPerHost = 0 }), 10, false},
		"no keep-alives":                  {with(func(t *http.Transport) { t.DisableKeepAlives = true }), 0, false},
		"none for a host":                 {with(func(t *http.Transport) { t.MaxIdleConnsPerHost = -1 }), 0, false},
		"Go's":                            {&http.Client{}, http.DefaultMaxIdleConnsPerHost, false},
		"Go's with a transport":           {&http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 7}}, 7, false},
		"Go's with another round tripper": {&http.Client{Transport: http.NewFileTransport(nil)}, awsconns.Unlimited, false},
		"frozen":                          {sdk.Freeze(), awsconns.Unlimited, false},
		"something else":                  {doFunc(nil), awsconns.Unlimited, false},
		"wrapped":                         {struct{ aws.HTTPClient }{}, awsconns.Unlimited, false},
	} {
		t.Run(name, func(t *testing.T) {
			var p awsconns.Pool
			require.Equal(t, awsconns.Unlimited, p.Keeps(), "before the first request")
			same := func(n int) bool {
				use, keeps := p.Choose(c.client, n)
				require.Equal(t, c.keeps, keeps)
				_, is := use.(*awshttp.BuildableClient)
				_, was := c.client.(*awshttp.BuildableClient)
				require.Equal(t, was, is)
				return !is || use == c.client
			}
			require.True(t, same(1))
			require.Equal(t, !c.copied, same(2))
			require.Equal(t, c.keeps, p.Keeps())
		})
	}
}

// The copy differs in nothing but the connections that it keeps, and there is one.
func TestCopy(t *testing.T) {
	proxy := func(*http.Request) (*url.URL, error) { return nil, errors.New("no proxy") }
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no dialer") }
	c := awshttp.NewBuildableClient().WithTimeout(time.Minute).WithReadTimeout(time.Hour).WithTransportOptions(func(t *http.Transport) {
		t.Proxy, t.DialContext = proxy, dial
		t.TLSClientConfig = &tls.Config{ServerName: "sqs.test", MinVersion: tls.VersionTLS13}
		t.IdleConnTimeout, t.ResponseHeaderTimeout = time.Second, 2*time.Second
	})
	var p awsconns.Pool
	use, _ := p.Choose(c, 2)
	larger := use.(*awshttp.BuildableClient)
	require.Equal(t, time.Minute, larger.GetTimeout())
	read, _ := larger.GetReadTimeout()
	require.Equal(t, time.Hour, read)
	is := larger.GetTransport()
	require.Equal(t, "sqs.test", is.TLSClientConfig.ServerName)
	require.EqualValues(t, tls.VersionTLS13, is.TLSClientConfig.MinVersion)
	require.Equal(t, time.Second, is.IdleConnTimeout)
	require.Equal(t, 2*time.Second, is.ResponseHeaderTimeout)
	require.Equal(t, c.GetTransport().MaxConnsPerHost, is.MaxConnsPerHost)
	_, err := is.Proxy(nil)
	require.EqualError(t, err, "no proxy")
	_, err = is.DialContext(t.Context(), "", "")
	require.EqualError(t, err, "no dialer")
	require.Equal(t, 10, c.GetTransport().MaxIdleConnsPerHost, "the caller's own is unchanged")

	again, _ := p.Choose(c, 3)
	require.Same(t, larger, again)
	other := awshttp.NewBuildableClient()
	use, keeps := p.Choose(other, 2)
	require.Same(t, other, use, "a client for each request gets no copy of each")
	require.Equal(t, awsconns.Unlimited, keeps)
}
