package sqsfake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// act executes a request. It returns the reply, and how many messages it acted on; an
// error is an Error, or the cause of ctx.
func (s *Server) act(ctx context.Context, op Op, req *request, fault Fault) (any, int, error) {
	if op == ReceiveMessage {
		return s.receive(ctx, req, fault)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	switch op {
	case CreateQueue:
		if req.QueueName == nil {
			return nil, 0, missing("QueueName")
		}
		err := s.createQueue(now, *req.QueueName, req.Attributes)
		return map[string]string{"QueueUrl": s.URL(*req.QueueName)}, 0, err
	case GetQueueURL:
		if req.QueueName == nil {
			return nil, 0, badParameter("Value for parameter QueueName is invalid. Reason: Must specify a queue name.")
		}
		if s.queues[*req.QueueName] == nil {
			return nil, 0, QueueDoesNotExist()
		}
		return map[string]string{"QueueUrl": s.URL(*req.QueueName)}, 0, nil
	case ListQueues:
		urls := []string{}
		for _, name := range slices.Sorted(maps.Keys(s.queues)) {
			if req.QueueNamePrefix == nil || strings.HasPrefix(name, *req.QueueNamePrefix) {
				urls = append(urls, s.URL(name))
			}
		}
		return map[string][]string{"QueueUrls": urls}, 0, nil
	case StartMessageMoveTask:
		result, err := s.startMove(now, req)
		return result, 0, err
	case ListMessageMoveTasks:
		result, err := s.listMoves(req)
		return result, 0, err
	case CancelMessageMoveTask:
		result, err := s.cancelMove(req)
		return result, 0, err
	}

	q, err := s.queue(req)
	if err != nil {
		return nil, 0, err
	}
	q.advance(now)
	defer q.wake(now)
	one := func(result any, err error) (any, int, error) {
		if err != nil {
			return nil, 0, err
		}
		return result, 1, nil
	}
	switch op {
	case ListDeadLetterSourceQueues:
		return map[string][]string{"queueUrls": s.sourcesOf(q)}, 0, nil
	case DeleteQueue:
		s.deleteQueue(now, q)
		return struct{}{}, 0, nil
	case GetQueueAttributes:
		as, err := q.describe(req.AttributeNames)
		return map[string]any{"Attributes": as}, 0, err
	case SetQueueAttributes:
		c, err := s.configure(q.name, q.attributes, req.Attributes)
		if err == nil {
			q.config, q.modified = c, now
		}
		return struct{}{}, 0, err
	case PurgeQueue:
		if !q.purged.IsZero() && now.Sub(q.purged) < time.Minute {
			return nil, 0, Error{Status: 403, Code: "PurgeQueueInProgress", QueryCode: prefix + "PurgeQueueInProgress", Message: "Only one PurgeQueue operation on " + q.name + " is allowed every 60 seconds."}
		}
		q.purged = now
		q.purge()
		return struct{}{}, 0, nil
	case SendMessage:
		return one(q.sendEntry(now, &req.entry, fault))
	case DeleteMessage:
		return one(q.deleteEntry(now, &req.entry, fault))
	case ChangeMessageVisibility:
		return one(q.changeEntry(now, &req.entry, fault))
	}
	if err := checkBatch(op, req.Entries); err != nil {
		return nil, 0, err
	}
	var each func(time.Time, *entry, Fault) (any, error)
	switch op {
	case SendMessageBatch:
		each = q.sendEntry
	case DeleteMessageBatch:
		each = q.deleteEntry
	default: // ChangeMessageVisibilityBatch
		each = q.changeEntry
	}
	rep, n := batch(req.Entries, fault, func(e *entry, f Fault) (any, error) { return each(now, e, f) })
	return rep, n, nil
}

// queue returns the queue of a request.
func (s *Server) queue(req *request) (*queue, error) {
	if req.QueueURL != nil {
		if q := s.queues[nameOf(*req.QueueURL)]; q != nil {
			return q, nil
		}
	}
	return nil, QueueDoesNotExist()
}

func (s *Server) createQueue(now time.Time, name string, attributes map[string]string) error {
	base, fifo := strings.CutSuffix(name, fifoSuffix)
	switch {
	case len(name) > 80 || !queueNamePattern.MatchString(base):
		return badParameter("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
	case fifo != (attributes["FifoQueue"] == "true"):
		if _, given := attributes["FifoQueue"]; given && !fifo && attributes["FifoQueue"] == "false" {
			break // configure refuses the attribute
		}
		return badParameter("The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with .fifo suffix and be 1 to 80 in length.")
	case now.Sub(s.deleted[name]) < time.Minute:
		return Error{Code: "QueueDeletedRecently", QueryCode: prefix + "QueueDeletedRecently", Message: "You must wait 60 seconds after deleting a queue before you can create another with the same name."}
	}
	if q := s.queues[name]; q != nil {
		for attribute, value := range attributes {
			if q.attributes[attribute] != value {
				return Error{Code: "QueueNameExists", QueryCode: "QueueAlreadyExists", Message: "A queue already exists with the same name and a different value for attribute " + attribute}
			}
		}
		return nil
	}
	c, err := s.configure(name, defaults(fifo), attributes)
	if err != nil {
		return err
	}
	if s.queues == nil {
		s.queues, s.deleted = make(map[string]*queue), make(map[string]time.Time)
	}
	most := s.MaxInFlight
	if most <= 0 {
		most = 120_000
	}
	q := newQueue(name, c, most, now)
	q.dead = func(name string) *queue { return s.queues[name] }
	s.queues[name] = q
	return nil
}

func (s *Server) deleteQueue(now time.Time, q *queue) {
	delete(s.queues, q.name)
	s.deleted[q.name] = now
	for e := q.polls.Front(); e != nil; e = q.polls.Front() {
		q.polls.Remove(e)
		close(e.Value.(*poll).got)
	}
	q.purge()
}

// describe returns the requested attributes of a queue.
func (q *queue) describe(names []string) (map[string]string, error) {
	st := q.figures()
	all := maps.Clone(q.attributes)
	all["QueueArn"] = arn(q.name)
	all["CreatedTimestamp"] = strconv.FormatInt(q.created.Unix(), 10)
	all["LastModifiedTimestamp"] = strconv.FormatInt(q.modified.Unix(), 10)
	all["ApproximateNumberOfMessages"] = strconv.Itoa(st.Visible)
	all["ApproximateNumberOfMessagesDelayed"] = strconv.Itoa(st.Delayed)
	all["ApproximateNumberOfMessagesNotVisible"] = strconv.Itoa(st.InFlight)
	if slices.Contains(names, "All") {
		return all, nil
	}
	as := make(map[string]string)
	for _, name := range names {
		value, ok := all[name]
		switch {
		case ok:
			as[name] = value
		case name == "Policy", name == "RedrivePolicy", name == "RedriveAllowPolicy", name == "KmsMasterKeyId", name == "KmsDataKeyReusePeriodSeconds", fifoOnly(name):
		default:
			return nil, unknownAttribute(name)
		}
	}
	return as, nil
}

func (q *queue) sendEntry(now time.Time, e *entry, fault Fault) (any, error) {
	if err := q.checkMessage(e); err != nil {
		return nil, err
	}
	return q.send(now, e, fault.FirstChecksums), nil
}

func (q *queue) deleteEntry(_ time.Time, e *entry, fault Fault) (any, error) {
	if e.ReceiptHandle == nil {
		return nil, missing("ReceiptHandle")
	}
	return doneEntry{ID: e.ID}, q.delete(*e.ReceiptHandle, fault.Mode == Undelete && !q.fifo)
}

func (q *queue) changeEntry(now time.Time, e *entry, _ Fault) (any, error) {
	switch {
	case e.ReceiptHandle == nil:
		return nil, missing("ReceiptHandle")
	case e.VisibilityTimeout == nil:
		return nil, missing("VisibilityTimeout")
	}
	return doneEntry{ID: e.ID}, q.change(now, *e.ReceiptHandle, *e.VisibilityTimeout)
}

// checkBatch returns why the service would refuse a batch as a whole.
func checkBatch(op Op, entries []entry) error {
	switch n := len(entries); {
	case n == 0:
		return badBatch("EmptyBatchRequest", "There should be at least one "+string(op)+"RequestEntry in the request.")
	case n > maxBatch:
		return badBatch("TooManyEntriesInBatchRequest", fmt.Sprintf("Maximum number of entries per request are %d. You have sent %d.", maxBatch, n))
	}
	size := 0
	ids := make(map[string]bool, len(entries))
	for i := range entries {
		e := &entries[i]
		switch {
		case !entryIDPattern.MatchString(e.ID):
			return badBatch("InvalidBatchEntryId", "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters long.")
		case ids[e.ID]:
			return badBatch("BatchEntryIdsNotDistinct", "Id "+e.ID+" repeated.")
		}
		ids[e.ID] = true
		size += e.size()
	}
	if op == SendMessageBatch && size > maxSize {
		return badBatch("BatchRequestTooLong", fmt.Sprintf("Batch requests cannot be longer than %d bytes. You have sent %d bytes.", maxSize, size))
	}
	return nil
}

// batch executes each entry, with the fault if the entry is picked and otherwise as if
// the fault had no mode, and returns how many were done.
func batch(entries []entry, fault Fault, each func(*entry, Fault) (any, error)) (batchReply, int) {
	rep := batchReply{Successful: []any{}, Failed: []failedEntry{}}
	n := 0
	for i := range entries {
		e, fault := &entries[i], fault
		if !fault.picks(i) {
			fault.Mode = Succeed
		}
		fail := func(err Error) {
			rep.Failed = append(rep.Failed, failedEntry{ID: e.ID, SenderFault: !err.Server, Code: err.queryCode(), Message: err.Message})
		}
		switch fault.Mode {
		case OmitEntries:
			continue
		case FailEntries:
			fail(fault.err())
			continue
		}
		result, err := each(e, fault)
		var refused Error
		switch {
		case errors.As(err, &refused):
			fail(refused)
			continue
		case fault.Mode != OmitDone:
			rep.Successful = append(rep.Successful, result)
		}
		n++
	}
	return rep, n
}
