package infra_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// tools returns the directory with the tools of the checks that need more than
// Go.
func tools(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("RAMPMETER_TEMPLATE_TOOLS")
	if dir == "" {
		t.Skip("needs the template tools: install them as the package's documentation (go doc ./examples/lambda/infra) says, " +
			"and set RAMPMETER_TEMPLATE_TOOLS to their directory")
	}
	dir, err := filepath.Abs(dir)
	require.NoError(t, err)
	return dir
}

// run returns a program's output, and whether it ended with that status rather than
// with success.
func run(t *testing.T, status int, program string, args ...string) (output string, refused bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == status {
		return string(out), true
	}
	require.NoError(t, err, "%s: %s%s", cmd, out, stderr.String())
	return string(out), false
}

// copies writes the template, and after it each broken copy, and returns the
// files. The test is t's for them all, since the tools start slowly.
func copies(t *testing.T, text string, all []broken) []string {
	t.Helper()
	dir := t.TempDir()
	files := make([]string, 0, 1+len(all))
	write := func(text string) {
		file := filepath.Join(dir, fmt.Sprintf("%03d.yaml", len(files)))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		files = append(files, file)
	}
	write(text)
	for _, b := range all {
		write(b.breakIn(t, text))
	}
	return files
}

// Properties and their types, against the schemas of CloudFormation and SAM.
func TestSchema(t *testing.T) {
	t.Setenv("RAMPMETER_TEMPLATE_TOOLS", tools(t))
	all := []broken{
		{"schema", "VisibilityTimeout: 540 # 6 x", "VisibiltyTimeout: 540 # 6 x"},
		{"schema", "VisibilityTimeout: 540 # 6 x", "VisibilityTimeout: nine minutes # 6 x"},
		{"schema", "BatchSize: 5", "BatchSize: 5.5"},
		{"schema", "BatchSize: 5", "BatchSize: '5'"},
		{"schema", "Architectures: [arm64]", "Architectures: arm64"},
		{"schema", "ScalingConfig: {MaximumConcurrency: 10}", "ScalingConfig: {MaxConcurrency: 10}"},
		{"schema", "ScalingConfig: {MaximumConcurrency: 10}", "ScalingConfig: 10"},
		{"schema", "FunctionResponseTypes: [ReportBatchItemFailures]", "FunctionResponseTypes: ReportBatchItemFailures"},
		{"schema", "PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}", "PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: on request}"},
		{"schema", "PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}", "PointInTimeRecovery: true"},
		{"schema", "          ThrottlingRateLimit: !Ref GatewayRate", "          ThrottleRateLimit: !Ref GatewayRate"},
		{"schema", "      FailOnWarnings: true", "      FailOnWarnings: always"},
		{"schema", "{LogGroup: !Ref FunctionLog}", "{Group: !Ref FunctionLog}"},
		{"schema", "      KeySchema:\n        - {AttributeName: id, KeyType: HASH}\n", ""},
		{"schema", "{AttributeName: id, AttributeType: S}", "{AttributeName: id}"},
		{"schema", "    Type: AWS::Logs::LogGroup", "    Type: AWS::Logs::Group"},
		{"schema", "      RetentionInDays: 30", "      RetentionInDays: 31"},
		{"schema", "Role: !GetAtt FunctionRole.Arn", "Role: !GetAtt FunctionRole.ARN"},
		{"schema", "Value: !GetAtt DeadLetterQueue.Arn", "Value: !GetAtt DeadQueue.Arn"},
		{"schema", "SqsManagedSseEnabled: !If [HasKey, !Ref AWS::NoValue, true]\n      KmsMasterKeyId: !If [HasKey, !Ref QueueKeyArn, !Ref AWS::NoValue]\n      RedrivePolicy", "SqsManagedSseEnabled: !If [HasKey, !Ref AWS::NoValue, !Ref OrdersTable]\n      RedrivePolicy"},
		{"schema", "!If [Reserves,", "!If [Reserved,"},
		{"schema", "    UpdateReplacePolicy: Delete\n    DeletionPolicy: Delete\n    Properties:\n      RetentionInDays", "    UpdatePolicies: Delete\n    Properties:\n      RetentionInDays"},
		{"schema", "Transform: AWS::Serverless-2016-10-31\n", ""},
		{"schema", "    Default: 10\n    MinValue: 10", "    Default: 10\n    Minimum: 10"},
		{"schema", "      BatchSize: 5\n", "      BatchSize: 5\n      BatchSize: 5\n"},
	}
	files := copies(t, template(t), all)
	out, _ := run(t, 1, "node", append([]string{"schema.mjs"}, files...)...)
	require.NotContains(t, out, files[0], "the template itself")
	for i, b := range all {
		t.Run(b.String(), func(t *testing.T) {
			_, problem, found := strings.Cut(out, files[i+1]+": ")
			require.True(t, found, "must be refused")
			t.Log(strings.Split(problem, "\n")[0])
		})
	}
}

