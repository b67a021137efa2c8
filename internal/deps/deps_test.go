// Package deps_test checks that the packages' imports follow the design: leaves
// stay leaves, heavy dependencies stay out of the root module, and only tests import
// testing.
package deps_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/rampmeter/rampmeter"

// allowed lists what each package of the root module may import in addition to the
// standard library. A package that is not listed may not exist.
var allowed = map[string][]string{
	"limiter": {module + "/internal/again", module + "/internal/nils", module + "/internal/permanent", module + "/internal/quota", module + "/internal/sendonce", module + "/limiter/internal/line", "golang.org/x/time/rate"},
	"retry":   {module + "/internal/permanent", module + "/internal/quota", module + "/internal/sleep", "github.com/cenkalti/backoff/v4"},
	"queue": {
		module + "/internal/again", module + "/internal/nils", module + "/internal/sleep", module + "/limiter", module + "/retry",
		module + "/queue/internal/audit", module + "/queue/internal/host", module + "/queue/internal/judge", module + "/queue/internal/limits", module + "/queue/internal/results",
	},
	"queue/deadletter": {module + "/internal/nils", module + "/internal/sleep", module + "/limiter", module + "/queue", module + "/retry"},
	"queue/idempotent": {module + "/internal/nils", module + "/limiter", module + "/queue", module + "/queue/internal/results", module + "/retry"},
	"queue/idempotent/dynamostore": {
		module + "/internal/awsconns", module + "/internal/dynamoerr", module + "/internal/nils", module + "/limiter", module + "/queue/idempotent", module + "/retry",
		"github.com/aws/aws-sdk-go-v2/aws", "github.com/aws/aws-sdk-go-v2/service/dynamodb", "github.com/aws/aws-sdk-go-v2/service/dynamodb/types",
	},
	"queue/idempotent/idempotenttest": {module + "/internal/nils", module + "/limiter", module + "/queue", module + "/queue/idempotent", module + "/queue/memqueue"},
	"queue/memqueue":                  {module + "/queue"},
	"queue/queuetest":                 {module + "/internal/nils", module + "/internal/sleep", module + "/queue"},
	"queue/sqsqueue": {
		module + "/internal/awsconns", module + "/internal/awserr", module + "/internal/nils", module + "/internal/sleep", module + "/limiter", module + "/queue",
		module + "/queue/internal/outage", module + "/queue/internal/sqsmessage", module + "/retry",
		"github.com/aws/aws-sdk-go-v2/aws", "github.com/aws/aws-sdk-go-v2/service/sqs", "github.com/aws/aws-sdk-go-v2/service/sqs/types",
		"github.com/aws/smithy-go", "github.com/aws/smithy-go/endpoints", "github.com/aws/smithy-go/transport/http",
	},
	"queue/sqslambda": {
		module + "/internal/nils", module + "/limiter", module + "/queue", module + "/queue/internal/host", module + "/queue/internal/judge", module + "/queue/internal/limits", module + "/queue/internal/outage",
		module + "/queue/internal/sqsmessage", module + "/retry", "github.com/aws/aws-lambda-go/events", "github.com/aws/aws-sdk-go-v2/service/sqs/types",
	},
	"internal/testrun":       {},
	"queue/internal/audit":   {},
	"queue/internal/host":    {module + "/limiter", module + "/queue/internal/judge"},
	"queue/internal/judge":   {module + "/limiter", module + "/queue/internal/results", module + "/retry"},
	"queue/internal/limits":  {module + "/limiter"},
	"queue/internal/outage":  {},
	"queue/internal/results": {},
	"queue/internal/sqsmessage": {
		module + "/queue", module + "/retry", "github.com/aws/aws-sdk-go-v2/aws", "github.com/aws/aws-sdk-go-v2/service/sqs/types",
	},
	"internal/sqsfake": {
		module + "/internal/sleep",
		"github.com/aws/aws-sdk-go-v2/aws", "github.com/aws/aws-sdk-go-v2/service/sqs", // for the ready client
	},
	"internal/lambdalocal": {
		module + "/internal/sleep",
		"github.com/aws/aws-lambda-go/events", "github.com/aws/aws-lambda-go/lambdacontext",
		"github.com/aws/aws-sdk-go-v2/aws", "github.com/aws/aws-sdk-go-v2/service/sqs", "github.com/aws/aws-sdk-go-v2/service/sqs/types",
	},
	"inventory":                  {module + "/internal/nils", module + "/internal/quota", module + "/internal/sendonce", module + "/limiter", module + "/retry"},
	"inventory/inventorytest":    {module + "/inventory"},
	"internal/deps":              {},
	"internal/downstream":        {},
	"internal/awsconns":          {"github.com/aws/aws-sdk-go-v2/aws", "github.com/aws/aws-sdk-go-v2/aws/transport/http"},
	"internal/awserr":            {module + "/limiter", "github.com/aws/smithy-go", "github.com/aws/smithy-go/transport/http"},
	"internal/awserr/awserrtest": {},
	"internal/dynamoerr":         {module + "/internal/awserr", module + "/limiter", "github.com/aws/smithy-go", "github.com/aws/smithy-go/transport/http"},
	"internal/nils":              {},
	"limiter/internal/line":      {},
	"internal/readme":            {},
	"internal/sleep":             {},
	"internal/terminal":          {},
	"internal/permanent":         {},
	"internal/again":             {},
	"internal/quota":             {},
	"internal/sendonce":          {},
}

