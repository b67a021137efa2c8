//go:build unix

package main

import (
	"bufio"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The servers from npm. They are kept in the user's cache directory for the next
// run.
var packages = []string{"fauxqs@1.9.2", "dynalite@4.0.0"}

//go:embed servers.mjs
var serversScript []byte

// install returns a directory with the packages and the script that starts them,
// and creates it if it does not exist.
func install(ctx context.Context, log *Progress) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	cache = filepath.Join(cache, "rampmeter")
	dir := filepath.Join(cache, strings.NewReplacer("@", "-").Replace(strings.Join(packages, "-")))
	script := filepath.Join(dir, "servers.mjs")
	if _, err := os.Stat(dir); err == nil {
		return dir, os.WriteFile(script, serversScript, 0o600)
	}

	log.Say("installing %s from npm, once", strings.Join(packages, " and "))
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(cache, "install-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(fresh) }() // it no longer exists if all went well
	npm := exec.CommandContext(ctx, "npm", append([]string{
		"install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error", "--prefix", fresh,
	}, packages...)...)
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm install: %w: %s (it needs Node.js 20 or later; or start servers yourself, see -help)", err, lastLine(out))
	}
	if err := os.WriteFile(filepath.Join(fresh, "servers.mjs"), serversScript, 0o600); err != nil {
		return "", err
	}
	if err := os.Rename(fresh, dir); err != nil {
		if _, statErr := os.Stat(script); statErr != nil { // no other process was first
			return "", err
		}
	}
	return dir, nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}

// startServer starts one of the servers in dir, as a process that ends when stop is
// called, or when this process ends for any reason.
func startServer(ctx context.Context, dir, what string) (url string, stop func(), err error) {
	cmd := exec.Command("node", "servers.mjs", what)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ctrl-C must not end it: it is needed until the end
	var failure strings.Builder
	cmd.Stderr = &failure
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, fmt.Errorf("start the server for %s: %w", what, err)
	}
	kill := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() }) // while it starts
	line, err := bufio.NewReader(out).ReadString('\n')
	stop = func() {
		_ = in.Close() // it ends now
		late := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		_, _ = io.Copy(io.Discard, out)
		_ = cmd.Wait() // its exit status does not matter
	}
	if !kill() || err != nil {
		stop()
		return "", nil, fmt.Errorf("start the server for %s: %w: %s", what, errors.Join(err, context.Cause(ctx)), lastLine([]byte(failure.String())))
	}
	return strings.TrimSpace(line), stop, nil
}

// serveSecret implements the part of Secrets Manager that the function calls: every
// secret has the given value.
func serveSecret(value string) (url string, stop func(), err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("start the server for secrets: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			ID string `json:"SecretId"`
		}
		if r.Header.Get("X-Amz-Target") != "secretsmanager.GetSecretValue" || json.NewDecoder(r.Body).Decode(&in) != nil {
			http.Error(w, `{"__type":"InvalidRequestException"}`, http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		_ = json.NewEncoder(w).Encode(map[string]string{"Name": in.ID, "SecretString": value}) // it fails only when the client has gone
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ln) // until it is closed, as its error says
	}()
	return "http://" + ln.Addr().String(), func() {
		_ = server.Close() // no caller is left
		<-done
	}, nil
}
