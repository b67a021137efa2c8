package infra_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A check returns the problems of a template, if any.
type check func(text string) problems

var checks = map[string]check{
	"deploy":        func(text string) problems { return onlyError(deploy(text)) },
	"visibility":    visibility,
	"batch":         batch,
	"concurrency":   concurrency,
	"retention":     retention,
	"redrive":       redrive,
	"function":      function,
	"store":         store,
	"permissions":   permissions,
	"queuePolicies": queuePolicies,
	"encryption":    encryption,
	"gateway":       gateway,
	"throttling":    throttling,
	"model":         model,
	"alarms":        alarms,
	"accepted":      accepted,
}

func onlyError(_ *stack, err error) problems {
	if err != nil {
		return problems{err.Error()}
	}
	return nil
}

func TestTemplate(t *testing.T) {
	text := template(t)
	for name, check := range checks {
		t.Run(name, func(t *testing.T) { require.Empty(t, check(text)) })
	}
}

// Parameters that a deployment may not use.
func TestParameters(t *testing.T) {
	text := template(t)
	for name, wrong := range map[string][]string{
		"InventoryUrl":   {"", "http://inventory.example.com", "https://user@inventory.example.com", "https://inventory.example.com/?key=1"},
		"TokenSecretArn": {"", "s3cr3t-t0ken", "arn:aws:secretsmanager:eu-west-1:123456789012:secret:name", secretARN + " "},
		"QueueKeyArn":    {"alias/orders", "arn:aws:kms:eu-west-1:123456789012:alias/orders"},
		"AlarmTopicArn":  {"pager", secretARN},
		"Authorization":  {"", "none", "CUSTOM"},
		"InventoryRate":  {"0", "-1", "fast"},
		"GatewayRate":    {"0"},
		"GatewayBurst":   {"0"},
		"BacklogAlarm":   {"0"},
		"NoSuch":         {"1"},
	} {
		for _, v := range wrong {
			_, err := deploy(text, name, v)
			require.ErrorContains(t, err, name, "%s = %q", name, v)
		}
	}
}

// broken are the ways in which the template is broken on purpose: old is
// replaced by new, and the check that is meant for it must say so.
type broken struct {
	by, old, new string
}

func (b broken) String() string {
	old := strings.Join(strings.Fields(b.old), " ")
	return b.by + "/" + old + " -> " + strings.Join(strings.Fields(b.new), " ")
}

// breakIn returns the broken copy.
func (b broken) breakIn(t *testing.T, text string) string {
	t.Helper()
	require.Equal(t, 1, strings.Count(text, b.old), "what is replaced must be there once: %q", b.old)
	return strings.Replace(text, b.old, b.new, 1)
}

func TestBroken(t *testing.T) {
	text := template(t)
	tried := map[string]bool{}
	for _, b := range brokenCopies {
		tried[b.by] = true
		t.Run(b.String(), func(t *testing.T) {
			bad := b.breakIn(t, text)
			if b.by != "deploy" {
				require.Empty(t, checks["deploy"](bad), "the copy must be broken in another way")
			}
			found := checks[b.by](bad)
			require.NotEmpty(t, found)
			t.Log(found[0])
		})
	}
	require.Equal(t, slices.Sorted(maps.Keys(checks)), slices.Sorted(maps.Keys(tried)), "every check has copies that it must refuse")
}
