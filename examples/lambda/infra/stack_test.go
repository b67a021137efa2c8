package infra_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// object is a mapping of the template.
type object = map[string]any

// Where the stack of the tests is, and what it is called.
const account = "123456789012"

var pseudo = map[string]any{
	"AWS::AccountId": account, "AWS::Partition": "aws", "AWS::Region": "eu-west-1",
	"AWS::StackName": "shop", "AWS::URLSuffix": "amazonaws.com", "AWS::NoValue": absent{},
}

// The parameters that every deployment needs, and optional keys and topics.
const (
	secretARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:inventory-token-a1B2c3"
	keyARN    = "arn:aws:kms:eu-west-1:123456789012:key/6f9a3c1e"
	topicARN  = "arn:aws:sns:eu-west-1:123456789012:pager"
)

var required = map[string]string{"InventoryUrl": "https://inventory.example.com", "TokenSecretArn": secretARN}

// absent is the value of AWS::NoValue.
type absent struct{}

// A stack is the template with its parameters, conditions and functions
// resolved: maps, lists and scalars only. A value that only a deployment knows is
// written as the resource's name, or its name and attribute, in angle brackets:
// "<OrdersQueue.Arn>".
type stack struct {
	root   object
	source object // with what was resolved
}

// template returns the template's text.
func template(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../template.yaml")
	require.NoError(t, err)
	return string(text)
}

// deploy resolves a template with these parameters, names and values by turns, on
// top of those required.
func deploy(text string, parameters ...string) (*stack, error) {
	root, err := parse(text)
	if err != nil {
		return nil, err
	}
	return resolve(root, parameters...)
}

func resolve(root object, parameters ...string) (*stack, error) {
	given := maps.Clone(required)
	for i := 0; i < len(parameters); i += 2 {
		given[parameters[i]] = parameters[i+1]
	}
	r := resolver{root: root, used: map[string]bool{}}
	if err := r.parameters(given); err != nil {
		return nil, err
	}
	resources, err := r.value(root["Resources"])
	if err != nil {
		return nil, err
	}
	outputs, err := r.value(root["Outputs"])
	if err != nil {
		return nil, err
	}
	for _, section := range []string{"Parameters", "Conditions"} {
		for name := range at(root, section).(object) {
			if !r.used[name] {
				return nil, fmt.Errorf("%s.%s is not used", section, name)
			}
		}
	}
	return &stack{object{"Parameters": root["Parameters"], "Resources": resources, "Outputs": outputs}, root}, nil
}

// parse reads a template, and expands the short forms of functions.
func parse(text string) (object, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return nil, err
	}
	v, err := plain(doc.Content[0])
	if err != nil {
		return nil, err
	}
	root, ok := v.(object)
	if !ok {
		return nil, fmt.Errorf("the template is %T, not a mapping", v)
	}
	return root, nil
}

func plain(n *yaml.Node) (any, error) {
	var v any
	switch n.Kind {
	case yaml.MappingNode:
		m := object{}
		for i := 0; i < len(n.Content); i += 2 {
			name := n.Content[i].Value
			if _, twice := m[name]; twice {
				return nil, fmt.Errorf("line %d: %s is there twice", n.Content[i].Line, name)
			}
			e, err := plain(n.Content[i+1])
			if err != nil {
				return nil, err
			}
			m[name] = e
		}
		v = m
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, c := range n.Content {
			e, err := plain(c)
			if err != nil {
				return nil, err
			}
			list[i] = e
		}
		v = list
	case yaml.ScalarNode:
		if strings.HasPrefix(n.Tag, "!") && !strings.HasPrefix(n.Tag, "!!") {
			v = n.Value
		} else if err := n.Decode(&v); err != nil {
			return nil, err
		}
	default: // CloudFormation knows no aliases
		return nil, fmt.Errorf("line %d: an alias", n.Line)
	}
	switch tag := n.Tag; {
	case strings.HasPrefix(tag, "!!"), !strings.HasPrefix(tag, "!"):
		return v, nil
	case tag == "!Ref":
		return object{"Ref": v}, nil
	case tag == "!GetAtt":
		name, attribute, ok := strings.Cut(fmt.Sprint(v), ".")
		if !ok {
			return nil, fmt.Errorf("line %d: !GetAtt %v", n.Line, v)
		}
		return object{"Fn::GetAtt": []any{name, attribute}}, nil
	default:
		return object{"Fn::" + tag[1:]: v}, nil
	}
}

type resolver struct {
	root  object
	given map[string]any
	used  map[string]bool // parameters and conditions that something refers to
}

// parameters checks and converts the values given, and adds defaults.
func (r *resolver) parameters(given map[string]string) error {
	r.given = map[string]any{}
	declared := at(r.root, "Parameters").(object)
	for name := range given {
		if _, ok := declared[name]; !ok {
			return fmt.Errorf("there is no parameter %s", name)
		}
	}
	for name, p := range declared {
		v, ok := given[name]
		if !ok {
			d := at(p, "Default")
			if d == nil {
				return fmt.Errorf("parameter %s has no default, and is not given", name)
			}
			v = fmt.Sprint(d)
		}
		if pattern, ok := at(p, "AllowedPattern").(string); ok && !matches(pattern, v) {
			return fmt.Errorf("parameter %s is %q: %v", name, v, at(p, "ConstraintDescription"))
		}
		if values, ok := at(p, "AllowedValues").([]any); ok && !slices.Contains(values, any(v)) {
			return fmt.Errorf("parameter %s is %q: must be one of %v", name, v, values)
		}
		if at(p, "Type") != "Number" {
			r.given[name] = v
			continue
		}
		n, err := strconv.ParseFloat(v, 64)
		if err != nil {
			return fmt.Errorf("parameter %s: %w", name, err)
		}
		if least := at(p, "MinValue"); least != nil && n < number(least) {
			return fmt.Errorf("parameter %s is %v: must be at least %v", name, n, least)
		}
		r.given[name] = n
	}
	return nil
}

