package nils_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rampmeter/rampmeter/internal/nils"
)

func TestIs(t *testing.T) {
	var err error = (*wrapped)(nil)
	for want, v := range map[string]any{
		"nil":                        nil,
		"nil (a *nils_test.wrapped)": err,
		"nil (a func())":             (func())(nil),
		"nil (a map[string]int)":     map[string]int(nil),
		"nil (a chan int)":           (chan int)(nil),
	} {
		require.True(t, nils.Is(v), want)
		require.Equal(t, want, nils.Describe(v))
	}
	for _, v := range []any{0, "", struct{}{}, wrapped{}, &wrapped{}, func() {}, map[string]int{}, []int(nil), make(chan int)} {
		require.False(t, nils.Is(v), fmt.Sprintf("%T", v))
	}
}

func TestIsAllocatesNothing(t *testing.T) {
	var err error = &wrapped{errors.New("x")}
	require.Zero(t, testing.AllocsPerRun(100, func() { nils.Is(err) }))
}

type wrapped struct{ error }
