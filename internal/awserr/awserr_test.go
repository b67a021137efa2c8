package awserr_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/awserr"
	"github.com/rampmeter/rampmeter/limiter"
)

var bread = awserr.Service{Name: "Bread", Denied: "allow bread:Bake", Key: "allow kms:Decrypt"}

func TestName(t *testing.T) {
	for code, want := range map[string]string{
		"":                             "",
		"Throttling":                   "Throttling",
		"ThrottlingException":          "Throttling",
		"com.amazonaws.sqs#Throttling": "Throttling",
		"com.amazonaws.sqs#ThrottlingException:http://internal/": "Throttling",
		"*types.ThrottlingException":                             "Throttling",
		"AWS.SimpleQueueService.OverLimit":                       "OverLimit",
		"KmsDisabled":                                            "KmsDisabled",
		"*types.KmsDisabled":                                     "KmsDisabled",
		"KMSDisabledException":                                   "KmsDisabled",
		"KMS.DisabledException":                                  "KmsDisabled",
		"kms.DisabledException":                                  "KmsDisabled",
		"com.amazonaws.sqs#KMS.NotFoundException":                "KmsNotFound",
		"AWS.SimpleQueueService.KMS.OptInRequired":               "KmsOptInRequired",
	} {
		require.Equal(t, want, awserr.Name(code), code)
	}
}

// of returns the meaning of a reply with that status and code.
func of(status int, code, message string) (awserr.Meaning, bool) {
	return bread.Of(operation("Bread", reply(status, &smithy.GenericAPIError{Code: code, Message: message})))
}

func operation(service string, err error) error {
	return &smithy.OperationError{ServiceID: service, OperationName: "Bake", Err: err}
}

func reply(status int, err error) error {
	return &smithyhttp.ResponseError{Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}}, Err: err}
}

func TestCodes(t *testing.T) {
	for code, c := range map[string]struct {
		class error
		says  string
	}{
		"ThrottledRequest":               {limiter.ErrOverload, ""},
		"TooManyRequestsError":           {limiter.ErrOverload, ""},
		"InternalServiceError":           {limiter.ErrUnavailable, ""},
		"ServiceUnavailableException":    {limiter.ErrUnavailable, ""},
		"AccessDeniedException":          {limiter.ErrMisconfigured, "bread:Bake"},
		"OptInRequired":                  {limiter.ErrMisconfigured, "bread:Bake"},
		"ExpiredTokenException":          {limiter.ErrMisconfigured, "renew"},
		"UnrecognizedClientException":    {limiter.ErrMisconfigured, "credentials"},
		"InvalidSignatureException":      {limiter.ErrMisconfigured, "clock"},
		"InvalidSecurity":                {limiter.ErrMisconfigured, "HTTPS"},
		"UnknownOperationException":      {limiter.ErrMisconfigured, "not Bread"},
		"InvalidAction":                  {limiter.ErrMisconfigured, "not Bread"},
		"InvalidEndpointException":       {limiter.ErrMisconfigured, "endpoint"},
		"KMS.AccessDeniedException":      {limiter.ErrMisconfigured, "kms:Decrypt"},
		"KMS.DisabledException":          {limiter.ErrMisconfigured, "kms:Decrypt"},
		"KMS.InvalidKeyUsageException":   {limiter.ErrMisconfigured, "kms:Decrypt"},
		"KMS.InvalidStateException":      {limiter.ErrMisconfigured, "kms:Decrypt"},
		"KMS.NotFoundException":          {limiter.ErrMisconfigured, "kms:Decrypt"},
		"KMS.OptInRequired":              {limiter.ErrMisconfigured, "kms:Decrypt"},
		"KMS.ThrottlingException":        {limiter.ErrOverload, ""},
		"KMS.LimitExceededException":     {limiter.ErrOverload, ""},
		"KMSInternalException":           {limiter.ErrUnavailable, ""},
		"KMS.KeyUnavailableException":    {limiter.ErrUnavailable, ""},
		"KMS.DependencyTimeoutException": {limiter.ErrUnavailable, ""},
		"ValidationException":            {nil, ""},
	} {
		t.Run(code, func(t *testing.T) {
			m, known := of(400, code, "because")
			require.True(t, known)
			require.Equal(t, c.class, m.Class)
			require.Contains(t, m.Advice, c.says)
			if c.class != limiter.ErrMisconfigured {
				require.Empty(t, m.Advice, "waiting helps, or nothing is known")
			}
		})
	}
}