// Presence and literals, according to the rules of template.guard.
func TestGuard(t *testing.T) {
	machine := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	system := map[string]string{"linux": "ubuntu", "darwin": "macos"}[runtime.GOOS]
	guard := filepath.Join(tools(t), "node_modules/@cdklabs/cdk-validator-cfnguard/bin", system, machine, "cfn-guard")
	all := []broken{
		{"api", "      OpenApiVersion: 3.0.1", "      AlwaysDeploy: true"},
		{"api", "      FailOnWarnings: true", "      FailOnWarnings: false"},
		{"api", "{Type: REGIONAL}", "{Type: EDGE}"},
		{"api", "      FailOnWarnings: true", "      BinaryMediaTypes: ['*/*']\n      FailOnWarnings: true"},
		{"api", "          ThrottlingBurstLimit: !Ref GatewayBurst\n", ""},
		{"api", "          HttpMethod: '*'", "          HttpMethod: GET"},
		{"api", "validateRequestBody: true", "validateRequestBody: false"},
		{"api", "        x-amazon-apigateway-request-validator: body\n", ""},
		{"api", "              x-amazon-apigateway-auth: {type: !Ref Authorization}\n", ""},
		{"api", "                    schema: {$ref: '#/components/schemas/Order'}", "                    {}"},
		{"api", "                type: aws\n", "                type: aws_proxy\n"},
		{"api", "passthroughBehavior: never", "passthroughBehavior: when_no_templates"},
		{"api", "                passthroughBehavior: never # or another Content-Type skips both model and mapping\n", ""},
		{"api", "                  default:\n", "                  5\\d{2}:\n"},
		{"api", `'#set($nothing = "")'`, "''"},

		{"queues", "UpdateReplacePolicy: Retain\n    DeletionPolicy: Delete\n    Properties:\n      MessageRetentionPeriod: 604800", "DeletionPolicy: Delete\n    Properties:\n      MessageRetentionPeriod: 604800"},
		{"queues", "      MessageRetentionPeriod: 1209600 # 14", "      # 14"},
		{"queues", "      VisibilityTimeout: 540 # 6 x", "      # 6 x"},
		{"queues", "      SqsManagedSseEnabled: !If [HasKey, !Ref AWS::NoValue, true]\n      KmsMasterKeyId: !If [HasKey, !Ref QueueKeyArn, !Ref AWS::NoValue]\n      RedrivePolicy", "      KmsMasterKeyId: !If [HasKey, !Ref QueueKeyArn, !Ref AWS::NoValue]\n      RedrivePolicy"},
		{"queues", "maxReceiveCount: 50", "maxReceiveCount: 5"},
		{"queues", "      RedrivePolicy:\n        deadLetterTargetArn: !GetAtt DeadLetterQueue.Arn\n        maxReceiveCount: 50", "     "},
		{"queues", "      VisibilityTimeout: 540 # 6 x", "      QueueName: orders\n      VisibilityTimeout: 540 # 6 x"},

		{"function", "      Runtime: provided.al2023", "      Runtime: provided.al2"},
		{"function", "      Architectures: [arm64]\n", ""},
		{"function", "      Timeout: 90 #", "      #"},
		{"function", "      Role: !GetAtt FunctionRole.Arn\n", ""},
		{"function", "      Role: !GetAtt FunctionRole.Arn\n", "      Role: !GetAtt FunctionRole.Arn\n      Policies: [AmazonSQSFullAccess]\n"},
		{"function", "      LoggingConfig: {LogGroup: !Ref FunctionLog}\n", ""},

		{"mapping", "BatchSize: 5", "BatchSize: 10"},
		{"mapping", "      FunctionResponseTypes: [ReportBatchItemFailures]\n", ""},
		{"mapping", "FunctionResponseTypes: [ReportBatchItemFailures]", "FunctionResponseTypes: []"},
		{"mapping", "      ScalingConfig: {MaximumConcurrency: 10}", "     "},
		{"mapping", "MaximumConcurrency: 10}", "MaximumConcurrency: 100}"},

		{"table", "BillingMode: PAY_PER_REQUEST", "BillingMode: PROVISIONED"},
		{"table", "PointInTimeRecoveryEnabled: true", "PointInTimeRecoveryEnabled: false"},
		{"table", "      PointInTimeRecoverySpecification: {PointInTimeRecoveryEnabled: true}\n", ""},
		{"table", "    DeletionPolicy: RetainExceptOnCreate # the orders outlive the stack\n", ""},

		{"roles", "  FunctionRole:\n    Type: AWS::IAM::Role\n    Properties:\n", "  FunctionRole:\n    Type: AWS::IAM::Role\n    Properties:\n      RoleName: orders\n"},
		{"roles", "  FunctionRole:\n    Type: AWS::IAM::Role\n    Properties:\n", "  FunctionRole:\n    Type: AWS::IAM::Role\n    Properties:\n      ManagedPolicyArns: [arn:aws:iam::aws:policy/AdministratorAccess]\n"},

		{"alarms", "Threshold: 1800\n      TreatMissingData: notBreaching", "Threshold: 1800"},
		{"alarms", "Threshold: 1800\n      TreatMissingData: notBreaching\n      AlarmActions: !If [HasTopic, [!Ref AlarmTopicArn], !Ref AWS::NoValue]", "Threshold: 1800\n      TreatMissingData: notBreaching"},
	}
	files := copies(t, template(t), all)
	// It prints the rules that a file breaks, a line each.
	validate := func(file string) (string, bool) {
		return run(t, 19, guard, "validate", "--rules", "template.guard", "--data", file, "--show-summary", "fail")
	}
	out, refused := validate(files[0])
	require.False(t, refused, out)
	for i, b := range all {
		t.Run(b.String(), func(t *testing.T) {
			out, refused := validate(files[i+1])
			require.True(t, refused, "must be refused")
			require.Contains(t, out, "template.guard/"+b.by+" ", "must be refused by this rule")
		})
	}
}

