package sqsqueue

import (
	"fmt"
	"maps"

	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/rampmeter/rampmeter/queue"
	"github.com/rampmeter/rampmeter/queue/internal/sqsmessage"
	"github.com/rampmeter/rampmeter/retry"
)

// fit returns the attributes that the service accepts with the message, or an error
// that says why it accepts none. A dead letter that was refused would be lost or
// retried forever, so fit shortens it: first attributes in excess of ten move into its
// record, then the record loses its texts, and finally the record is left out.
func (q *Queue) fit(m *queue.Message, all map[string]types.MessageAttributeValue) (map[string]types.MessageAttributeValue, error) {
	size := len(m.Body) + sizeOf(all)
	if len(all) <= maxAttributes && size <= maxSize {
		return all, nil
	}
	if record, dead := all[retry.DeadLetterAttribute]; dead {
		bare := maps.Clone(all)
		delete(bare, retry.DeadLetterAttribute)
		for _, try := range []map[string]types.MessageAttributeValue{
			sqsmessage.Displace(all, maxAttributes),
			sqsmessage.Displace(sqsmessage.Shorten(all), maxAttributes),
			bare,
		} {
			if len(try) <= maxAttributes && len(m.Body)+sizeOf(try) <= maxSize {
				q.cfg.Logger.Warn("sqsqueue: dead letter has too many attributes or is too long with its record, and is sent with less",
					"queue", q.url, "message", m.ID, "attributes", len(all), "bytes", size,
					"sent_record", sqsmessage.Value(try[retry.DeadLetterAttribute]), "record", sqsmessage.Value(record))
				return try, nil
			}
		}
	}
	if len(all) > maxAttributes {
		return nil, fmt.Errorf("sqsqueue: %d attributes: must be at most %d, which is %d less", len(all), maxAttributes, len(all)-maxAttributes)
	}
	return nil, fmt.Errorf("sqsqueue: body and attributes have %d bytes: must be at most %d, which is %d less", size, maxSize, size-maxSize)
}

// lighten removes from a dead letter that the service refuses (because it is too long
// for this queue, for example) the texts of its record, and if it has none, the
// record. It reports whether there was anything to remove.
func (q *Queue) lighten(m *queue.Message, e *types.SendMessageBatchRequestEntry) bool {
	attribute, dead := e.MessageAttributes[retry.DeadLetterAttribute]
	if !dead {
		return false
	}
	record := sqsmessage.Value(attribute)
	e.MessageAttributes = sqsmessage.Shorten(e.MessageAttributes)
	if len(sqsmessage.Value(e.MessageAttributes[retry.DeadLetterAttribute])) >= len(record) {
		e.MessageAttributes = attributesOf(m) // including those that moved into the record
		delete(e.MessageAttributes, retry.DeadLetterAttribute)
	}
	q.cfg.Logger.Warn("sqsqueue: dead letter is refused with its record, and is sent with less", "queue", q.url, "message", m.ID,
		"sent_record", sqsmessage.Value(e.MessageAttributes[retry.DeadLetterAttribute]), "record", record)
	return true
}
