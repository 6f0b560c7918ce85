package eventlog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/millrace/millrace/platform/fault"
)

// DefaultPartitions is the partition count of a topic unless another is given. A count is for ever: it decides where a stream lives.
const DefaultPartitions = 12

// A TopicSpec says what topic is wanted.
type TopicSpec struct {
	Name        string
	Partitions  int32 // 0 = DefaultPartitions
	Replication int16 // 0 = as many as the cluster has brokers, at most 3
	Compacted   bool  // keeps the latest record of each key instead of all
}

// A Topic is a topic as it is in the cluster. ID differs between a topic and its re-creation under the same name.
type Topic struct {
	Name       string
	ID         [16]byte
	Partitions int32
	MaxBytes   int // the largest batch that it takes
}

// patience is how long a topic may take to be known to every broker, with a leader for every partition.
const patience = 15 * time.Second

// EnsureTopic returns the topic, creating it if it is absent. It returns ErrTopic if the topic there has another partition count or
// settings that would lose events, with the setting and the command that corrects it.
func (c *Client) EnsureTopic(ctx context.Context, spec TopicSpec) (Topic, error) {
	if spec.Partitions == 0 {
		spec.Partitions = DefaultPartitions
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		t, err := c.ensure(ctx, spec)
		if err == nil || fault.From(err) != nil {
			return t, err
		}
		if !passes(ctx, err) {
			return Topic{}, ErrTopic.Because("%s cannot be looked up", spec.Name).Wrap(err)
		}
	}
}

// FindTopic returns a topic that is there, whatever its settings, for reading; ErrTopic if it is not.
func (c *Client) FindTopic(ctx context.Context, name string) (Topic, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	d, err := c.detail(ctx, name)
	if err != nil {
		return Topic{}, ErrTopic.Because("%s cannot be looked up", name).Wrap(err)
	}
	return Topic{Name: name, ID: d.ID, Partitions: int32(len(d.Partitions))}, nil //nolint:gosec // few
}

// passes waits a moment after an answer that another try may not get: brokers learn of a topic one after the other. It reports false
// if there is no point, or no time, for another try.
func passes(ctx context.Context, err error) bool {
	if !kerr.IsRetriable(err) {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(20 * time.Millisecond):
		return true
	}
}

// ensure is one try of EnsureTopic; errors that are no faults are the broker's.
func (c *Client) ensure(ctx context.Context, spec TopicSpec) (Topic, error) {
	detail, err := c.detail(ctx, spec.Name)
	if errors.Is(err, kerr.UnknownTopicOrPartition) {
		if err := c.createTopic(ctx, spec); err != nil {
			return Topic{}, err
		}
		detail, err = c.detail(ctx, spec.Name)
	}
	if err == nil {
		err = ready(detail)
	}
	if err != nil {
		return Topic{}, err
	}
	settings, err := c.topicSettings(ctx, spec.Name)
	if err != nil {
		return Topic{}, err
	}
	t := Topic{Name: spec.Name, ID: detail.ID, Partitions: int32(len(detail.Partitions))} //nolint:gosec // small
	t.MaxBytes, _ = strconv.Atoi(settings["max.message.bytes"])
	return t, c.verify(spec, detail, settings)
}

// detail looks a topic up; a topic that is not there is kerr.UnknownTopicOrPartition.
func (c *Client) detail(ctx context.Context, name string) (kadm.TopicDetail, error) {
	topics, err := c.admin.ListTopics(ctx, name)
	if err != nil {
		return kadm.TopicDetail{}, err
	}
	d, ok := topics[name]
	if !ok {
		return kadm.TopicDetail{}, kerr.UnknownTopicOrPartition
	}
	return d, d.Err
}

func (c *Client) createTopic(ctx context.Context, spec TopicSpec) error {
	brokers, err := c.admin.ListBrokers(ctx)
	if err != nil {
		return ErrTopic.Because("%s cannot be created", spec.Name).Wrap(err)
	}
	rf := spec.Replication
	if rf == 0 {
		rf = int16(min(3, len(brokers))) //nolint:gosec // at most 3
	}
	set := map[string]*string{"message.timestamp.type": kadm.StringPtr("LogAppendTime"), "cleanup.policy": kadm.StringPtr("delete")}
	if spec.Compacted {
		set["cleanup.policy"] = kadm.StringPtr("compact")
	}
	set["retention.ms"], set["retention.bytes"] = kadm.StringPtr("-1"), kadm.StringPtr("-1")
	if rf >= 3 {
		set["min.insync.replicas"] = kadm.StringPtr("2")
		set["unclean.leader.election.enable"] = kadm.StringPtr("false")
	}
	_, err = c.admin.CreateTopic(ctx, spec.Partitions, rf, set, spec.Name)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return ErrTopic.Because("%s cannot be created with %d partitions and replication factor %d", spec.Name, spec.Partitions, rf).Wrap(err)
	}
	return nil
}

