package eventlog

import "math"

// closedEpoch is the epoch of a closing batch: no producer is ever given it, so nobody can follow it.
const closedEpoch = math.MaxInt16

// admit applies the reader rule to a record: it counts if it is of the latest claim in the log, and a claim or a renewal by the
// same owner makes itself the latest. The broker's fence makes anything else impossible as long as only owners write; admit is the
// second line of defence against everybody else. It moves the cursor's producer id and epoch, never its offset.
func (c *Cursor) admit(mark MarkKind, pid int64, epoch int16) bool {
	switch mark {
	case MarkClaim:
		if pid < 0 || epoch < 0 || pid == c.ProducerID && epoch <= c.Epoch {
			return false
		}
		c.ProducerID, c.Epoch = pid, epoch
		return true
	case MarkBarrier:
		if pid < 0 || pid != c.ProducerID || epoch < c.Epoch {
			return false
		}
		c.Epoch = epoch
		return true
	case MarkClose:
		return pid >= 0 && epoch == closedEpoch
	default:
		return pid >= 0 && pid == c.ProducerID && epoch == c.Epoch
	}
}

// admitCompacted is admit for a compacted topic, where claims may have been compacted away together with what they superseded: a
// record of an unknown producer id or a later epoch stands for its lost claim, because dropping it could drop an owner's. What came
// before the first owner counts too, whoever wrote it: a topic may have had another keeper before. Nobody's are only records of an
// older epoch of the same producer id, and those without one once there is an owner.
func (c *Cursor) admitCompacted(mark MarkKind, pid int64, epoch int16) bool {
	switch {
	case mark == MarkClose:
		return pid >= 0 && epoch == closedEpoch
	case pid < 0 || epoch < 0:
		return mark == 0 && c.ProducerID < 0
	case pid == c.ProducerID && epoch < c.Epoch:
		return false
	}
	c.ProducerID, c.Epoch = pid, epoch
	return true
}
