package eventlog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/millrace/millrace/platform/es"
)

// maxCorrupt bounds how often a batch is sent again whose checksum the broker finds wrong.
const maxCorrupt = 5

// An Owner is the right to append to one partition, from its claim until Lost. It is safe for concurrent use, except that only one
// Append may be under way.
//
// An owner ends for good with the first answer that does not mean "send it again": nothing that was decided on an older state may
// land after something was lost. Whoever wants to go on claims anew and reads the log up to the new claim.
type Owner struct {
	client *Client
	topic  Topic
	tp     es.TopicPartition
	txn    string
	who    Identity
	marks  Marks
	lost   chan struct{}
	ctx    context.Context // ends with the owner
	cancel context.CancelFunc
	claim  int64 // offset of the own claim; set before Claim returns

	mu       sync.Mutex
	err      error // why it ended
	pid      int64
	epoch    int16
	sequence int32 // of the next record
	next     int64 // offset of the next record; -1 = not known yet
	leader   int32
	inflight *attempt
	waiting  *attempt // the caller's, while a mark is under way
	renewal  bool     // InitProducerId is due or under way: nothing is sent until it has ended
	renewed  time.Time
	acked    time.Time // when the last append was acknowledged
	alive    time.Time // when the last acknowledged append was sent first: from then the brokers count
	upkeep   *time.Timer
}

// Claimed returns the position of the owner's own claim. The log through it is all that was ever written before this owner.
func (o *Owner) Claimed() es.Position {
	return es.Position{TopicPartition: o.tp, Offset: o.claim}
}

// Next returns the offset that the next append gets.
func (o *Owner) Next() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.next
}

// Cursor returns from where a reader that knows everything appended so far reads on. A store that takes what it appended itself,
// instead of reading it back, keeps this cursor with it.
func (o *Owner) Cursor() Cursor {
	o.mu.Lock()
	defer o.mu.Unlock()
	return Cursor{TopicPartition: o.tp, TopicID: o.topic.ID, Next: o.next, LeaderEpoch: -1, ProducerID: o.pid, Epoch: o.epoch}
}

// Lost returns a channel that is closed when the owner has ended.
func (o *Owner) Lost() <-chan struct{} { return o.lost }

// Err returns why the owner has ended, nil while it has not.
func (o *Owner) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// LastAck returns when the last append, of events or a barrier, was acknowledged.
func (o *Owner) LastAck() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.acked
}

// Release ends the owner without a trace in the log. An append under way is not sent again; its callback tells what is known.
func (o *Owner) Release() {
	o.mu.Lock()
	end := o.end(ErrReleased)
	o.mu.Unlock()
	end()
}

// Append writes the batch and calls done once, on another goroutine: with the offset of its first record, or with ErrFenced (it is
// not in the log and never will be), ErrOutcome (it is there before the next claim, or never), ErrTooLarge or ErrRefused (it is not
// there; the owner goes on). The batch belongs to the Owner until then. done must return soon: it holds up the appends of other
// partitions. A second Append before done is a bug and panics.
func (o *Owner) Append(b *Batch, done func(base int64, err error)) {
	a := &attempt{owner: o, batch: b, count: b.count, done: done}
	switch {
	case b.Len() == 0:
		go done(-1, ErrRefused.Because("the batch is empty"))
		return
	case o.topic.MaxBytes > 0 && b.Size() > o.topic.MaxBytes:
		go done(-1, ErrTooLarge.Because("the batch has %d bytes, %s takes %d", b.Size(), o.topic.Name, o.topic.MaxBytes))
		return
	}
	o.enqueue(a)
}

// Barrier writes a barrier record as if it were a batch, and calls done once, on another goroutine: nil says that this owner was the
// owner when it was written, so that whatever it knew before is the latest. The errors are those of Append, and so is the rule that
// only one may be under way.
func (o *Owner) Barrier(done func(err error)) {
	a, err := o.markAttempt(MarkBarrier)
	if err != nil {
		go done(err)
		return
	}
	a.done = func(_ int64, err error) { done(err) }
	a.asked = true
	o.enqueue(a)
}

// enqueue takes the caller's attempt, to be sent when nothing of the owner's own is under way.
func (o *Owner) enqueue(a *attempt) {
	o.mu.Lock()
	if o.waiting != nil || o.inflight != nil && (o.inflight.mark == 0 || o.inflight.asked) {
		o.mu.Unlock()
		panic("eventlog: Append while another one is under way")
	}
	o.waiting = a
	act := o.advance()
	o.mu.Unlock()
	if act != nil {
		// The caller may hold what done needs.
		go act()
	}
}

