package embedded

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/millrace/millrace/platform/fault"
)

func start(t *testing.T, o Options) *Broker {
	t.Helper()
	b, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func client(t *testing.T, addr string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	k, err := kgo.NewClient(append(opts, kgo.SeedBrokers(addr))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func createTopic(t *testing.T, k *kgo.Client, name string) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, 1, 1
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(t.Context(), k)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// read returns the first n values of a topic.
func read(t *testing.T, addr, topic string, n int) []string {
	t.Helper()
	k := client(t, addr, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(0)}}))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out []string
	for len(out) < n && ctx.Err() == nil {
		for _, r := range k.PollFetches(ctx).Records() {
			out = append(out, string(r.Value))
		}
	}
	return out
}

func TestKeepsData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "kafka")
	b := start(t, Options{Dir: dir})
	addr := b.Addr()
	k := client(t, addr)
	createTopic(t, k, "kept")
	for _, v := range []string{"1", "2", "3"} {
		if err := k.ProduceSync(t.Context(), &kgo.Record{Topic: "kept", Value: []byte(v)}).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	k.Close()
	b.Close()
	b.Close()
	again := start(t, Options{Dir: dir, Addr: addr, Sync: true})
	if again.Addr() != addr {
		t.Errorf("address %s, want %s", again.Addr(), addr)
	}
	if got := strings.Join(read(t, addr, "kept", 3), ","); got != "1,2,3" {
		t.Errorf("read %q after a restart", got)
	}
}

// The broker runs in a process of its own, which is killed as soon as it has acknowledged.
func TestSurvivesKill(t *testing.T) {
	if dir := os.Getenv("EMBEDDED_TEST_DIR"); dir != "" {
		b := start(t, Options{Dir: dir})
		k := client(t, b.Addr())
		createTopic(t, k, "kept")
		for _, v := range []string{"1", "2", "3"} {
			if err := k.ProduceSync(t.Context(), &kgo.Record{Topic: "kept", Value: []byte(v)}).FirstErr(); err != nil {
				t.Fatal(err)
			}
		}
		self, _ := os.FindProcess(os.Getpid())
		_ = self.Kill()
		<-t.Context().Done()
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSurvivesKill$")
	cmd.Env = append(os.Environ(), "EMBEDDED_TEST_DIR="+dir)
	if out, err := cmd.CombinedOutput(); err == nil || strings.Contains(string(out), "FAIL") {
		t.Fatalf("the process was not killed: %v\n%s", err, out)
	}
	b := start(t, Options{Dir: dir})
	if got := strings.Join(read(t, b.Addr(), "kept", 3), ","); got != "1,2,3" {
		t.Errorf("read %q after a kill", got)
	}
}

func TestNoTopicByItself(t *testing.T) {
	b := start(t, Options{})
	k := client(t, b.Addr(), kgo.AllowAutoTopicCreation(), kgo.UnknownTopicRetries(1))
	if err := k.ProduceSync(t.Context(), &kgo.Record{Topic: "typo", Value: []byte("x")}).FirstErr(); !errors.Is(err, kerr.UnknownTopicOrPartition) {
		t.Errorf("a record to a topic that is not there: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := t.TempDir()
	start(t, Options{Dir: open})
	damaged := t.TempDir()
	if err := os.WriteFile(filepath.Join(damaged, "meta.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		options Options
		want    error
		text    []string
	}{
		"port in use":  {Options{Addr: l.Addr().String()}, ErrAddress, []string{port, "--kafka-addr"}},
		"no port":      {Options{Addr: "127.0.0.1"}, ErrAddress, []string{"--kafka-addr"}},
		"port name":    {Options{Addr: "127.0.0.1:kafka"}, ErrAddress, []string{"--kafka-addr"}},
		"port range":   {Options{Addr: "127.0.0.1:70000"}, ErrAddress, []string{"--kafka-addr"}},
		"dir is file":  {Options{Dir: filepath.Join(file, "x")}, ErrData, []string{"--data-dir", file}},
		"dir is open":  {Options{Dir: open}, ErrData, []string{open, "another process", "--data-dir"}},
		"damaged data": {Options{Dir: damaged}, ErrData, []string{damaged}},
	} {
		b, err := Start(c.options)
		if err == nil {
			b.Close()
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
			continue
		}
		for _, s := range c.text {
			if text := fault.Lines(err); !strings.Contains(text, s) {
				t.Errorf("%s: %q does not name %s", name, text, s)
			}
		}
	}
}
