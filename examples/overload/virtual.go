package main

import (
	"context"
	"flag"
	"os"
	"testing" // a bubble needs a test to run in
	"testing/synctest"
)

// inVirtualTime ends the program with what f returns. Within f it is midnight, at
// the beginning of the year 2000, and time goes on as soon as every goroutine
// waits for it. Nothing has to be known of that elsewhere, least of all by the
// limiters; without it the same story would take as long as it says.
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
