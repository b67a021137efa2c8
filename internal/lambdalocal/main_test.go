package lambdalocal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"
	"github.com/aws/aws-lambda-go/lambda"
	"github.com/aws/aws-lambda-go/lambdacontext"
)

// TestMain is also the main of the functions that the tests run: FUNCTION in
// the environment says which.
func TestMain(m *testing.M) {
	switch os.Getenv("FUNCTION") {
	case "":
		os.Exit(m.Run())
	case "start":
		lambda.Start(obey)
	case "queue":
		lambda.Start(handleQueue)
	case "raw":
		rawRuntime()
	case "ticking":
		go func() {
			for {
				fmt.Println("tick")
				time.Sleep(time.Millisecond)
			}
		}()
		lambda.Start(obey)
	case "stubborn": // asks for nothing, and hears nothing
		fmt.Println("deaf")
		select {}
	case "exits":
		fmt.Println("leaving")
		os.Exit(3)
	case "init error":
		post("init/error", `{"errorType":"Config.Missing","errorMessage":"no table"}`, "")
		os.Exit(1)
	}
	os.Exit(2)
}

// An order is an instruction to a function.
type order struct {
	Do  string
	For time.Duration
}

// A sight is what a function sees of itself.
type sight struct {
	PID      int
	Env      []string
	ID, ARN  string
	TraceID  string
	Deadline time.Time
	Now      time.Time
}

func obey(ctx context.Context, o order) (any, error) {
	switch o.Do {
	case "fail":
		return nil, errors.New("not today")
	case "panic":
		panic("ouch")
	case "exit":
		os.Exit(7)
	case "hang":
		select {}
	case "say":
		fmt.Println("here I am")
		fmt.Fprintln(os.Stderr, "and here")
	case "wait":
		fmt.Println("waiting")
		select {
		case <-time.After(o.For):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	case "exit later":
		go func() {
			time.Sleep(o.For)
			os.Exit(0)
		}()
	}
	lc, _ := lambdacontext.FromContext(ctx)
	deadline, _ := ctx.Deadline()
	return sight{
		PID: os.Getpid(), Env: os.Environ(), ID: lc.AwsRequestID, ARN: lc.InvokedFunctionArn,
		TraceID: os.Getenv("_X_AMZN_TRACE_ID"), Deadline: deadline, Now: time.Now(),
	}, nil
}

// handleQueue says which messages it has done, and fails those named "fail…" the
// first time.
func handleQueue(_ context.Context, e events.SQSEvent) (out events.SQSEventResponse, err error) {
	for _, r := range e.Records {
		if strings.HasPrefix(r.Body, "fail") && r.Attributes["ApproximateReceiveCount"] == "1" {
			out.BatchItemFailures = append(out.BatchItemFailures, events.SQSBatchItemFailure{ItemIdentifier: r.MessageId})
			continue
		}
		time.Sleep(5 * time.Millisecond)
		fmt.Println("done", r.Body)
	}
	return out, nil
}

func url(path string) string {
	return "http://" + os.Getenv("AWS_LAMBDA_RUNTIME_API") + "/2018-06-01/runtime/" + path
}

func post(path, body, trailer string) (status int, answer string) {
	// A body of unknown length, so that there can be a trailer.
	req, err := http.NewRequest(http.MethodPost, url(path), io.MultiReader(strings.NewReader(body)))
	if err != nil {
		panic(err)
	}
	if trailer != "" {
		req.Trailer = http.Header{"Lambda-Runtime-Function-Error-Type": {trailer}}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		panic(err)
	}
	text, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, string(text)
}

// rawRuntime is a runtime that does what the payload says: a list of paths,
// bodies and trailers to post, {id} standing for the invocation's. It prints
// what it is answered.
func rawRuntime() {
	for {
		resp, err := http.Get(url("invocation/next"))
		if err != nil {
			panic(err)
		}
		payload, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		id := resp.Header.Get("Lambda-Runtime-Aws-Request-Id")
		headers, _ := json.Marshal(resp.Header)
		fmt.Println(string(headers))
		var posts [][3]string
		if err := json.NewDecoder(bytes.NewReader(payload)).Decode(&posts); err != nil {
			panic(err)
		}
		for _, p := range posts {
			body := p[1]
			if body == "huge" {
				body = strings.Repeat("x", 6<<20+1)
			}
			status, answer := post(strings.ReplaceAll(p[0], "{id}", id), body, p[2])
			fmt.Println(status, answer)
		}
	}
}
