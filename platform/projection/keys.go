package projection

import (
	"encoding/binary"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// The first byte of a key says what it is for. A store is that of one generation of one view, so that keys need not say which.
const (
	rowSpace     = 'r' // row key → stored row
	indexSpace   = 'i' // number of the index, its parts, row key → nothing
	cursorSpace  = 'c' // topic, partition → eventlog.Cursor
	shapeSpace   = 's' // → shape
	letterSpace  = 'd' // number of the topic, stream, offset → letter
	discardSpace = 'D' // number of the topic, stream, offset → letter
)

func cursorKey(tp es.TopicPartition) []byte {
	k := store.AppendString([]byte{cursorSpace}, tp.Topic)
	return binary.BigEndian.AppendUint32(k, uint32(tp.Partition))
}

// appendRowKey appends the key of a row; nothing follows the row's key, so it needs no end.
func appendRowKey(dst []byte, key string) []byte { return append(append(dst, rowSpace), key...) }

// appendIndexPrefix appends how the keys of an index begin.
func appendIndexPrefix(dst []byte, index int) []byte { return append(dst, indexSpace, byte(index)) }

// appendIndexKey appends the key of an index entry; parts is what the index's parts took from the row.
func appendIndexKey(dst []byte, index int, parts, key string) []byte {
	return append(append(appendIndexPrefix(dst, index), parts...), key...)
}

// streamKey is how a stream is known among those that have dead letters.
func streamKey(topic int, stream string) string { return string(rune(topic)) + stream }

func letterPrefix(space byte, topic int, stream string) []byte {
	return store.AppendString([]byte{space, byte(topic)}, stream)
}

func letterKey(space byte, topic int, stream string, offset int64) []byte {
	return store.AppendInt64(letterPrefix(space, topic, stream), offset)
}
