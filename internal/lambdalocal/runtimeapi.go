//go:build unix

package lambdalocal

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// A runtimeAPI serves Lambda's runtime API, version 2018-06-01, to one process.
type runtimeAPI struct {
	arn   string
	asked chan struct{} // has a value when the process has asked for an invocation
	calls chan *call    // the invocation for a process that has asked
	gone  <-chan struct{}

	mu      sync.Mutex // guards what is below
	current *call      // that the process got and has not answered
	failure *FunctionError
}

func newRuntimeAPI(arn string, gone <-chan struct{}) *runtimeAPI {
	return &runtimeAPI{arn: arn, asked: make(chan struct{}, 1), calls: make(chan *call, 1), gone: gone}
}

// A call is an invocation.
type call struct {
	id       string
	trace    string
	payload  []byte
	deadline time.Time
	answered chan outcome // gets one value, or none if the process ends
}

func newCall(payload []byte, deadline time.Time) *call {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
	text := hex.EncodeToString(id[:])
	return &call{
		id:       text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:],
		trace:    "Root=1-" + strconv.FormatInt(time.Now().Unix(), 16) + "-" + hexText(12) + ";Parent=" + hexText(8) + ";Sampled=0",
		payload:  payload,
		deadline: deadline,
		answered: make(chan outcome, 1),
	}
}

// hexText returns n random bytes in hexadecimal.
func hexText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// give passes an invocation to the process, which has asked for it.
func (a *runtimeAPI) give(c *call) {
	a.mu.Lock()
	a.current = c
	a.mu.Unlock()
	a.calls <- c
}

// initError returns the process's report of why it can't start, if there is one.
func (a *runtimeAPI) initError() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.failure == nil {
		return nil
	}
	return a.failure
}

func (a *runtimeAPI) handler() http.Handler {
	const base = "/2018-06-01/runtime/"
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+base+"invocation/next", a.next)
	mux.HandleFunc("POST "+base+"invocation/{id}/response", a.response)
	mux.HandleFunc("POST "+base+"invocation/{id}/error", a.invocationError)
	mux.HandleFunc("POST "+base+"init/error", a.initializationError)
	return mux
}

func (a *runtimeAPI) next(w http.ResponseWriter, r *http.Request) {
	select {
	case a.asked <- struct{}{}:
	default: // asks again
	}
	var c *call
	select {
	case c = <-a.calls:
	case <-a.gone:
		return
	case <-r.Context().Done():
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Lambda-Runtime-Aws-Request-Id", c.id)
	h.Set("Lambda-Runtime-Deadline-Ms", strconv.FormatInt(c.deadline.UnixMilli(), 10))
	h.Set("Lambda-Runtime-Invoked-Function-Arn", a.arn)
	h.Set("Lambda-Runtime-Trace-Id", c.trace)
	_, _ = w.Write(c.payload) // the end of the process is noticed elsewhere
}

// take returns the invocation that a request answers, and the request's body.
func (a *runtimeAPI) take(w http.ResponseWriter, r *http.Request) (*call, []byte) {
	body, ok := read(w, r)
	if !ok {
		return nil, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	c := a.current
	if c == nil || c.id != r.PathValue("id") {
		refuse(w, http.StatusBadRequest, "InvalidRequestID", "no invocation with this id waits for an answer")
		return nil, nil
	}
	a.current = nil
	return c, body
}

func (a *runtimeAPI) response(w http.ResponseWriter, r *http.Request) {
	c, body := a.take(w, r)
	if c == nil {
		return
	}
	out := outcome{response: body}
	// A response that fails while it is streamed reports that in its trailer.
	if kind := r.Trailer.Get("Lambda-Runtime-Function-Error-Type"); kind != "" {
		text, _ := base64.StdEncoding.DecodeString(r.Trailer.Get("Lambda-Runtime-Function-Error-Body"))
		e := functionError(text, kind)
		out = outcome{err: e, end: failed}
	}
	accept(w)
	c.answered <- out
}

func (a *runtimeAPI) invocationError(w http.ResponseWriter, r *http.Request) {
	c, body := a.take(w, r)
	if c == nil {
		return
	}
	accept(w)
	c.answered <- outcome{err: functionError(body, r.Header.Get("Lambda-Runtime-Function-Error-Type")), end: failed}
}

func (a *runtimeAPI) initializationError(w http.ResponseWriter, r *http.Request) {
	body, ok := read(w, r)
	if !ok {
		return
	}
	a.mu.Lock()
	a.failure = functionError(body, r.Header.Get("Lambda-Runtime-Function-Error-Type"))
	a.mu.Unlock()
	accept(w)
}

// functionError is an error as a runtime reports it.
func functionError(body []byte, kind string) *FunctionError {
	var e struct {
		Message string `json:"errorMessage"`
		Type    string `json:"errorType"`
	}
	if json.Unmarshal(body, &e) != nil {
		e.Message = string(body)
	}
	if e.Type == "" {
		e.Type = kind
	}
	return &FunctionError{Type: e.Type, Message: e.Message}
}

// read reads the body of a request, which must not be larger than an event.
func read(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "RequestEntityTooLarge", err.Error())
		return nil, false
	}
	return body, true
}

func accept(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"status":"OK"}`) // the end of the process is noticed elsewhere
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"errorType": kind, "errorMessage": message})
}
