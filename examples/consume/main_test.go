package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/sqsfake"
	"github.com/rampmeter/rampmeter/retry"
)

// build builds the program.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "consume")
	out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput()
	require.NoError(t, err, string(out))
	return program
}

// command returns a run of the program whose SQS is at the endpoint.
func command(t *testing.T, program, endpoint string, args ...string) *exec.Cmd {
	c := exec.CommandContext(t.Context(), program, args...)
	c.Env = append(os.Environ(), "AWS_ENDPOINT_URL_SQS="+endpoint, "AWS_REGION=us-east-1",
		"AWS_ACCESS_KEY_ID=test", "AWS_SECRET_ACCESS_KEY=test", "AWS_SESSION_TOKEN=", "AWS_PROFILE=",
		"AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull, "QUEUE_URL=", "DEAD_LETTER_URL=")
	return c
}

// send puts bodies on a queue.
func send(t *testing.T, client *sqs.Client, url string, bodies ...string) {
	t.Helper()
	for i, body := range bodies {
		id := fmt.Sprint(i)
		out, err := client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{
			QueueUrl: &url, Entries: []types.SendMessageBatchRequestEntry{{Id: &id, MessageBody: &body}},
		})
		require.NoError(t, err)
		require.Empty(t, out.Failed)
	}
}

// Untrusted text can neither control a terminal nor imitate a line of the
// program.
func TestNothingForTheTerminal(t *testing.T) {
	const text = "boom \x1b[31mred\x1b]0;title\x07 \u009b2J \x7f\r \u202etxt.exe \x9b\xff\nhello, Eve"
	var b bytes.Buffer
	log.SetOutput(&b)
	defer log.SetOutput(os.Stderr)
	require.NoError(t, greet(t.Context(), nil, guest{text}))
	log.Print(printable(text))
	require.Equal(t, 2, strings.Count(b.String(), "\n"))
	require.True(t, utf8.ValidString(b.String()))
	for _, r := range b.String() {
		require.True(t, unicode.IsPrint(r) || r == '\n', "%q in %q", r, b.String())
	}
}

func TestConsume(t *testing.T) {
	var server sqsfake.Server
	l := httptest.NewServer(&server)
	defer l.Close()
	guests, err := server.CreateQueue("guests", nil)
	require.NoError(t, err)
	dead, err := server.CreateQueue("guests-dead", nil)
	require.NoError(t, err)
	const all = 600
	bodies := []string{"Ada"}
	for i := range all - 1 {
		bodies = append(bodies, fmt.Sprintf(`{"name":"guest %d"}`, i))
	}
	send(t, server.Client(), guests, bodies...)

	c := command(t, build(t), l.URL, "-dead-letter-url", dead, "-rate", "150")
	c.Env = append(c.Env, "QUEUE_URL="+guests) // either exit is fine
	stderr, err := c.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	greeted := make(map[string]int)
	var others strings.Builder
	interrupted := false
	for lines := bufio.NewScanner(stderr); lines.Scan(); {
		if _, name, ok := strings.Cut(lines.Text(), "hello, "); ok {
			greeted[strings.Trim(name, `"`)]++
		} else {
			others.WriteString(lines.Text() + "\n")
		}
		if len(greeted) == 100 && !interrupted {
			interrupted = true // a second signal would end it at once
			require.NoError(t, c.Process.Signal(syscall.SIGTERM))
		}
	}
	require.NoError(t, c.Wait(), "exit code 0")

	require.Contains(t, others.String(), "check: "+guests+": RedrivePolicy")
	require.Less(t, len(greeted), all-1, "it ends before the queue is empty")
	for name, times := range greeted {
		require.Equal(t, 1, times, name)
	}
	letters := server.Messages("guests-dead")
	require.Len(t, letters, 1)
	require.Equal(t, "Ada", letters[0].Body)
	record, err := retry.ParseDeadLetter(letters[0].Attributes[retry.DeadLetterAttribute])
	require.NoError(t, err)
	require.Equal(t, retry.ReasonUndecodable, record.Reason)

	stats := server.Queue("guests")
	require.Equal(t, len(greeted)+len(letters), stats.Deleted, "what it has begun is finished")
	require.Zero(t, stats.InFlight, "what it has not begun is given back")
	require.Equal(t, all, stats.Deleted+stats.Visible)
}

