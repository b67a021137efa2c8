package infra_test

var brokenCopies = []broken{
	{"deploy", "!GetAtt DeadLetterQueue.Arn\n        maxReceiveCount", "!GetAtt DeadQueue.Arn\n        maxReceiveCount"},
	{"deploy", "!If [Reserves,", "!If [Reserved,"},
	{"deploy", "${OrdersQueue.QueueName}", "${OrderQueue.QueueName}"},
	{"deploy", "RATE: !Ref InventoryRate", "RATE: '50'"},
	{"deploy", "      BatchSize: 5\n", "      BatchSize: 5\n      BatchSize: 10\n"},

	{"visibility", "VisibilityTimeout: 540 # 6 x", "VisibilityTimeout: 539 # 6 x"},
	{"visibility", "Timeout: 90 #", "Timeout: 91 #"},
	{"visibility", "MaximumBatchingWindowInSeconds: 0", "MaximumBatchingWindowInSeconds: 1"},
	{"visibility", "      VisibilityTimeout: 540 # 6 x", "      # 6 x"},
	{"visibility", "VisibilityTimeout: 540 # 6 x", "VisibilityTimeout: 86400 # 6 x"},

	{"batch", "BatchSize: 5", "BatchSize: 10"},
	{"batch", "Timeout: 90 #", "Timeout: 60 #"},
	{"batch", "Default: 50\n", "Default: 1\n"},
	{"batch", "      FunctionResponseTypes: [ReportBatchItemFailures]\n", ""},
	{"batch", "EventSourceArn: !GetAtt OrdersQueue.Arn", "EventSourceArn: !GetAtt DeadLetterQueue.Arn"},

	{"concurrency", "MaximumConcurrency: 10}", "MaximumConcurrency: 11}"},
	{"concurrency", "Default: 10\n    MinValue: 10", "Default: 10\n    MinValue: 1"},
	{"concurrency", "MAX_CONCURRENCY: '10'", "MAX_CONCURRENCY: '5'"},
	{"concurrency", `^(|[1-9]\d{1,3})$`, `^(|\d{1,4})$`},
	{"concurrency", `^(|[1-9]\d{1,3})$`, `^(|[2-9]\d{1,3})$`},
	{"concurrency", "!If [Reserves, !Ref ReservedConcurrency, !Ref AWS::NoValue]", "!If [Reserves, !Ref ReservedConcurrency, 10]"},
	{"concurrency", "!If [Reserves, !Ref ReservedConcurrency, !Ref AWS::NoValue]", "!If [Reserves, !Ref AWS::NoValue, !Ref ReservedConcurrency]"},
	{"concurrency", "      ScalingConfig: {MaximumConcurrency: 10}", "      ProvisionedPollerConfig: {MaximumPollers: 2}"},

	{"retention", "MessageRetentionPeriod: 604800", "MessageRetentionPeriod: 345600"},
	{"retention", "MessageRetentionPeriod: 1209600", "MessageRetentionPeriod: 604800"},
	{"retention", "      MessageRetentionPeriod: 1209600 # 14 days, the most there is\n", ""},

	{"redrive", "maxReceiveCount: 50", "maxReceiveCount: 5"},
	{"redrive", "MAX_ATTEMPTS: '20'", "MAX_ATTEMPTS: '60'"},
	{"redrive", "deadLetterTargetArn: !GetAtt DeadLetterQueue.Arn", "deadLetterTargetArn: !GetAtt OrdersQueue.Arn"},

	{"function", "Architectures: [arm64]", "Architectures: [x86_64]"},
	{"function", "Runtime: provided.al2023", "Runtime: go1.x"},
	{"function", "      LoggingConfig: {LogGroup: !Ref FunctionLog}\n", ""},
	{"function", "TOKEN_SECRET_ARN: !Ref TokenSecretArn", "TOKEN: !Ref TokenSecretArn"},
	{"function", "TOKEN_SECRET_ARN: !Ref TokenSecretArn", "TOKEN_SECRET_ARN: !Sub '{{resolve:secretsmanager:${TokenSecretArn}}}'"},
	{"function", "QUEUE_URL: !Ref OrdersQueue", "QUEUE_URL: !GetAtt OrdersQueue.Arn"},
	{"function", "DEAD_LETTER_URL: !Ref DeadLetterQueue", "DEAD_LETTER_URL: !Ref OrdersQueue"},

	{"store", "BillingMode: PAY_PER_REQUEST", "BillingMode: PROVISIONED"},
	{"store", "PointInTimeRecoveryEnabled: true", "PointInTimeRecoveryEnabled: false"},
	{"store", "{AttributeName: id, KeyType: HASH}", "{AttributeName: order, KeyType: HASH}"},
	{"store", "DeletionPolicy: RetainExceptOnCreate", "DeletionPolicy: Delete"},
	{"store", "UpdateReplacePolicy: Retain\n    DeletionPolicy: RetainExceptOnCreate", "UpdateReplacePolicy: Delete\n    DeletionPolicy: RetainExceptOnCreate"},

	{"permissions", "Action: sqs:SendMessage\n                Resource: !GetAtt OrdersQueue.Arn", "Action: sqs:*\n                Resource: !GetAtt OrdersQueue.Arn"},
	{"permissions", "Action: sqs:SendMessage\n                Resource: !GetAtt OrdersQueue.Arn", "Action: sqs:SendMessage\n                Resource: '*'"},
	{"permissions", "                  - sqs:ChangeMessageVisibility\n", ""},
	{"permissions", "                  - sqs:ReceiveMessage\n", "                  - sqs:ReceiveMessage\n                  - sqs:PurgeQueue\n"},
	{"permissions", "Action: sqs:SendMessage\n                Resource: !GetAtt DeadLetterQueue.Arn", "Action: sqs:SendMessage\n                Resource: !GetAtt OrdersQueue.Arn"},
	{"permissions", "Action: [dynamodb:PutItem, dynamodb:GetItem]", "Action: [dynamodb:PutItem, dynamodb:GetItem, dynamodb:Scan]"},
	{"permissions", "Action: secretsmanager:GetSecretValue\n                Resource: !Ref TokenSecretArn", "Action: secretsmanager:GetSecretValue\n                Resource: '*'"},
	{"permissions", "[kms:GenerateDataKey, kms:Decrypt]", "[kms:GenerateDataKey]"},
	{"permissions", "[kms:Decrypt, kms:GenerateDataKey]", "[kms:Decrypt]"},
	{"permissions", "[kms:Decrypt, kms:GenerateDataKey]", "[kms:*]"},
	{"permissions", "Principal: {Service: lambda.amazonaws.com}", "Principal: '*'"},
	{"permissions", "      Role: !GetAtt FunctionRole.Arn\n", ""},
	{"permissions", "      Role: !GetAtt FunctionRole.Arn\n", "      Role: !GetAtt FunctionRole.Arn\n      Policies: [AmazonSQSFullAccess]\n"},
	{"permissions", "  FunctionRole:\n    Type: AWS::IAM::Role\n    Properties:\n", "  FunctionRole:\n    Type: AWS::IAM::Role\n    Properties:\n      ManagedPolicyArns: [arn:aws:iam::aws:policy/AdministratorAccess]\n"},

	{"queuePolicies", "Queues: [!Ref DeadLetterQueue]", "Queues: [!Ref OrdersQueue]"},
	{"queuePolicies", "Queues: [!Ref OrdersQueue]\n      PolicyDocument:\n        Version: '2012-10-17'\n        Statement:\n          - Sid: OnlyTLS\n            Effect: Deny", "Queues: [!Ref OrdersQueue]\n      PolicyDocument:\n        Version: '2012-10-17'\n        Statement:\n          - Sid: OnlyTLS\n            Effect: Allow"},
	{"queuePolicies", ordersOnly("StringNotEquals: {aws:PrincipalAccount: !Ref AWS::AccountId}\n"), ordersOnly("StringNotEqualsIfExists: {aws:PrincipalArn: none}\n")},
	// The service redrives in our name: its request may have no such key, or come from the service itself.
	{"queuePolicies", ordersOnly(accountOnly), ordersOnly("StringNotEquals: {aws:PrincipalAccount: !Ref AWS::AccountId}\n")},
	{"queuePolicies", ordersOnly(accountOnly), ordersOnly("StringNotEquals: {aws:PrincipalAccount: !Ref AWS::AccountId}\n              Bool: {aws:PrincipalIsAWSService: 'false'}\n")},
	{"queuePolicies", ordersTLS("Bool"), ordersTLS("BoolIfExists")},
	{"queuePolicies", ordersTLS("Bool"), ordersTLS("StringNotEquals")},

	{"encryption", "SqsManagedSseEnabled: !If [HasKey, !Ref AWS::NoValue, true]\n      KmsMasterKeyId: !If [HasKey, !Ref QueueKeyArn, !Ref AWS::NoValue]\n      RedrivePolicy", "SqsManagedSseEnabled: false\n      KmsMasterKeyId: !If [HasKey, !Ref QueueKeyArn, !Ref AWS::NoValue]\n      RedrivePolicy"},
	{"encryption", "SqsManagedSseEnabled: !If [HasKey, !Ref AWS::NoValue, true]\n      KmsMasterKeyId: !If [HasKey, !Ref QueueKeyArn, !Ref AWS::NoValue]\n      RedrivePolicy", "SqsManagedSseEnabled: !If [HasKey, !Ref AWS::NoValue, true]\n      RedrivePolicy"},

	{"gateway", "                  default:\n                    statusCode: '503'\n", "                  5\\d{2}:\n                    statusCode: '503'\n"},
	{"gateway", "                  '2\\d{2}':\n", "                  '.*':\n"},
	{"gateway", "                  default:\n                    statusCode: '503'\n", "                  default:\n                    statusCode: '200'\n"},
	{"gateway", "                  '4\\d{2}':\n", "                  '400':\n"},
	{"gateway", `'#set($nothing = "")'`, "''"},
	{"gateway", "passthroughBehavior: never", "passthroughBehavior: when_no_match"},
	{"gateway", "validateRequestBody: true", "validateRequestBody: false"},
	{"gateway", "        x-amazon-apigateway-request-validator: body\n", ""},
	{"gateway", "              requestBody:\n                required: true\n", "              requestBody:\n"},
	{"gateway", "                '503': {description: Perhaps not queued. Send it again with the same id.}\n", ""},
	{"gateway", "'application/x-www-form-urlencoded'", "'application/json'"},
	{"gateway", "sqs:path/${AWS::AccountId}/${OrdersQueue.QueueName}", "sqs:path/${OrdersQueue.QueueName}"},
	{"gateway", "httpMethod: POST", "httpMethod: GET"},
	{"gateway", "credentials: !GetAtt GatewayRole.Arn", "credentials: !GetAtt FunctionRole.Arn"},
	{"gateway", "Default: AWS_IAM", "Default: NONE"},
	{"gateway", "      FailOnWarnings: true", "      BinaryMediaTypes: ['*/*']\n      FailOnWarnings: true"},
	{"gateway", "timeoutInMillis: 10000", "timeoutInMillis: 60000"},
	{"gateway", "requestTemplates:\n", "requestTemplates:\n                  text/plain: Action=SendMessage\n"},

	{"throttling", "          ThrottlingBurstLimit: !Ref GatewayBurst\n", "          ThrottlingBurstLimit: !Ref GatewayRate\n          MetricsEnabled: !Ref GatewayBurst\n"},
	{"throttling", "- ResourcePath: /*", "- ResourcePath: /order"},

	{"model", "id: {type: string, minLength: 1, maxLength: 64,", "id: {type: string, minLength: 1, maxLength: 65,"},
	{"model", "sku: {type: string, minLength: 1, maxLength: 64, pattern: '^[!-~]+$'}", "sku: {type: string, minLength: 1, maxLength: 64}"},
	{"model", "sku: {type: string, minLength: 1, maxLength: 64, pattern: '^[!-~]+$'}", "sku: {type: string, minLength: 1, maxLength: 64, pattern: '^[A-Z0-9-]+$'}"},
	{"model", "customer: {type: string, minLength: 1, maxLength: 200}", "customer: {type: string, minLength: 0, maxLength: 200}"},
	{"model", "maximum: 1000", "maximum: 10000"},
	{"model", "minimum: 1,", "minimum: 2,"},
	{"model", "required: [id, sku, quantity, customer]", "required: [sku, quantity, customer]"},
	{"model", "additionalProperties: false", "additionalProperties: true"},
	{"model", "{type: integer,", "{type: number,"},

	{"alarms", "{Name: QueueName, Value: !GetAtt DeadLetterQueue.QueueName}", "{Name: QueueName, Value: !GetAtt OrdersQueue.QueueName}"},
	{"alarms", "ApproximateNumberOfMessagesVisible # NumberOfMessagesSent does not count those that SQS moves", "NumberOfMessagesSent"},
	{"alarms", "Expression: visible + hidden", "Expression: visible"},
	{"alarms", "Threshold: 72000", "Threshold: 89000"},
	{"alarms", "Threshold: !Ref BacklogAlarm\n      TreatMissingData: notBreaching\n      AlarmActions: !If [HasTopic, [!Ref AlarmTopicArn], !Ref AWS::NoValue]", "Threshold: !Ref BacklogAlarm\n      TreatMissingData: notBreaching"},
	{"alarms", "Threshold: 1800\n      TreatMissingData: notBreaching", "Threshold: 1800\n      TreatMissingData: breaching"},
	{"alarms", "MetricName: 5XXError\n      Dimensions:\n        - {Name: ApiName, Value: !Sub '${AWS::StackName}-orders'}", "MetricName: 5XXError\n      Dimensions:\n        - {Name: ApiName, Value: !Ref OrdersApi}"},
	{"alarms", "StageName: v1", "StageName: v2"},
	{"alarms", "MetricName: Throttles", "MetricName: Errors"},

	{"accepted", "ReceiveMessageWaitTimeSeconds: 20\n      MaximumMessageSize: 1048576 # what", "ReceiveMessageWaitTimeSeconds: 0\n      MaximumMessageSize: 1048576 # what"},
	{"accepted", "ReceiveMessageWaitTimeSeconds: 20\n      MaximumMessageSize: 1048576 # what", "ReceiveMessageWaitTimeSeconds: 30\n      MaximumMessageSize: 1048576 # what"},
	{"accepted", "maxReceiveCount: 50", "maxReceiveCount: 15"},
	{"accepted", "MessageRetentionPeriod: 604800", "MessageRetentionPeriod: 2000000"},
	{"accepted", "MaximumMessageSize: 1048576 # what", "MaximumMessageSize: 2097152 # what"},
}

const accountOnly = "StringNotEquals: {aws:PrincipalAccount: !Ref AWS::AccountId}\n              BoolIfExists: {aws:PrincipalIsAWSService: 'false'}\n"

// ordersOnly is the end of the orders queue's policy, with that condition.
func ordersOnly(condition string) string {
	return "Resource: !GetAtt OrdersQueue.Arn\n            Condition:\n              " + condition
}

// ordersTLS is the condition on TLS of the orders queue's policy.
func ordersTLS(operator string) string {
	return "Resource: !GetAtt OrdersQueue.Arn\n            Condition:\n              " + operator + ": {aws:SecureTransport: 'false'}"
}
