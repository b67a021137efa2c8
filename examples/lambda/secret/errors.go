package secret

import (
	"errors"
	"fmt"

	"github.com/aws/smithy-go"

	"github.com/rampmeter/rampmeter/internal/awserr"
	"github.com/rampmeter/rampmeter/limiter"
)

// A fetchError is a fetch that Secrets Manager did not answer with success.
type fetchError struct {
	id     string
	class  error  // one of limiter's
	advice string // what to do about it; "" if waiting helps
	err    error
}

func (e *fetchError) Error() string {
	text := fmt.Sprintf("secret: get %q: %v", e.id, e.err)
	if e.advice != "" {
		text += ": " + e.advice
	}
	return text
}

func (e *fetchError) Unwrap() error        { return e.err }
func (e *fetchError) Is(target error) bool { return target == e.class }

const advice = "see that the secret exists in this region, that these credentials may call secretsmanager:GetSecretValue on it, " +
	"and kms:Decrypt if it has a key of its own"

// explain classifies an error of the SDK for limiters. When Secrets Manager refuses a
// request, someone must act; all other errors are transient.
func explain(id string, err error) *fetchError {
	service := awserr.Service{Name: "Secrets Manager", Denied: advice, Key: advice}
	m, known := service.Of(err)
	var api smithy.APIError
	switch {
	case known && m.Class != nil:
	case known, errors.As(err, &api) && api.ErrorFault() == smithy.FaultClient, limiter.Classify(err) == limiter.ErrMisconfigured:
		m = awserr.Misconfigured(advice)
	default:
		m.Class = limiter.ErrUnavailable
	}
	return &fetchError{id: id, class: m.Class, advice: m.Advice, err: err}
}
