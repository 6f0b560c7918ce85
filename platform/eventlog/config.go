package eventlog

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/millrace/millrace/platform/es"
)

// A Config sets up a Client. Zero fields mean the default that is named; only Brokers must be given.
type Config struct {
	Brokers    []string     // host:port of one or more brokers
	Env        string       // leads every transactional id, so that environments can share a cluster; "dev"
	ClientID   string       // in the brokers' logs and quotas; "millrace"
	Production bool         // refuse topics that can lose acknowledged events with one broker
	Logger     *slog.Logger // discards by default
	// Dial opens connections; net.Dialer by default.
	Dial func(ctx context.Context, network, host string) (net.Conn, error)

	// RequestTimeout is how long the broker may wait for its followers before it answers an append; 2 s. Longer means that one
	// sick partition holds up, once, the others that were sent with it; shorter means more repetitions.
	RequestTimeout time.Duration
	// ConnectionTimeout is how much longer than that the client waits for any answer, and how long for a connection; 3 s.
	ConnectionTimeout time.Duration
	// Backoff and BackoffMax bound the pause before an append is repeated, doubling from the one to the other; 20 ms, 500 ms.
	Backoff, BackoffMax time.Duration
	// TopicMissing is how long a topic may be missing in the brokers' answers before its log counts as gone; 3 s. Brokers learn of
	// a new topic one after the other.
	TopicMissing time.Duration
	// ProducerIDExpiration is the brokers' producer.id.expiration.ms; by default they are asked, and Kafka's default is 24 h.
	// An idle owner writes a barrier after a quarter of it, and stops for good when it was silent for half of it.
	ProducerIDExpiration time.Duration
	// TransactionalIDExpiration is the brokers' transactional.id.expiration.ms; by default they are asked; Kafka's is 7 days.
	// The producer id is renewed after a quarter of it.
	TransactionalIDExpiration time.Duration
	// FetchWait is how long a broker holds a fetch that finds nothing; 500 ms. It costs no latency, only idle requests.
	FetchWait time.Duration
	// FetchBytes bounds one fetch of one Source over all partitions, in bytes; 2 MiB. What is fetched is decoded in one go, and then read: more
	// than fits into the processor's caches costs more time and memory.
	FetchBytes int32

	// The hooks feed metrics; each is called on the goroutine at work, must not block, and may be nil.
	OnAppend func(tp es.TopicPartition, records, bytes int, took time.Duration) // an append was acknowledged
	OnResend func(tp es.TopicPartition, reason error)                           // an append is repeated
	OnLost   func(tp es.TopicPartition, reason error)                           // an owner may not append any more
	OnRogue  func(at es.Position, producerID int64, epoch int16)                // a reader dropped a record that is not the owner's
}

// defaults returns cfg with its zero fields filled in, or every fault of it in one error.
func (cfg Config) defaults() (Config, error) {
	set := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if cfg.Env == "" {
		cfg.Env = "dev"
	}
	if cfg.ClientID == "" {
		cfg.ClientID = "millrace"
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	set(&cfg.RequestTimeout, 2*time.Second)
	set(&cfg.ConnectionTimeout, 3*time.Second)
	set(&cfg.Backoff, 20*time.Millisecond)
	set(&cfg.BackoffMax, 500*time.Millisecond)
	set(&cfg.TopicMissing, 3*time.Second)
	set(&cfg.FetchWait, 500*time.Millisecond)
	if cfg.FetchBytes == 0 {
		cfg.FetchBytes = 2 << 20
	}
	var faults []string
	if len(cfg.Brokers) == 0 {
		faults = append(faults, "no broker is named")
	}
	for _, b := range cfg.Brokers {
		if _, port, err := net.SplitHostPort(b); err != nil || port == "" {
			faults = append(faults, "the broker address "+b+" is not host:port")
		}
	}
	if strings.ContainsAny(cfg.Env, "/ \t\r\n") {
		faults = append(faults, "the environment name holds a slash or a space")
	}
	for _, d := range []struct {
		name     string
		value    time.Duration
		low, top time.Duration
	}{
		{"RequestTimeout", cfg.RequestTimeout, 10 * time.Millisecond, time.Minute},
		{"ConnectionTimeout", cfg.ConnectionTimeout, 100 * time.Millisecond, time.Minute},
		{"Backoff", cfg.Backoff, time.Millisecond, time.Minute},
		{"BackoffMax", cfg.BackoffMax, cfg.Backoff, time.Minute},
		{"TopicMissing", cfg.TopicMissing, time.Millisecond, time.Minute},
		{"ProducerIDExpiration", cfg.ProducerIDExpiration, 0, 1 << 62},
		{"TransactionalIDExpiration", cfg.TransactionalIDExpiration, 0, 1 << 62},
		{"FetchWait", cfg.FetchWait, time.Millisecond, time.Minute},
	} {
		if d.value < d.low || d.value > d.top {
			faults = append(faults, d.name+" "+d.value.String()+" is out of range")
		}
	}
	if len(faults) > 0 {
		return cfg, ErrConfig.Because("%s", strings.Join(faults, "; "))
	}
	return cfg, nil
}
