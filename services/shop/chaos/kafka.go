package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// brokers is how many brokers the cluster has: with fewer, nothing is replicated.
const brokers = 3

// A cluster is a real Kafka on loopback.
type cluster struct {
	script string // deploy/kafka/kafka.sh
	port   int    // of the first broker; each takes two
	dir    string

	mu    sync.Mutex
	admin *kadm.Client
}

// addrs returns the brokers' addresses.
func (c *cluster) addrs() []string {
	var all []string
	for i := range brokers {
		all = append(all, c.addr(i))
	}
	return all
}

func (c *cluster) addr(i int) string { return "127.0.0.1:" + strconv.Itoa(c.port+2*i) }

// run runs the script. The brokers notice sooner than by default that one of them is gone, so that more can happen in an hour.
func (c *cluster) run(ctx context.Context, command string) error {
	cmd := exec.CommandContext(ctx, c.script, command, "--port", strconv.Itoa(c.port), "--dir", c.dir, "--brokers", strconv.Itoa(brokers),
		"--set", "broker.session.timeout.ms=3000", "--set", "broker.heartbeat.interval.ms=500", "--set", "replica.lag.time.max.ms=4000") //nolint:gosec // the project's own script
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kafka.sh %s: %w\n%s", command, err, text)
	}
	return nil
}

// start starts every broker that does not run, and waits until all answer.
func (c *cluster) start(ctx context.Context) error { return c.run(ctx, "start") }

// signal sends a signal to a broker.
func (c *cluster) signal(i int, s syscall.Signal) error {
	text, err := os.ReadFile(filepath.Join(c.dir, fmt.Sprint("broker-", i+1), "pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	return syscall.Kill(pid, s)
}

// client returns the connection of the nemesis itself.
func (c *cluster) client() (*kadm.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.admin == nil {
		k, err := kgo.NewClient(kgo.SeedBrokers(c.addrs()...), kgo.RetryTimeout(5*time.Second))
		if err != nil {
			return nil, err
		}
		c.admin = kadm.NewClient(k)
	}
	return c.admin, nil
}

// ready waits until every broker is registered.
func (c *cluster) ready(ctx context.Context) error {
	admin, err := c.client()
	if err != nil {
		return err
	}
	for {
		b, err := admin.ListBrokers(ctx)
		if err == nil && len(b) == brokers {
			return nil
		}
		pause(ctx, 200*time.Millisecond)
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
}

// moveLeaders gives some partitions of a topic another order of replicas, and has the first of them lead.
func (c *cluster) moveLeaders(ctx context.Context, topic string, rng *rand.Rand) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	admin, err := c.client()
	if err != nil {
		return err
	}
	details, err := admin.ListTopics(ctx, topic)
	if err != nil {
		return err
	}
	var change kadm.AlterPartitionAssignmentsReq
	set := kadm.TopicsSet{}
	for _, p := range details[topic].Partitions {
		if rng.IntN(3) > 0 || len(p.Replicas) != brokers {
			continue
		}
		order := append([]int32(nil), p.Replicas...)
		rng.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
		change.Assign(topic, p.Partition, order)
		set.Add(topic, p.Partition)
	}
	if len(set) == 0 {
		return nil
	}
	if _, err := admin.AlterPartitionAssignments(ctx, change); err != nil {
		return err
	}
	_, err = admin.ElectLeaders(ctx, kadm.ElectPreferredReplica, set)
	return err
}

// reset resets every connection to a broker on this machine, those between the brokers among them.
func (c *cluster) reset(ctx context.Context, i int) error {
	text, err := exec.CommandContext(ctx, "ss", "-K", "-t", "dst", "127.0.0.1", "dport", "=", ":"+strconv.Itoa(c.port+2*i)).CombinedOutput() //nolint:gosec // numbers
	if err != nil {
		return fmt.Errorf("ss -K: %w\n%s", err, text)
	}
	return nil
}

// canReset finds out whether this machine lets connections be reset from outside.
func canReset(ctx context.Context) bool {
	return os.Geteuid() == 0 && exec.CommandContext(ctx, "ss", "-K", "-t", "dst", "127.0.0.1", "dport", "=", ":1").Run() == nil
}
