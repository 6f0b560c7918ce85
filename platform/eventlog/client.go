package eventlog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Kafka's defaults of what a broker does not tell.
const (
	defaultProducerIDExpiration      = 24 * time.Hour
	defaultTransactionalIDExpiration = 7 * 24 * time.Hour
)

// A Client is a connection to a Kafka cluster, through which partitions are claimed and read. It is safe for concurrent use.
type Client struct {
	cfg    Config
	kafka  *kgo.Client
	admin  *kadm.Client
	routes routes
	// reached is set once a broker has answered.
	reached atomic.Bool
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	work    sync.WaitGroup // senders, repetitions and upkeep

	mu      sync.Mutex
	closed  bool
	side    *kgo.Client // opened for the first append that needs repeating
	senders map[int32]*sender
	owners  map[*Owner]struct{}
	sources map[*Source]struct{}
}

// Open connects to the cluster. It returns ErrConfig for unusable settings, and ErrUnreachable if no broker answers before ctx ends
// or 10 s are over.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	cfg, err := cfg.defaults()
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, senders: map[int32]*sender{}, owners: map[*Owner]struct{}{}, sources: map[*Source]struct{}{}}
	c.kafka, err = kgo.NewClient(c.options()...)
	if err != nil {
		return nil, ErrConfig.Wrap(err)
	}
	c.admin = kadm.NewClient(c.kafka)
	c.routes.client = c
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := c.reach(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// options are common to all of the client's connections.
func (c *Client) options() []kgo.Opt {
	o := []kgo.Opt{
		kgo.SeedBrokers(c.cfg.Brokers...),
		kgo.ClientID(c.cfg.ClientID),
		kgo.DialTimeout(c.cfg.ConnectionTimeout),
		kgo.RequestTimeoutOverhead(c.cfg.ConnectionTimeout),
		kgo.MetadataMinAge(100 * time.Millisecond),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.WithLogger(kafkaLogger{c.cfg.Logger, &c.reached}),
		kgo.RetryBackoffFn(func(tries int) time.Duration { return min(20*time.Millisecond<<min(tries, 10), 500*time.Millisecond) }),
		kgo.RetryTimeout(10 * time.Second),
		kgo.MaxDecompressBatchBytes(64 << 20),
	}
	if c.cfg.Dial != nil {
		o = append(o, kgo.Dialer(c.cfg.Dial))
	}
	return o
}

// reach waits for a broker and learns how long the cluster remembers producers.
func (c *Client) reach(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := c.kafka.Ping(ctx)
		if err == nil {
			c.reached.Store(true)
			return c.learn(ctx)
		}
		select {
		case <-ctx.Done():
			return ErrUnreachable.Because("none of %s answers", strings.Join(c.cfg.Brokers, ", ")).
				WithFix("start Kafka there, or give the right address with --kafka-brokers or MILLRACE_KAFKA_BROKERS").Wrap(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// learn takes the smallest expiration times of all brokers, where the settings do not say.
func (c *Client) learn(ctx context.Context) error {
	brokers, err := c.admin.ListBrokers(ctx)
	if err != nil {
		return ErrUnreachable.Because("the cluster of %s does not list its brokers", strings.Join(c.cfg.Brokers, ", ")).Wrap(err)
	}
	found := map[string]time.Duration{}
	if configs, err := c.admin.DescribeBrokerConfigs(ctx, brokers.NodeIDs()...); err == nil {
		for _, b := range configs {
			for _, s := range b.Configs {
				if s.Key != "producer.id.expiration.ms" && s.Key != "transactional.id.expiration.ms" || s.Value == nil {
					continue
				}
				ms, err := strconv.ParseInt(*s.Value, 10, 64)
				if err != nil || ms <= 0 {
					continue
				}
				if old, ok := found[s.Key]; !ok || time.Duration(ms)*time.Millisecond < old {
					found[s.Key] = time.Duration(ms) * time.Millisecond
				}
			}
		}
	} else {
		c.cfg.Logger.Warn("the brokers do not tell their settings; Kafka's defaults are assumed", "error", err)
	}
	pick := func(name, key string, set *time.Duration, fallback time.Duration) error {
		told, ok := found[key]
		switch {
		case *set == 0 && ok:
			*set = told
		case *set == 0:
			*set = fallback
		case ok && *set > told:
			return ErrConfig.Because("%s is %v, but the brokers forget after %v (%s)", name, *set, told, key).
				WithFix("leave %s unset, or raise %s", name, key)
		}
		return nil
	}
	return errors.Join(
		pick("ProducerIDExpiration", "producer.id.expiration.ms", &c.cfg.ProducerIDExpiration, defaultProducerIDExpiration),
		pick("TransactionalIDExpiration", "transactional.id.expiration.ms", &c.cfg.TransactionalIDExpiration, defaultTransactionalIDExpiration))
}

// Close gives up all owners and sources of the client and closes its connections. Appends that are under way end as ErrOutcome or,
// where nothing was sent, as ErrFenced.
func (c *Client) Close() {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	owners, sources, side := slices.Collect(maps.Keys(c.owners)), slices.Collect(maps.Keys(c.sources)), c.side
	c.mu.Unlock()
	for _, o := range owners {
		o.Release()
	}
	for _, s := range sources {
		s.Close()
	}
	c.cancel()
	c.kafka.Close()
	if side != nil {
		side.Close()
	}
	c.work.Wait()
}

// start runs f on a goroutine that Close waits for; it reports false, and does nothing, if the client is closed.
func (c *Client) start(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.work.Go(f)
	return true
}

// startOr runs f as start does, or, if the client is closed, instead of it on a goroutine of its own.
func (c *Client) startOr(f, instead func()) {
	if !c.start(f) {
		go instead()
	}
}

// forget ends the books on an owner that has ended.
func (c *Client) forget(o *Owner) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.owners, o)
}

// sideline returns the second connection, over which repeated appends go so that they do not hold up the others: a broker answers
// the requests of one connection one after the other.
func (c *Client) sideline() (*kgo.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrReleased.Because("the client is closed")
	}
	if c.side == nil {
		side, err := kgo.NewClient(c.options()...)
		if err != nil {
			return nil, ErrConfig.Wrap(err)
		}
		c.side = side
	}
	return c.side, nil
}

// initProducerID bumps the epoch of a transactional id: of whoever has it if pid is -1, else only if (pid, epoch) still has it.
func (c *Client) initProducerID(ctx context.Context, id string, pid int64, epoch int16) (int64, int16, error) {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.TransactionalID = &id
	req.TransactionTimeoutMillis = 60_000 // of no transaction: none is ever begun
	req.ProducerID, req.ProducerEpoch = pid, epoch
	for pause := c.cfg.Backoff; ; pause = min(2*pause, c.cfg.BackoffMax) {
		resp, err := req.RequestWith(ctx, c.kafka)
		if err == nil {
			err = kerr.ErrorForCode(resp.ErrorCode)
		}
		if err == nil {
			return resp.ProducerID, resp.ProducerEpoch, nil
		}
		if ctx.Err() != nil || errors.Is(err, kgo.ErrClientClosed) || !kerr.IsRetriable(err) && !errors.Is(err, kerr.ConcurrentTransactions) {
			return 0, 0, fmt.Errorf("InitProducerId %s: %w", id, err)
		}
		select {
		case <-ctx.Done():
			return 0, 0, fmt.Errorf("InitProducerId %s: %w", id, err)
		case <-time.After(pause):
		}
	}
}

// kafkaLogger passes kgo's warnings and errors on; its info lines are too many. Until a broker was reached they are debug lines: what
// Open returns says it all.
type kafkaLogger struct {
	log     *slog.Logger
	reached *atomic.Bool
}

func (l kafkaLogger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

func (l kafkaLogger) Log(level kgo.LogLevel, msg string, keyvals ...any) {
	switch {
	case !l.reached.Load():
		l.log.Debug("kafka: "+msg, keyvals...)
	case level == kgo.LogLevelError:
		l.log.Error("kafka: "+msg, keyvals...)
	default:
		l.log.Warn("kafka: "+msg, keyvals...)
	}
}
