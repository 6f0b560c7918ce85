package peer;

import java.util.HashMap;
import java.util.Map;

/**
 * What the command line says: brokers and topic to read, the number of the schema of events, the application id that names the group
 * and its topics, the directory of the state, at_least_once or exactly_once_v2, the number of threads, whether to remove everything
 * at the end, and settings of Kafka Streams in place of those of {@link Main}.
 */
record Options(String brokers, String topic, int schema, String id, String dir, String guarantee, int threads, boolean forget,
    Map<String, String> settings) {

  static Options parse(String[] args) {
    Map<String, String> given = new HashMap<>();
    Map<String, String> settings = new HashMap<>();
    for (int i = 0; i + 1 < args.length; i += 2) {
      if (args[i].equals("--set")) {
        String[] pair = args[i + 1].split("=", 2);
        settings.put(pair[0], pair[1]);
      } else {
        given.put(args[i], args[i + 1]);
      }
    }
    for (String name : new String[] {"--brokers", "--topic", "--schema", "--id", "--dir", "--guarantee", "--threads"}) {
      if (!given.containsKey(name)) {
        throw new IllegalArgumentException(name + " is missing");
      }
    }
    return new Options(given.get("--brokers"), given.get("--topic"), Integer.parseInt(given.get("--schema")), given.get("--id"), given.get("--dir"),
        given.get("--guarantee"), Integer.parseInt(given.get("--threads")), Boolean.parseBoolean(given.get("--forget")), settings);
  }
}
