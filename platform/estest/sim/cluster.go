package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// firstPort is the port of the first broker in the virtual network.
const firstPort = 9092

// A cluster is the Kafka of a simulation.
type cluster struct {
	kafka       *kfake.Cluster
	network     *network
	coordinator *coordinator
	brokers     []string // their addresses, by node id
	topic       string
	partitions  int32

	mu   sync.Mutex
	down map[int32]bool
}

// newCluster starts brokers and makes the topic.
func newCluster(brokers int, topic string, partitions int32) (*cluster, error) {
	c := &cluster{network: &network{}, coordinator: newCoordinator(), topic: topic, partitions: partitions, down: map[int32]bool{}}
	var ports []int
	for i := range brokers {
		ports = append(ports, firstPort+i)
		c.brokers = append(c.brokers, fmt.Sprintf("localhost:%d", firstPort+i))
	}
	var err error
	c.kafka, err = kfake.NewCluster(kfake.Ports(ports...), kfake.ListenFn(c.network.Listen), kfake.BrokerConfigs(map[string]string{"default.replication.factor": "1"}))
	if err != nil {
		return nil, err
	}
	c.kafka.ControlKey(int16(kmsg.InitProducerID), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.kafka.KeepControl()
		return c.coordinator.answer(req.(*kmsg.InitProducerIDRequest)), nil, true
	})
	settings := map[string]string{"message.timestamp.type": "LogAppendTime", "cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
	if err := c.kafka.CreateTopic(topic, partitions, settings); err != nil {
		c.kafka.Close()
		return nil, err
	}
	for p := range partitions {
		c.lead(p, p%int32(brokers)) //nolint:gosec // few
	}
	return c, nil
}

// lead moves the leadership of a partition.
func (c *cluster) lead(partition, broker int32) {
	if err := c.kafka.MoveTopicPartition(c.topic, partition, broker); err != nil {
		panic(fmt.Sprintf("sim: move a partition that is there to a broker that is there: %v", err))
	}
}

// alive returns the brokers that are up.
func (c *cluster) alive() []int32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	var up []int32
	for i := range int32(len(c.brokers)) { //nolint:gosec // few
		if !c.down[i] {
			up = append(up, i)
		}
	}
	return up
}

// unreachable returns the addresses of the brokers that are down.
func (c *cluster) unreachable() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := map[string]bool{}
	for i := range c.down {
		m[c.brokers[i]] = true
	}
	return m
}

// crash takes a broker down for all links; what it led is led by others once they have noticed, see elect.
func (c *cluster) crash(broker int32, links []*link) {
	c.mu.Lock()
	c.down[broker] = true
	c.mu.Unlock()
	for _, l := range links {
		l.set(func(l *link) {
			l.brokers[c.brokers[broker]] = true
			l.cut(c.brokers[broker])
		})
	}
}

// elect moves what a broker that is down leads to others, and the coordinators.
func (c *cluster) elect(rng *rand.Rand) {
	up := c.alive()
	if len(up) == 0 {
		return
	}
	for p := range c.partitions {
		if !slices.Contains(up, c.kafka.LeaderFor(c.topic, p)) {
			c.lead(p, up[rng.IntN(len(up))])
		}
	}
	c.kafka.RehashCoordinators()
}

// restart brings a broker up again.
func (c *cluster) restart(broker int32, links []*link) {
	c.mu.Lock()
	delete(c.down, broker)
	c.mu.Unlock()
	for _, l := range links {
		l.set(func(l *link) { delete(l.brokers, c.brokers[broker]) })
	}
}

// expire has a group forget the members of a client that is gone, "" = all of them, who join again. kfake never forgets a client that
// died while it joined, where Kafka does when the session is over; and it can wait for ever for members that all wait, because it begins
// to count the time anew with each of them and loses count of those whose connection broke.
func (c *cluster) expire(group, clientID string) {
	info := c.kafka.GroupInfo(group)
	if info == nil {
		return
	}
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = group
	for _, m := range info.Members {
		if clientID == "" || m.ClientID == clientID {
			member := kmsg.NewLeaveGroupRequestMember()
			member.MemberID = m.MemberID
			req.Members = append(req.Members, member)
		}
	}
	if len(req.Members) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	client, err := kgo.NewClient(kgo.SeedBrokers(c.brokers...), kgo.Dialer(c.network.DialContext))
	if err != nil {
		panic(err) // the options are right
	}
	defer client.Close()
	_, _ = req.RequestWith(ctx, client) // if the brokers are down, the group does not go on anyway
}

// session is how long a group waits for a member that it does not hear of: eventlog's.
const session = 6 * time.Second

// A coordinator gives producer ids as Kafka does, and tells no broker: kfake would fence an old epoch at once, where Kafka's partition
// leaders do so when they see the new one.
type coordinator struct {
	mu     sync.Mutex
	ids    map[string]*producer
	next   int64
	faults []*kerr.Error // the next answers
}

// A producer is what the coordinator knows of a transactional id.
type producer struct {
	id      int64
	epoch   int16
	renewed int16 // the epoch that was renewed to epoch; -1 = it was claimed
}

func newCoordinator() *coordinator {
	return &coordinator{ids: map[string]*producer{}, next: 1000}
}

func (k *coordinator) answer(req *kmsg.InitProducerIDRequest) *kmsg.InitProducerIDResponse {
	resp := req.ResponseKind().(*kmsg.InitProducerIDResponse)
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.faults) > 0 {
		resp.ErrorCode = k.faults[0].Code
		k.faults = k.faults[1:]
		return resp
	}
	p := k.ids[*req.TransactionalID]
	switch {
	case p == nil:
		p = &producer{id: k.next, renewed: -1}
		k.next++
		k.ids[*req.TransactionalID] = p
	case req.ProducerID < 0:
		p.epoch++
		p.renewed = -1
	case req.ProducerID != p.id:
		resp.ErrorCode = kerr.ProducerFenced.Code
		return resp
	case req.ProducerEpoch == p.epoch:
		p.renewed = p.epoch
		p.epoch++
	case req.ProducerEpoch == p.renewed: // the answer to the renewal was lost
	default:
		resp.ErrorCode = kerr.ProducerFenced.Code
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = p.id, p.epoch
	return resp
}

// fail lets the coordinator answer the next requests with an error.
func (k *coordinator) fail(err *kerr.Error, times int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for range times {
		k.faults = append(k.faults, err)
	}
}

// heal takes back what fail set.
func (k *coordinator) heal() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.faults = nil
}

// forget lets a partition's transactional id expire: whoever asks next gets another producer id, which fences nothing.
func (k *coordinator) forget(partition int32) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id := range k.ids {
		if strings.HasSuffix(id, fmt.Sprintf("/%d", partition)) {
			delete(k.ids, id)
		}
	}
}
