//go:build unix

package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

// awsConfig returns the SDK's configuration, the same for all consumers, with the
// SDK's defaults, including its retries and HTTP client. That client keeps ten idle
// connections per host, unless -idle says otherwise.
func awsConfig(t task) aws.Config {
	return aws.Config{
		BaseEndpoint: &t.endpoint,
		Region:       "us-east-1",
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "BENCH", SecretAccessKey: "bench"}, nil
		}),
		HTTPClient: awshttp.NewBuildableClient().WithTransportOptions(func(tr *http.Transport) {
			if t.idle > 0 {
				tr.MaxIdleConns, tr.MaxIdleConnsPerHost = t.idle, t.idle
			}
			if t.certificate != "" {
				tr.TLSClientConfig.RootCAs = x509.NewCertPool()
				tr.TLSClientConfig.RootCAs.AppendCertsFromPEM([]byte(t.certificate))
			}
		}),
	}
}

// clientName describes the client in the tables.
func clientName(idle int, secure bool) string {
	name := "the SDK's own with its defaults, which keeps 10 idle connections"
	if idle > 0 {
		name = fmt.Sprintf("the SDK's own, set to keep %d idle connections", idle)
	}
	if secure {
		return name + ", over TLS"
	}
	return name + ", without TLS"
}

// withoutWriteTo hides the WriteTo method of request bodies from net/http. The SDK
// closes the body as soon as the reply's header has arrived; a body that WriteTo is
// still writing then returns io.EOF, and net/http closes the connection before the
// reply is read. With a server as fast as this one, that loses about one receive in
// a thousand, and its messages until their visibility timeout ends. rampmeter does
// this by itself; without it the others could not be compared.
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