// mayTest names the packages that are made for tests and may import testing.
var mayTest = []string{"queue/queuetest", "internal/testrun"}

// required are the modules that the root may depend on.
var required = []string{
	"github.com/aws/aws-lambda-go",
	"github.com/aws/aws-sdk-go-v2",
	"github.com/aws/aws-sdk-go-v2/service/dynamodb",
	"github.com/aws/aws-sdk-go-v2/service/sqs",
	"github.com/aws/smithy-go",
	"github.com/aws/aws-sdk-go-v2/internal/configsources",              // of the SDK
	"github.com/aws/aws-sdk-go-v2/internal/endpoints/v2",               // of the SDK
	"github.com/aws/aws-sdk-go-v2/service/internal/accept-encoding",    // of service/dynamodb
	"github.com/aws/aws-sdk-go-v2/service/internal/endpoint-discovery", // of service/dynamodb
	"github.com/cenkalti/backoff/v4",
	"github.com/stretchr/testify",
	"golang.org/x/time",
	"go.yaml.in/yaml/v3", // of testify
}

func goList(t *testing.T, v any, args ...string) func() bool {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list"}, args...)...)
	cmd.Dir = "../.."
	cmd.Env = append(cmd.Environ(), "GOWORK=off")
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("%v: %s", cmd, exit.Stderr)
	}
	require.NoError(t, err)
	d := json.NewDecoder(strings.NewReader(string(out)))
	return func() bool {
		err := d.Decode(v)
		if !errors.Is(err, io.EOF) {
			require.NoError(t, err)
		}
		return err == nil
	}
}

func TestPackagesImportOnlyWhatTheyMay(t *testing.T) {
	type pkg struct {
		ImportPath string
		Imports    []string
	}
	var p pkg
	seen := 0
	next := goList(t, &p, "-json=ImportPath,Imports", "./...")
	for ; next(); p = (pkg{}) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		may, ok := allowed[name]
		require.True(t, ok, "package %s is not in the table of this test: say what it may import", name)
		seen++
		for _, i := range p.Imports {
			first, _, _ := strings.Cut(i, "/")
			switch {
			case i == "testing" || strings.HasPrefix(i, "testing/"):
				require.Contains(t, mayTest, name, "%s imports %s", name, i)
			case strings.Contains(first, "."):
				require.Contains(t, may, i, "%s imports %s", name, i)
			}
		}
	}
	require.Equal(t, len(allowed), seen, "a package of the table is gone")
}

func TestTheRootModuleStaysLight(t *testing.T) {
	cmd := exec.Command("go", "mod", "edit", "-json")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	require.NoError(t, err)
	var file struct{ Require []struct{ Path string } }
	require.NoError(t, json.Unmarshal(out, &file))
	for _, r := range file.Require {
		require.Contains(t, required, r.Path)
	}
	require.Len(t, file.Require, len(required))
}
