package infra_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/rampmeter/rampmeter/examples/orders/order"
)

// integration returns the gateway's only method, and its integration.
func (s *stack) integration() (method, integration object) {
	method, _ = at(s.properties("OrdersApi"), "DefinitionBody", "paths", "/orders", "post").(object)
	integration, _ = method["x-amazon-apigateway-integration"].(object)
	return method, integration
}

// gateway: which requests are accepted, how they are passed on, and the client's
// answers.
func gateway(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	api := s.properties("OrdersApi")
	definition, _ := api["DefinitionBody"].(object)
	found.equal("3.0.1", definition["openapi"], "openapi")
	found.equal(api["OpenApiVersion"], definition["openapi"], "openapi")
	found.equal([]string{"/orders"}, keys(definition["paths"]), "paths")
	found.equal([]string{"post"}, keys(at(definition, "paths", "/orders")), "methods")
	found.unless(api["BinaryMediaTypes"] == nil, "a binary media type makes $input.body base64")

	method, integration := s.integration()
	found.equal(object{"type": "AWS_IAM"}, method["x-amazon-apigateway-auth"], "who may send orders by default")
	if open, err := deploy(text, "Authorization", "NONE"); err != nil {
		found = append(found, err.Error())
	} else {
		m, _ := open.integration()
		found.equal(object{"type": "NONE"}, m["x-amazon-apigateway-auth"], "who may send orders on request")
	}

	validator, _ := definition["x-amazon-apigateway-request-validator"].(string)
	found.equal(true, at(definition, "x-amazon-apigateway-request-validators", validator, "validateRequestBody"), "validateRequestBody")
	found.unless(method["x-amazon-apigateway-request-validator"] == nil, "the method has a validator of its own")
	found.equal(true, at(method, "requestBody", "required"), "requestBody.required")
	found.equal(object{"application/json": object{"schema": object{"$ref": "#/components/schemas/Order"}}}, at(method, "requestBody", "content"), "requestBody.content")

	found.equal("aws", integration["type"], "type")
	found.equal("POST", integration["httpMethod"], "httpMethod")
	found.equal("arn:aws:apigateway:eu-west-1:sqs:path/"+account+"/<OrdersQueue.QueueName>", integration["uri"], "uri")
	found.equal("<GatewayRole.Arn>", integration["credentials"], "credentials")
	found.equal("never", integration["passthroughBehavior"], "passthroughBehavior")
	found.equal(object{"integration.request.header.Content-Type": "'application/x-www-form-urlencoded'"}, integration["requestParameters"], "requestParameters")
	found.equal([]string{"application/json"}, keys(integration["requestTemplates"]), "media types with a mapping")
	timeout := number(integration["timeoutInMillis"])
	found.unless(timeout >= 50 && timeout <= 29000, "timeoutInMillis is %v", timeout)

	// Every status that SQS can answer with has one response, which the method declares.
	responses, _ := integration["responses"].(object)
	for status := 100; status < 600; status++ {
		want := "503"
		switch status / 100 {
		case 2:
			want = "200"
		case 4:
			want = "400"
		}
		response := responses["default"]
		for pattern, r := range responses {
			if pattern != "default" && matches(pattern, strconv.Itoa(status)) {
				found.unless(at(response, "statusCode") == at(responses["default"], "statusCode"), "two patterns match %d", status)
				response = r
			}
		}
		if got := at(response, "statusCode"); got != want {
			found.unless(false, "SQS's %d is answered with %v: must be %s", status, got, want)
			break
		}
		found.unless(at(method, "responses", want) != nil, "the method declares no %s", want)
	}
	// An empty template would pass SQS's text on.
	for pattern, r := range responses {
		template, _ := at(r, "responseTemplates", "application/json").(string)
		found.unless(template != "", "the response %s has no template", pattern)
	}
	return found
}

func keys(v any) []string {
	m, _ := v.(object)
	return slices.Sorted(maps.Keys(m))
}

// throttling: every method of the stage has both limits, from the parameters.
func throttling(text string) (found problems) {
	s, err := deploy(text, "GatewayRate", "7", "GatewayBurst", "9")
	if err != nil {
		return problems{err.Error()}
	}
	found.equal([]any{object{
		"ResourcePath": "/*", "HttpMethod": "*", "ThrottlingRateLimit": 7.0, "ThrottlingBurstLimit": 9.0,
	}}, s.properties("OrdersApi")["MethodSettings"], "MethodSettings")
	return found
}

// model: the gateway accepts the same orders as the order's own validation. Both
// accept each bound, and refuse values beyond it.
func model(text string) (found problems) {
	s, err := deploy(text)
	if err != nil {
		return problems{err.Error()}
	}
	schema := at(s.properties("OrdersApi"), "DefinitionBody", "components", "schemas", "Order")
	found.equal("object", at(schema, "type"), "type")
	found.equal(false, at(schema, "additionalProperties"), "additionalProperties")
	found.equal([]any{"id", "sku", "quantity", "customer"}, at(schema, "required"), "required")
	found.equal([]string{"customer", "id", "quantity", "sku"}, keys(at(schema, "properties")), "properties")

	valid := order.Order{ID: "o-1", SKU: "SOCK-42", Quantity: 1, Customer: "Zoë"}
	check := func(what string, edit func(*order.Order), want bool) {
		o := valid
		edit(&o)
		err := o.Validate()
		found.unless((err == nil) == want, "%s: the model says %v, the order %v", what, want, err)
	}
	for field, set := range map[string]func(*order.Order, string){
		"id":       func(o *order.Order, v string) { o.ID = v },
		"sku":      func(o *order.Order, v string) { o.SKU = v },
		"customer": func(o *order.Order, v string) { o.Customer = v },
	} {
		p := at(schema, "properties", field)
		found.equal("string", at(p, "type"), field+"'s type")
		least, most := int(number(at(p, "minLength"))), int(number(at(p, "maxLength")))
		for n, want := range map[int]bool{least: true, least - 1: false, most: true, most + 1: false} {
			check(fmt.Sprintf("%s of %d characters", field, n), func(o *order.Order) { set(o, strings.Repeat("x", max(n, 0))) }, want)
		}
		pattern, limited := at(p, "pattern").(string)
		for r := rune(1); r < 0x250; r++ {
			want := !limited || matches(pattern, string(r))
			check(fmt.Sprintf("%s %q", field, r), func(o *order.Order) { set(o, string(r)) }, want)
		}
	}
	quantity := at(schema, "properties", "quantity")
	found.equal("integer", at(quantity, "type"), "quantity's type")
	least, most := int(number(at(quantity, "minimum"))), int(number(at(quantity, "maximum")))
	for n, want := range map[int]bool{least: true, least - 1: false, most: true, most + 1: false} {
		check(fmt.Sprintf("quantity %d", n), func(o *order.Order) { o.Quantity = n }, want)
	}
	return found
}
