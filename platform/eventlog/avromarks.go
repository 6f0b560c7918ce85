package eventlog

import (
	"context"
	_ "embed"
	"time"

	"github.com/millrace/millrace/platform/contract"
	"github.com/millrace/millrace/platform/es"
)

// The contracts of the marks, for topics whose every record is framed Avro.
var (
	//go:embed marks/PartitionClaimed.avsc
	claimedSchema string
	//go:embed marks/PartitionBarrier.avsc
	barrierSchema string
	//go:embed marks/PartitionClosed.avsc
	closedSchema string
	//go:embed marks/CommandNoted.avsc
	notedSchema string
)

// markEvent is what a mark holds: one of the four types below.
//
//sumtype:decl
type markEvent interface{ isMark() }

type partitionClaimed struct {
	Instance  string    `avro:"instance"`
	Address   string    `avro:"address"`
	ClaimedAt time.Time `avro:"claimed_at"`
}

type partitionBarrier struct {
	Instance  string    `avro:"instance"`
	Address   string    `avro:"address"`
	WrittenAt time.Time `avro:"written_at"`
}

type partitionClosed struct {
	Instance string    `avro:"instance"`
	Address  string    `avro:"address"`
	ClosedAt time.Time `avro:"closed_at"`
}

type commandNoted struct {
	Instance string    `avro:"instance"`
	Address  string    `avro:"address"`
	NotedAt  time.Time `avro:"noted_at"`
}

func (partitionClaimed) isMark() {}
func (partitionBarrier) isMark() {}
func (partitionClosed) isMark()  {}
func (commandNoted) isMark()     {}

func markContract(topic string) contract.Set[markEvent] {
	return contract.Set[markEvent]{Topic: topic, Types: []contract.Type[markEvent]{
		contract.For[partitionClaimed, markEvent](claimedSchema),
		contract.For[partitionBarrier, markEvent](barrierSchema),
		contract.For[partitionClosed, markEvent](closedSchema),
		contract.For[commandNoted, markEvent](notedSchema),
	}}
}

// MarkSubjects returns the subjects that have to be registered before AvroMarks can write the topic.
func MarkSubjects(topic string) []contract.Subject { return markContract(topic).Subjects() }

type avroMarks struct {
	codec *contract.Codec[markEvent]
	topic string
}

// AvroMarks returns marks that are framed Avro, so that every consumer of the topic can decode every record: the records
// millrace.v1.PartitionClaimed, PartitionBarrier and PartitionClosed, without a key, and CommandNoted, whose key is the stream. It returns the contract's errors, such as
// contract_unregistered.
func AvroMarks(ctx context.Context, topic string, r contract.Resolver) (Marks, error) {
	codec, err := contract.Bind(ctx, markContract(topic), r)
	if err != nil {
		return nil, err
	}
	return avroMarks{codec, topic}, nil
}

func (m avroMarks) Mark(kind MarkKind, who Identity, at time.Time) (key, value []byte, headers []Header, err error) {
	at = at.UTC().Truncate(time.Microsecond)
	var e markEvent
	switch kind {
	case MarkClaim:
		e = partitionClaimed{who.Instance, who.Address, at}
	case MarkBarrier:
		e = partitionBarrier{who.Instance, who.Address, at}
	case MarkClose:
		e = partitionClosed{who.Instance, who.Address, at}
	case MarkNote:
		e = commandNoted{who.Instance, who.Address, at}
	default:
		return nil, nil, nil, ErrRecord.Because("%d is no kind of mark", kind)
	}
	value, err = m.codec.Append(nil, e)
	if err != nil {
		return nil, nil, nil, err
	}
	stamp := at.Format(time.RFC3339Nano)
	return nil, value, []Header{
		{Key: headerSpecVersion, Value: specVersion},
		{Key: headerID, Value: []byte(es.EventID(es.StreamID(m.topic), who.Instance+" "+stamp, int(kind)))},
		{Key: headerSource, Value: []byte("millrace")},
		{Key: headerType, Value: []byte(m.codec.TypeName(e))},
		{Key: headerTime, Value: []byte(stamp)},
		{Key: headerContentType, Value: contentType},
	}, nil
}
