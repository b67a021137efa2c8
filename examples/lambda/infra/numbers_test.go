package infra_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/rampmeter/rampmeter/queue/sqslambda"
)

// The longest time for one order, in seconds: a request to the inventory API, one to
// the table, and the margin between the end of the handler's context and the
// function's deadline.
const (
	inventoryTimeout = 10
	storeTimeout     = 5
	settleMargin     = 1
)

// visibility: Lambda needs six times the function's timeout and the window to
// retry a batch by itself; a shorter timeout delivers orders twice.
func visibility(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	queue, function, mapping := s.properties("OrdersQueue"), s.properties("OrdersFunction"), s.properties("OrdersMapping")
	hidden, timeout := number(queue["VisibilityTimeout"]), number(function["Timeout"])
	need := 6*timeout + number(mapping["MaximumBatchingWindowInSeconds"])
	found.unless(hidden >= need, "VisibilityTimeout is %v: must be at least 6 x Timeout + window, %v", hidden, need)
	found.unless(hidden <= 12*3600, "VisibilityTimeout is %v: must be at most 12 hours", hidden)
	return found
}

// batch: a whole batch of the slowest orders fits into the timeout; otherwise some
// orders of each delivery are returned untried, at the cost of a receive.
func batch(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	function, mapping := s.properties("OrdersFunction"), s.properties("OrdersMapping")
	size, timeout := number(mapping["BatchSize"]), number(function["Timeout"])
	wait := number(at(mapping, "ScalingConfig", "MaximumConcurrency")) / number(at(s.root, "Parameters", "InventoryRate", "Default"))
	need := size*(inventoryTimeout+storeTimeout+wait) + settleMargin
	found.unless(timeout >= need, "Timeout is %v: a batch may take %v", timeout, need)
	found.unless(timeout <= 900, "Timeout is %v: must be at most 900", timeout)
	found.equal([]any{"ReportBatchItemFailures"}, mapping["FunctionResponseTypes"], "FunctionResponseTypes")
	found.equal("<OrdersQueue.Arn>", mapping["EventSourceArn"], "EventSourceArn")
	found.equal("<OrdersFunction>", mapping["FunctionName"], "FunctionName")
	return found
}

// concurrency: the function divides the rate by the mapping's maximum, and the
// reserved concurrency is never below it, whatever the parameter.
func concurrency(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	most := number(at(s.properties("OrdersMapping"), "ScalingConfig", "MaximumConcurrency"))
	found.unless(most >= 2 && most <= 1000, "MaximumConcurrency is %v: must be from 2 to 1000", most)
	shares := number(at(s.properties("OrdersFunction"), "Environment", "Variables", "MAX_CONCURRENCY"))
	found.unless(shares == most, "MAX_CONCURRENCY is %v, MaximumConcurrency %v", shares, most)
	reserved, ok := s.properties("OrdersFunction")["ReservedConcurrentExecutions"]
	found.unless(!ok, "by default %v are reserved, which a new account can't", reserved)
	found.unless(s.properties("OrdersMapping")["ProvisionedPollerConfig"] == nil, "provisioned pollers go without MaximumConcurrency")

	for n := range 10000 {
		if n > 30 && n != 99 && n != 100 && n != 999 && n != 1000 && n != 9999 {
			continue
		}
		if float64(n) < most {
			_, err := resolve(s.source, "InventoryBurst", strconv.Itoa(n))
			found.unless(err != nil, "InventoryBurst %d is taken: all instances may start at once", n)
		}
		s, err := resolve(s.source, "ReservedConcurrency", strconv.Itoa(n))
		if float64(n) < most {
			found.unless(err != nil, "ReservedConcurrency %d is taken", n)
			continue
		}
		if err != nil {
			found = append(found, err.Error())
			break
		}
		found.equal(strconv.Itoa(n), s.properties("OrdersFunction")["ReservedConcurrentExecutions"], "ReservedConcurrentExecutions")
	}
	for _, wrong := range []string{" ", "010", "-10", "+10", "10.5", "ten", "10 "} {
		_, err := resolve(s.source, "ReservedConcurrency", wrong)
		found.unless(err != nil, "ReservedConcurrency %q is taken", wrong)
	}
	return found
}

// retention: on a standard queue a dead letter's age counts from when the order
// was first sent, so the dead-letter queue must keep it for much longer.
func retention(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	const day = 24 * 3600
	source, dead := number(s.properties("OrdersQueue")["MessageRetentionPeriod"]), number(s.properties("DeadLetterQueue")["MessageRetentionPeriod"])
	found.unless(source == 7*day, "orders are kept for %v s", source)
	found.unless(dead == 14*day, "dead letters are kept for %v s", dead)
	found.unless(dead >= source+7*day, "a week must be left to look at a dead letter")
	return found
}