// idle starts the program on an empty queue, waits until its long poll is open,
// sends it the signal, and returns when it has printed what it waits for. end reads
// the rest of the output, and returns all of it and the program's exit.
func idle(t *testing.T, server *sqsfake.Server, signal os.Signal) (process *os.Process, end func() (said string, err error)) {
	t.Helper()
	l := httptest.NewServer(server)
	t.Cleanup(l.Close)
	guests, err := server.CreateQueue("guests", nil)
	require.NoError(t, err)
	dead, err := server.CreateQueue("guests-dead", nil)
	require.NoError(t, err)
	c := command(t, build(t), l.URL, "-queue-url", guests, "-dead-letter-url", dead)
	t.Cleanup(l.CloseClientConnections) // of a process that is killed at the end
	stderr, err := c.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, c.Start())
	require.Eventually(t, func() bool { return server.Stats(sqsfake.ReceiveMessage).Open > 0 }, time.Minute, 10*time.Millisecond)
	require.NoError(t, c.Process.Signal(signal))
	var said strings.Builder
	lines := bufio.NewScanner(stderr)
	for waits := false; !waits; {
		require.True(t, lines.Scan(), said.String())
		said.WriteString(lines.Text() + "\n")
		waits = strings.Contains(lines.Text(), "draining: waiting up to 30s for what is under way (handlers: 0, receives: 1); press Ctrl-C again to stop now")
	}
	return c.Process, func() (string, error) {
		for lines.Scan() {
			said.WriteString(lines.Text() + "\n")
		}
		return said.String(), c.Wait()
	}
}

// interrupt is the signal of Ctrl-C, or SIGTERM where the tests run in the background
// of a shell, which makes its children ignore SIGINT.
func interrupt() syscall.Signal {
	if signal.Ignored(os.Interrupt) {
		return syscall.SIGTERM
	}
	return syscall.SIGINT
}

// An idle program lets its long poll end, and returns the messages that it brings.
func TestIdle(t *testing.T) {
	var server sqsfake.Server
	_, end := idle(t, &server, interrupt())
	send(t, server.Client(), server.URL("guests"), `{"name":"Ada"}`)
	said, err := end()
	require.NoError(t, err, "exit code 0: %s", said)
	require.Contains(t, said, "queue: draining consumer=guests handlers=0 receives=1 until=")
	require.Contains(t, said, "queue: drained consumer=guests took=")
	require.NotContains(t, said, "hello")
	stats := server.Queue("guests")
	require.Equal(t, 1, stats.Received)
	require.Equal(t, 1, stats.Visible)
}

func TestSecondSignalEndsItAtOnce(t *testing.T) {
	var server sqsfake.Server
	process, end := idle(t, &server, interrupt())
	require.NoError(t, process.Signal(interrupt()))
	said, err := end()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit, said)
	require.Equal(t, interrupt(), exit.Sys().(syscall.WaitStatus).Signal(), said)
	require.NotContains(t, said, "queue: drained")
}

func TestExitCodes(t *testing.T) {
	var server sqsfake.Server
	l := httptest.NewServer(&server)
	defer l.Close()
	guests, err := server.CreateQueue("guests", nil)
	require.NoError(t, err)
	program := build(t)
	urls := func(more ...string) []string {
		return append([]string{"-queue-url", guests, "-dead-letter-url", guests + "-dead"}, more...)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"no queue":              {nil, 2, "-queue-url"},
		"no dead-letter queue":  {[]string{"-queue-url", guests}, 2, "-dead-letter-url"},
		"no URL":                {[]string{"-queue-url", "guests", "-dead-letter-url", guests}, 2, `"guests"`},
		"rate 0":                {urls("-rate", "0"), 2, "-rate"},
		"rate x":                {urls("-rate", "x"), 2, "-rate"},
		"concurrency -1":        {urls("-concurrency", "-1"), 2, "-concurrency"},
		"unknown flag":          {urls("-colour", "red"), 2, "-colour"},
		"no such queue":         {[]string{"-queue-url", server.URL("nothing"), "-dead-letter-url", guests}, 1, "create the queue"},
		"help is not a failure": {[]string{"-help"}, 0, "-queue-url"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := command(t, program, l.URL, c.args...)
			cmd.WaitDelay = 10 * time.Second
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			err := cmd.Run()
			var exit *exec.ExitError
			if c.code == 0 {
				require.NoError(t, err)
			} else {
				require.True(t, errors.As(err, &exit), "%v: %s", err, &stderr)
				require.Equal(t, c.code, exit.ExitCode(), stderr.String())
			}
			require.Contains(t, stderr.String(), c.says)
		})
	}
}