// A rendering of one of the gateway's mapping templates.
type rendering struct {
	template, body, requestID string
	text, status              string // its result; "-" for no status, "failed" with an error for text
}

// A renderer is a running Render.java.
type renderer struct {
	in  io.Writer
	out *bufio.Reader
}

func newRenderer(t *testing.T) renderer {
	t.Helper()
	dir := tools(t)
	jars := make([]string, 3)
	for i, name := range []string{"velocity", "commons-lang", "commons-collections3"} {
		jars[i] = filepath.Join(dir, name+".jar")
	}
	cmd := exec.Command("java", "-cp", strings.Join(jars, string(os.PathListSeparator)), "Render.java")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, in.Close())
		require.NoError(t, cmd.Wait(), "%s: %s", cmd, &stderr)
	})
	return renderer{in, bufio.NewReader(out)}
}

// render fills in the results of the templates.
func (r renderer) render(all []rendering) error {
	code := base64.StdEncoding
	for i := range all {
		to := &all[i]
		_, err := fmt.Fprintln(r.in, code.EncodeToString([]byte(to.template)), code.EncodeToString([]byte(to.body)), code.EncodeToString([]byte(to.requestID)))
		if err != nil {
			return err
		}
		line, err := r.out.ReadString('\n')
		if err != nil {
			return err
		}
		text, status, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		rendered, err := code.DecodeString(text)
		if err != nil {
			return err
		}
		to.text, to.status = string(rendered), status
	}
	return nil
}