// redrive: we dead-letter first, with a reason; the queue does it only when our
// code never gets that far.
func redrive(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	policy := at(s.properties("OrdersQueue"), "RedrivePolicy")
	found.equal("<DeadLetterQueue.Arn>", at(policy, "deadLetterTargetArn"), "deadLetterTargetArn")
	found.unless(s.properties("DeadLetterQueue")["RedrivePolicy"] == nil, "the dead-letter queue has a redrive policy")
	receives, attempts := number(at(policy, "maxReceiveCount")), number(at(s.properties("OrdersFunction"), "Environment", "Variables", "MAX_ATTEMPTS"))
	found.unless(receives == 50, "maxReceiveCount is %v", receives)
	found.unless(attempts == 20, "MAX_ATTEMPTS is %v", attempts)
	kept := number(s.properties("OrdersQueue")["MessageRetentionPeriod"])
	span := sqslambda.OutageSpan(int(receives)).Seconds()
	found.unless(span >= 8*3600 && span < kept, "an outage of the API may last for %v s, orders are kept for %v s", span, kept)
	found.unless(receives >= 2*attempts, "maxReceiveCount is %v, less than twice MAX_ATTEMPTS, %v", receives, attempts)
	return found
}

// function: what runs, and the environment that its code reads.
func function(text string) (found problems) {
	s, err := deploy(text, "InventoryRate", "12.5", "InventoryBurst", "20")
	if err != nil {
		return problems{err.Error()}
	}
	f := s.properties("OrdersFunction")
	found.equal("provided.al2023", f["Runtime"], "Runtime")
	found.equal("bootstrap", f["Handler"], "Handler")
	found.equal([]any{"arm64"}, f["Architectures"], "Architectures")
	found.equal("<FunctionLog>", at(f, "LoggingConfig", "LogGroup"), "LogGroup")
	found.equal(object{
		"QUEUE_URL": "<OrdersQueue>", "DEAD_LETTER_URL": "<DeadLetterQueue>", "ORDERS_TABLE": "<OrdersTable>",
		"INVENTORY_URL": required["InventoryUrl"], "TOKEN_SECRET_ARN": secretARN,
		"RATE": 12.5, "BURST": 20.0, "MAX_CONCURRENCY": "10", "MAX_ATTEMPTS": "20",
	}, at(f, "Environment", "Variables"), "Variables")

	read, err := environment("../config.go")
	if err != nil {
		return append(found, err.Error())
	}
	variables, _ := at(f, "Environment", "Variables").(object)
	found.equal(read, slices.Sorted(maps.Keys(variables)), "what is set, compared to what the function reads")
	return found
}

// environment returns the names of the variables that the function reads: its
// constants whose names begin with env.
func environment(file string) ([]string, error) {
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		return nil, err
	}
	var names []string
	for n := range ast.Preorder(f) {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			continue
		}
		for i, name := range spec.Names {
			if v, ok := valueOf(spec, i); ok && strings.HasPrefix(name.Name, "env") {
				names = append(names, v)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

func valueOf(spec *ast.ValueSpec, i int) (string, bool) {
	if i >= len(spec.Values) {
		return "", false
	}
	literal, ok := spec.Values[i].(*ast.BasicLit)
	if !ok {
		return "", false
	}
	v, err := strconv.Unquote(literal.Value)
	return v, err == nil
}

// store: the orders survive the deletion of the stack, and mistakes.
func store(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	table := s.properties("OrdersTable")
	found.equal("PAY_PER_REQUEST", table["BillingMode"], "BillingMode")
	found.equal(true, at(table, "PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled"), "PointInTimeRecoveryEnabled")
	found.equal([]any{object{"AttributeName": "id", "KeyType": "HASH"}}, table["KeySchema"], "KeySchema")
	found.equal([]any{object{"AttributeName": "id", "AttributeType": "S"}}, table["AttributeDefinitions"], "AttributeDefinitions")
	found.equal("RetainExceptOnCreate", at(s.root, "Resources", "OrdersTable", "DeletionPolicy"), "DeletionPolicy")
	for _, name := range []string{"OrdersTable", "OrdersQueue", "DeadLetterQueue"} {
		found.equal("Retain", at(s.root, "Resources", name, "UpdateReplacePolicy"), name+"'s UpdateReplacePolicy")
	}
	return found
}
