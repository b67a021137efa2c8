package infra_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// permissions: each role has what its service's calls need, and nothing else.
func permissions(text string) (found problems) {
	gateway := []string{"sqs:SendMessage on <OrdersQueue.Arn>"}
	function := []string{
		"sqs:ReceiveMessage on <OrdersQueue.Arn>",
		"sqs:DeleteMessage on <OrdersQueue.Arn>",
		"sqs:ChangeMessageVisibility on <OrdersQueue.Arn>",
		"sqs:GetQueueAttributes on <OrdersQueue.Arn>",
		"sqs:SendMessage on <DeadLetterQueue.Arn>",
		"dynamodb:PutItem on <OrdersTable.Arn>",
		"dynamodb:GetItem on <OrdersTable.Arn>",
		"secretsmanager:GetSecretValue on " + secretARN,
		"logs:CreateLogStream on <FunctionLog.Arn>",
		"logs:PutLogEvents on <FunctionLog.Arn>",
	}
	const throughSQS = " if map[StringEquals:map[kms:ViaService:sqs.eu-west-1.amazonaws.com]]"
	key := []string{"kms:GenerateDataKey on " + keyARN + throughSQS, "kms:Decrypt on " + keyARN + throughSQS}

	for _, given := range []string{"", keyARN} {
		s, err := deploy(text, "QueueKeyArn", given)
		if err != nil {
			return append(found, err.Error())
		}
		want := map[string][]string{"GatewayRole": gateway, "FunctionRole": function}
		if given != "" {
			want = map[string][]string{"GatewayRole": slices.Concat(gateway, key), "FunctionRole": slices.Concat(function, key)}
		}
		found.equal([]string{"FunctionRole", "GatewayRole"}, s.ofType("AWS::IAM::Role"), "roles")
		for role, service := range map[string]string{"GatewayRole": "apigateway.amazonaws.com", "FunctionRole": "lambda.amazonaws.com"} {
			slices.Sort(want[role])
			found.equal(want[role], s.allowed(role), role+" may")
			found.equal([]any{object{
				"Effect": "Allow", "Principal": object{"Service": service}, "Action": "sts:AssumeRole",
			}}, at(s.properties(role), "AssumeRolePolicyDocument", "Statement"), role+"'s trust")
			found.equal([]string{"AssumeRolePolicyDocument", "Policies"}, slices.Sorted(maps.Keys(s.properties(role))), role+" has")
		}
		found.unless(len(s.ofType("AWS::IAM::Policy"))+len(s.ofType("AWS::IAM::ManagedPolicy")) == 0, "there are more policies")
		// SAM adds permissions of its own to functions without a role, or with policies.
		found.equal("<FunctionRole.Arn>", s.properties("OrdersFunction")["Role"], "the function's role")
		found.unless(s.properties("OrdersFunction")["Policies"] == nil, "the function has policies of its own")
	}
	return found
}

