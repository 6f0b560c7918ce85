package peer;

import java.nio.ByteBuffer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;

/** One row: how many events a key has had, and the sum of their amounts. It is kept as 16 bytes. */
record Sum(long count, long sum) {
  static final Sum NONE = new Sum(0, 0);

  static final Serde<Sum> SERDE = Serdes.serdeFrom(
      (topic, s) -> s == null ? null : ByteBuffer.allocate(16).putLong(s.count).putLong(s.sum).array(),
      (topic, b) -> {
        if (b == null) {
          return null;
        }
        ByteBuffer in = ByteBuffer.wrap(b);
        return new Sum(in.getLong(), in.getLong());
      });

  Sum plus(long amount) {
    return new Sum(count + 1, sum + amount);
  }
}