// bodies are valid bodies that a careless mapping would change, or turn into other
// parameters.
func bodies() []string {
	all := []string{
		`{"id":"o-1","sku":"SOCK-42","quantity":2,"customer":"Zoë"}`,
		"{}",
		`{"customer":"Marks & Spencer"}`,
		`{"customer":"100% + tax = more"}`,
		`{"customer":"a&MessageBody=b&Action=PurgeQueue"}`,
		`{"customer":"%26%2B%25%3D%00"}`,
		`{"customer":"say \"hi\" and 'bye' \\ \/ \u0041 \n"}`,
		"{\n\t\"customer\": \"two\r\nlines\"\n}\n",
		" \n {\"id\" : \"o-1\"}  ",
		`{"customer":"🧦🧦 👩‍👩‍👧‍👦 🏳️‍🌈 Ωμέγα 注文 עברית \ud83e\udde6"}`,
		`{"customer":"$input.body $util.urlEncode('x') ${context.requestId} #set($a=1) #if(true)x#end ## note"}`,
		`{"customer":"<a href='x'>;:,/?@[]!*()~^|` + "`" + `</a>"}`,
		"{\"customer\":\"e\u0301 \u00a0 \u2028 \u200d \ufeff \ufffd\"}",
		`{"customer":"` + strings.Repeat("long & ", 10_000) + `"}`,
	}
	var every strings.Builder
	for r := rune(0x20); r < 0x3000; r++ {
		every.WriteRune(r)
	}
	return append(all, `{"customer":"`+every.String()+`"}`)
}

// requestIDs: a client may choose its own from these characters.
var requestIDs = []string{"c6af9ac6-7b61-11e6-9a41-93e8deadbeef", "!#$%&'*+-.^_|~09azAZ", "x&MessageBody=y&Action=PurgeQueue", "100%25+1"}

// mapping: what SQS reads from the request is the body, byte for byte, and the
// request id, and nothing else.
func (r renderer) mapping(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	_, integration := s.integration()
	template, _ := at(integration, "requestTemplates", "application/json").(string)
	var all []rendering
	for _, body := range bodies() {
		for _, id := range requestIDs {
			all = append(all, rendering{template: template, body: body, requestID: id})
		}
	}
	if err := r.render(all); err != nil {
		return append(found, err.Error())
	}
	for _, r := range all {
		found.equal("-", r.status, "status")
		got, err := url.ParseQuery(r.text)
		if err != nil {
			found = append(found, err.Error())
			continue
		}
		found.equal(url.Values{
			"Action": {"SendMessage"}, "Version": {"2012-11-05"}, "MessageBody": {r.body},
			"MessageAttribute.1.Name": {"request-id"}, "MessageAttribute.1.Value.DataType": {"String"}, "MessageAttribute.1.Value.StringValue": {r.requestID},
		}, got, "what SQS reads")
	}
	return found
}

