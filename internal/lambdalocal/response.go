package lambdalocal

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// failuresOf returns the ids that a partial batch response names. An error says why the
// response is invalid, and means that the whole batch has failed. Unlike in
// encoding/json, names are case sensitive: a response with BatchItemFailures names
// nothing, and so its batch is done.
func failuresOf(response []byte, batch []record) (map[string]bool, error) {
	if len(bytes.TrimSpace(response)) == 0 {
		return nil, nil
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(response, &top); err != nil {
		return nil, fmt.Errorf("response: %w", err)
	}
	var items []map[string]json.RawMessage
	if list := top["batchItemFailures"]; list != nil {
		if err := json.Unmarshal(list, &items); err != nil {
			return nil, fmt.Errorf("batchItemFailures: %w", err)
		}
	}
	known := make(map[string]bool, len(batch))
	for _, r := range batch {
		known[aws.ToString(r.message.MessageId)] = true
	}
	failed := make(map[string]bool, len(items))
	for i, item := range items {
		value, ok := item["itemIdentifier"]
		if !ok {
			return nil, fmt.Errorf("batchItemFailures[%d]: no itemIdentifier", i)
		}
		var id string
		if err := json.Unmarshal(value, &id); err != nil {
			return nil, fmt.Errorf("batchItemFailures[%d]: %w", i, err)
		}
		if !known[id] { // empty and null ids are not known either
			return nil, fmt.Errorf("batchItemFailures[%d]: %q is no message of the batch", i, id)
		}
		failed[id] = true
	}
	return failed, nil
}