// matches reports whether the whole of s matches, as in an AllowedPattern and in
// the gateway's status patterns.
func matches(pattern, s string) bool {
	return regexp.MustCompile(`^(?:` + pattern + `)$`).MatchString(s)
}

func (r *resolver) value(v any) (any, error) {
	switch v := v.(type) {
	case []any:
		list := []any{}
		for _, e := range v {
			e, err := r.value(e)
			if err != nil {
				return nil, err
			}
			if e != any(absent{}) {
				list = append(list, e)
			}
		}
		return list, nil
	case object:
		if len(v) == 1 {
			for name, argument := range v {
				if name == "Ref" || strings.HasPrefix(name, "Fn::") {
					return r.call(name, argument)
				}
			}
		}
		m := object{}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			e, err := r.value(v[k])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", k, err)
			}
			if e != any(absent{}) {
				m[k] = e
			}
		}
		return m, nil
	}
	return v, nil
}

func (r *resolver) call(name string, argument any) (any, error) {
	switch name {
	case "Ref":
		return r.ref(argument.(string))
	case "Fn::GetAtt":
		args := argument.([]any)
		return r.attribute(args[0].(string), args[1].(string))
	case "Fn::Sub":
		text, ok := argument.(string)
		if !ok {
			return nil, fmt.Errorf("Fn::Sub with a list")
		}
		var failed error
		text = regexp.MustCompile(`\$\{[^!}][^}]*\}`).ReplaceAllStringFunc(text, func(s string) string {
			var v any
			var err error
			if resource, attribute, ok := strings.Cut(s[2:len(s)-1], "."); ok {
				v, err = r.attribute(resource, attribute)
			} else {
				v, err = r.ref(resource)
			}
			if err != nil {
				failed = err
			}
			return fmt.Sprint(v)
		})
		return text, failed
	case "Fn::If":
		args := argument.([]any)
		yes, err := r.condition(args[0].(string))
		if err != nil {
			return nil, err
		}
		if yes {
			return r.value(args[1])
		}
		return r.value(args[2])
	case "Fn::Equals":
		args, err := r.value(argument)
		if err != nil {
			return nil, err
		}
		return args.([]any)[0] == args.([]any)[1], nil
	case "Fn::Not":
		args, err := r.value(argument)
		if err != nil {
			return nil, err
		}
		return !args.([]any)[0].(bool), nil
	}
	return nil, fmt.Errorf("%s is not known to this test", name)
}

func (r *resolver) ref(name string) (any, error) {
	if v, ok := pseudo[name]; ok {
		return v, nil
	}
	if v, ok := r.given[name]; ok {
		r.used[name] = true
		return v, nil
	}
	if at(r.root, "Resources", name) == nil {
		return nil, fmt.Errorf("reference to %s, which is not there", name)
	}
	return "<" + name + ">", nil
}

func (r *resolver) attribute(resource, attribute string) (any, error) {
	if at(r.root, "Resources", resource) == nil {
		return nil, fmt.Errorf("reference to %s, which is not there", resource)
	}
	return "<" + resource + "." + attribute + ">", nil
}

func (r *resolver) condition(name string) (bool, error) {
	c := at(r.root, "Conditions", name)
	if c == nil {
		return false, fmt.Errorf("there is no condition %s", name)
	}
	r.used[name] = true
	v, err := r.value(c)
	if err != nil {
		return false, err
	}
	yes, ok := v.(bool)
	if !ok {
		return false, fmt.Errorf("condition %s is %v", name, v)
	}
	return yes, nil
}

// at returns what is at a path of names and indices, nil if there is nothing.
func at(v any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(object)
			v = m[step]
		case int:
			list, _ := v.([]any)
			if step >= len(list) {
				return nil
			}
			v = list[step]
		}
	}
	return v
}

// number returns a number, also one written as text; NaN, which no comparison
// holds for, for anything else.
func number(v any) float64 {
	n, err := strconv.ParseFloat(fmt.Sprint(v), 64)
	if err != nil {
		return math.NaN()
	}
	return n
}

// properties returns those of a resource.
func (s *stack) properties(name string) object {
	p, _ := at(s.root, "Resources", name, "Properties").(object)
	return p
}

// ofType returns the names of the resources of a type.
func (s *stack) ofType(kind string) []string {
	var names []string
	for name, r := range s.root["Resources"].(object) {
		if at(r, "Type") == kind {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// problems are the findings of a check.
type problems []string

// unless notes a problem if something that must be true is not.
func (p *problems) unless(ok bool, format string, args ...any) {
	if !ok {
		*p = append(*p, fmt.Sprintf(format, args...))
	}
}

// equal notes a problem if a value is not the expected one.
func (p *problems) equal(want, got any, what string) {
	p.unless(reflect.DeepEqual(want, got), "%s: is %s: must be %s", what, show(got), show(want))
}

func show(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}