// advance sends what waits, if nothing is under way. It is called with mu held and returns what to do, if anything, without mu.
func (o *Owner) advance() func() {
	if o.inflight != nil {
		return nil
	}
	if o.err != nil {
		return o.dropWaiting()
	}
	if o.renewal {
		o.client.startOr(o.renew, o.Release)
		o.inflight = &attempt{owner: o, mark: MarkBarrier} // holds the place until renew sends its barrier
		return nil
	}
	if a := o.waiting; a != nil {
		o.waiting = nil
		return o.dispatch(a)
	}
	return nil
}

// dropWaiting ends the caller's append that was never sent. Called with mu held.
func (o *Owner) dropWaiting() func() {
	a := o.waiting
	if a == nil {
		return nil
	}
	o.waiting = nil
	err := o.fenced()
	return func() { a.done(-1, err) }
}

// fenced is the error of a batch that is certainly not in the log because the owner has ended. Called with mu held.
func (o *Owner) fenced() error {
	return ErrFenced.Because("%s", o.tp).Wrap(o.err)
}

// dispatch seals an attempt of the owner's present epoch and sends it. Called with mu held and nothing under way.
func (o *Owner) dispatch(a *attempt) func() {
	now := time.Now()
	if end := o.overdue(now); end != nil {
		o.waiting = a
		drop := o.dropWaiting()
		return func() { end(); drop() }
	}
	a.pid, a.epoch, a.sequence = o.pid, o.epoch, o.sequence
	a.bytes = a.batch.seal(a.pid, a.epoch, a.sequence, now)
	a.first = now
	return o.launch(a)
}

// launch hands a sealed attempt to the sender of the leader. Called with mu held.
func (o *Owner) launch(a *attempt) func() {
	o.inflight = a
	if s := o.client.sender(o.leader); s != nil && s.push(a) {
		return nil
	}
	return func() { o.settle(a, result{err: errClosed}) }
}

// overdue ends an owner whose lease has run out: the broker may have forgotten its epoch, and with it the fence. Both clocks count:
// the monotonic one stands still while the machine sleeps, the wall clock can be set back. Called with mu held.
func (o *Owner) overdue(now time.Time) func() {
	if o.alive.IsZero() {
		return nil
	}
	lease := o.client.cfg.ProducerIDExpiration / 2
	silent := max(now.Sub(o.alive), now.Round(0).Sub(o.alive.Round(0)))
	if silent <= lease {
		return nil
	}
	return o.end(ErrLease.Because("the last append to %s was %v ago, the brokers forget after %v", o.tp, silent.Round(time.Millisecond), 2*lease))
}

// end latches the owner. Called with mu held; the returned function, to be called without, tells everybody.
func (o *Owner) end(reason error) func() {
	if o.err != nil {
		return func() {}
	}
	o.err = reason
	if o.upkeep != nil {
		o.upkeep.Stop()
	}
	close(o.lost)
	o.cancel()
	drop := o.dropWaiting()
	return func() {
		o.client.forget(o)
		if h := o.client.cfg.OnLost; h != nil {
			h(o.tp, reason)
		}
		if !errors.Is(reason, ErrReleased) {
			o.client.cfg.Logger.Warn("a partition is lost", "partition", o.tp.String(), "reason", reason)
		}
		if drop != nil {
			go drop()
		}
	}
}

// settle takes the answer to an attempt and does what follows from it. It reports whether the attempt must be sent again.
func (o *Owner) settle(a *attempt, r result) (again bool) {
	var (
		act  action
		open bool
	)
	if r.err != nil {
		act, open = resend, !errors.Is(r.err, errNotSent) && !unsent(r.err)
	} else {
		act, open = judge(r.code)
	}
	cause := r.err
	if cause == nil {
		cause = kerr.ErrorForCode(r.code)
	}
	now := time.Now()

	o.mu.Lock()
	var (
		end = func() {}
		err error
	)
	a.tries++
	a.open = a.open || open
	if act == resend {
		end = o.mayResend(a, r, now)
		if o.err == nil {
			o.mu.Unlock()
			if h := o.client.cfg.OnResend; h != nil {
				h(o.tp, cause)
			}
			return true
		}
	}
	if a.mark == MarkClose && act == halt && !open {
		act, r.base = proceed, -1 // closed before, and so long ago that the broker does not know the batch any more
	}
	switch act {
	case proceed:
		if !o.placed(a, r.base) {
			end = o.end(ErrForeign.Because("an append to %s was acknowledged at offset %d, not at %d", o.tp, r.base, o.next).
				WithFix("let nobody but Millrace write the topic"))
			a.open = true
			err = o.unsettled(a)
			break
		}
		if a.mark != MarkClose {
			o.sequence = nextSequence(a.sequence, a.count)
			o.acked, o.alive = now, a.first
		}
	case depose:
		end = o.end(ErrDeposed.Because("%s was claimed by another owner", o.tp).Wrap(cause))
		err = o.unsettled(a)
	case reject:
		if a.open || a.mark != 0 {
			end = o.end(haltReason(o, r.code))
			err = o.unsettled(a)
			break
		}
		err = ErrRefused.Because("%s refuses the batch", o.tp).Wrap(cause)
		if errors.Is(cause, kerr.MessageTooLarge) || errors.Is(cause, kerr.RecordListTooLarge) {
			err = ErrTooLarge.Because("%s refuses a batch of %d bytes", o.tp, len(a.bytes)).Wrap(cause)
		}
	case halt:
		end = o.end(haltReason(o, r.code))
		err = o.unsettled(a)
	case resend:
		err = o.unsettled(a)
	}
	o.inflight = nil
	next := o.advance()
	o.mu.Unlock()

	if a.shared {
		a.batch.detach()
	}
	end()
	if err == nil && a.mark != MarkClose {
		if h := o.client.cfg.OnAppend; h != nil {
			h(o.tp, int(a.count), len(a.bytes), now.Sub(a.first))
		}
	}
	a.done(r.base, err)
	if next != nil {
		next()
	}
	return false
}

