package main

import (
	"context"
	"flag"
	"os"
	"testing" // a bubble needs a test to run in
	"testing/synctest"
)

// inVirtualTime ends the program with the exit code that f returns. Within f time
// starts at midnight, at the beginning of the year 2000, and advances as soon as every
// goroutine waits for it. No other code, least of all the limiters, depends on that;
// without it the same story would take its full length.
func inVirtualTime(f func(ctx context.Context) (code int)) {
	os.Args = os.Args[:1] // the flags have been read
	testing.Init()
	flag.Parse()
	testing.Main(func(string, string) (bool, error) { return true, nil }, []testing.InternalTest{{
		Name: "overload",
		F: func(t *testing.T) {
			var code int
			synctest.Test(t, func(t *testing.T) { code = f(t.Context()) })
			os.Exit(code) // before the framework has its say
		},
	}}, nil, nil)
}
