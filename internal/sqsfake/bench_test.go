package sqsfake_test

import (
	"net/http/httptest"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

// BenchmarkTen is a batch of ten messages sent, received and deleted: three
// calls of the SDK's client.
func BenchmarkTen(b *testing.B) {
	bench := func(b *testing.B, server *sqsfake.Server, client *sqs.Client) {
		url, err := server.CreateQueue("q", nil)
		if err != nil {
			b.Fatal(err)
		}
		ten := []string{"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				in := &sqs.SendMessageBatchInput{QueueUrl: &url, Entries: batchOf(ten)}
				if _, err := client.SendMessageBatch(b.Context(), in); err != nil {
					b.Error(err)
					return
				}
				out, err := client.ReceiveMessage(b.Context(), &sqs.ReceiveMessageInput{QueueUrl: &url, MaxNumberOfMessages: 10, WaitTimeSeconds: 20})
				if err != nil {
					b.Error(err)
					return
				}
				if _, err := client.DeleteMessageBatch(b.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: deletesOf(out.Messages)}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	b.Run("InProcess", func(b *testing.B) {
		var server sqsfake.Server
		bench(b, &server, server.Client())
	})
	b.Run("Loopback", func(b *testing.B) {
		var server sqsfake.Server
		web := httptest.NewServer(&server)
		b.Cleanup(web.Close)
		bench(b, &server, sqsfake.NewClient(web.URL))
	})
}