// ready reports that a topic, just created perhaps, has no leader for a partition yet.
func ready(d kadm.TopicDetail) error {
	for _, p := range d.Partitions {
		if p.Err != nil {
			return p.Err
		}
		if p.Leader < 0 {
			return fmt.Errorf("partition %d: %w", p.Partition, kerr.LeaderNotAvailable)
		}
	}
	return nil
}

// topicSettings reads the settings of a topic.
func (c *Client) topicSettings(ctx context.Context, name string) (map[string]string, error) {
	configs, err := c.admin.DescribeTopicConfigs(ctx, name)
	if err == nil && len(configs) != 1 {
		err = errNoAnswer
	}
	if err == nil {
		err = configs[0].Err
	}
	if errors.Is(err, kerr.TopicAuthorizationFailed) {
		err = ErrTopic.Because("the settings of %s cannot be read", name).
			WithFix("allow the principal of Millrace to describe the configuration of the topic").Wrap(err)
	}
	if err != nil {
		return nil, err
	}
	m := make(map[string]string, len(configs[0].Configs))
	for _, s := range configs[0].Configs {
		if s.Value != nil {
			m[s.Key] = *s.Value
		}
	}
	return m, nil
}

// verify refuses settings under which events would be lost or the fence would not hold.
func (c *Client) verify(spec TopicSpec, d kadm.TopicDetail, settings map[string]string) error {
	if n := int32(len(d.Partitions)); n != spec.Partitions { //nolint:gosec // small
		return ErrTopic.Because("%s has %d partitions, not %d; another count would move streams to other partitions", spec.Name, n, spec.Partitions).
			WithFix("set the partition count to %d, or create a new topic and copy the events", n)
	}
	policy := "delete"
	want := []struct{ key, value, why string }{
		{"message.timestamp.type", "LogAppendTime", "the fence is lost when the stamp of a batch is older than the broker remembers producers"},
	}
	if spec.Compacted {
		policy = "compact"
	} else {
		want = append(want, struct{ key, value, why string }{"retention.ms", "-1", "events would be deleted with time"},
			struct{ key, value, why string }{"retention.bytes", "-1", "events would be deleted when the topic grows"})
	}
	want = append(want, struct{ key, value, why string }{"cleanup.policy", policy, "events would be removed"})
	if c.cfg.Production {
		want = append(want, struct{ key, value, why string }{"unclean.leader.election.enable", "false", "acknowledged events could be lost"})
		for _, p := range d.Partitions {
			if len(p.Replicas) < 3 {
				return ErrTopic.Because("partition %d of %s has %d replicas, not 3: acknowledged events could be lost with one broker", p.Partition, spec.Name, len(p.Replicas)).
					WithFix("raise the replication factor to 3, or leave production mode")
			}
		}
		if n, err := strconv.Atoi(settings["min.insync.replicas"]); err != nil || n < 2 {
			return ErrTopic.Because("min.insync.replicas of %s is %s: acknowledged events could be lost with one broker", spec.Name, settings["min.insync.replicas"]).
				WithFix("kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config min.insync.replicas=2", spec.Name)
		}
	}
	for _, w := range want {
		if got, ok := settings[w.key]; ok && !strings.EqualFold(strings.TrimSpace(got), w.value) {
			return ErrTopic.Because("%s of %s is %s, not %s: %s", w.key, spec.Name, got, w.value, w.why).
				WithFix("kafka-configs.sh --alter --entity-type topics --entity-name %s --add-config %s=%s", spec.Name, w.key, w.value)
		}
	}
	return nil
}

// Ends returns the high watermark of every partition: the offset that the next record will get.
func (c *Client) Ends(ctx context.Context, t Topic) ([]int64, error) {
	listed, err := c.admin.ListEndOffsets(ctx, t.Name)
	return offsets(t, listed, err)
}

// EndsAt returns for every partition the offset of the first record that was appended at a time or after it, the high watermark if there is none.
func (c *Client) EndsAt(ctx context.Context, t Topic, at time.Time) ([]int64, error) {
	listed, err := c.admin.ListOffsetsAfterMilli(ctx, at.UnixMilli(), t.Name)
	return offsets(t, listed, err)
}

func offsets(t Topic, listed kadm.ListedOffsets, err error) ([]int64, error) {
	if err == nil {
		err = listed.Error()
	}
	if err != nil {
		return nil, ErrRead.Because("the offsets of %s cannot be listed", t.Name).Wrap(err)
	}
	ends := make([]int64, t.Partitions)
	for p := range ends {
		o, ok := listed.Lookup(t.Name, int32(p)) //nolint:gosec // small
		if !ok {
			return nil, ErrRead.Because("%s has no partition %d any more", t.Name, p)
		}
		ends[p] = o.Offset
	}
	return ends, nil
}
