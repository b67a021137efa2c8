package sqsqueue_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/awserr/awserrtest"
	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

const notSQS = "this is not an SQS endpoint that speaks the JSON protocol"

// doFunc is an HTTP client.
type doFunc func(*http.Request) (*http.Response, error)

func (f doFunc) Do(r *http.Request) (*http.Response, error) { return f(r) }

func TestErrorsByCode(t *testing.T) {
	other := func(status int, code string) sqsfake.Error {
		return sqsfake.Error{Status: status, Code: code, QueryCode: "-"}
	}
	for name, c := range map[string]struct {
		err   sqsfake.Error
		class error
		says  string
	}{
		"throttled":             {sqsfake.Throttled(), limiter.ErrOverload, ""},
		"throttling 400":        {sqsfake.ThrottlingException(400), limiter.ErrOverload, ""},
		"throttling 503":        {sqsfake.ThrottlingException(503), limiter.ErrOverload, ""},
		"over limit":            {sqsfake.OverLimit(), limiter.ErrOverload, ""},
		"over limit, old":       {other(403, "AWS.SimpleQueueService.OverLimit"), limiter.ErrOverload, ""},
		"over limit, namespace": {other(403, "com.amazonaws.sqs#OverLimit"), limiter.ErrOverload, ""},
		"429":                   {other(429, "Whatever"), limiter.ErrOverload, ""},
		"500":                   {sqsfake.InternalError(), limiter.ErrUnavailable, ""},
		"503":                   {sqsfake.ServiceUnavailable(), limiter.ErrUnavailable, ""},
		"502":                   {other(502, "Whatever"), limiter.ErrUnavailable, ""},
		"no queue":              {sqsfake.QueueDoesNotExist(), limiter.ErrMisconfigured, "create the queue"},
		"no queue, new":         {other(400, "QueueDoesNotExist"), limiter.ErrMisconfigured, "create the queue"},
		"no queue, old":         {other(400, "AWS.SimpleQueueService.NonExistentQueue"), limiter.ErrMisconfigured, "create the queue"},
		"denied":                {sqsfake.AccessDenied(), limiter.ErrMisconfigured, "sqs:ReceiveMessage"},
		"denied, old":           {other(403, "AccessDenied"), limiter.ErrMisconfigured, "sqs:ReceiveMessage"},
		"403":                   {other(403, "Whatever"), limiter.ErrMisconfigured, "credentials"},
		"expired":               {sqsfake.ExpiredToken(), limiter.ErrMisconfigured, "renew the credentials"},
		"unknown key":           {sqsfake.InvalidToken(), limiter.ErrMisconfigured, "credentials"},
		"signature":             {other(403, "InvalidSignatureException"), limiter.ErrMisconfigured, "clock"},
		"KMS":                   {other(400, "KmsAccessDenied"), limiter.ErrMisconfigured, "KMS key"},
		"KMS, old":              {other(400, "KMS.AccessDeniedException"), limiter.ErrMisconfigured, "KMS key"},
		"KMS, as a message":     {sqsfake.Error{Status: 403, Code: "AccessDeniedException", Message: "not authorized to perform: kms:Decrypt on resource"}, limiter.ErrMisconfigured, "KMS key"},
		"no HTTPS":              {other(403, "InvalidSecurity"), limiter.ErrMisconfigured, "HTTPS"},
		"no action":             {other(400, "UnknownOperationException"), limiter.ErrMisconfigured, notSQS},
		"no action, old":        {other(400, "InvalidAction"), limiter.ErrMisconfigured, notSQS},
		"not implemented":       {other(501, "InternalFailure"), limiter.ErrMisconfigured, notSQS},
		"refused":               {other(400, "InvalidAttributeName"), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &sqsfake.Server{}
				q := newQueue(t, server, false, nil)
				server.Plan = sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: c.err})
				msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
				require.Error(t, err)
				require.Empty(t, msgs)
				require.Equal(t, c.class, limiter.Classify(err), "%v", err)
				require.ErrorContains(t, err, c.says)
				require.ErrorContains(t, err, server.URL("orders"))
				if strings.Contains(name, "signature") {
					require.Equal(t, 2, server.Stats(sqsfake.ReceiveMessage).Calls, "the SDK may have set its clock right")
				} else {
					require.Equal(t, 1, server.Stats(sqsfake.ReceiveMessage).Calls, "a receive that fails holds up nobody")
				}
			})
		})
	}
}