// answers: the client's answer contains nothing of SQS's, and its status shows whose
// fault the error was.
func (r renderer) answers(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	_, integration := s.integration()
	const (
		refused   = `{"message": "the order was refused"}`
		notQueued = `{"message": "not queued: send the order again with the same id"}`
		perhaps   = `{"message": "perhaps not queued: send the order again with the same id"}`
	)
	failure := func(code, message string) string {
		return fmt.Sprintf(`{"Error":{"Code":%q,"Message":%q,"Type":"Sender"},"RequestId":"r-1"}`, code, message)
	}
	cases := []struct{ pattern, said, text, status string }{
		{`2\d{2}`, `{"SendMessageResponse":{"SendMessageResult":{"MessageId":"m-1","MD5OfMessageBody":"5d41"},"ResponseMetadata":{"RequestId":"r-1"}}}`, "", "-"},
		{`4\d{2}`, failure("InvalidParameterValue", "One or more parameters are invalid. Reason: Message must be shorter than 1048576 bytes."), refused, "-"},
		{`4\d{2}`, failure("InvalidMessageContents", "Invalid binary character '#x1' was found in the message body."), refused, "-"},
		{`4\d{2}`, failure("AccessDenied", "Access to the resource https://sqs.eu-west-1.amazonaws.com/ is denied."), notQueued, "503"},
		{`4\d{2}`, failure("AccessDeniedException", "not authorized to perform: sqs:sendmessage"), notQueued, "503"},
		{`4\d{2}`, failure("KMS.DisabledException", "the key is disabled"), notQueued, "503"},
		{`4\d{2}`, failure("KMS.ThrottlingException", "slow down"), notQueued, "503"},
		{`4\d{2}`, failure("RequestThrottled", "Request is throttled."), notQueued, "503"},
		{`4\d{2}`, failure("ThrottlingException", "Rate exceeded"), notQueued, "503"},
		{`4\d{2}`, failure("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist."), notQueued, "503"},
		{`4\d{2}`, failure("OverLimit", "too many"), notQueued, "503"},
		{`4\d{2}`, "", refused, "-"},
		{`4\d{2}`, "<ErrorResponse><Error><Code>InvalidMessageContents</Code></Error></ErrorResponse>", refused, "-"},
		{"default", failure("InternalFailure", "at com.amazonaws.Internal"), perhaps, "-"},
		{"default", "", perhaps, "-"},
	}
	all := make([]rendering, len(cases))
	for i, c := range cases {
		template, ok := at(integration, "responses", c.pattern, "responseTemplates", "application/json").(string)
		found.unless(ok, "there is no template for %s", c.pattern)
		all[i] = rendering{template: template, body: c.said, requestID: "r-1"}
	}
	if err := r.render(all); err != nil {
		return append(found, err.Error())
	}
	for i, c := range cases {
		found.equal(c.text, all[i].text, c.pattern+" "+c.said+": text")
		found.equal(c.status, all[i].status, c.pattern+" "+c.said+": status")
	}
	return found
}

// The gateway's mapping templates, rendered by Apache Velocity.
func TestMapping(t *testing.T) {
	r := newRenderer(t)
	text := template(t)
	require.Empty(t, r.mapping(text))
	require.Empty(t, r.answers(text))
	for _, b := range []broken{
		{"mapping", "MessageBody=$util.urlEncode($input.body)", "MessageBody=$input.body"},
		{"mapping", "MessageBody=$util.urlEncode($input.body)", "MessageBody=$util.urlencode($input.body)"},
		{"mapping", "MessageBody=$util.urlEncode($input.body)", "MessageBody=$util.urlEncode($util.urlEncode($input.body))"},
		{"mapping", "StringValue=$util.urlEncode($context.requestId)", "StringValue=$context.requestId"},
		{"mapping", "StringValue=$util.urlEncode($context.requestId)", "StringValue=$util.urlEncode($context.requestID)"},
		{"mapping", "application/json: >-\n                    Action=SendMessage", "application/json: >\n                    Action=SendMessage"},
		{"mapping", "Action=SendMessage&Version=2012-11-05&", "Action=SendMessage &Version=2012-11-05&"},
		{"mapping", "MessageAttribute.1.Value.DataType=String&", ""},
		{"answers", `'#set($nothing = "")'`, "$input.body"},
		{"answers", `{"message": "the order was refused"}`, "$input.body"},
		{"answers", `'{"message": "perhaps not queued: send the order again with the same id"}'`, "$input.body"},
		{"answers", `$e.contains("AccessDenied") || `, ""},
		{"answers", `$e.contains("KMS.") || `, ""},
		{"answers", `$e.contains("Throttl") || `, ""},
		{"answers", `$e.contains("NonExistentQueue") || `, ""},
		{"answers", ` || $e.contains("OverLimit")`, ""},
		{"answers", `#set($context.responseOverride.status = 503)`, ""},
	} {
		t.Run(b.String(), func(t *testing.T) {
			found := map[string]check{"mapping": r.mapping, "answers": r.answers}[b.by](b.breakIn(t, text))
			require.NotEmpty(t, found)
			t.Log(found[0][:min(200, len(found[0]))])
		})
	}
}