// A service that reports the refusal of a KMS key as its own is understood by what
// it says.
func TestDeniedKey(t *testing.T) {
	for message, want := range map[string]string{
		"User: u is not authorized to perform: bread:Bake on resource: r":                                                                      bread.Denied,
		"User: u is not authorized to perform: kms:GenerateDataKey on resource: k":                                                             bread.Key,
		"The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.": bread.Key,
		"KMS key access denied error: k": bread.Key,
	} {
		m, known := of(400, "AccessDeniedException", message)
		require.True(t, known)
		require.Equal(t, awserr.Misconfigured(want), m, message)
	}
}

// What the SDK retries by its code is passing here too.
func TestRetryableCodesOfTheSDK(t *testing.T) {
	for _, codes := range []map[string]struct{}{retry.DefaultThrottleErrorCodes, retry.DefaultRetryableErrorCodes} {
		for code := range codes {
			m, known := of(400, code, "")
			require.True(t, known, code)
			require.Contains(t, []error{limiter.ErrOverload, limiter.ErrUnavailable}, m.Class, code)
		}
	}
}

func TestStatuses(t *testing.T) {
	for status, class := range map[int]error{
		200: limiter.ErrUnavailable, 302: limiter.ErrUnavailable, 400: nil, 401: limiter.ErrMisconfigured, 403: limiter.ErrMisconfigured,
		404: limiter.ErrMisconfigured, 405: limiter.ErrMisconfigured, 408: limiter.ErrUnavailable, 413: nil, 429: limiter.ErrOverload,
		500: limiter.ErrUnavailable, 501: limiter.ErrMisconfigured, 502: limiter.ErrUnavailable, 503: limiter.ErrUnavailable, 504: limiter.ErrUnavailable,
	} {
		m, known := of(status, "Weird", "")
		require.True(t, known)
		require.Equal(t, class, m.Class, status)
	}
}

