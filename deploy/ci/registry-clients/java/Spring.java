import java.util.Objects;
import org.springframework.cloud.stream.schema.registry.SchemaReference;
import org.springframework.cloud.stream.schema.registry.SchemaRegistrationResponse;
import org.springframework.cloud.stream.schema.registry.client.CachingRegistryClient;
import org.springframework.cloud.stream.schema.registry.client.ConfluentSchemaRegistryClient;
import org.springframework.web.client.HttpStatusCodeException;

/** Drives a schema registry with Spring Cloud Stream's client of Confluent's API: java Spring.java URL. Exit status 0 = all as expected. */
public class Spring {
  static int steps;

  static void check(String what, Object got, Object want) {
    steps++;
    if (!Objects.equals(got, want)) throw new AssertionError(what + ": got " + got + ", want " + want);
  }

  static String record(String... fields) {
    StringBuilder b = new StringBuilder();
    for (String f : fields) {
      if (b.length() > 0) b.append(',');
      b.append("{\"name\":\"").append(f.replace("?", "")).append("\",\"type\":\"long\"").append(f.endsWith("?") ? ",\"default\":0}" : "}");
    }
    return "{\"type\":\"record\",\"name\":\"R\",\"namespace\":\"shop.test.v1\",\"fields\":[" + b + "]}";
  }

  static ConfluentSchemaRegistryClient connect(String url) {
    ConfluentSchemaRegistryClient c = new ConfluentSchemaRegistryClient();
    c.setEndpoint(url);
    return c;
  }

  /** The status of the refusal behind a failure, as the client hands it on or wraps it. */
  static int refused(Runnable call) {
    try {
      call.run();
    } catch (RuntimeException e) {
      for (Throwable t = e; t != null; t = t.getCause()) if (t instanceof HttpStatusCodeException s) return s.getStatusCode().value();
      if (e.getClass().getSimpleName().equals("SchemaNotFoundException")) return 404;
      throw e;
    }
    return 200;
  }

  public static void main(String[] args) {
    String url = args[0], subject = "spring";
    ConfluentSchemaRegistryClient client = connect(url);
    SchemaRegistrationResponse one = client.register(subject, "avro", record("a"));
    check("version", one.getSchemaReference(), new SchemaReference(subject, 1, "avro"));
    SchemaRegistrationResponse two = client.register(subject, "avro", record("a", "b?"));
    check("the next version", two.getSchemaReference(), new SchemaReference(subject, 2, "avro"));
    check("its id", two.getId() > one.getId(), true);
    SchemaRegistrationResponse again = connect(url).register(subject, "avro", record("a"));
    check("again", again.getId(), one.getId()); // it takes the newest version for the one that it registered
    check("by id", connect(url).fetch(one.getId()), record("a"));
    check("by version", connect(url).fetch(new SchemaReference(subject, 2, "avro")), record("a", "b?"));
    CachingRegistryClient caching = new CachingRegistryClient(connect(url));
    check("behind a cache", caching.fetch(two.getId()), record("a", "b?"));
    check("incompatible", refused(() -> connect(url).register(subject, "avro", record("z"))), 409);
    check("no schema", refused(() -> connect(url).register(subject, "avro", "{}")), 422);
    check("unknown id", refused(() -> connect(url).fetch(2147483647)), 404);
    check("unknown version", refused(() -> connect(url).fetch(new SchemaReference(subject, 9, "avro"))), 404);
    check("unknown subject", refused(() -> connect(url).fetch(new SchemaReference("nobody", 1, "avro"))), 404);
    check("in a context", connect(url + "/contexts/.spring").register(subject, "avro", record("a")).getId(), 1);
    System.out.println("Spring Cloud Stream (Java): " + steps + " checks");
  }
}
