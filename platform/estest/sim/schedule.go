package sim

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A step is one fault of a schedule.
type step struct {
	at     time.Duration
	kind   string
	node   int
	length time.Duration // until it is undone, where that can be
	broker int32
	n      int // partition, count or code, as the kind has it
	key    kmsg.Key
}

// String returns the step in one line.
func (s step) String() string {
	return fmt.Sprintf("%v %s node %d broker %d for %v (%v %d)", s.at, s.kind, s.node, s.broker, s.length, s.key, s.n)
}

// A schedule is everything about a simulation that its seed decides.
type schedule struct {
	seed       uint64
	nodes      int
	brokers    int
	partitions int32
	grouped    bool // instances share the partitions; else they take them from each other all the time
	told       bool // a new owner tells the one before it
	streams    int
	clients    int
	commands   int // of each client
	lease      time.Duration
	latency    time.Duration // of a message, at most
	running    int           // how many nodes run at the beginning
	length     time.Duration // during which faults happen
	steps      []step
}

// kinds are the faults, each as often as it stands here.
var kinds = []string{
	"pause", "pause", "pause", "cut", "deafIn", "deafOut", "reset", "reset",
	"loseReply", "loseReply", "loseReply", "loseRequest", "late", "late", "twice", "twice", "lag", "lag", "lag",
	"kill", "kill", "wipe", "stop", "start", "start",
	"broker", "leader", "leader", "coordinator", "error", "error", "error", "error", "forget", "foreign",
}

// keys are the requests that the platform sends.
var keys = []kmsg.Key{kmsg.Produce, kmsg.Produce, kmsg.Produce, kmsg.Fetch, kmsg.ListOffsets, kmsg.Metadata, kmsg.FindCoordinator,
	kmsg.InitProducerID, kmsg.InitProducerID, kmsg.OffsetForLeaderEpoch, kmsg.DescribeConfigs, kmsg.ApiVersions,
	kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat, kmsg.LeaveGroup, kmsg.OffsetFetch, kmsg.DescribeGroups}

// codes are all error codes of Kafka.
func codes() []int {
	var all []int
	for code := -1; code < 140; code++ {
		if code != 0 && kerr.TypedErrorForCode(int16(code)) != nil {
			all = append(all, code)
		}
	}
	return all
}

// newSchedule draws a schedule.
func newSchedule(seed uint64) schedule {
	rng := rand.New(rand.NewPCG(seed, 0))
	s := schedule{
		seed: seed, nodes: 2 + rng.IntN(2), brokers: 1 + 2*rng.IntN(2), partitions: 1 + rng.Int32N(2), streams: 2 + rng.IntN(3),
		clients: 3 + rng.IntN(3), commands: 6 + rng.IntN(8), lease: 100*time.Millisecond + time.Duration(rng.Int64N(int64(3*time.Second))),
		latency: time.Duration(1+rng.IntN(8)) * time.Millisecond, length: time.Duration(2+rng.IntN(5)) * time.Second,
	}
	s.grouped = rng.IntN(4) > 0
	s.told = rng.IntN(2) > 0
	s.running = 1 + rng.IntN(s.nodes)
	codes := codes()
	for range 3 + rng.IntN(10) {
		f := step{
			at: time.Duration(rng.Int64N(int64(s.length))), kind: kinds[rng.IntN(len(kinds))], node: rng.IntN(s.nodes),
			broker: rng.Int32N(int32(s.brokers)), n: int(rng.Int32N(s.partitions)), //nolint:gosec // few
			length: time.Duration(1+rng.IntN(60)) * 25 * time.Millisecond,
		}
		switch f.kind {
		case "pause":
			if rng.IntN(3) == 0 {
				f.length *= 8
			}
		case "late":
			f.length *= 2
		case "error":
			f.key, f.n = keys[rng.IntN(len(keys))], codes[rng.IntN(len(codes))]
		case "loseReply", "loseRequest", "twice":
			f.n = 1 + rng.IntN(3)
		}
		s.steps = append(s.steps, f)
	}
	slices.SortStableFunc(s.steps, func(a, b step) int { return cmp.Compare(a.at, b.at) })
	return s
}
