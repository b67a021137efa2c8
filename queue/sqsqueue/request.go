package sqsqueue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/rampmeter/rampmeter/internal/awsconns"
	"github.com/rampmeter/rampmeter/limiter"
)

// A method is a method of [API].
type method[In, Out any] func(context.Context, *In, ...func(*sqs.Options)) (*Out, error)

// do makes a request with a time limit and additional SDK options. Its error is a
// *requestError, or says that ctx has ended.
func do[In, Out any](ctx context.Context, q *Queue, op string, limit time.Duration, call method[In, Out], in *In, more ...func(*sqs.Options)) (*Out, error) {
	out, err := once(ctx, q, op, limit, call, in, more)
	if e, ok := err.(*requestError); ok && e.clock && ctx.Err() == nil {
		// The SDK has taken the time from the reply, and signs the next request with it.
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
	case err != nil && ctx.Err() != nil:
		return nil, ended(ctx, op)
	case r.foreign(out, err): // the server may have acted on the request
		is := fmt.Errorf("the reply has the status %d and begins with %.40q", r.status, r.head)
		if err != nil {
			is = fmt.Errorf("%w: %w", is, err)
		}
		return nil, &requestError{op: op, url: q.url, class: limiter.ErrMisconfigured, advice: notSQS, err: is}
	case err != nil:
		return nil, explain(op, q.url, err, r.configured && !r.sent)
	case out == nil:
		return new(Out), nil
	}
	return out, nil
}

// A request changes the SDK's options for one request.
type request struct {
	op         string
	q          *Queue
	inFlight   int            // requests of q, including this one
	client     sqs.HTTPClient // makes the request
	keeps      int            // idle connections that client keeps for a host
	configured bool           // the API called is the SDK's
	sent       bool           // the SDK had credentials and an endpoint, and called Do
	status     int            // of the reply; 0: there was none
	head       []byte         // the beginning of the reply's body, as far as it was read
}

func (r *request) configure(o *sqs.Options) {
	r.client, r.keeps = r.q.conns.Choose(o.HTTPClient, r.inFlight)
	r.configured = true
	o.HTTPClient = r
	o.Retryer = aws.NopRetryer{}
	o.EndpointResolverV2 = r.q.endpoints.instead(o.EndpointResolverV2)
	if r.op == "send" {
		// For a message that a FIFO queue suppresses as a duplicate, the reply may
		// have the checksum of the first message, whose body may differ. The SDK
		// would report the whole batch as failed, although all of it was accepted.
		o.DisableMessageChecksumValidation = true
	}
}

// Do sends the SDK's request with a copy of its body. The SDK closes its own body as
// soon as the reply's header arrives. If WriteTo is still writing that body, it then
// returns io.EOF, which net/http takes for a broken request: it closes the connection
// before the reply is read. In addition, net/http sends a body that it knows to be in
// memory in the same packet as the header.
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
	reply, err := r.client.Do(req)
	if err == nil && reply.Body != nil {
		r.status = reply.StatusCode
		reply.Body = &beginning{reply.Body, r}
	}
	return reply, err
}

// headSize is larger than any reply of SQS that names no messages.
const headSize = 256

// beginning is the body of a reply that keeps the first bytes read.
type beginning struct {
	io.ReadCloser
	r *request
}

func (b *beginning) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if most := headSize - len(b.r.head); most > 0 && n > 0 {
		b.r.head = append(b.r.head, p[:min(n, most)]...)
	}
	return n, err
}

// foreign reports whether the reply, which the SDK decoded into out, comes neither
// from SQS nor from a proxy in front of it that fails temporarily: it is not a JSON
// object, or has none of the fields of a reply to this request.
func (r *request) foreign(out any, err error) bool {
	if r.status == 0 || r.status >= 500 || r.status == http.StatusTooManyRequests || r.status == http.StatusRequestTimeout {
		return false
	}
	head := bytes.TrimLeft(r.head, " \t\r\n")
	if len(head) > 0 && head[0] != '{' {
		return true
	}
	if err != nil {
		return false
	}
	has := func(field string) bool { return bytes.Contains(head, []byte(`"`+field+`"`)) }
	switch out := out.(type) {
	case *sqs.ReceiveMessageOutput:
		return len(out.Messages) == 0 && !has("Messages") && string(bytes.Join(bytes.Fields(head), nil)) != "{}"
	case *sqs.SendMessageBatchOutput:
		return len(out.Successful)+len(out.Failed) == 0 && !has("Successful") && !has("Failed")
	case *sqs.DeleteMessageBatchOutput:
		return len(out.Successful)+len(out.Failed) == 0 && !has("Successful") && !has("Failed")
	case *sqs.ChangeMessageVisibilityBatchOutput:
		return len(out.Successful)+len(out.Failed) == 0 && !has("Successful") && !has("Failed")
	case *sqs.GetQueueAttributesOutput: // the request named attributes that every queue has
		return len(out.Attributes) == 0 && !has("Attributes")
	}
	return false
}