// placed checks where a committed attempt went: anywhere but at the expected offset means that somebody else writes too, or that
// the log has lost its end. Called with mu held.
func (o *Owner) placed(a *attempt, base int64) bool {
	switch {
	case a.mark == MarkClose && (base < 0 || o.next >= 0 && base < o.next):
		return true // a repetition of an earlier closing batch
	case o.next < 0:
		if a.mark != MarkClose {
			o.next = base + int64(a.count)
		}
		return true
	case base != o.next:
		return false
	}
	o.next += int64(a.count)
	return true
}

// unsettled is the error of a batch that ended without an acknowledgement. Called with mu held and the owner ended.
func (o *Owner) unsettled(a *attempt) error {
	if a.open {
		return ErrOutcome.Because("the log of %s up to the next claim tells", o.tp).
			WithFix("repeat the command with the same id").Wrap(o.err)
	}
	return o.fenced()
}

// mayResend ends the owner if sending again can not help. Called with mu held.
func (o *Owner) mayResend(a *attempt, r result, now time.Time) func() {
	switch {
	case o.err != nil:
		return func() {}
	case errors.Is(r.err, kgo.ErrClientClosed) || o.client.ctx.Err() != nil:
		return o.end(ErrReleased.Because("the client is closed"))
	}
	if end := o.overdue(now); end != nil {
		return end
	}
	missing := errors.Is(r.err, kerr.UnknownTopicID) || errors.Is(r.err, kerr.UnknownTopicOrPartition)
	switch kerr.TypedErrorForCode(r.code) {
	case kerr.UnknownTopicID, kerr.UnknownTopicOrPartition:
		missing = true
	case kerr.CorruptMessage:
		if a.corrupt++; a.corrupt >= maxCorrupt {
			return o.end(ErrTopic.Because("%s found the checksum of a batch wrong %d times: something between changes the bytes", o.tp, a.corrupt))
		}
	}
	if !missing {
		a.missing = time.Time{}
	} else if a.missing.IsZero() {
		a.missing = now
	} else if now.Sub(a.missing) > o.client.cfg.TopicMissing {
		return o.end(ErrTopic.Because("the topic %s was deleted or created anew: this log is gone", o.topic.Name).
			WithFix("restore the topic, or give up the state that was built from it").Wrap(r.err))
	}
	return func() {}
}

// repeat sends an attempt again, over the second connection and in requests of its own, until its fate is known or the owner has ended.
func (o *Owner) repeat(a *attempt) {
	o.client.startOr(func() {
		pause := o.client.cfg.Backoff
		for {
			select {
			case <-time.After(pause):
			case <-o.ctx.Done():
			}
			pause = min(2*pause, o.client.cfg.BackoffMax)
			if !o.settle(a, o.resend(a)) {
				return
			}
		}
	}, func() { o.settle(a, result{err: errClosed}) })
}

// resend asks who leads the partition now, and sends the same bytes there.
func (o *Owner) resend(a *attempt) result {
	if o.Err() != nil {
		return result{err: errClosed}
	}
	leader, err := o.client.routes.leader(o.ctx, o.topic, o.tp.Partition, true)
	if err != nil {
		return result{err: fmt.Errorf("%w: %w", errNotSent, err)}
	}
	o.mu.Lock()
	o.leader = leader
	o.mu.Unlock()
	side, err := o.client.sideline()
	if err != nil {
		return result{err: errClosed}
	}
	return o.client.produce(side, leader, []*attempt{a}, nil)[0]
}
