package sqsfake

import (
	"context"
	"strconv"
	"strings"
	"time"
)

// receive executes a ReceiveMessage.
func (s *Server) receive(ctx context.Context, req *request, fault Fault) (any, int, error) {
	got, err := s.poll(ctx, req, fault.Max)
	if err != nil {
		return nil, 0, err
	}
	system := make(map[string]bool)
	if !fault.NoSystemAttributes {
		for _, names := range [][]string{req.AttributeNames, req.MessageSystemAttributeNames} {
			for _, name := range names {
				system[name] = true
			}
		}
	}
	var rep receiveReply
	for i := range got {
		rep.Messages = append(rep.Messages, got[i].render(system, req.MessageAttributeNames))
	}
	return rep, len(got), nil
}

// poll waits for messages as long as the request says. It receives at most most of
// them, or as many as the request asks for if most is 0.
func (s *Server) poll(ctx context.Context, req *request, most int) ([]message, error) {
	s.mu.Lock()
	q, err := s.queue(req)
	if err != nil {
		s.mu.Unlock()
		return nil, err
	}
	now := time.Now()
	got, p, err := q.receive(now, req, most)
	if p == nil || err != nil {
		s.mu.Unlock()
		return got, err
	}
	turn := q.polls.PushBack(p)
	if q.timer == nil {
		q.timer = time.AfterFunc(time.Hour, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			q.wake(time.Now())
		})
	}
	q.setTimer(now)
	s.mu.Unlock()

	timer := time.NewTimer(p.until.Sub(now))
	defer timer.Stop()
	var cause error
	select {
	case got, ok := <-p.got:
		return polled(got, ok)
	case <-timer.C:
	case <-ctx.Done():
		cause = context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case got, ok := <-p.got:
		if cause != nil {
			return nil, cause // nobody receives the taken messages
		}
		return polled(got, ok)
	default:
	}
	if cause != nil && s.LingeringPolls {
		p.gone = true
		return nil, cause
	}
	q.polls.Remove(turn)
	q.setTimer(time.Now())
	return nil, cause
}

func polled(got []message, ok bool) ([]message, error) {
	if !ok {
		return nil, QueueDoesNotExist()
	}
	return got, nil
}

// receive takes messages if there are any. If there are none, and the request has a
// wait time, it returns a poll to wait with.
func (q *queue) receive(now time.Time, req *request, most int) ([]message, *poll, error) {
	n, visibility, wait := 1, q.visibility, q.wait
	if v := req.MaxNumberOfMessages; v != nil {
		if n = *v; n < 1 || n > maxBatch {
			return nil, nil, badValue(n, "MaxNumberOfMessages", "Must be between 1 and 10, if provided.")
		}
	}
	if v := req.VisibilityTimeout; v != nil {
		if visibility = time.Duration(*v) * time.Second; visibility < 0 || visibility > maxVisibility {
			return nil, nil, badValue(*v, "VisibilityTimeout", "Must be between 0 and 43200, if provided.")
		}
	}
	if v := req.WaitTimeSeconds; v != nil {
		if wait = time.Duration(*v) * time.Second; *v < 0 || *v > maxWait {
			return nil, nil, badValue(*v, "WaitTimeSeconds", "Must be >= 0 and <= 20, if provided.")
		}
	}
	if most > 0 {
		n = min(n, most)
	}
	q.advance(now)
	var attempt string
	if id := req.ReceiveRequestAttemptID; id != nil {
		attempt = *id
		if !q.fifo {
			return nil, nil, badValue(attempt, "ReceiveRequestAttemptId", "The request include parameter that is not valid for this queue type.")
		}
		if !idPattern.MatchString(attempt) {
			return nil, nil, badValue(attempt, "ReceiveRequestAttemptId", "ReceiveRequestAttemptId can only include alphanumeric and punctuation characters. 1 to 128 in length.")
		}
		if got, ok, err := q.replay(now, attempt, visibility); ok {
			return got, nil, err
		}
	}
	if wait == 0 && !q.fifo && q.full() {
		return nil, nil, OverLimit()
	}
	got := q.take(now, n, visibility)
	switch {
	case len(got) > 0 && attempt != "":
		q.attempts.put(now, attempt, got)
	case len(got) == 0 && wait > 0:
		return nil, &poll{max: n, visibility: visibility, attempt: attempt, until: now.Add(wait), got: make(chan []message, 1)}, nil
	}
	return got, nil, nil
}

// render returns a message as a receive returns it.
func (m *message) render(system map[string]bool, user []string) receivedMessage {
	out := receivedMessage{MessageID: m.id, ReceiptHandle: m.receipt, MD5OfBody: m.md5, Body: m.body}
	put := func(name, value string) {
		if value != "" && (system[name] || system["All"]) {
			if out.Attributes == nil {
				out.Attributes = make(map[string]string)
			}
			out.Attributes[name] = value
		}
	}
	if len(system) > 0 {
		put("SenderId", account)
		put("SentTimestamp", strconv.FormatInt(m.sent.UnixMilli(), 10))
		put("ApproximateReceiveCount", strconv.Itoa(m.receives))
		put("ApproximateFirstReceiveTimestamp", strconv.FormatInt(m.firstReceived.UnixMilli(), 10))
		put("AWSTraceHeader", m.trace)
		put("DeadLetterQueueSourceArn", m.source)
		put("MessageGroupId", m.group)
		if m.dedup != "" {
			put("MessageDeduplicationId", m.dedup)
			put("SequenceNumber", sequenceNumber(m.seq))
		}
	}
	for name, a := range m.attributes {
		if selects(user, name) {
			if out.MessageAttributes == nil {
				out.MessageAttributes = make(attributes)
			}
			out.MessageAttributes[name] = a
		}
	}
	out.MD5OfMessageAttributes = md5OfAttributes(out.MessageAttributes)
	return out
}

// selects reports whether a message attribute is requested: as one of all, by a prefix
// or by name.
func selects(wanted []string, name string) bool {
	for _, w := range wanted {
		stem, isPrefix := strings.CutSuffix(w, ".*")
		if w == "All" || w == name || isPrefix && strings.HasPrefix(name, stem) {
			return true
		}
	}
	return false
}
