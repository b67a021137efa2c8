//go:build unix

package main

import (
	"context"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// awsConfig is the SDK's configuration, the same for all consumers and with its
// defaults, the retries included, but for the connections that are kept: the
// SDK keeps ten, and what has more requests under way would make new ones all
// the time.
func awsConfig(endpoint string) aws.Config {
	return aws.Config{
		BaseEndpoint: &endpoint,
		Region:       "us-east-1",
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "BENCH", SecretAccessKey: "bench"}, nil
		}),
		HTTPClient: awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConns, t.MaxIdleConnsPerHost = 1000, 1000
		}),
	}
}

// withoutWriteTo hides from net/http that a request's body could write itself.
// The SDK closes the body as soon as the reply's header has come; a body that
// is just being written by WriteTo then says io.EOF, and net/http closes the
// connection under the reply. A server as fast as this one loses about one
// receive in a thousand so, and its messages until their visibility ends.
// rampmeter does this by itself; without it the others could not be compared.
func withoutWriteTo(cfg aws.Config) aws.Config {
	cfg.HTTPClient = plainBodies{cfg.HTTPClient}
	return cfg
}

type plainBodies struct{ aws.HTTPClient }

func (c plainBodies) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return c.HTTPClient.Do(r)
}
