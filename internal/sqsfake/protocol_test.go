package sqsfake_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

// What the SDK's client never sends, or hides.
func TestProtocol(t *testing.T) {
	var server sqsfake.Server
	url, err := server.CreateQueue("q", nil)
	require.NoError(t, err)
	for _, c := range []struct {
		name, target, body string
		status             int
		typ, query         string
	}{
		{"not SQS", "", "{}", 400, "com.amazon.coral.service#UnknownOperationException", "InvalidAction;Sender"},
		{"unknown operation", "AmazonSQS.Nonsense", "{}", 400, "com.amazon.coral.service#UnknownOperationException", "InvalidAction;Sender"},
		{"not JSON", "AmazonSQS.SendMessage", "{", 400, "com.amazon.coral.service#SerializationException", "MalformedInput;Sender"},
		{"not UTF-8", "AmazonSQS.SendMessage", `{"QueueUrl":"` + url + `","MessageBody":"` + "\xFF" + `"}`, 400, "com.amazon.coral.service#SerializationException", "MalformedInput;Sender"},
		{"no queue", "AmazonSQS.SendMessage", `{"MessageBody":"x"}`, 400, "com.amazonaws.sqs#QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue;Sender"},
		{"no queue name", "AmazonSQS.CreateQueue", `{}`, 400, "com.amazon.coral.service#MissingRequiredParameterException", "MissingParameter;Sender"},
		{"no receipt", "AmazonSQS.DeleteMessage", `{"QueueUrl":"` + url + `"}`, 400, "com.amazon.coral.service#MissingRequiredParameterException", "MissingParameter;Sender"},
		{"no timeout", "AmazonSQS.ChangeMessageVisibility", `{"QueueUrl":"` + url + `","ReceiptHandle":"x"}`, 400, "com.amazon.coral.service#MissingRequiredParameterException", "MissingParameter;Sender"},
		{"bad receipt", "AmazonSQS.DeleteMessage", `{"QueueUrl":"` + url + `","ReceiptHandle":"x"}`, 404, "com.amazonaws.sqs#ReceiptHandleIsInvalid", "ReceiptHandleIsInvalid;Sender"},
		{"done", "AmazonSQS.SendMessage", `{"QueueUrl":"http://elsewhere/1/q","MessageBody":"x"}`, 200, "", ""},
		{"no messages asked for", "AmazonSQS.ReceiveMessage", `{"QueueUrl":"` + url + `","MaxNumberOfMessages":0}`, 400, "com.amazon.coral.service#InvalidParameterValueException", "InvalidParameterValue;Sender"},
		{"visibility 0", "AmazonSQS.ReceiveMessage", `{"QueueUrl":"` + url + `","VisibilityTimeout":0}`, 200, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(c.body))
			r.Header.Set("X-Amz-Target", c.target)
			w := httptest.NewRecorder()
			server.ServeHTTP(w, r)
			var body struct {
				Type string `json:"__type"`
			}
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &body))
			require.Equal(t, c.status, w.Code)
			require.Equal(t, c.typ, body.Type)
			require.Equal(t, c.query, w.Header().Get("X-Amzn-Query-Error"))
			require.Equal(t, "application/x-amz-json-1.0", w.Header().Get("Content-Type"))
			require.NotEmpty(t, w.Header().Get("X-Amzn-Requestid"))
		})
	}
	require.Equal(t, sqsfake.QueueStats{Visible: 1, Sent: 1, Received: 1}, server.Queue("q"), "an explicit 0 is not the queue's default")
}