// The services that issue credentials have refusals and temporary failures of their
// own, which are not those of the service that the request was for.
func TestCredentials(t *testing.T) {
	refused := func(status int, code string) error { return reply(status, &smithy.GenericAPIError{Code: code}) }
	lost := &smithyhttp.RequestSendError{Err: io.ErrUnexpectedEOF}
	dial := &smithyhttp.RequestSendError{Err: &net.OpError{Op: "dial", Err: errors.New("no route to host")}}
	late := &smithy.CanceledError{Err: context.DeadlineExceeded}
	unknownHost := &smithyhttp.RequestSendError{Err: &net.OpError{Op: "dial", Err: &net.DNSError{IsNotFound: true}}}
	const sts, imds, sso = "STS", "ec2imds", "SSO"
	for name, c := range map[string]struct {
		service string
		err     error
		class   error
		says    string
	}{
		"STS: denied":                   {sts, refused(403, "AccessDenied"), limiter.ErrMisconfigured, "AWS STS gives no credentials"},
		"STS: own credentials expired":  {sts, refused(403, "ExpiredToken"), limiter.ErrMisconfigured, "AWS STS"},
		"STS: own credentials unknown":  {sts, refused(403, "InvalidClientTokenId"), limiter.ErrMisconfigured, "AWS STS"},
		"STS: clock":                    {sts, refused(403, "SignatureDoesNotMatch"), limiter.ErrMisconfigured, "clock"},
		"STS: throttled":                {sts, refused(400, "Throttling"), limiter.ErrOverload, ""},
		"STS: 429":                      {sts, refused(429, ""), limiter.ErrOverload, ""},
		"STS: unavailable":              {sts, refused(503, "ServiceUnavailable"), limiter.ErrUnavailable, ""},
		"STS: 502 of a proxy":           {sts, reply(502, &smithy.DeserializationError{}), limiter.ErrUnavailable, ""},
		"STS: connection lost":          {sts, lost, limiter.ErrUnavailable, ""},
		"STS: can't be reached":         {sts, dial, limiter.ErrUnavailable, ""},
		"STS: too slow":                 {sts, late, limiter.ErrUnavailable, ""},
		"STS: no such host":             {sts, unknownHost, limiter.ErrMisconfigured, "endpoint and certificates of AWS STS"},
		"metadata: no role":             {imds, reply(404, errors.New("request to EC2 IMDS failed")), limiter.ErrMisconfigured, "EC2 instance metadata service gives no credentials"},
		"metadata: forbidden":           {imds, reply(403, errors.New("request to EC2 IMDS failed")), limiter.ErrMisconfigured, "EC2 instance metadata service"},
		"metadata: throttled":           {imds, reply(429, errors.New("request to EC2 IMDS failed")), limiter.ErrOverload, ""},
		"metadata: broken":              {imds, reply(500, errors.New("request to EC2 IMDS failed")), limiter.ErrUnavailable, ""},
		"metadata: connection lost":     {imds, lost, limiter.ErrUnavailable, ""},
		"metadata: not on EC2":          {imds, dial, limiter.ErrMisconfigured, "give the client credentials"},
		"metadata: not on EC2, silence": {imds, late, limiter.ErrMisconfigured, "give the client credentials"},
		"sign-on is over":               {sso, refused(401, "UnauthorizedException"), limiter.ErrMisconfigured, "log in again"},
		"sign-on: throttled":            {sso, refused(429, "TooManyRequestsException"), limiter.ErrOverload, ""},
		"token of sign-on is over":      {"SSO OIDC", refused(400, "InvalidGrantException"), limiter.ErrMisconfigured, "log in again"},
		"token of sign-on: slow down":   {"SSO OIDC", refused(400, "SlowDownException"), limiter.ErrOverload, ""},
		"token of sign-on: broken":      {"SSO OIDC", refused(500, "InternalServerException"), limiter.ErrUnavailable, ""},
		"sign-in: throttled":            {"Signin", refused(429, "TooManyRequestsError"), limiter.ErrOverload, ""},
		"some other service: refused":   {"Vault", refused(400, "Nope"), limiter.ErrMisconfigured, "Vault gives no credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			err := operation("Bread", fmt.Errorf("get identity: get credentials: %w", operation(c.service, c.err)))
			m, known := bread.Of(err)
			require.True(t, known)
			require.Equal(t, c.class, m.Class)
			require.Contains(t, m.Advice, c.says)
			require.NotContains(t, m.Advice, bread.Denied)
			require.False(t, m.Clock, "the SDK has not set its clock by the reply")
		})
	}
}

// Where one source of credentials needs another one, the one that failed is named.
func TestCredentialsForCredentials(t *testing.T) {
	noRole := operation("ec2imds", reply(404, errors.New("request to EC2 IMDS failed")))
	m, known := bread.Of(operation("Bread", fmt.Errorf("get identity: %w", operation("STS", fmt.Errorf("get identity: %w", noRole)))))
	require.True(t, known)
	require.Contains(t, m.Advice, "the EC2 instance metadata service gives no credentials")

	m, known = bread.Of(operation("Bread", operation("STS", fmt.Errorf("get identity: failed to load credentials, %w", &smithy.GenericAPIError{Code: "Nope"}))))
	require.True(t, known)
	require.Contains(t, m.Advice, "the container's credentials endpoint gives no credentials")
}