// An error of KMS means the same, with the same advice, by both of its names, for
// a request and for an entry of a batch.
func TestErrorsOfKMS(t *testing.T) {
	for code, c := range map[string]struct {
		query string
		class error
	}{
		"KmsAccessDenied":    {"KMS.AccessDeniedException", limiter.ErrMisconfigured},
		"KmsDisabled":        {"KMS.DisabledException", limiter.ErrMisconfigured},
		"KmsInvalidKeyUsage": {"KMS.InvalidKeyUsageException", limiter.ErrMisconfigured},
		"KmsInvalidState":    {"KMS.InvalidStateException", limiter.ErrMisconfigured},
		"KmsNotFound":        {"KMS.NotFoundException", limiter.ErrMisconfigured},
		"KmsOptInRequired":   {"KMS.OptInRequired", limiter.ErrMisconfigured},
		"KmsThrottled":       {"KMS.ThrottlingException", limiter.ErrOverload},
	} {
		says := "KMS key"
		if c.class == limiter.ErrOverload {
			says = ""
		}
		for name, err := range map[string]sqsfake.Error{
			"new":       {Code: code, QueryCode: "-"},
			"both":      {Code: code, QueryCode: c.query},
			"old":       {Code: c.query, QueryCode: "-"},
			"namespace": {Code: "com.amazonaws.sqs#" + c.query, QueryCode: "-"},
		} {
			check := func(t *testing.T, err error) {
				require.Equal(t, c.class, limiter.Classify(err), "%v", err)
				require.ErrorContains(t, err, says)
				require.NotContains(t, err.Error(), "sqs:")
			}
			t.Run(code+", "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server := &sqsfake.Server{}
					q := newQueue(t, server, false, nil)
					server.Plan = sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: err})
					_, got := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
					check(t, got)

					entry := sqsfake.Error{Code: err.Code} // the fake's entries have the old code if there is one
					if err.QueryCode != "-" {
						entry = err
					}
					server.Plan = sqsfake.On(sqsfake.SendMessageBatch, sqsfake.Fault{Mode: sqsfake.FailEntries, Entries: []int{0}, Err: entry})
					dead := message("x")
					dead.Attributes = map[string]string{retry.DeadLetterAttribute: retry.DeadLetter{Reason: "permanent", Error: "why"}.Encode()}
					got = q.Send(t.Context(), dead, message("y"))
					require.Len(t, failed(t, got), 1)
					check(t, failed(t, got)[0])
					if c.class == limiter.ErrMisconfigured {
						require.Equal(t, 1, server.Stats(sqsfake.SendMessageBatch).Calls, "the record is not at fault, and stays")
					}
				})
			})
		}
	}
}

// Each error that SQS has: a new version of the SDK may bring new ones, of which
// somebody has to say what they mean.
func TestEveryErrorOfTheSDK(t *testing.T) {
	classes := map[string]error{
		// About one request, or one message.
		"BatchEntryIdsNotDistinct": nil, "BatchRequestTooLong": nil, "EmptyBatchRequest": nil, "InvalidAttributeName": nil, "InvalidAttributeValue": nil,
		"InvalidBatchEntryId": nil, "InvalidIdFormat": nil, "InvalidMessageContents": nil, "MessageNotInflight": nil, "ReceiptHandleIsInvalid": nil,
		"TooManyEntriesInBatchRequest": nil, "UnsupportedOperation": nil,
		// Of requests that are not made.
		"PurgeQueueInProgress": nil, "QueueNameExists": nil,

		"KmsThrottled": limiter.ErrOverload, "OverLimit": limiter.ErrOverload, "RequestThrottled": limiter.ErrOverload,

		"InvalidAddress": limiter.ErrMisconfigured, "InvalidSecurity": limiter.ErrMisconfigured, "QueueDeletedRecently": limiter.ErrMisconfigured,
		"QueueDoesNotExist": limiter.ErrMisconfigured, "ResourceNotFoundException": limiter.ErrMisconfigured,
		"KmsAccessDenied": limiter.ErrMisconfigured, "KmsDisabled": limiter.ErrMisconfigured, "KmsInvalidKeyUsage": limiter.ErrMisconfigured,
		"KmsInvalidState": limiter.ErrMisconfigured, "KmsNotFound": limiter.ErrMisconfigured, "KmsOptInRequired": limiter.ErrMisconfigured,
	}
	names, err := awserrtest.Types("github.com/aws/aws-sdk-go-v2/service/sqs/types")
	require.NoError(t, err)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			class, known := classes[name]
			require.True(t, known, "a new error: which class is it?")
			server := &sqsfake.Server{}
			q := newQueue(t, server, false, nil)
			server.Plan = sqsfake.On(sqsfake.ReceiveMessage, sqsfake.Fault{Mode: sqsfake.Refuse, Err: sqsfake.Error{Code: name, QueryCode: "-"}})
			_, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			require.Error(t, err)
			require.Equal(t, class, limiter.Classify(err), "%v", err)
		})
	}
}

