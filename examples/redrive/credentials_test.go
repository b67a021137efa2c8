package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/limiter"
	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
)

// A failure of the SDK's sources of credentials is not attributed to SQS: the error
// names the source.
func TestSourcesOfCredentials(t *testing.T) {
	sts := map[string]string{"AWS_ROLE_ARN": "arn:aws:iam::000000000000:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE": "token", "AWS_ENDPOINT_URL_STS": "server"}
	container := map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "server"}
	instance := map[string]string{"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "server"}
	refusal := func(code string) string {
		return "<ErrorResponse><Error><Type>Sender</Type><Code>" + code + "</Code><Message>because</Message></Error></ErrorResponse>"
	}
	for name, c := range map[string]struct {
		env    map[string]string
		status int
		body   string
		class  error
		says   string
	}{
		"STS refuses":              {sts, 403, refusal("AccessDenied"), limiter.ErrMisconfigured, "AWS STS gives no credentials"},
		"STS is overloaded":        {sts, 400, refusal("Throttling"), limiter.ErrOverload, "because"},
		"STS is broken":            {sts, 503, refusal("ServiceUnavailable"), limiter.ErrUnavailable, "because"},
		"container refuses":        {container, 403, "no", limiter.ErrMisconfigured, "the container's credentials endpoint gives no credentials"},
		"container is overloaded":  {container, 429, "no", limiter.ErrOverload, "no"},
		"instance has no role":     {instance, 404, "", limiter.ErrMisconfigured, "the EC2 instance metadata service gives no credentials"},
		"instance's role is wrong": {instance, 200, `{"Code":"AssumeRoleUnauthorizedAccess","Message":"EC2 cannot assume the role"}`, limiter.ErrMisconfigured, "the EC2 instance metadata service gives no credentials"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				_, _ = fmt.Fprint(w, c.body)
			}))
			t.Cleanup(server.Close)
			token := filepath.Join(t.TempDir(), "token")
			require.NoError(t, os.WriteFile(token, []byte("t"), 0o600))
			for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"} {
				t.Setenv(name, "")
			}
			for name, value := range map[string]string{"AWS_REGION": "us-east-1", "AWS_MAX_ATTEMPTS": "1", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull} {
				t.Setenv(name, value)
			}
			for name, value := range c.env {
				switch value {
				case "server":
					value = server.URL
				case "token":
					value = token
				}
				t.Setenv(name, value)
			}
			client, err := connect(t.Context())
			require.NoError(t, err)
			q, err := sqsqueue.New(client, "https://sqs.test/0/orders", sqsqueue.Config{})
			require.NoError(t, err)
			_, err = q.Receive(t.Context(), queue.ReceiveOptions{Max: 1, Lease: time.Minute})
			require.Equal(t, c.class, limiter.Classify(err), "%v", err)
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "sqs:ReceiveMessage")
		})
	}
}