// Every error of STS. See [awserrtest.Types] for services whose client this module
// depends on.
func TestErrorsOfSTS(t *testing.T) {
	for code, class := range map[string]error{
		"ExpiredTokenException":                          limiter.ErrMisconfigured,
		"ExpiredTradeInTokenException":                   limiter.ErrMisconfigured,
		"IDPCommunicationErrorException":                 limiter.ErrUnavailable, // the identity provider could not be reached
		"IDPRejectedClaimException":                      limiter.ErrMisconfigured,
		"InvalidAuthorizationMessageException":           limiter.ErrMisconfigured,
		"InvalidIdentityTokenException":                  limiter.ErrMisconfigured,
		"JWTPayloadSizeExceededException":                limiter.ErrMisconfigured,
		"MalformedPolicyDocumentException":               limiter.ErrMisconfigured,
		"OutboundWebIdentityFederationDisabledException": limiter.ErrMisconfigured,
		"PackedPolicyTooLargeException":                  limiter.ErrMisconfigured,
		"RegionDisabledException":                        limiter.ErrMisconfigured,
		"SessionDurationEscalationException":             limiter.ErrMisconfigured,
	} {
		m, known := bread.Of(operation("Bread", operation("STS", reply(400, &smithy.GenericAPIError{Code: code}))))
		require.True(t, known, code)
		require.Equal(t, class, m.Class, code)
	}
}

// A request that the service makes on behalf of another of its own is not one for
// credentials.
func TestRequestWithinTheService(t *testing.T) {
	m, known := bread.Of(operation("Bread", operation("Bread", reply(400, &smithy.GenericAPIError{Code: "AccessDenied"}))))
	require.True(t, known)
	require.Equal(t, awserr.Misconfigured(bread.Denied), m)
}

func TestUnknown(t *testing.T) {
	for _, err := range []error{
		nil, io.EOF, operation("Bread", io.EOF), operation("Bread", nil), &smithy.GenericAPIError{Code: "Weird"},
		operation("Bread", errors.New("get identity: nobody gave any")),
	} {
		_, known := bread.Of(err)
		require.False(t, known, "%v", err)
	}
}

// FuzzOf looks for errors that are not understood as one of the classes, or with
// advice where waiting helps.
func FuzzOf(f *testing.F) {
	f.Add("Bread", 400, "com.amazonaws.sqs#KMS.DisabledException", "because", "get identity: ")
	f.Add("STS", 403, "AccessDenied", "kms:Decrypt", "exceeded maximum number of attempts, ")
	f.Add("ec2imds", 0, "", "no EC2 IMDS role found", "")
	f.Add("", 501, "InternalFailure:x", "\x00", "get identity: failed to load credentials, ")
	f.Fuzz(func(t *testing.T, service string, status int, code, message, text string) {
		name := awserr.Name(code)
		require.LessOrEqual(t, len(name), len(code))
		var err error = &smithy.GenericAPIError{Code: code, Message: message}
		if status != 0 {
			err = reply(status, err)
		}
		inner := operation(service, err)
		for _, err := range []error{err, inner, operation("Bread", fmt.Errorf("%s%w", text, err)), operation("Bread", fmt.Errorf("%s%w", text, inner))} {
			m, known := bread.Of(err)
			switch m.Class {
			case limiter.ErrMisconfigured:
				require.NotEmpty(t, m.Advice)
			case limiter.ErrOverload, limiter.ErrUnavailable, nil:
				require.Empty(t, m.Advice)
				require.False(t, m.Clock)
			default:
				t.Errorf("class %v of %v", m.Class, err)
			}
			require.True(t, known || m == awserr.Meaning{})
			require.True(t, known || status == 0, "a status says at least something")
			again, _ := bread.Of(err)
			require.Equal(t, m, again)
		}
	})
}
