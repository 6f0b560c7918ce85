package peer;

import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicLongArray;
import org.apache.kafka.streams.processor.api.ContextualFixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyProcessor;
import org.apache.kafka.streams.processor.api.FixedKeyRecord;

/** How far each partition of the topic has been read, compared with where it ended when the process started. */
final class Progress {
  private final int schema;
  private final long[] ends;
  private final AtomicLongArray next;
  private final AtomicLong first = new AtomicLong();

  /** committed is from where each partition is read on. */
  Progress(int schema, long[] ends, long[] committed) {
    this.schema = schema;
    this.ends = ends;
    this.next = new AtomicLongArray(committed);
  }

  /** When the first record was read, in milliseconds since 1970; 0 while none was. */
  long first() {
    return first.get();
  }

  boolean done() {
    for (int p = 0; p < ends.length; p++) {
      if (next.get(p) < ends[p]) {
        return false;
      }
    }
    return true;
  }

  /** The topology's first node: it takes the amount out of events, drops the marks, and asks for a commit at the end of each partition. */
  FixedKeyProcessor<byte[], byte[], Long> processor() {
    return new ContextualFixedKeyProcessor<>() {
      @Override
      public void process(FixedKeyRecord<byte[], byte[]> r) {
        if (Frame.of(r.value(), schema)) {
          context().forward(r.withValue(Frame.amount(r.value())));
        }
        var at = context().recordMetadata().orElseThrow();
        if (first.get() == 0) {
          first.compareAndSet(0, System.currentTimeMillis());
        }
        next.lazySet(at.partition(), at.offset() + 1);
        if (at.offset() + 1 == ends[at.partition()]) {
          context().commit();
        }
      }
    };
  }
}
