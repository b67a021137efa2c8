//go:build unix

package sqsqueue_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/sqsqueue"
	"github.com/rampmeter/rampmeter/retry"
)

// workerVariable makes the test binary a worker: a process with a consumer, that
// can be killed. Its value is a workerConfig.
const workerVariable = "RAMPMETER_TEST_WORKER"

func TestMain(m *testing.M) {
	if cfg := os.Getenv(workerVariable); cfg != "" {
		if err := runWorker(cfg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// A workerConfig says what a worker consumes, and where it reports.
type workerConfig struct {
	Endpoint, Queue, DeadLetter string
	Report                      string // a file
	Concurrency                 int
	Lease, DrainTimeout         time.Duration
	Timeout                     time.Duration // of a request
	Work                        time.Duration // of a handler, in the mean
}

// The kinds of lines in a report, each with the body of the message if there is one.
const (
	begun        = "begun"   // the consumer runs
	received     = "receive" // a message, and the number of its receives
	started      = "start"   // a handler
	finished     = "finish"  // a handler, without an error
	acked        = "ack"     // the queue has confirmed it
	released     = "nack"    // the queue has confirmed it
	deadLettered = "dead"
	requested    = "request"    // one is made; with the operation
	failure      = "failure"    // a call has failed; with the operation
	usedCPU      = "cpu"        // microseconds so far
	terminated   = "terminated" // SIGTERM has come
	returned     = "returned"   // Run has
)

// A report is written line by line, each in one call: what a killed process has
// written stays.
type report struct{ file *os.File }

func (r report) line(kind, about string, n int64) {
	if about == "" {
		about = "-"
	}
	if _, err := fmt.Fprintf(r.file, "%d %s %s %d\n", time.Now().UnixMicro(), kind, about, n); err != nil {
		panic(err)
	}
}

// messages writes a line for each message for which the call did not fail.
func (r report) messages(kind string, msgs []*queue.Message, err error) {
	var batch *queue.BatchError
	if err != nil && !errors.As(err, &batch) {
		return
	}
	for i, m := range msgs {
		if batch == nil || batch.Failed[i] == nil {
			r.line(kind, string(m.Body), int64(m.Attempt))
		}
	}
}

// runWorker consumes until SIGTERM. Messages whose body begins with "bad" fail
// for good, and those with "slow" take long.
func runWorker(text string) error {
	var cfg workerConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	file, err := os.OpenFile(cfg.Report, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	out := report{file}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	go func() {
		<-signals
		out.line(terminated, "", 0)
		stop()
	}()
	go func() {
		for range time.Tick(250 * time.Millisecond) {
			var use syscall.Rusage
			if syscall.Getrusage(syscall.RUSAGE_SELF, &use) == nil {
				out.line(usedCPU, "", int64(time.Duration(use.Utime.Nano()+use.Stime.Nano())/time.Microsecond))
			}
		}
	}()

	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	client := endpointClient(cfg.Endpoint, func(o *sqs.Options) {
		o.HTTPClient = doFunc(func(r *http.Request) (*http.Response, error) {
			_, op, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
			out.line(requested, op, 0)
			return http.DefaultClient.Do(r)
		})
	})
	open := func(url string) *sqsqueue.Queue {
		q, err := sqsqueue.New(client, url, sqsqueue.Config{Timeout: cfg.Timeout, Logger: logger})
		if err != nil {
			panic(err)
		}
		return q
	}
	handler := queue.HandlerFunc(func(_ context.Context, m *queue.Message) error {
		body := string(m.Body)
		out.line(started, body, int64(m.Attempt))
		work := time.Duration(rand.ExpFloat64() * float64(cfg.Work))
		if strings.HasPrefix(body, "slow") {
			work = 700 * time.Millisecond
		}
		time.Sleep(work)
		if strings.HasPrefix(body, "bad") {
			return retry.Permanent(errors.New("this is " + body))
		}
		out.line(finished, body, int64(m.Attempt))
		return nil
	})
	consumerConfig := queue.Config{
		Concurrency: cfg.Concurrency, Lease: cfg.Lease, DrainTimeout: cfg.DrainTimeout, Logger: logger,
		Trace: &queue.Trace{
			Received:     func(i queue.ReceivedInfo) { out.messages(received, i.Messages, nil) },
			Settled:      func(i queue.SettledInfo) { out.messages(i.Op, i.Messages, i.Err) },
			DeadLettered: func(i queue.DeadLetteredInfo) { out.line(deadLettered, string(i.Message.Body), 0) },
			Error:        func(i queue.ErrorInfo) { out.line(failure, i.Op, 0) },
		},
	}
	if cfg.DeadLetter != "" {
		consumerConfig.DeadLetter = open(cfg.DeadLetter)
	}
	c, err := queue.NewConsumer(open(cfg.Queue), handler, consumerConfig)
	if err != nil {
		return err
	}
	out.line(begun, "", 0)
	err = c.Run(ctx)
	out.line(returned, "", 0)
	return err
}

// A worker is such a process.
type worker struct {
	t      *testing.T
	cmd    *exec.Cmd
	errors bytes.Buffer
	report string
	ended  bool
}

func startWorker(t *testing.T, cfg workerConfig) *worker {
	t.Helper()
	file, err := os.CreateTemp(t.TempDir(), "report")
	require.NoError(t, err)
	require.NoError(t, file.Close())
	cfg.Report = filepath.Clean(file.Name())
	text, err := json.Marshal(cfg)
	require.NoError(t, err)
	binary, err := os.Executable()
	require.NoError(t, err)
	w := &worker{t: t, cmd: exec.Command(binary), report: cfg.Report}
	w.cmd.Env = append(os.Environ(), workerVariable+"="+string(text))
	w.cmd.Stderr = &w.errors
	require.NoError(t, w.cmd.Start())
	t.Cleanup(func() {
		if !w.ended {
			w.kill()
		}
	})
	return w
}

// kill ends the process on the spot.
func (w *worker) kill() {
	w.ended = true
	_ = w.cmd.Process.Kill()
	_ = w.cmd.Wait() // says that it was killed
}

// terminate asks the process to end, and waits for it.
func (w *worker) terminate() {
	w.t.Helper()
	w.ended = true
	require.NoError(w.t, w.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(w.t, w.cmd.Wait(), "%s", w.errors.String())
}

// A line is one of a report.
type line struct {
	at    time.Time
	kind  string
	about string
	n     int64
}

// lines returns what the worker has reported so far.
func (w *worker) lines() (lines []line) {
	w.t.Helper()
	text, err := os.ReadFile(w.report)
	require.NoError(w.t, err)
	for scan := bufio.NewScanner(bytes.NewReader(text)); scan.Scan(); {
		var l line
		var at int64
		_, err := fmt.Sscan(scan.Text(), &at, &l.kind, &l.about, &l.n)
		require.NoError(w.t, err, "%q", scan.Text())
		l.at = time.UnixMicro(at)
		lines = append(lines, l)
	}
	return lines
}

// first returns the first line of that kind, and whether there is one.
func (w *worker) first(kind string) (line, bool) {
	w.t.Helper()
	for _, l := range w.lines() {
		if l.kind == kind {
			return l, true
		}
	}
	return line{}, false
}

// wait waits for a line of that kind.
func (w *worker) wait(kind string) {
	w.t.Helper()
	require.Eventually(w.t, func() bool {
		_, ok := w.first(kind)
		return ok
	}, 30*time.Second, 10*time.Millisecond, "no %q in the worker's report: %s", kind, &w.errors)
}

// drained returns how long the worker's drain took.
func (w *worker) drained() time.Duration {
	w.t.Helper()
	begin, ok := w.first(terminated)
	require.True(w.t, ok)
	end, ok := w.first(returned)
	require.True(w.t, ok)
	return end.at.Sub(begin.at)
}
