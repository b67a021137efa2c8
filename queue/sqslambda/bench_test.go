package sqslambda_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/audit"
	"github.com/rampmeter/rampmeter/queue/sqslambda"
)

// BenchmarkHandler measures an invocation with a handler that does nothing,
// without a queue or a dead-letter sink: one op is one record.
func BenchmarkHandler(b *testing.B) {
	audit.On = false // its recounts are no part of a consumer's work
	b.Cleanup(func() { audit.On = true })
	for _, c := range []struct{ batch, concurrency, attributes int }{
		{1, 1, 0}, {10, 1, 0}, {10, 10, 0}, {1000, 1, 0}, {1000, 1, 3}, {10_000, 1, 0}, {10_000, 10, 0},
	} {
		name := fmt.Sprintf("batch=%d/concurrency=%d", c.batch, c.concurrency)
		if c.attributes > 0 {
			name += fmt.Sprintf("/attributes=%d", c.attributes)
		}
		b.Run(name, func(b *testing.B) {
			f, err := sqslambda.Handler(queue.HandlerFunc(func(context.Context, *queue.Message) error { return nil }),
				sqslambda.Config{Concurrency: c.concurrency, Logger: quiet})
			require.NoError(b, err)
			e := newEvent(c.batch)
			value := "value"
			for i := range e.Records {
				e.Records[i].MessageAttributes = make(map[string]events.SQSMessageAttribute)
				for n := range c.attributes {
					e.Records[i].MessageAttributes[fmt.Sprint("attribute", n)] = events.SQSMessageAttribute{DataType: "String", StringValue: &value}
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			b.ReportAllocs()
			b.ResetTimer()
			for n := 0; n < b.N; n += c.batch {
				answer, err := f(ctx, e)
				if err != nil || len(answer.BatchItemFailures) > 0 {
					b.Fatal(answer, err)
				}
			}
		})
	}
}