// allowed lists what a role may do, sorted.
func (s *stack) allowed(role string) []string {
	all := []string{}
	policies, _ := s.properties(role)["Policies"].([]any)
	for _, p := range policies {
		for _, statement := range list(at(p, "PolicyDocument", "Statement")) {
			for _, action := range list(at(statement, "Action")) {
				for _, resource := range list(at(statement, "Resource")) {
					text := fmt.Sprintf("%v on %v", action, resource)
					if c := at(statement, "Condition"); c != nil {
						text += fmt.Sprintf(" if %v", c)
					}
					if at(statement, "Effect") != "Allow" {
						text = fmt.Sprintf("%v: %s", at(statement, "Effect"), text)
					}
					all = append(all, text)
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

// list returns a value of a policy that is a list, or one of its elements.
func list(v any) []any {
	if l, ok := v.([]any); ok {
		return l
	}
	return []any{v}
}

// queuePolicies: they deny requests without TLS or from another account, and none of
// the requests of this account's roles, services and redrives.
func queuePolicies(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	type request map[string]string
	ours := func(more request) request {
		r := request{"aws:SecureTransport": "true", "aws:PrincipalAccount": account, "aws:PrincipalIsAWSService": "false"}
		for k, v := range more {
			if r[k] = v; v == "" {
				delete(r, k)
			}
		}
		return r
	}
	for who, c := range map[string]struct {
		request request
		denied  bool
	}{
		"a role of ours":              {ours(nil), false},
		"a role of ours without TLS":  {ours(request{"aws:SecureTransport": "false"}), true},
		"another account":             {ours(request{"aws:PrincipalAccount": "210987654321"}), true},
		"nobody":                      {ours(request{"aws:PrincipalAccount": "", "aws:PrincipalIsAWSService": ""}), true},
		"nobody without TLS":          {request{"aws:SecureTransport": "false"}, true},
		"a service of its own accord": {ours(request{"aws:PrincipalAccount": "", "aws:PrincipalIsAWSService": "true"}), false},
		"a redrive in our name":       {ours(request{"aws:SecureTransport": ""}), false},
	} {
		for _, queue := range []string{"OrdersQueue", "DeadLetterQueue"} {
			denied := false
			statements := s.queueStatements(queue)
			found.unless(len(statements) > 0, "%s has no policy", queue)
			for _, statement := range statements {
				found.equal("Deny", at(statement, "Effect"), queue+"'s policy: Effect")
				found.equal("*", at(statement, "Principal"), queue+"'s policy: Principal")
				found.equal("sqs:*", at(statement, "Action"), queue+"'s policy: Action")
				found.equal("<"+queue+".Arn>", at(statement, "Resource"), queue+"'s policy: Resource")
				holds, err := applies(at(statement, "Condition"), c.request)
				if err != nil {
					return append(found, err.Error())
				}
				denied = denied || holds
			}
			found.unless(denied == c.denied, "%s: %s is denied: %v", queue, who, denied)
		}
	}
	return found
}

// queueStatements returns those of all policies of a queue.
func (s *stack) queueStatements(queue string) []any {
	var all []any
	for _, name := range s.ofType("AWS::SQS::QueuePolicy") {
		if slices.Contains(list(s.properties(name)["Queues"]), any("<"+queue+">")) {
			all = append(all, list(at(s.properties(name), "PolicyDocument", "Statement"))...)
		}
	}
	return all
}

// applies evaluates a condition as IAM does: all of it must hold. A key that the
// request does not have makes IfExists and negated operators hold, others not.
func applies(condition any, request map[string]string) (bool, error) {
	operators, _ := condition.(object)
	for operator, keys := range operators {
		base, ifExists := strings.CutSuffix(operator, "IfExists")
		for key, want := range keys.(object) {
			got, has := request[key]
			var holds bool
			switch base {
			case "Bool", "StringEquals":
				holds = has && got == fmt.Sprint(want)
			case "StringNotEquals":
				holds = !has || got != fmt.Sprint(want)
			default:
				return false, fmt.Errorf("condition operator %s is not known to this test", operator)
			}
			if !holds && (has || !ifExists) {
				return false, nil
			}
		}
	}
	return true, nil
}

// encryption: by SQS's key, or by the customer's where there is one.
func encryption(text string) (found problems) {
	for _, key := range []string{"", keyARN} {
		s, err := deploy(text, "QueueKeyArn", key)
		if err != nil {
			return append(found, err.Error())
		}
		for _, queue := range []string{"OrdersQueue", "DeadLetterQueue"} {
			managed, customers := s.properties(queue)["SqsManagedSseEnabled"], s.properties(queue)["KmsMasterKeyId"]
			if key == "" {
				found.unless(managed == true && customers == nil, "%s without a key: SqsManagedSseEnabled is %v, KmsMasterKeyId %v", queue, managed, customers)
			} else {
				found.unless(managed == nil && customers == key, "%s with a key: SqsManagedSseEnabled is %v, KmsMasterKeyId %v", queue, managed, customers)
			}
		}
	}
	return found
}
