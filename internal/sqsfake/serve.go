package sqsfake

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/rampmeter/rampmeter/internal/sleep"
)

// errReset is a connection that ends before the reply.
var errReset = errors.New("sqsfake: connection reset")

// A reply is an HTTP response.
type reply struct {
	status     int
	queryError string
	body       []byte
	cut        bool // the connection ends in the middle of the body
}

func (r reply) header() http.Header {
	h := http.Header{
		"Content-Type":     {"application/x-amz-json-1.0"},
		"X-Amzn-Requestid": {rand.Text()},
		"Content-Length":   {strconv.Itoa(len(r.body))},
	}
	if r.queryError != "" {
		h.Set("X-Amzn-Query-Error", r.queryError)
	}
	return h
}

// Do serves a request in the caller's goroutine; it makes a Server an sqs.HTTPClient.
// Its errors are like those of an [http.Client]. When the request's context ends, Do
// returns the context's cause.
func (s *Server) Do(r *http.Request) (*http.Response, error) {
	rep, err := s.serve(r)
	if err != nil {
		if errors.Is(err, errReset) {
			err = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
		}
		return nil, &url.Error{Op: "Post", URL: r.URL.String(), Err: err}
	}
	resp := &http.Response{
		Status:        strconv.Itoa(rep.status) + " " + http.StatusText(rep.status),
		StatusCode:    rep.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        rep.header(),
		ContentLength: int64(len(rep.body)),
		Body:          io.NopCloser(bytes.NewReader(rep.body)),
		Request:       r,
	}
	if rep.cut {
		resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(rep.body[:len(rep.body)/2]), cutOff{}))
	}
	return resp, nil
}

type cutOff struct{}

func (cutOff) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// ServeHTTP serves a request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rep, err := s.serve(r)
	if err != nil {
		reset(w)
	}
	for key, values := range rep.header() {
		w.Header()[key] = values
	}
	w.WriteHeader(rep.status)
	if !rep.cut {
		_, _ = w.Write(rep.body) // a disconnected client is not the server's concern
		return
	}
	_, _ = w.Write(rep.body[:len(rep.body)/2])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler) // net/http's way to end a connection
}

// reset ends the connection without a reply.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err == nil {
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // reset instead of an orderly close
		}
		_ = conn.Close()
	}
	panic(http.ErrAbortHandler)
}

// serve serves a request according to Plan. An error means that the connection ends
// without a reply: errReset, or the cause of the request's context.
func (s *Server) serve(r *http.Request) (reply, error) {
	ctx := r.Context()
	if ctx.Err() != nil {
		return reply{}, context.Cause(ctx)
	}
	var body []byte
	if r.Body != nil {
		var err error
		body, err = io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil {
			return reply{}, err
		}
	}
	target, isSQS := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	op := Op(target)
	var req request
	var malformed string
	if err := json.Unmarshal(body, &req); err != nil {
		malformed = err.Error()
	} else if !utf8.Valid(body) {
		malformed = "the body is not UTF-8"
	}

	fault := s.arrive(op, &req)
	rep, done, err := func() (reply, int, error) {
		switch {
		case r.Method != http.MethodPost || !isSQS || !op.known():
			return refuse(Error{Code: "UnknownOperationException", QueryCode: "InvalidAction", Message: "The action " + target + " is not valid for this endpoint."}), 0, nil
		case malformed != "":
			return refuse(Error{Code: "SerializationException", QueryCode: "MalformedInput", Message: malformed}), 0, nil
		}
		return s.answer(ctx, op, &req, fault)
	}()
	s.leave(op, len(body), len(rep.body), done, err != nil || rep.status >= 400)
	return rep, err
}

// answer acts on a request according to the fault, and returns the reply and how many
// messages it acted on.
func (s *Server) answer(ctx context.Context, op Op, req *request, fault Fault) (reply, int, error) {
	if d := fault.Before + s.Latency/2; d > 0 && !sleep.For(ctx, d) {
		return reply{}, 0, context.Cause(ctx)
	}
	var rep reply
	var done int
	switch mode := fault.Mode; {
	case mode == Refuse, mode == FailEntries && !op.batch():
		rep = refuse(fault.err())
	case mode == Reset:
		return reply{}, 0, errReset
	case mode == Hang:
		<-ctx.Done()
		return reply{}, 0, context.Cause(ctx)
	case mode == Empty && op == ReceiveMessage:
		rep = accept(receiveReply{})
	default:
		result, n, err := s.act(ctx, op, req, fault)
		var refused Error
		switch {
		case errors.As(err, &refused):
			rep = refuse(refused)
		case err != nil:
			return reply{}, n, err
		default:
			rep = accept(result)
		}
		done = n
	}
	if d := fault.After + s.Latency/2; d > 0 && !sleep.For(ctx, d) {
		return reply{}, done, context.Cause(ctx)
	}
	switch mode := fault.Mode; {
	case mode == LoseReply, (mode == OmitEntries || mode == OmitDone) && !op.batch():
		return reply{}, done, errReset
	case mode == Truncate:
		rep.cut = true
	}
	return rep, done, nil
}

func accept(result any) reply {
	body, err := json.Marshal(result)
	if err != nil {
		return refuse(Error{Status: 500, Code: "InternalFailure", QueryCode: "InternalError", Server: true, Message: err.Error()})
	}
	return reply{status: http.StatusOK, body: body}
}

func refuse(e Error) reply {
	rep := accept(struct {
		Type    string `json:"__type"`
		Message string `json:"message"`
	}{e.typ(), e.Message})
	rep.status, rep.queryError = e.status(), e.queryError()
	return rep
}

// arrive counts a request, and calls Plan for it.
func (s *Server) arrive(op Op, req *request) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stats == nil {
		s.stats, s.calls = make(map[Op]*Stats), make(map[Op]int)
	}
	for _, key := range []Op{op, ""} {
		st := s.stats[key]
		if st == nil {
			st = &Stats{}
			s.stats[key] = st
		}
		st.Calls++
		st.Open++
		st.MaxOpen = max(st.MaxOpen, st.Open)
		s.calls[key]++
	}
	if s.Plan == nil {
		return Fault{}
	}
	c := Call{Op: op, N: s.calls[op], Total: s.calls[""], Entries: len(req.Entries)}
	switch {
	case op == ReceiveMessage && req.MaxNumberOfMessages != nil:
		c.Entries = *req.MaxNumberOfMessages
	case op == ReceiveMessage, op == SendMessage, op == DeleteMessage, op == ChangeMessageVisibility:
		c.Entries = 1
	}
	switch {
	case req.QueueURL != nil:
		c.Queue = nameOf(*req.QueueURL)
	case req.QueueName != nil:
		c.Queue = *req.QueueName
	}
	return s.Plan(c)
}

// leave counts the result of a request.
func (s *Server) leave(op Op, in, out, messages int, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range []Op{op, ""} {
		st := s.stats[key]
		st.Open--
		st.Messages += messages
		st.Bytes += in + out
		st.Billed += 1 + (max(in, out)-1)/(64<<10)
		switch {
		case failed:
			st.Failed++
		case op == ReceiveMessage && messages == 0:
			st.Empty++
		}
	}
}
