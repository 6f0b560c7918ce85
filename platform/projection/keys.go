package projection

import (
	"encoding/binary"

	"github.com/millrace/millrace/platform/es"
	"github.com/millrace/millrace/platform/store"
)

// The first byte of a key says what it is for. Everything of a view is under its name and version, so that another version of it
// neither sees nor touches it.
const (
	rowSpace    = 'r' // view, row key → stored row
	indexSpace  = 'i' // view, index, value, row key → nothing
	cursorSpace = 'c' // view, topic, partition → eventlog.Cursor
	shapeSpace  = 'v' // view → its index names
	macSpace    = 'k' // the key that signs paging cursors
)

func viewKey(space byte, name string, version int) []byte {
	k := store.AppendString([]byte{space}, name)
	return binary.BigEndian.AppendUint32(k, uint32(version))
}

func cursorKey(name string, version int, tp es.TopicPartition) []byte {
	k := store.AppendString(viewKey(cursorSpace, name, version), tp.Topic)
	return binary.BigEndian.AppendUint32(k, uint32(tp.Partition))
}

// appendIndexKey appends the key of an index entry; prefix is that of the view's indexes.
func appendIndexKey(dst, prefix []byte, index, value, key string) []byte {
	dst = append(dst, prefix...)
	dst = store.AppendString(dst, index)
	dst = store.AppendString(dst, value)
	return store.AppendString(dst, key)
}
