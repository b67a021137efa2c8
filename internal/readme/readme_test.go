// Package readme_test keeps the README true: its program compiles, and is as
// short as it says.
package readme_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// program returns the README's first Go program.
func program(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	_, rest, ok := strings.Cut(string(readme), "```go\n")
	require.True(t, ok, "README.md has no Go program")
	code, _, ok := strings.Cut(rest, "```")
	require.True(t, ok)
	return code
}

func TestTheProgramCompiles(t *testing.T) {
	dir := t.TempDir()
	source := filepath.Join(dir, "main.go")
	require.NoError(t, os.WriteFile(source, []byte(program(t)), 0o600))
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	// As if it stood in this module, but without leaving a file there.
	overlay, err := json.Marshal(map[string]map[string]string{
		"Replace": {filepath.Join(root, "internal", "readme", "program", "main.go"): source},
	})
	require.NoError(t, err)
	overlayFile := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(overlayFile, overlay, 0o600))
	cmd := exec.Command("go", "build", "-overlay", overlayFile, "-o", filepath.Join(dir, "program"), "./internal/readme/program")
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func TestTheProgramIsShort(t *testing.T) {
	lines := 0
	for line := range strings.Lines(program(t)) {
		if strings.TrimSpace(line) != "" {
			lines++
		}
	}
	require.Less(t, lines, 25)
}
