package peer;

import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.common.utils.Utils;
import org.apache.kafka.streams.CloseOptions;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StoreQueryParameters;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.errors.InvalidStateStoreException;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Grouped;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.QueryableStoreTypes;
import org.apache.kafka.streams.state.ReadOnlyKeyValueStore;

/**
 * Counts events and sums their amounts per key with Kafka Streams, in a RocksDB store with a changelog. It prints "http" and its address,
 * "first" and "processed" with the time in milliseconds since 1970 at which the first record was read and the last of those that were
 * there at its start was folded, and "ready" when that is committed too. GET /count/{key} answers a row.
 */
public final class Main {
  private static final String STORE = "sums";

  private final Options options;
  private final Admin admin;

  private Main(Options options) {
    this.options = options;
    this.admin = Admin.create(Map.of("bootstrap.servers", options.brokers()));
  }

  public static void main(String[] args) throws Exception {
    new Main(Options.parse(args)).run();
  }

  private void run() throws Exception {
    long[] ends = ends();
    Progress progress = new Progress(options.schema(), ends, committed(ends.length));
    StreamsBuilder builder = new StreamsBuilder();
    builder.stream(options.topic(), Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
        .processValues(progress::processor)
        .groupByKey(Grouped.with(Serdes.ByteArray(), Serdes.Long()))
        .aggregate(() -> Sum.NONE, (key, amount, sum) -> sum.plus(amount),
            Materialized.<byte[], Sum, KeyValueStore<Bytes, byte[]>>as(STORE).withKeySerde(Serdes.ByteArray()).withValueSerde(Sum.SERDE));
    KafkaStreams streams = new KafkaStreams(builder.build(), settings());
    CountDownLatch stopped = new CountDownLatch(1);
    streams.setUncaughtExceptionHandler(e -> {
      e.printStackTrace();
      Runtime.getRuntime().halt(1);
      return null;
    });
    Runtime.getRuntime().addShutdownHook(new Thread(() -> stop(streams)));
    streams.start();
    while (!progress.done() || streams.state() != KafkaStreams.State.RUNNING) {
      Thread.sleep(2);
    }
    long processed = System.currentTimeMillis();
    while (!reached(ends)) {
      Thread.sleep(2);
    }
    System.out.println("http " + serve(streams, ends.length));
    System.out.println("first " + progress.first());
    System.out.println("processed " + processed);
    System.out.println("ready caught up");
    stopped.await(); // for ever: SIGTERM ends it
  }

  /** The defaults, but for what is said here. */
  private Properties settings() {
    Properties p = new Properties();
    p.put(StreamsConfig.APPLICATION_ID_CONFIG, options.id());
    p.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, options.brokers());
    p.put(StreamsConfig.STATE_DIR_CONFIG, options.dir());
    p.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, options.guarantee());
    p.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, options.threads());
    p.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    p.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
    p.putAll(options.settings());
    return p;
  }

  private long[] ends() throws Exception {
    int partitions = admin.describeTopics(List.of(options.topic())).allTopicNames().get().get(options.topic()).partitions().size();
    Map<TopicPartition, OffsetSpec> wanted = new HashMap<>();
    for (int p = 0; p < partitions; p++) {
      wanted.put(new TopicPartition(options.topic(), p), OffsetSpec.latest());
    }
    long[] ends = new long[partitions];
    admin.listOffsets(wanted).all().get().forEach((tp, at) -> ends[tp.partition()] = at.offset());
    return ends;
  }

  /** What the group has committed; 0 for a partition where it has nothing. */
  private long[] committed(int partitions) throws Exception {
    long[] at = new long[partitions];
    Map<TopicPartition, OffsetAndMetadata> known;
    try {
      known = admin.listConsumerGroupOffsets(options.id()).partitionsToOffsetAndMetadata().get();
    } catch (java.util.concurrent.ExecutionException e) {
      if (e.getCause() instanceof GroupIdNotFoundException) {
        return at;
      }
      throw e;
    }
    known.forEach((tp, o) -> {
      if (o != null && tp.topic().equals(options.topic())) {
        at[tp.partition()] = o.offset();
      }
    });
    return at;
  }

  private boolean reached(long[] ends) throws Exception {
    long[] at = committed(ends.length);
    for (int p = 0; p < ends.length; p++) {
      if (at[p] < ends[p]) {
        return false;
      }
    }
    return true;
  }

  private String serve(KafkaStreams streams, int partitions) throws IOException {
    List<ReadOnlyKeyValueStore<byte[], Sum>> stores = java.util.stream.IntStream.range(0, partitions)
        .mapToObj(p -> streams.store(StoreQueryParameters.fromNameAndType(STORE, QueryableStoreTypes.<byte[], Sum>keyValueStore()).withPartition(p)))
        .toList();
    HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 1024);
    server.createContext("/count/", exchange -> {
      byte[] key = exchange.getRequestURI().getPath().substring("/count/".length()).getBytes(StandardCharsets.UTF_8);
      int status = 200;
      String body;
      try {
        Sum sum = stores.get(Utils.toPositive(Utils.murmur2(key)) % partitions).get(key);
        if (sum == null) {
          sum = Sum.NONE;
        }
        body = "{\"count\":" + sum.count() + ",\"sum\":" + sum.sum() + "}";
      } catch (InvalidStateStoreException e) {
        status = 503;
        body = e.toString();
      }
      byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
      exchange.sendResponseHeaders(status, bytes.length);
      exchange.getResponseBody().write(bytes);
      exchange.close();
    });
    server.setExecutor(Executors.newFixedThreadPool(8, r -> {
      Thread t = new Thread(r);
      t.setDaemon(true);
      return t;
    }));
    server.start();
    return "127.0.0.1:" + server.getAddress().getPort();
  }

  private void stop(KafkaStreams streams) {
    int status = 0;
    try {
      // It leaves its group: the next one would wait 45 s for it otherwise.
      if (!streams.close(CloseOptions.groupMembershipOperation(CloseOptions.GroupMembershipOperation.LEAVE_GROUP).withTimeout(Duration.ofSeconds(20)))) {
        throw new IllegalStateException("Kafka Streams did not close in time");
      }
      if (options.forget()) {
        admin.deleteTopics(List.of(options.id() + "-" + STORE + "-changelog")).all().get();
        admin.deleteConsumerGroups(List.of(options.id())).all().get();
      }
    } catch (Exception e) {
      e.printStackTrace();
      status = 1;
    }
    Runtime.getRuntime().halt(status);
  }
}
