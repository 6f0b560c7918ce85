package sim

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/estest/check"
)

var everyCodes = flag.Int("sim.every-codes", 12, "play every so many of the error codes; 1 = all")

// TestEveryCode has brokers answer each request that the platform sends with each error code that Kafka has. Whatever follows, a retry, a
// refusal or the end of the process, commands are served again within a minute, none is lost and none made twice.
func TestEveryCode(t *testing.T) {
	for _, key := range slices.Compact(slices.Sorted(slices.Values(keys))) {
		t.Run(key.Name(), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var report *Report
			synctest.Test(t, func(t *testing.T) { report = everyCode(t, key, dir) })
			report.judge()
			t.Logf("%d events, %d claims, %d processes ended by themselves, %v", report.Events, report.Claims, report.Exits, report.Outcomes)
			for _, v := range report.Violations {
				t.Error(v)
			}
		})
	}
}

// everyCode plays all codes of one request, one after the other, to one instance.
func everyCode(t *testing.T, key kmsg.Key, dir string) *Report {
	plan := schedule{seed: uint64(key), nodes: 1, brokers: 3, partitions: 1, streams: 1, lease: time.Second, latency: time.Millisecond, running: 1, grouped: true,
		steps: []step{{kind: "error", key: key}}}
	c, err := newCluster(plan.brokers, topicName, plan.partitions)
	if err != nil {
		t.Fatal(err)
	}
	defer c.kafka.Close()
	s := &simulation{schedule: plan, cluster: c, rec: &recorder{began: time.Now()}, report: &Report{Faults: map[string]int{}, Outcomes: map[check.Outcome]int{}}}
	s.control = newLink(c.network, plan.seed, 1<<40, time.Millisecond)
	set := settings{seed: plan.seed, memory: contract.NewMemory(), lease: plan.lease, most: plan.latency, group: group, logger: slog.New(slog.DiscardHandler)}
	n := &node{name: "node-0", dir: filepath.Join(dir, "node-0"), cluster: c, set: set}
	s.nodes = []*node{n}
	s.load = &workload{nodes: s.nodes, auditor: &node{name: "auditor-9", dir: filepath.Join(dir, "auditor"), cluster: c, set: set}, rec: s.rec,
		versions: map[string]int64{}, streams: []string{"account"}}
	ctx := context.Background()
	n.start(ctx)
	send := func(id string) {
		w := sent{stream: "account", id: id, payload: request{Credit: 1, Times: 1}}
		s.load.sent = append(s.load.sent, w)
		s.persist(n, id, func() check.Outcome { return s.load.send(ctx, "client", n, w, 5*time.Second) })
	}
	send("first")
	for i, code := range codes() {
		if i%*everyCodes != int(key)%*everyCodes {
			continue
		}
		refusal := kerr.TypedErrorForCode(int16(code)) //nolint:gosec // a code
		var h *kfake.FaultHandle
		if key == kmsg.InitProducerID {
			c.coordinator.fail(refusal, 2)
		} else {
			h = c.kafka.Fault(kfake.Fault{Keys: []kmsg.Key{key}, Err: refusal, Count: 2})
		}
		// Everything that an instance asks at its beginning is asked again, too.
		l := n.link()
		l.set(func(l *link) { l.cut("") })
		if i/(*everyCodes)%4 == 0 || key == kmsg.InitProducerID {
			if err := n.kill(false); err != nil {
				t.Fatal(err)
			}
			n.start(ctx)
		}
		send(fmt.Sprint("after-", code))
		if h != nil {
			h.Remove()
		}
		c.coordinator.heal()
	}
	s.settle(ctx)
	if err := s.collect(ctx); err != nil {
		t.Fatal(err)
	}
	return s.report
}
