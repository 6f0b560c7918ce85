package eventlog

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// routes knows the leader of every partition of every topic in use.
type routes struct {
	client *Client
	mu     sync.Mutex
	topics map[string]*topicRoute
}

// topicRoute is what the latest metadata answer said of one topic.
type topicRoute struct {
	turn    chan struct{} // holds one while asking, so that many who ask at once make one request, and none waits longer than it may
	asked   time.Time
	id      [16]byte
	leaders []int32
	err     error
}

// freshFor is how old an answer may be for somebody who met an error: leaders do not move twice within it.
const freshFor = 20 * time.Millisecond

func (r *routes) of(topic string) *topicRoute {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.topics == nil {
		r.topics = map[string]*topicRoute{}
	}
	t := r.topics[topic]
	if t == nil {
		t = &topicRoute{turn: make(chan struct{}, 1)}
		r.topics[topic] = t
	}
	return t
}

// leader returns the node that leads the partition; fresh asks the cluster again. A topic of another id under the same name is
// kerr.UnknownTopicID.
func (r *routes) leader(ctx context.Context, t Topic, partition int32, fresh bool) (int32, error) {
	route := r.of(t.Name)
	select {
	case route.turn <- struct{}{}:
	case <-ctx.Done():
		return -1, ctx.Err()
	}
	defer func() { <-route.turn }()
	if route.asked.IsZero() || route.err != nil || fresh && time.Since(route.asked) > freshFor {
		route.id, route.leaders, route.err = r.ask(ctx, t.Name)
		route.asked = time.Now()
	}
	if route.err != nil {
		return -1, route.err
	}
	if route.id != t.ID {
		return -1, fmt.Errorf("%s was created anew: %w", t.Name, kerr.UnknownTopicID)
	}
	if int(partition) >= len(route.leaders) || route.leaders[partition] < 0 {
		return -1, fmt.Errorf("%s/%d: %w", t.Name, partition, kerr.LeaderNotAvailable)
	}
	return route.leaders[partition], nil
}

func (r *routes) ask(ctx context.Context, topic string) (id [16]byte, leaders []int32, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.client.cfg.ConnectionTimeout)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = &topic
	req.Topics = append(req.Topics, rt)
	resp, err := req.RequestWith(ctx, r.client.kafka)
	if err != nil {
		return id, nil, err
	}
	for _, t := range resp.Topics {
		if t.Topic == nil || *t.Topic != topic {
			continue
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return id, nil, fmt.Errorf("%s: %w", topic, err)
		}
		leaders = make([]int32, len(t.Partitions))
		for i := range leaders {
			leaders[i] = -1
		}
		for _, p := range t.Partitions {
			if int(p.Partition) < len(leaders) {
				leaders[p.Partition] = p.Leader
			}
		}
		return t.TopicID, leaders, nil
	}
	return id, nil, fmt.Errorf("%s: %w", topic, kerr.UnknownTopicOrPartition)
}
