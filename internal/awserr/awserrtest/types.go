// Package awserrtest lists the errors of the AWS SDK, so that a test can account
// for each of them.
package awserrtest

import (
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Types returns the names of the error types in the package of a service's types,
// for example "github.com/aws/aws-sdk-go-v2/service/sqs/types".
func Types(t *testing.T, path string) []string {
	t.Helper()
	p, err := build.Import(path, ".", build.FindOnly)
	require.NoError(t, err)
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, "errors.go"), nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	var names []string
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Name.Name == "ErrorCode" {
			names = append(names, f.Recv.List[0].Type.(*ast.StarExpr).X.(*ast.Ident).Name)
		}
	}
	require.NotEmpty(t, names)
	return names
}
