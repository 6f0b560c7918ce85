package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// onKafka starts a fresh Apache Kafka, calls f with its address, and stops it and removes its data again, whatever happened.
func (p *plan) onKafka(ctx context.Context, f func(addr string) error) (err error) {
	args := []string{"--port", strconv.Itoa(p.port), "--dir", filepath.Join(p.dir, "kafka")}
	script := func(ctx context.Context, command string) error {
		text, err := exec.CommandContext(ctx, p.kafka, append([]string{command}, args...)...).CombinedOutput() //nolint:gosec // the project's own script
		if err != nil {
			return fmt.Errorf("kafka.sh %s: %w\n%s", command, err, text)
		}
		return nil
	}
	defer func() {
		if e := script(context.WithoutCancel(ctx), "clean"); err == nil {
			err = e
		}
	}()
	if err := script(ctx, "start"); err != nil {
		return err
	}
	return f("127.0.0.1:" + strconv.Itoa(p.port))
}

// brokerPID returns the process id of the broker that onKafka started.
func (p *plan) brokerPID() (int, error) {
	text, err := os.ReadFile(filepath.Join(p.dir, "kafka", "broker-1", "pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
