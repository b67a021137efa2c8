package secret

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/rampmeter/rampmeter/limiter"
)

// A fetchError is a fetch that Secrets Manager did not answer with success.
type fetchError struct {
	id    string
	class error // one of limiter's
	err   error
}

func (e *fetchError) Error() string {
	text := fmt.Sprintf("secret: get %q: %v", e.id, e.err)
	if e.class == limiter.ErrMisconfigured {
		text += ": see that the secret exists in this region, that these credentials may call secretsmanager:GetSecretValue on it, " +
			"and kms:Decrypt if it has a key of its own"
	}
	return text
}

func (e *fetchError) Unwrap() error        { return e.err }
func (e *fetchError) Is(target error) bool { return target == e.class }

// classify says what an error of the SDK means to limiters. What Secrets
// Manager refuses is for someone to put right; everything else passes.
func classify(err error) error {
	var (
		api   smithy.APIError
		reply *smithyhttp.ResponseError
	)
	if errors.As(err, &api) {
		switch api.ErrorCode() {
		case "ThrottlingException", "Throttling", "TooManyRequestsException", "LimitExceededException":
			return limiter.ErrOverload
		case "InternalServiceError", "InternalFailure", "ServiceUnavailable", "RequestTimeout":
			return limiter.ErrUnavailable
		}
	}
	if errors.As(err, &reply) {
		switch status := reply.HTTPStatusCode(); {
		case status == http.StatusTooManyRequests:
			return limiter.ErrOverload
		case status >= 400 && status < 500:
			return limiter.ErrMisconfigured
		}
	}
	if api != nil && api.ErrorFault() == smithy.FaultClient || limiter.Classify(err) == limiter.ErrMisconfigured {
		return limiter.ErrMisconfigured
	}
	return limiter.ErrUnavailable
}
