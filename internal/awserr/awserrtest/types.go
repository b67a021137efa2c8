// Package awserrtest lists the errors of the AWS SDK, so that a test can account
// for each of them.
package awserrtest

import (
	"fmt"
	"go/ast"
	"go/build"
	"go/parser"
	"go/token"
	"path/filepath"
)

// Types returns the names of the error types in the package of a service's types,
// for example "github.com/aws/aws-sdk-go-v2/service/sqs/types". It fails if the
// package's source is missing, or has no errors.
func Types(path string) ([]string, error) {
	p, err := build.Import(path, ".", build.FindOnly)
	if err != nil {
		return nil, fmt.Errorf("awserrtest: find package %s: %w", path, err)
	}
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, "errors.go"), nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("awserrtest: read package %s: %w", path, err)
	}
	var names []string
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Name.Name != "ErrorCode" {
			continue
		}
		if pointer, ok := f.Recv.List[0].Type.(*ast.StarExpr); ok {
			names = append(names, fmt.Sprint(pointer.X))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("awserrtest: package %s has no errors", path)
	}
	return names, nil
}