// The error names a source of credentials that refuses; a temporary failure of the
// source is waited out.
func TestErrorsOfCredentials(t *testing.T) {
	sts := func(status int, code string) error {
		return &smithy.OperationError{ServiceID: "STS", OperationName: "AssumeRole", Err: &smithyhttp.ResponseError{
			Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}}, Err: &smithy.GenericAPIError{Code: code},
		}}
	}
	for name, c := range map[string]struct {
		err   error
		class error
		says  string
	}{
		"denied":     {sts(403, "AccessDenied"), limiter.ErrMisconfigured, "AWS STS gives no credentials"},
		"throttled":  {sts(400, "Throttling"), limiter.ErrOverload, ""},
		"broken":     {sts(500, "InternalFailure"), limiter.ErrUnavailable, ""},
		"too slow":   {context.DeadlineExceeded, limiter.ErrUnavailable, ""},
		"unknown":    {errors.New("nobody gave any"), limiter.ErrMisconfigured, "give the client credentials"},
		"no network": {&net.OpError{Op: "dial", Err: errors.New("no route to host")}, limiter.ErrMisconfigured, "give the client credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			server := &sqsfake.Server{}
			client := server.Client(func(o *sqs.Options) {
				o.Credentials = aws.NewCredentialsCache(aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return aws.Credentials{}, c.err }))
			})
			q, err := sqsqueue.New(client, "https://sqs.test/0/orders", sqsqueue.Config{})
			require.NoError(t, err)
			_, err = q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			require.Equal(t, c.class, limiter.Classify(err), "%v", err)
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "sqs:ReceiveMessage")
			require.Zero(t, server.Stats(sqsfake.ReceiveMessage).Calls)
		})
	}
}

func TestErrorsOfTheNetwork(t *testing.T) {
	reply := func(status int, body string) doFunc {
		return func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
		}
	}
	fails := func(err error) doFunc { return func(*http.Request) (*http.Response, error) { return nil, err } }
	for name, c := range map[string]struct {
		client  sqs.HTTPClient
		options func(*sqs.Options)
		class   error
	}{
		"page of a proxy":  {client: reply(200, "<html>hello</html>"), class: limiter.ErrMisconfigured},
		"cut reply":        {client: reply(200, `{"Messages":[{"Bo`), class: limiter.ErrUnavailable},
		"error of a proxy": {client: reply(502, "<html>bad gateway</html>"), class: limiter.ErrUnavailable},
		"not SQS":          {client: reply(404, "not found"), class: limiter.ErrMisconfigured},
		"refused":          {client: fails(&net.OpError{Op: "dial", Err: errors.New("connection refused")}), class: limiter.ErrUnavailable},
		"reset":            {client: fails(io.ErrUnexpectedEOF), class: limiter.ErrUnavailable},
		"no such host":     {client: fails(&net.DNSError{IsNotFound: true}), class: limiter.ErrMisconfigured},
		"DNS is down":      {client: fails(&net.DNSError{IsTemporary: true, IsTimeout: true}), class: limiter.ErrUnavailable},
		"no credentials": {client: reply(200, "{}"), class: limiter.ErrMisconfigured, options: func(o *sqs.Options) {
			o.Credentials = failing{}
		}},
		"no region": {client: reply(200, "{}"), class: limiter.ErrMisconfigured, options: func(o *sqs.Options) {
			o.BaseEndpoint, o.Region = nil, ""
		}},
	} {
		t.Run(name, func(t *testing.T) {
			client := (&sqsfake.Server{}).Client(func(o *sqs.Options) {
				o.HTTPClient = c.client
				if c.options != nil {
					c.options(o)
				}
			})
			q, err := sqsqueue.New(client, "https://sqs.test/0/orders", sqsqueue.Config{})
			require.NoError(t, err)
			_, err = q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			require.Error(t, err)
			require.Equal(t, c.class, limiter.Classify(err), "%v", err)
			t.Log(err)
		})
	}
}

