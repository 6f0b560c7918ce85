package peer;

/**
 * Reads the amount out of a framed Avro value {key: string, amount: long, padding: bytes} by hand, which is the quickest way there is:
 * a byte 0, the number of the schema in four bytes, then the fields.
 */
final class Frame {
  private Frame() {}

  /** Whether a value was written with this schema; the log's own marks have other ones. */
  static boolean of(byte[] value, int schema) {
    return value != null && value.length > 5 && value[0] == 0
        && ((value[1] & 0xff) << 24 | (value[2] & 0xff) << 16 | (value[3] & 0xff) << 8 | value[4] & 0xff) == schema;
  }

  static long amount(byte[] value) {
    int at = 5;
    int length = 0;
    for (int shift = 0;; shift += 7) {
      byte b = value[at++];
      length |= (b & 0x7f) << shift;
      if (b >= 0) {
        break;
      }
    }
    at += length >>> 1 ^ -(length & 1);
    long amount = 0;
    for (int shift = 0;; shift += 7) {
      byte b = value[at++];
      amount |= (long) (b & 0x7f) << shift;
      if (b >= 0) {
        return amount >>> 1 ^ -(amount & 1);
      }
    }
  }
}
