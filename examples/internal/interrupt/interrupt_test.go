package interrupt_test

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/examples/internal/interrupt"
)

func TestSay(t *testing.T) {
	what := func() string { return "waiting up to 3s for Godot" }
	var said bytes.Buffer
	ctx, end := context.WithCancel(t.Context())
	interrupt.Say(ctx, &said, what)()
	require.Empty(t, said.String(), "done before the end")
	done := interrupt.Say(ctx, &said, what)
	end()
	done()
	require.Equal(t, "waiting up to 3s for Godot; press Ctrl-C again to stop now\n", said.String())
	interrupt.Say(ctx, &said, what)()
	require.Equal(t, 1, bytes.Count(said.Bytes(), []byte("\n")), "after the end")
}

func TestContext(t *testing.T) {
	ctx, stop := interrupt.Context()
	defer stop()
	self, err := os.FindProcess(os.Getpid())
	require.NoError(t, err)
	require.NoError(t, self.Signal(os.Interrupt))
	<-ctx.Done()
	require.ErrorContains(t, context.Cause(ctx), "interrupt")

	other, stop := interrupt.Context()
	stop()
	<-other.Done()
}