// Servers that are not SQS, or speak its older protocol, are known by the first
// receive, and the first batch. A batch may cost a second request, no more.
func TestOtherServers(t *testing.T) {
	const xml = `<?xml version="1.0"?><ErrorResponse><Error><Code>InvalidAction</Code></Error></ErrorResponse>`
	for name, c := range map[string]struct {
		status int
		body   string
		batch  int // requests of a batch; 2: it passes for the reply to a receive
	}{
		"XML":                          {200, `<ReceiveMessageResponse><ReceiveMessageResult/></ReceiveMessageResponse>`, 1},
		"XML, refused":                 {400, xml, 1},
		"XML, forbidden":               {403, xml, 1},
		"text":                         {200, "hello", 1},
		"text, refused":                {400, "bad request", 1},
		"redirect":                     {302, `<a href="/login">login</a>`, 1},
		"page that is not there":       {404, "<html>", 1},
		"list":                         {200, " [1]", 1},
		"null":                         {200, "null", 1},
		"nothing":                      {200, "", 1},
		"other JSON":                   {200, `{"message":"ok"}`, 1},
		"JSON of the older protocol":   {200, `{"ReceiveMessageResponse":{"ReceiveMessageResult":{"messages":null}}}`, 1},
		"batch under another name":     {200, `{"SendMessageBatchResultEntry":[{"Id":"0","MessageId":"x","MD5OfMessageBody":"y"}]}`, 1},
		"batch with other ids":         {200, `{"Successful":[{"Id":"zero"}],"Failed":[],"Messages":[]}`, 2},
		"batch that names nobody":      {200, `{"Successful":[],"Failed":[],"Messages":[]}`, 2},
		"does not know the operation":  {400, `{"__type":"com.amazon.coral.service#UnknownOperationException"}`, 1},
		"does not know the action":     {400, `{"__type":"InvalidAction","message":"because"}`, 1},
		"has not got the operation":    {501, `{"__type":"InternalFailure","message":"not yet implemented"}`, 1},
		"has not got it, without JSON": {501, "not implemented", 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				requests := 0
				client := (&sqsfake.Server{}).Client(func(o *sqs.Options) {
					o.HTTPClient = doFunc(func(*http.Request) (*http.Response, error) {
						requests++
						return &http.Response{StatusCode: c.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(c.body))}, nil
					})
				})
				q, err := sqsqueue.New(client, "https://sqs.test/0/orders", sqsqueue.Config{})
				require.NoError(t, err)
				if c.batch == 1 {
					_, err = q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
					require.Equal(t, limiter.ErrMisconfigured, limiter.Classify(err), "%v", err)
					require.ErrorContains(t, err, notSQS)
					require.Equal(t, 1, requests)
				}
				_, err = q.Check(t.Context(), sqsqueue.CheckConfig{})
				require.Equal(t, limiter.ErrMisconfigured, limiter.Classify(err), "%v", err)
				require.ErrorContains(t, err, notSQS)
				received := []*queue.Message{{Receipt: "r"}, {Receipt: "s"}, {Receipt: "t"}}
				for op, do := range map[string]func() error{
					"send":   func() error { return q.Send(t.Context(), messages(3)...) },
					"ack":    func() error { return q.Ack(t.Context(), received...) },
					"nack":   func() error { return q.Nack(t.Context(), time.Second, received...) },
					"extend": func() error { return q.Extend(t.Context(), time.Minute, received...) },
				} {
					requests = 0
					errs := failed(t, do())
					require.Len(t, errs, 3, op)
					for _, err := range errs {
						require.Equal(t, limiter.ErrMisconfigured, limiter.Classify(err), "%s: %v", op, err)
						require.ErrorContains(t, err, notSQS)
					}
					require.Equal(t, c.batch, requests, op)
				}
			})
		})
	}
}

// An empty reply of SQS, or of a server like it, to a receive is not an error.
func TestEmptyReplies(t *testing.T) {
	for _, body := range []string{
		"{}", " {\n}\n", `{"Messages":[]}`, `{"Messages":null}`, `{"ResponseMetadata":{"RequestId":"d5950a2a-38e4-4b8d-b6d6-e1b1ee2a5b93"},"Messages":[]}`,
	} {
		client := (&sqsfake.Server{}).Client(func(o *sqs.Options) {
			o.HTTPClient = doFunc(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
			})
		})
		q, err := sqsqueue.New(client, "https://sqs.test/0/orders", sqsqueue.Config{})
		require.NoError(t, err)
		msgs, err := q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		require.NoError(t, err, body)
		require.Empty(t, msgs)
	}
}

// failing are credentials that can't be had.
type failing struct{}

func (failing) Retrieve(context.Context) (aws.Credentials, error) {
	return aws.Credentials{}, &net.OpError{Op: "dial", Err: errors.New("no route to host")}
}

// Errors are known by their type where the code is another one.
func TestErrorsByType(t *testing.T) {
	other := "Weird"
	for _, c := range []struct{ err, class error }{
		{&types.QueueDoesNotExist{ErrorCodeOverride: &other}, limiter.ErrMisconfigured},
		{&types.RequestThrottled{ErrorCodeOverride: &other}, limiter.ErrOverload},
		{&types.OverLimit{ErrorCodeOverride: &other}, limiter.ErrOverload},
	} {
		client := failingClient{(&sqsfake.Server{}).Client(), c.err}
		q, err := sqsqueue.New(client, "https://sqs.test/0/orders", sqsqueue.Config{})
		require.NoError(t, err)
		_, err = q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
		require.Equal(t, c.class, limiter.Classify(err))
	}
}

type failingClient struct {
	*sqs.Client
	err error
}

func (c failingClient) ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error) {
	return nil, c.err
}
