package sqsfake

import (
	"crypto/rand"
	"maps"
	"slices"
	"strings"
	"time"
)

// A move is a message move task. It is guarded by the server's mutex.
type move struct {
	handle      string
	source      *queue
	destination string // an ARN; "": each message goes to the queue it was moved from
	rate        int    // messages a second; 0: not set
	started     time.Time
	status      string
	failure     string
	moved, all  int
	timer       *time.Timer // runs the next step
}

// The states of a task.
const (
	running   = "RUNNING"
	completed = "COMPLETED"
	cancelled = "CANCELLED"
	failed    = "FAILED"
)

const (
	moveStep    = 100 * time.Millisecond
	fullRate    = 500 // messages a second
	listedMoves = 10
)

// sourcesOf returns the URLs of the queues whose dead-letter queue is q.
func (s *Server) sourcesOf(q *queue) []string {
	urls := []string{}
	for _, name := range slices.Sorted(maps.Keys(s.queues)) {
		if s.queues[name].deadLetter == q.name {
			urls = append(urls, s.URL(name))
		}
	}
	return urls
}

// byARN returns the queue whose ARN is the value of a parameter.
func (s *Server) byARN(parameter string, arn *string) (*queue, error) {
	if arn == nil {
		return nil, missing(parameter)
	}
	name, ok := strings.CutPrefix(*arn, s.ARN(""))
	if !ok {
		return nil, badParameter("You must use this format to specify the " + parameter + ": arn:<partition>:<service>:<region>:<account-id>:<resource-id>")
	}
	q := s.queues[name]
	if q == nil {
		return nil, Error{Status: 404, Code: "ResourceNotFoundException", Message: "The resource that you specified for the " + parameter + " parameter doesn't exist."}
	}
	return q, nil
}

func (s *Server) startMove(now time.Time, req *request) (any, error) {
	q, err := s.byARN("SourceArn", req.SourceARN)
	if err != nil {
		return nil, err
	}
	if len(s.sourcesOf(q)) == 0 {
		return nil, badParameter("Source queue must be configured as a Dead Letter Queue.")
	}
	m := &move{handle: rand.Text(), source: q, started: now, status: running}
	if req.DestinationARN != nil {
		to, err := s.byARN("DestinationArn", req.DestinationARN)
		switch {
		case err != nil:
			return nil, err
		case to == q:
			return nil, badParameter("Source queue arn and destination queue arn cannot be the same.")
		case to.fifo != q.fifo:
			return nil, badParameter("Source queue and destination queue must be of the same type.")
		}
		m.destination = *req.DestinationARN
	}
	if r := req.MaxNumberOfMessagesPerSecond; r != nil {
		if m.rate = *r; m.rate < 1 || m.rate > fullRate {
			return nil, badValue(m.rate, "MaxNumberOfMessagesPerSecond", "Must be between 1 and 500, if provided.")
		}
	}
	if slices.ContainsFunc(s.moves, func(other *move) bool { return other.source == q && other.status == running }) {
		return nil, badParameter("There is already a task running. Only one active task is allowed for a source queue arn at a given time.")
	}
	q.advance(now)
	m.all = q.figures().Visible
	s.moves = append(s.moves, m)
	m.timer = time.AfterFunc(moveStep, func() { s.step(m) })
	return map[string]string{"TaskHandle": m.handle}, nil
}

// step moves the messages that are due, and schedules itself until none are left.
func (s *Server) step(m *move) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.status != running {
		return
	}
	now := time.Now()
	rate := m.rate
	if rate == 0 {
		rate = fullRate
	}
	due := int(now.Sub(m.started).Seconds() * float64(rate))
	for m.status == running && m.moved < due {
		m.one(now, s)
	}
	if m.status == running {
		m.timer.Reset(moveStep)
	}
}

// one moves the first visible message, or ends the task.
func (m *move) one(now time.Time, s *Server) {
	from := m.source
	from.advance(now)
	var first *message
	if front := from.ready.Front(); front != nil {
		switch v := front.Value.(type) {
		case *message:
			first = v
		case *group:
			first = v.msgs[0]
		}
	}
	if first == nil {
		m.status = completed
		return
	}
	destination := m.destination
	if destination == "" {
		destination = first.source
	}
	if destination == "" {
		m.status, m.failure = failed, "CouldNotDetermineMessageSource"
		return
	}
	to := s.queues[strings.TrimPrefix(destination, s.ARN(""))]
	if to == nil {
		m.status, m.failure = failed, QueueDoesNotExist().QueryCode
		return
	}
	from.remove(first)
	moved := &message{id: newID(), body: first.body, attributes: first.attributes, trace: first.trace, md5: first.md5, group: first.group, sent: now}
	if to.fifo {
		moved.dedup = moved.id
	}
	to.counts.Sent++
	to.add(moved, now, false)
	to.wake(now)
	m.moved++
}

// A moveEntry is a task as it is listed. TaskHandle is set while the task runs.
type moveEntry struct {
	TaskHandle                        string `json:",omitempty"`
	SourceARN                         string `json:"SourceArn"`
	DestinationARN                    string `json:"DestinationArn,omitempty"`
	Status                            string
	FailureReason                     string `json:",omitempty"`
	StartedTimestamp                  int64
	MaxNumberOfMessagesPerSecond      int `json:",omitempty"`
	ApproximateNumberOfMessagesMoved  int
	ApproximateNumberOfMessagesToMove int
}

func (s *Server) listMoves(req *request) (any, error) {
	q, err := s.byARN("SourceArn", req.SourceARN)
	if err != nil {
		return nil, err
	}
	most := 1
	if req.MaxResults != nil {
		if most = *req.MaxResults; most < 1 || most > listedMoves {
			return nil, badValue(most, "MaxResults", "Must be between 1 and 10, if provided.")
		}
	}
	entries := []moveEntry{}
	for _, m := range slices.Backward(s.moves) {
		if m.source != q || len(entries) == most {
			continue
		}
		e := moveEntry{
			SourceARN: arn(q.name), DestinationARN: m.destination, Status: m.status, FailureReason: m.failure, StartedTimestamp: m.started.UnixMilli(),
			MaxNumberOfMessagesPerSecond: m.rate, ApproximateNumberOfMessagesMoved: m.moved, ApproximateNumberOfMessagesToMove: m.all,
		}
		if m.status == running {
			e.TaskHandle = m.handle
		}
		entries = append(entries, e)
	}
	return map[string][]moveEntry{"Results": entries}, nil
}

func (s *Server) cancelMove(req *request) (any, error) {
	if req.TaskHandle == nil {
		return nil, missing("TaskHandle")
	}
	i := slices.IndexFunc(s.moves, func(m *move) bool { return m.handle == *req.TaskHandle })
	if i < 0 {
		return nil, Error{Status: 404, Code: "ResourceNotFoundException", Message: "Task does not exist."}
	}
	m := s.moves[i]
	if m.status != running {
		return nil, Error{Code: "UnsupportedOperation", QueryCode: prefix + "UnsupportedOperation", Message: "Task is not running."}
	}
	m.status = cancelled
	m.timer.Stop()
	return map[string]int{"ApproximateNumberOfMessagesMoved": m.moved}, nil
}
