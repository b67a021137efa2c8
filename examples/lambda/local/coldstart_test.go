//go:build unix

package main

import (
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/lambdalocal"
)

// BenchmarkColdStart starts the compiled function, which fetches its token from
// a server in this process, and invokes it once with nothing to do. The metric
// ms/cold-start is the time from exec until it requests its first invocation.
func BenchmarkColdStart(b *testing.B) {
	var s Stack
	defer s.Close()
	binary, err := s.build(b.Context(), &Progress{w: io.Discard})
	require.NoError(b, err)
	info, err := os.Stat(binary)
	require.NoError(b, err)
	secretURL, stop, err := serveSecret(token)
	require.NoError(b, err)
	defer stop()
	p, err := lambdalocal.NewProcess(lambdalocal.ProcessConfig{
		Path: binary, Region: region, Timeout: functionTimeout, Concurrency: 1,
		Env: []string{
			"AWS_ENDPOINT_URL_SECRETS_MANAGER=" + secretURL, "QUEUE_URL=http://127.0.0.1:1/1/orders", "DEAD_LETTER_URL=http://127.0.0.1:1/1/dead",
			"ORDERS_TABLE=orders", "INVENTORY_URL=http://127.0.0.1:1", "TOKEN_SECRET_ARN=inventory-token",
			"RATE=100", "BURST=10", "MAX_CONCURRENCY=10",
		},
	})
	require.NoError(b, err)
	defer p.Close()
	for b.Loop() {
		answer, err := p.Invoke(b.Context(), []byte(`{"Records":[]}`))
		require.NoError(b, err)
		require.JSONEq(b, `{"batchItemFailures":[]}`, string(answer))
		require.Equal(b, 1, p.Recycle(1))
	}
	var sum time.Duration
	starts := p.Stats().ColdStarts
	for _, d := range starts {
		sum += d
	}
	b.ReportMetric(float64(sum.Microseconds())/1000/float64(len(starts)), "ms/cold-start")
	b.ReportMetric(float64(info.Size())/(1<<20), "MiB")
}
