package sqsqueue

import (
	"context"
	"reflect"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	smithyendpoints "github.com/aws/smithy-go/endpoints"
)

// endpoints is the SDK's own endpoint resolver with a cache of the last answer. The
// SDK resolves the endpoint for each request, with parameters of the client that
// hardly ever change, and the answer depends on nothing else. Without the cache this
// is one of the most expensive parts of a request.
type endpoints struct {
	last atomic.Pointer[endpoint]
}

// An endpoint is an answer, never changed.
type endpoint struct {
	params sqs.EndpointParameters
	answer smithyendpoints.Endpoint
}

var sdkResolver = sqs.NewDefaultEndpointResolverV2()

// instead returns e if r is the SDK's own resolver, and r otherwise: the answers of
// another resolver may depend on anything.
func (e *endpoints) instead(r sqs.EndpointResolverV2) sqs.EndpointResolverV2 {
	if reflect.TypeOf(r) != reflect.TypeOf(sdkResolver) {
		return r
	}
	return e
}

// ResolveEndpoint may be called concurrently.
func (e *endpoints) ResolveEndpoint(ctx context.Context, params sqs.EndpointParameters) (smithyendpoints.Endpoint, error) {
	if last := e.last.Load(); last != nil && reflect.DeepEqual(last.params, params) {
		return last.answer, nil
	}
	answer, err := sdkResolver.ResolveEndpoint(ctx, params)
	if err == nil {
		if params.Endpoint != nil {
			params.Endpoint = aws.String(*params.Endpoint) // the caller's variable, which may change
		}
		e.last.Store(&endpoint{params: params, answer: answer})
	}
	return answer, err
}
