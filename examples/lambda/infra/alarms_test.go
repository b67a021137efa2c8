package infra_test

import (
	"fmt"
	"slices"
)

// alarms: each signal that the flow needs has an alarm, on the right resource, which
// notifies the topic if there is one.
func alarms(text string) (found problems) {
	s, err := deploy(text, "AlarmTopicArn", topicARN)
	if err != nil {
		return problems{err.Error()}
	}
	silent, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	signals := map[string]string{} // by what is watched, the alarm
	for _, name := range s.ofType("AWS::CloudWatch::Alarm") {
		a := s.properties(name)
		found.equal([]any{topicARN}, a["AlarmActions"], name+"'s AlarmActions")
		found.unless(silent.properties(name)["AlarmActions"] == nil, "%s has actions without a topic", name)
		found.equal("notBreaching", a["TreatMissingData"], name+"'s TreatMissingData")
		found.equal("GreaterThanThreshold", a["ComparisonOperator"], name+"'s ComparisonOperator")
		found.unless(number(a["EvaluationPeriods"]) >= 1, "%s: EvaluationPeriods is %v", name, a["EvaluationPeriods"])
		signals[signal(a)] = name
	}
	stage := s.properties("OrdersApi")["StageName"]
	api := s.properties("OrdersApi")["Name"]
	timeout := number(s.properties("OrdersFunction")["Timeout"]) * 1000
	for watched, threshold := range map[string]func(float64) bool{
		"Maximum of AWS/SQS ApproximateNumberOfMessagesVisible QueueName=<DeadLetterQueue.QueueName>": zero,
		"Maximum of AWS/SQS ApproximateAgeOfOldestMessage QueueName=<OrdersQueue.QueueName>":          func(t float64) bool { return t >= 60 && t <= 24*3600 },
		"Maximum of AWS/SQS ApproximateNumberOfMessagesVisible QueueName=<OrdersQueue.QueueName>" +
			" + Maximum of AWS/SQS ApproximateNumberOfMessagesNotVisible QueueName=<OrdersQueue.QueueName>": func(t float64) bool { return t >= 1 },
		"Sum of AWS/Lambda Errors FunctionName=<OrdersFunction>":                      zero,
		"Sum of AWS/Lambda Throttles FunctionName=<OrdersFunction>":                   zero,
		"Maximum of AWS/Lambda Duration FunctionName=<OrdersFunction>":                func(t float64) bool { return t >= timeout/2 && t <= timeout*0.9 },
		fmt.Sprintf("Sum of AWS/ApiGateway 5XXError ApiName=%v Stage=%v", api, stage): zero,
	} {
		name, ok := signals[watched]
		found.unless(ok, "there is no alarm for the %s", watched)
		if ok {
			found.unless(threshold(number(s.properties(name)["Threshold"])), "%s's Threshold is %v", name, s.properties(name)["Threshold"])
		}
		delete(signals, watched)
	}
	for watched, name := range signals {
		found.unless(false, "%s watches the %s: what for?", name, watched)
	}
	return found
}

func zero(threshold float64) bool { return threshold == 0 }

// signal returns what an alarm watches: a metric, or the sum of two.
func signal(a object) string {
	metric := func(m any, statistic any) string {
		text := fmt.Sprintf("%v of %v %v", statistic, at(m, "Namespace"), at(m, "MetricName"))
		for _, d := range list(at(m, "Dimensions")) {
			text += fmt.Sprintf(" %v=%v", at(d, "Name"), at(d, "Value"))
		}
		return text
	}
	queries, ok := a["Metrics"].([]any)
	if !ok {
		return metric(a, a["Statistic"])
	}
	shown := slices.IndexFunc(queries, func(q any) bool { return at(q, "ReturnData") == true })
	if len(queries) != 3 || shown != 0 ||
		at(queries[0], "Expression") != fmt.Sprintf("%v + %v", at(queries[1], "Id"), at(queries[2], "Id")) {
		return fmt.Sprint(queries)
	}
	of := func(q any) string { return metric(at(q, "MetricStat", "Metric"), at(q, "MetricStat", "Stat")) }
	return of(queries[1]) + " + " + of(queries[2])
}
