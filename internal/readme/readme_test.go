// Package readme_test checks the README: its program compiles, runs and ends as the
// README says, and the text is not too long to be read.
package readme_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
)

func readme(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	return string(text)
}

// build compiles the README's first Go program, as if it stood in the examples'
// module, which has the SDK's configuration.
func build(t *testing.T) (program string) {
	t.Helper()
	_, rest, ok := strings.Cut(readme(t), "```go\n")
	require.True(t, ok, "README.md has no Go program")
	code, _, ok := strings.Cut(rest, "```")
	require.True(t, ok)
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	require.NoError(t, os.WriteFile(source, []byte(code), 0o600))
	module, err := filepath.Abs("../../examples")
	require.NoError(t, err)
	overlay, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(module, "internal", "readme", "main.go"): source},
	})
	require.NoError(t, err)
	overlayFile := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(overlayFile, overlay, 0o600))
	program = filepath.Join(dir, "program")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-overlay", overlayFile, "-o", program, "./internal/readme")
	cmd.Dir = module
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

// The program consumes a queue, hands over what it can't decode, drains on SIGTERM,
// and then ends well.
func TestProgram(t *testing.T) {
	var server sqsfake.Server
	service := httptest.NewServer(&server)
	defer service.Close()
	var reserved atomic.Int64
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut && r.URL.Path == "/reservations/o-1" {
			reserved.Add(1)
		}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer api.Close()
	for _, name := range []string{"orders", "dead"} {
		_, err := server.CreateQueue(name, nil)
		require.NoError(t, err)
	}
	url := service.URL + "/000000000000/"
	for _, body := range []string{`{"ID": "o-1", "SKU": "socks"}`, "oops"} {
		orders := url + "orders"
		_, err := server.Client().SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &orders, MessageBody: &body})
		require.NoError(t, err)
	}

	var output bytes.Buffer
	cmd := exec.CommandContext(t.Context(), build(t))
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Env = append(os.Environ(),
		"AWS_ENDPOINT_URL_SQS="+service.URL, "AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=a", "AWS_SECRET_ACCESS_KEY=b",
		"QUEUE_URL="+url+"orders", "DEAD_LETTER_URL="+url+"dead", "API_URL="+api.URL)
	require.NoError(t, cmd.Start())
	defer func() { _ = cmd.Process.Kill() }()
	done := func() bool {
		q := server.Queue("orders")
		return q.Visible+q.InFlight == 0 && len(server.Messages("dead")) == 1
	}
	require.Eventually(t, done, time.Minute, 10*time.Millisecond)
	require.EqualValues(t, 1, reserved.Load())
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait(), "%s", &output)
}

func TestLength(t *testing.T) {
	require.LessOrEqual(t, len(strings.Fields(readme(t))), 1000)
}
