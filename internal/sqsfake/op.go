package sqsfake

// An Op is an operation of the service.
type Op string

// The operations that the server implements.
const (
	CreateQueue                  Op = "CreateQueue"
	DeleteQueue                  Op = "DeleteQueue"
	ListQueues                   Op = "ListQueues"
	GetQueueURL                  Op = "GetQueueUrl"
	GetQueueAttributes           Op = "GetQueueAttributes"
	SetQueueAttributes           Op = "SetQueueAttributes"
	PurgeQueue                   Op = "PurgeQueue"
	SendMessage                  Op = "SendMessage"
	SendMessageBatch             Op = "SendMessageBatch"
	ReceiveMessage               Op = "ReceiveMessage"
	DeleteMessage                Op = "DeleteMessage"
	DeleteMessageBatch           Op = "DeleteMessageBatch"
	ChangeMessageVisibility      Op = "ChangeMessageVisibility"
	ChangeMessageVisibilityBatch Op = "ChangeMessageVisibilityBatch"
	ListDeadLetterSourceQueues   Op = "ListDeadLetterSourceQueues"
	StartMessageMoveTask         Op = "StartMessageMoveTask"
	ListMessageMoveTasks         Op = "ListMessageMoveTasks"
	CancelMessageMoveTask        Op = "CancelMessageMoveTask"
)

func (op Op) known() bool {
	switch op {
	case CreateQueue, DeleteQueue, ListQueues, GetQueueURL, GetQueueAttributes, SetQueueAttributes, PurgeQueue,
		SendMessage, ReceiveMessage, DeleteMessage, ChangeMessageVisibility,
		ListDeadLetterSourceQueues, StartMessageMoveTask, ListMessageMoveTasks, CancelMessageMoveTask:
		return true
	}
	return op.batch()
}

func (op Op) batch() bool {
	return op == SendMessageBatch || op == DeleteMessageBatch || op == ChangeMessageVisibilityBatch
}
