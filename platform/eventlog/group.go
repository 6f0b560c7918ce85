package eventlog

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A Member is this process among the instances that share the partitions of a topic: a Kafka consumer group that consumes nothing and
// only says who should own what. It is a hint, never the fence: the claim decides who owns.
type Member struct {
	client *Client
	group  string
	kafka  *kgo.Client

	mu   sync.Mutex
	mine []int32
	told func([]int32)
	left bool
}

// The timing of membership: an instance that died is noticed after groupSession, the smallest that brokers take by default; those that
// stay learn of a change within groupHeartbeat.
const (
	groupSession   = 6 * time.Second
	groupHeartbeat = 500 * time.Millisecond
)

// Join makes this process a member of a group and calls assigned, never twice at a time, with the partitions of the topic that it should
// own, in rising order, each time they change. The first call comes when the group has met, which takes Kafka some seconds for a new one.
func (c *Client) Join(group string, t Topic, assigned func(partitions []int32)) (*Member, error) {
	return c.join(group, t, assigned)
}

// Attend makes this process a member of a group of which only is asked who is there: Members tells its name, 1 to 200 bytes.
func (c *Client) Attend(group string, t Topic, name string) (*Member, error) {
	return c.join(group, t, func([]int32) {}, kgo.ClientID(name))
}

func (c *Client) join(group string, t Topic, assigned func(partitions []int32), more ...kgo.Opt) (*Member, error) {
	m := &Member{client: c, group: group, told: assigned}
	change := func(f func(id int32)) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, parts map[string][]int32) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, id := range parts[t.Name] {
				f(id)
			}
			if m.left {
				return
			}
			slices.Sort(m.mine)
			m.told(slices.Clone(m.mine))
		}
	}
	gain := change(func(id int32) {
		if !slices.Contains(m.mine, id) {
			m.mine = append(m.mine, id)
		}
	})
	lose := change(func(id int32) { m.mine = slices.DeleteFunc(m.mine, func(have int32) bool { return have == id }) })
	var err error
	m.kafka, err = kgo.NewClient(append(append(c.options(), more...),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(t.Name),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(groupSession),
		kgo.HeartbeatInterval(groupHeartbeat),
		kgo.RebalanceTimeout(groupSession),
		kgo.DisableAutoCommit(),
		kgo.OnPartitionsAssigned(gain),
		kgo.OnPartitionsRevoked(lose),
		kgo.OnPartitionsLost(lose),
		// Members read nothing here.
		kgo.AdjustFetchOffsetsFn(func(context.Context, map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
			return nil, nil
		}),
	)...)
	if err != nil {
		return nil, ErrConfig.Wrap(err)
	}
	return m, nil
}

// Group returns the name of the group.
func (m *Member) Group() string { return m.group }

// Leave ends the membership; the others are told to share what was assigned here. assigned is not called any more.
func (m *Member) Leave(ctx context.Context) error {
	m.mu.Lock()
	m.left = true
	m.mu.Unlock()
	err := m.kafka.LeaveGroupContext(ctx)
	m.kafka.CloseAllowingRebalance()
	if err != nil {
		return ErrUnreachable.Because("the group %s was not told that this instance leaves", m.group).Wrap(err)
	}
	return nil
}

// Members returns the names of the instances in a group, sorted: those that Attend was given, else the clients'. One that died is there until
// the brokers notice.
func (c *Client) Members(ctx context.Context, group string) ([]string, error) {
	described, err := c.admin.DescribeGroups(ctx, group)
	if err == nil {
		var d = described[group]
		if d.Err == nil || errors.Is(d.Err, kerr.GroupIDNotFound) {
			names := make([]string, len(d.Members))
			for i, m := range d.Members {
				names[i] = m.ClientID
			}
			slices.Sort(names)
			return names, nil
		}
		err = d.Err
	}
	return nil, ErrUnreachable.Because("the members of the group %s cannot be listed", group).Wrap(err)
}
