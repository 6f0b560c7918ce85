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
func (p *plan) onKafka(ctx context.Context, f func(addr string) error) error {
	return p.onBrokers(ctx, 1, f)
}

// onBrokers does it with one broker or three.
func (p *plan) onBrokers(ctx context.Context, brokers int, f func(addrs string) error) (err error) {
	args := []string{"--port", strconv.Itoa(p.port), "--dir", filepath.Join(p.dir, "kafka"), "--brokers", strconv.Itoa(brokers)}
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
	addrs := make([]string, brokers)
	for i := range addrs {
		addrs[i] = "127.0.0.1:" + strconv.Itoa(p.port+2*i)
	}
	return f(strings.Join(addrs, ","))
}

// brokerPID returns the process id of the broker that onKafka started.
func (p *plan) brokerPID() (int, error) {
	text, err := os.ReadFile(filepath.Join(p.dir, "kafka", "broker-1", "pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}
