package sqsqueue

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/rampmeter/rampmeter/internal/awsconns"
)

// A method is one of the [API]'s.
type method[In, Out any] func(context.Context, *In, ...func(*sqs.Options)) (*Out, error)

// do makes a request that may take limit at most, with more options of the SDK. Its
// error is a *requestError, or says that ctx has ended.
func do[In, Out any](ctx context.Context, q *Queue, op string, limit time.Duration, call method[In, Out], in *In, more ...func(*sqs.Options)) (*Out, error) {
	out, err := once(ctx, q, op, limit, call, in, more)
	if e, ok := err.(*requestError); ok && e.clock && ctx.Err() == nil {
		// The reply has told the SDK what time it is, and the next request is
		// signed with that.
		out, err = once(ctx, q, op, limit, call, in, more)
	}
	return out, err
}

func once[In, Out any](ctx context.Context, q *Queue, op string, limit time.Duration, call method[In, Out], in *In, more []func(*sqs.Options)) (*Out, error) {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r := request{op: op, q: q, inFlight: q.conns.Begin()}
	defer q.conns.End()
	out, err := call(limited, in, append(more, r.configure)...)
	switch {
	case err == nil && out == nil:
		return new(Out), nil
	case err == nil:
		return out, nil
	case ctx.Err() != nil:
		return nil, ended(ctx, op)
	}
	return nil, explain(op, q.url, err, r.configured && !r.sent)
}

// A request changes the SDK's options for one request.
type request struct {
	op         string
	q          *Queue
	inFlight   int            // requests of q, with this one
	client     sqs.HTTPClient // makes the request
	keeps      int            // idle connections that client keeps for a host
	configured bool           // it is the SDK that is called
	sent       bool           // the SDK had what it needs for a request: credentials, an endpoint
}

func (r *request) configure(o *sqs.Options) {
	r.client, r.keeps = r.q.conns.Choose(o.HTTPClient, r.inFlight)
	r.configured = true
	o.HTTPClient = r
	o.Retryer = aws.NopRetryer{}
	o.EndpointResolverV2 = r.q.endpoints.instead(o.EndpointResolverV2)
	if r.op == "send" {
		// What a FIFO queue suppresses as a duplicate may be answered with the
		// checksum of the first one, which need not have the same body. The SDK
		// would report the whole batch as failed, though all of it was accepted.
		o.DisableMessageChecksumValidation = true
	}
}

// Do sends the SDK's request with its body copied. The SDK closes its own as soon
// as the reply's header has come, and one that is just being written by WriteTo
// then says io.EOF, which net/http takes for a broken request: it closes the
// connection before the reply is read. A body that net/http knows to be in memory
// also leaves in the same packet as the header.
func (r *request) Do(req *http.Request) (*http.Response, error) {
	r.sent = true
	if req.Body != nil && req.Body != http.NoBody {
		var body bytes.Buffer
		body.Grow(int(max(req.ContentLength, 0)))
		_, err := io.Copy(&body, req.Body)
		if err = errors.Join(err, req.Body.Close()); err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(&body)
	}
	if r.keeps < awsconns.Unlimited {
		req = r.watchDials(req)
	}
	return r.client.Do(req)
}
