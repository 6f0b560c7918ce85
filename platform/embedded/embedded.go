// Package embedded runs a Kafka broker inside the process: franz-go's kfake on loopback, with its log on disk. It is for development and
// tests; it speaks the Kafka protocol, so every Kafka tool works with it, but it replicates nothing, and it
// keeps the producers' time stamps where a topic asks for its own.
package embedded

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/millrace/millrace/platform/fault"
)

// The reasons why a broker does not start.
var (
	// ErrAddress is returned when the address cannot be listened on.
	ErrAddress = fault.New(fault.Unavailable, "kafka_address_unusable", "the embedded Kafka cannot listen")
	// ErrData is returned when the data directory cannot be used.
	ErrData = fault.New(fault.Unavailable, "kafka_data_unusable", "the embedded Kafka cannot use its data directory")
)

// Options set up a Broker.
type Options struct {
	Dir  string // where the log is kept; "" keeps nothing
	Addr string // host:port to listen on, port 0 picks one; 127.0.0.1:0 by default
	Sync bool   // fsync every append: survives a power cut, not only a kill
}

// A Broker is a running broker.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	locked  *os.File
	close   sync.Once
}

// Start starts a broker, or returns ErrAddress or ErrData.
func Start(o Options) (*Broker, error) {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	host, port, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return nil, ErrAddress.Because("%q is not host:port", o.Addr).WithFix("give one with --kafka-addr, e.g. 127.0.0.1:9092").Wrap(err)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return nil, ErrAddress.Because("%q has no port number", o.Addr).WithFix("give one with --kafka-addr, e.g. 127.0.0.1:9092")
	}
	// The port is taken here and not by kfake, so that its failure is told apart from every other.
	listener, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, ErrAddress.Because("port %s of %s is not free", port, host).
			WithFix("stop what uses it, or give another address with --kafka-addr (port 0 picks a free one)").Wrap(err)
	}
	opts := []kfake.Opt{
		kfake.NumBrokers(1),
		kfake.Ports(listener.Addr().(*net.TCPAddr).Port),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return listener, nil }),
		kfake.BrokerConfigs(map[string]string{"default.replication.factor": "1"}),
	}
	var locked *os.File
	if o.Dir != "" {
		if locked, err = lockDir(o.Dir); err != nil {
			_ = listener.Close()
			return nil, err
		}
		opts = append(opts, kfake.DataDir(o.Dir))
	}
	if o.Sync {
		opts = append(opts, kfake.SyncWrites())
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		_ = listener.Close()
		_ = locked.Close() // a nil file is closed already
		return nil, ErrData.Because("the log in %q cannot be opened", o.Dir).
			WithFix("restore the directory from a backup, or move it away to start empty").Wrap(err)
	}
	return &Broker{cluster: cluster, addr: cluster.ListenAddrs()[0], locked: locked}, nil
}

// lockDir creates the directory and takes it for this process: two brokers would write over each other.
func lockDir(dir string) (*os.File, error) {
	unusable := ErrData.WithFix("give another directory with --data-dir")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, unusable.Because("%s cannot be created", dir).Wrap(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "millrace.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, unusable.Because("%s cannot be written", dir).Wrap(err)
	}
	if err := lock(f); err != nil {
		_ = f.Close()
		return nil, ErrData.Because("another process has %s open", dir).
			WithFix("stop it, or give another directory with --data-dir").Wrap(err)
	}
	return f, nil
}

// Addr returns the broker's address, host:port.
func (b *Broker) Addr() string { return b.addr }

// Close stops the broker and writes its state.
func (b *Broker) Close() {
	b.close.Do(func() {
		b.cluster.Close()
		_ = b.locked.Close() // nothing was written to it
	})
}
